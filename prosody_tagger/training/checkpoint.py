"""Where a training run stands, on disk at every moment whole: one file, replaced in one step."""

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prosody_tagger.errors import BadInput


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        epoch, step: the next batch: its epoch, and its place in that epoch's plan.
        loss, texts: sums over the epoch so far.
        history: for each epoch done its figures.
        best_epoch: the epoch with the lowest evaluation loss, counted from 1; 0 before the first has ended.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    texts: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0


class Checkpoint:
    """A file for the state of one run, told from other runs by ``identity``: all that its outcome depends on."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = dict(identity)

    def save(self, state: dict[str, Any]) -> None:
        """Replace what is there. A process killed at any moment leaves the old state or the new one."""
        import torch

        beside = self.path.with_suffix(".part")
        with beside.open("wb") as file:
            torch.save({"identity": json.dumps(self.identity, sort_keys=True), **state}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None if nothing was.

        Raises:
            BadInput: the file is broken, or was left by a run of other settings or data.
        """
        import torch

        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            identity = json.loads(state["identity"])
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise BadInput(f"the checkpoint {self.path} is broken: {reason}; delete it and start without --resume") from None
        now = json.loads(json.dumps(self.identity))
        differing = sorted(name for name in {*identity, *now} if identity.get(name) != now.get(name))
        if differing:
            before = ", ".join(f"{name} {_short(identity.get(name))}, now {_short(now.get(name))}" for name in differing)
            raise BadInput(
                f"the checkpoint {self.path} was left by another run ({before}); give what that had, or start without --resume"
            )
        return state

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def digest(*parts: bytes) -> str:
    """One SHA-256 over all parts."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
