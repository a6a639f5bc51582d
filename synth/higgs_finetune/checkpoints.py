"""A run's state on disk: everything that it needs to go on as if it had never stopped.

    checkpoints/00000200/   adapter_model.safetensors, adapter_config.json   the adapter, in PEFT's form
                            optimizer.pt                                     AdamW's moments
                            random-0.pt, random-1.pt ...                     of each process
                            state.json                                       step, place in the data, settings

A checkpoint is written beside its place and then moved there, so that one that is there is whole.
"""

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prosody_tagger.errors import BadInput
from synth.higgs_local.adapter import WEIGHTS_FILE

_OPTIMIZER, _STATE = "optimizer.pt", "state.json"


@dataclass(frozen=True, slots=True)
class State:
    """Where a run is.

    Attributes:
        step: steps done.
        place: in the data, as `LengthGroups.state` gives it.
        course: the settings that must stay the same, and ``processes``.
        found: what evaluations have found so far that later ones are compared with.
    """

    step: int
    place: Mapping[str, int]
    course: Mapping[str, Any]
    found: Mapping[str, float]


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: where they are; made if need be.
        keep: how many of the latest stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def latest(self) -> Path | None:
        """The newest one, if there is any."""
        return max(self._all(), key=lambda path: int(path.name), default=None)

    def to_go_on_from(self, *, resume: bool) -> Path | None:
        """The newest one, if a run is to be resumed.

        Raises:
            BadInput: it is not to be, and there is one.
        """
        latest = self.latest()
        if latest is not None and not resume:
            raise BadInput(
                f"{str(self._folder.parent)!r} holds a run of {int(latest.name)} steps; give --resume to go on with it, or another "
                "--output-dir"
            )
        return latest

    def save(
        self, state: State, write_adapter: Callable[[Path], None], optimizer: Any, *, rank: int, wait: Callable[[], None]
    ) -> Path:
        """Write one. Every process calls this; the first writes all but the others' chance. ``wait`` waits for all of them."""
        import torch

        final = self._folder / f"{state.step:08d}"
        beside = self._folder / f".{final.name}.unfinished"
        if rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        wait()
        torch.save(_chance(), beside / f"random-{rank}.pt")
        if rank == 0:
            write_adapter(beside)
            torch.save(optimizer.state_dict(), beside / _OPTIMIZER)
            (beside / _STATE).write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
        wait()
        if rank == 0:
            shutil.rmtree(final, ignore_errors=True)
            beside.rename(final)
            for old in self._all()[: -self._keep]:
                shutil.rmtree(old, ignore_errors=True)
        wait()
        return final

    def _all(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted((path for path in self._folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def read_state(folder: Path) -> State:
    """What a checkpoint says of itself.

    Raises:
        BadInput: it is none.
    """
    try:
        data = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        return State(int(data["step"]), dict(data["place"]), dict(data["course"]), dict(data["found"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{str(folder)!r} is no checkpoint of a run: {error!r}; give a folder within checkpoints/") from None


def check_course(state: State, course: Mapping[str, Any]) -> None:
    """Refuse to go on otherwise than a run began.

    Raises:
        BadInput: a setting has changed.
    """
    changed = [key for key in sorted({*state.course, *course}) if state.course.get(key) != course.get(key)]
    if changed:
        told = ", ".join(f"{key} {state.course.get(key)!r}, now {course.get(key)!r}" for key in changed)
        raise BadInput(f"the run to be resumed had {told}; give what it had, or start a new one in another --output-dir")


def restore(folder: Path, model: Any, optimizer: Any, *, rank: int) -> None:
    """Put adapter, optimiser and chance of this process back to what they were.

    Raises:
        BadInput: a file is missing or broken, or is of another adapter.
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
            raise ValueError(f"it has no {report.unexpected_keys[0]}")
        device = next(model.parameters()).device
        optimizer.load_state_dict(torch.load(folder / _OPTIMIZER, map_location=device, weights_only=True))
        chance = torch.load(folder / f"random-{rank}.pt", map_location="cpu", weights_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise BadInput(f"the checkpoint {str(folder)!r} cannot be used: {error}; delete it to go on from the one before") from None
    _restore_chance(chance)


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter in PEFT's form."""
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form of a model card


def _chance() -> dict[str, Any]:
    import torch

    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "python": (version, list(internal), gauss_next),
    }


def _restore_chance(chance: Mapping[str, Any]) -> None:
    import torch

    torch.set_rng_state(chance["torch"])
    if chance["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(chance["cuda"])
    name, keys, position, has_gauss, gauss = chance["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = chance["python"]
    random.setstate((version, tuple(internal), gauss_next))
