"""A file of tensors in the safetensors form, renamed without being loaded.

The form: eight bytes that give the length of a JSON header, little-endian; the header, which gives every tensor's type, shape and
place; the tensors' bytes. New names are a new header before the same bytes, so a file of any size takes the memory of one block.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prosody_tagger.errors import BadInput

_MOST_HEADER = 100_000_000  # bytes; what the form's own readers allow
_BLOCK = 1 << 23


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What the header of a file says.

    Attributes:
        path: the file.
        tensors: for each name the entry of the header: dtype, shape and data_offsets.
        begin: where the tensors' bytes begin in the file.
        size: how many they are.
    """

    path: Path
    tensors: Mapping[str, Mapping[str, Any]]
    begin: int
    size: int

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name]["shape"])


def read_header(path: Path) -> WeightsFile:
    """What is in a file.

    Raises:
        BadInput: it is not there, cut off, or of another form.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 2 <= length <= _MOST_HEADER else None
        whole = path.stat().st_size
    except OSError as error:
        raise BadInput(f"cannot read {path}: {(error.strerror or str(error)).lower()}; download it again") from None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _broken(path, "its header cannot be read")
    header.pop("__metadata__", None)
    if not header or not all(_is_entry(entry) for entry in header.values()):
        raise _broken(path, "its header names no tensors")
    size = max(entry["data_offsets"][1] for entry in header.values())
    if 8 + length + size != whole:
        raise _broken(path, f"it has {whole} bytes where its header says {8 + length + size}")
    return WeightsFile(path, header, 8 + length, size)


def write_renamed(source: WeightsFile, target: Path, names: Mapping[str, str], copied: Callable[[int], None]) -> None:
    """Write the same tensors under other names; ``copied`` is told of every block's bytes.

    Args:
        source: the file as it is.
        target: where to write.
        names: the new name of each tensor of ``source``.
        copied: called with the number of bytes of each block that was written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    header |= {names[name]: entry for name, entry in source.tensors.items()}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors' bytes begin at a multiple of eight
    with source.path.open("rb") as old, target.open("wb") as new:
        new.write(len(text).to_bytes(8, "little") + text)
        old.seek(source.begin)
        while block := old.read(_BLOCK):
            new.write(block)
            copied(len(block))


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2 else [-1]
    return all(type(number) is int and number >= 0 for number in numbers)


def _broken(path: Path, why: str) -> BadInput:
    return BadInput(f"{path} is no whole safetensors file: {why}; download it again, or save it as safetensors")
