"""Read the header of a safetensors file, and write its tensors under other names without loading them.

The format: the length of the header (8 bytes, little-endian); a JSON header with type, shape and offsets of every tensor; the bytes
of the tensors. Only the header changes with the names, so a file of any size is copied block by block.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prosody_tagger.errors import BadInput, os_reason

_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_BLOCK = 1 << 23  # bytes copied at a time


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The header of a file.

    Attributes:
        path: the file.
        tensors: dtype, shape and data_offsets of each tensor, by name.
        begin: offset of the tensors' bytes in the file.
        size: number of the tensors' bytes.
    """

    path: Path
    tensors: Mapping[str, Mapping[str, Any]]
    begin: int
    size: int

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self.tensors[name]["shape"])


def read_header(path: Path) -> WeightsFile:
    """Read the header of a file.

    Raises:
        BadInput: the file is missing, truncated, or of another format.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 2 <= length <= _MAX_HEADER else None
        whole = path.stat().st_size
    except OSError as error:
        raise BadInput(f"cannot read {path}: {os_reason(error)}; download it again") from None
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
    """Write the same tensors under other names.

    Args:
        source: the file to copy.
        target: the file to write.
        names: the new name of each tensor of ``source``.
        copied: called with the number of bytes of each block that was written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    header |= {names[name]: entry for name, entry in source.tensors.items()}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors to 8 bytes
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
