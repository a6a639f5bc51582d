"""Checkpoint of a training run: one file, replaced atomically, that holds all that is needed to resume the run."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prosody_tagger.errors import BadInput, first_line
from prosody_tagger.files import replaced_file

CHECKPOINT_FILE = "checkpoint.pt"
"""Name of the checkpoint in the output folder. It exists only while a run is unfinished."""


@dataclass(slots=True)
class TrainingProgress:
    """Position of a run in its schedule, and its results so far.

    Attributes:
        epoch, step: the next batch: its epoch, counted from 0, and its index in the plan of that epoch.
        loss, texts: the sum of the losses and the number of texts of this epoch so far.
        history: one dictionary of measures for each completed epoch.
        best_epoch: the epoch with the lowest evaluation loss, counted from 1; 0 before the first evaluation.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    texts: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0


class TrainingCheckpoint:
    """The checkpoint file of one run.

    Args:
        path: the file.
        identity: everything that the outcome of the run depends on; a checkpoint with another identity is refused.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = dict(identity)

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file. A process killed at any moment leaves either the old state or the new one.

        Raises:
            OSError: the file cannot be written.
        """
        import torch

        with replaced_file(self.path, durable=True) as partial:
            torch.save({"identity": json.dumps(self.identity, sort_keys=True), **state}, partial)

    def load(self) -> dict[str, Any] | None:
        """Return the state saved last, or None if there is no checkpoint.

        Raises:
            BadInput: the file is broken, or belongs to a run with other settings or data.
        """
        import torch

        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            identity = json.loads(state["identity"])
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise BadInput(f"the checkpoint {self.path} is broken: {first_line(error)}; give --overwrite to start again") from None
        now = json.loads(json.dumps(self.identity))
        differing = sorted(name for name in {*identity, *now} if identity.get(name) != now.get(name))
        if differing:
            before = ", ".join(f"{name} {_short(identity.get(name))}, now {_short(now.get(name))}" for name in differing)
            raise BadInput(
                f"the checkpoint {self.path} belongs to a run with other settings or data ({before}); give those of that run, "
                "--overwrite to start again, or another --output"
            )
        return state

    def remove(self) -> None:
        """Delete the checkpoint, and partial files that an interrupted `save` left behind."""
        for path in (self.path, *_partial_files(self.path)):
            path.unlink(missing_ok=True)


def refuse_to_overwrite(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to start a run in a folder that holds the checkpoint of an unfinished run, unless the caller says what to do.

    Raises:
        BadInput: there is a checkpoint and neither ``resume`` nor ``overwrite`` is set, or both are set.
    """
    if resume and overwrite:
        raise BadInput("--resume and --overwrite exclude each other; give one of them")
    if (output / CHECKPOINT_FILE).exists() and not resume and not overwrite:
        raise BadInput(
            f"{str(output)!r} holds an unfinished run; give --resume to continue it, --overwrite to delete it and start again, "
            "or another --output"
        )


def has_checkpoint(output: Path) -> bool:
    """Return whether a folder holds a checkpoint, or a partial file of one."""
    path = output / CHECKPOINT_FILE
    return path.exists() or bool(_partial_files(path))


def _partial_files(path: Path) -> list[Path]:
    """Return what `replaced_file` leaves beside ``path`` when the process is killed while writing."""
    return list(path.parent.glob(f".{path.name}.*.part"))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
