"""Checkpoints: the full state of a run on disk, from which it resumes exactly.

    checkpoints/00000200/   adapter_model.safetensors, adapter_config.json   the adapter, in PEFT's format
                            optimizer.pt                                     state of AdamW
                            random-0.pt, random-1.pt ...                     state of the random generators, one file per process
                            state.json                                       step, data position, resume key, loss monitor

A checkpoint is written to a temporary folder and then renamed, so a folder with a step's name is always complete.
"""

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prosody_tagger.errors import BadInput, first_line
from synth.higgs_local.peft_files import WEIGHTS_FILE

_OPTIMIZER, _STATE = "optimizer.pt", "state.json"


@dataclass(frozen=True, slots=True)
class RunState:
    """What ``state.json`` holds.

    Attributes:
        step: steps that are done.
        data_position: position in the training data, `LengthGroupedSampler.state`; ``place`` in the file.
        resume_key: settings that must match on resume, `FinetuneSettings.resume_key`, and ``processes``; ``course`` in the file.
        loss_monitor: state of the loss monitor, `LossMonitor.state`; ``found`` in the file.
    """

    step: int
    data_position: Mapping[str, int]
    resume_key: Mapping[str, Any]
    loss_monitor: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file. Its keys are a file format: older and newer checkpoints must stay readable."""
        return {"step": self.step, "place": self.data_position, "course": self.resume_key, "found": self.loss_monitor}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "RunState":
        """Return the state in the content of a file.

        Raises:
            KeyError, TypeError, ValueError: the content is something else.
        """
        return RunState(int(data["step"]), dict(data["place"]), dict(data["course"]), dict(data["found"]))


class CheckpointStore:
    """The checkpoints of a run.

    Args:
        folder: folder of the checkpoints; created when the first is saved.
        keep: number of newest checkpoints to keep.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def latest(self) -> Path | None:
        """Return the newest checkpoint, or None if there is none."""
        return max(self._all(), key=lambda path: int(path.name), default=None)

    def find_start(self, *, resume: bool, overwrite: bool = False) -> Path | None:
        """Return the checkpoint to resume from, or None for a new run. Deletes nothing: see `clear`.

        Args:
            resume: continue the run that is there.
            overwrite: start a new run, although there is one.

        Raises:
            BadInput: there is a run, and it is neither to be resumed nor overwritten; or both.
        """
        if resume and overwrite:
            raise BadInput("--resume and --overwrite exclude each other; give one of them")
        latest = self.latest()
        if latest is not None and not resume and not overwrite:
            raise BadInput(
                f"{str(self._folder.parent)!r} holds a run of {int(latest.name)} steps; give --resume to continue it, "
                "--overwrite to delete it and start again, or another --output-dir"
            )
        return latest if resume else None

    def clear(self) -> None:
        """Delete all checkpoints."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def save(
        self, state: RunState, write_adapter: Callable[[Path], None], optimizer: Any, *, rank: int, wait: Callable[[], None]
    ) -> Path:
        """Write a checkpoint and delete those beyond ``keep``. All processes must call this method together.

        Args:
            state: the state of the run.
            write_adapter: writes the adapter into a folder; called by the first process.
            optimizer: the optimizer; saved by the first process.
            rank: index of this process. Each process saves the state of its own random generators.
            wait: barrier of all processes.
        """
        import torch

        final = self._folder / f"{state.step:08d}"
        partial = self._folder / f".{final.name}.unfinished"
        if rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        wait()
        torch.save(_rng_state(), partial / f"random-{rank}.pt")
        if rank == 0:
            write_adapter(partial)
            torch.save(optimizer.state_dict(), partial / _OPTIMIZER)
            (partial / _STATE).write_text(json.dumps(state.to_json(), indent=1) + "\n", encoding="utf-8")
        wait()
        if rank == 0:
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in self._all()[: -self._keep]:
                shutil.rmtree(old, ignore_errors=True)
        wait()
        return final

    def _all(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted((path for path in self._folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def read_state(folder: Path) -> RunState:
    """Return the state of a run in a checkpoint.

    Raises:
        BadInput: the folder is not a checkpoint.
    """
    try:
        return RunState.from_json(json.loads((folder / _STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{str(folder)!r} is not a checkpoint of a run: {type(error).__name__}: {first_line(error)}; "
            "delete it to resume from the checkpoint before it"
        ) from None


def check_resume_key(state: RunState, resume_key: Mapping[str, Any]) -> None:
    """Check that a run resumes with the settings that it began with.

    Raises:
        BadInput: a setting has changed.
    """
    saved = state.resume_key
    changed = [key for key in sorted({*saved, *resume_key}) if saved.get(key) != resume_key.get(key)]
    if changed:
        differences = ", ".join(f"{key} {saved.get(key)!r}, now {resume_key.get(key)!r}" for key in changed)
        raise BadInput(f"the run to resume had {differences}; give the same values, or start a new run in another --output-dir")


def restore(folder: Path, model: Any, optimizer: Any, *, rank: int) -> None:
    """Load the adapter, the optimizer's state and this process's random generators from a checkpoint.

    Raises:
        BadInput: a file is missing or damaged, or belongs to another adapter.
    """
    import pickle

    import torch
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / WEIGHTS_FILE)
        report = set_peft_model_state_dict(model, weights)
        if report.unexpected_keys:
            raise ValueError(f"the model has no {report.unexpected_keys[0]}")
        device = next(model.parameters()).device
        optimizer.load_state_dict(torch.load(folder / _OPTIMIZER, map_location=device, weights_only=True))
        rng_state = torch.load(folder / f"random-{rank}.pt", map_location="cpu", weights_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise BadInput(
            f"the checkpoint {str(folder)!r} cannot be used: {first_line(error)}; delete it to resume from the checkpoint before it"
        ) from None
    _set_rng_state(rng_state)


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter in PEFT's format."""
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card with nothing filled in


def _rng_state() -> dict[str, Any]:
    """Return the states of all random generators, in types that ``torch.load`` reads with ``weights_only``."""
    import torch

    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "python": (version, list(internal), gauss_next),
    }


def _set_rng_state(state: Mapping[str, Any]) -> None:
    import torch

    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
