"""LoRA adapters on disk: find and read them, and check that they fit a base model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from synth.higgs_local.base_model import BaseDescription, BaseIdentity
from synth.higgs_local.peft_files import CONFIG_FILE, WEIGHTS_FILE, AdapterError, changed_layers, check_config, read_config
from synth.higgs_local.prosody_file import PROSODY_FILE, ProsodyMetadata, TrainedMark, read_prosody

__all__ = ["Adapter", "AdapterCatalogue", "AdapterError", "check_fit", "find_adapters", "read_adapter"]

TEXT_HEAD = "text_lm_head"

_NAME = regex.compile(r"[\p{L}\p{N}][\p{L}\p{M}\p{N}._ -]{0,127}+")
_OTHER_BASE = "use the model that it was trained on, or train it on this one"

_Stamp = tuple[tuple[int, int] | None, ...]  # modification time in ns and size of each file


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as its files describe it. `synth.higgs_local.lora` reads its weights.

    Attributes:
        name: name of its folder.
        folder: path of its folder.
        rank: largest rank of its layers.
        modules: for each linear layer that it changes, (inputs, rank, outputs).
        rows: ids of the rows of ``embed_tokens`` that it changes.
        config: PEFT's configuration.
        prosody: its ``prosody.json``; None if it has none.
    """

    name: str
    folder: Path
    rank: int
    modules: Mapping[str, tuple[int, int, int]]
    rows: tuple[int, ...]
    config: Mapping[str, Any]
    prosody: ProsodyMetadata | None

    @property
    def marks(self) -> Mapping[str, TrainedMark]:
        """The token of each kind of mark that it was trained on."""
        return self.prosody.marks if self.prosody else {}


def find_adapters(folder: Path) -> dict[str, Path]:
    """Return the subfolders of ``folder`` that hold PEFT's configuration, by name; none if there is no such folder."""
    if not folder.is_dir():
        return {}
    found = sorted(path for path in folder.iterdir() if (path / CONFIG_FILE).is_file())
    return {path.name: path for path in found if _NAME.fullmatch(path.name)}


def read_adapter(folder: Path) -> Adapter:
    """Read the description of an adapter; its weights stay on disk.

    Raises:
        AdapterError: a file is missing or broken, or the adapter is of an unsupported type.
    """
    config = read_config(folder, "give the folder that PEFT's save_pretrained wrote")
    check_config(folder, config)
    modules, rows = changed_layers(folder, config)
    prosody = read_prosody(folder)
    if prosody is not None and prosody.targets != len(modules):
        raise AdapterError(
            f"the adapter {str(folder)!r} changes {len(modules)} layers, and its {PROSODY_FILE} says {prosody.targets}: "
            "its files do not belong together; copy the whole folder again"
        )
    rank = max(rank for _, rank, _ in modules.values())
    return Adapter(folder.resolve().name, folder, rank, modules, rows, config, prosody)


def check_fit(adapter: Adapter, description: BaseDescription) -> tuple[str, ...]:
    """Check that an adapter fits a base model.

    Returns:
        Warnings about an adapter that can be used.

    Raises:
        AdapterError: it was trained on another model, one of its layers is missing or has another shape, or the model uses the
            token of a mark for something else.
    """
    base = description.base
    if adapter.prosody is not None:
        _check_base(adapter, adapter.prosody.base, base)
    for module, (inputs, _, outputs) in adapter.modules.items():
        shape = description.shapes.get(f"{module}.weight")
        if shape is None and module == TEXT_HEAD:
            continue  # only text generation needs it, and speech models may be loaded without it
        if shape != (outputs, inputs):
            found = "does not exist" if shape is None else f"has {' x '.join(map(str, shape))} weights, not {outputs} x {inputs}"
            raise AdapterError(f"the adapter {adapter.name!r} changes {module}, which {found} in {base.name!r}; {_OTHER_BASE}")
    vocabulary = base.shape["vocab_size"]
    for what, number in [("row", row) for row in adapter.rows] + [(f"<{k}>", m.id) for k, m in adapter.marks.items()]:
        if not 0 <= number < vocabulary or number in description.control:
            reason = "has no such token" if number not in description.control else "uses that token for something else"
            raise AdapterError(
                f"the adapter {adapter.name!r} has {what} at token {number}, but {base.name!r} {reason}; {_OTHER_BASE}"
            )
    return _warnings(adapter)


class AdapterCatalogue:
    """The adapters of a folder. An adapter is read again only when its files have changed, so an unchanged one is the same object.

    Args:
        folder: holds adapters, one per subfolder; None for no adapters.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._known: dict[Path, tuple[_Stamp, Adapter | AdapterError]] = {}

    def all(self) -> dict[str, Adapter | AdapterError]:
        """Return every adapter by name; for one that cannot be used, the error."""
        found = {} if self.folder is None else find_adapters(self.folder)
        self._known = {path: self._entry(path) for path in found.values()}
        return {name: self._known[path][1] for name, path in found.items()}

    def _entry(self, path: Path) -> tuple[_Stamp, Adapter | AdapterError]:
        stamp = tuple(_stamp(path / file) for file in (CONFIG_FILE, WEIGHTS_FILE, PROSODY_FILE))
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known
        try:
            return stamp, read_adapter(path)
        except AdapterError as error:
            return stamp, error


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _check_base(adapter: Adapter, trained: BaseIdentity, loaded: BaseIdentity) -> None:
    for key in sorted({*trained.shape, *loaded.shape}):
        if trained.shape.get(key) != loaded.shape.get(key):
            raise AdapterError(
                f"the adapter {adapter.name!r} was trained on {trained.name!r} with {key} {trained.shape.get(key)}, and "
                f"{loaded.name!r} has {loaded.shape.get(key)}; {_OTHER_BASE}"
            )
    if trained.fingerprint != loaded.fingerprint:
        raise AdapterError(
            f"the adapter {adapter.name!r} was trained on {trained.name!r}, and {loaded.name!r} has "
            f" other weights of the same shape; {_OTHER_BASE}"
        )


def _warnings(adapter: Adapter) -> tuple[str, ...]:
    if adapter.prosody is None:
        return (f"it has no {PROSODY_FILE}: its base cannot be compared, and no mark is sent to it",)
    untrained = [kind for kind, mark in adapter.marks.items() if mark.id not in adapter.rows]
    return (f"the tokens of {', '.join(untrained)} keep the base model's embedding",) if untrained else ()
