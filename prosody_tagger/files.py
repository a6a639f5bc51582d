"""Atomic file replacement: a reader sees the old content or all of the new, never a part."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from prosody_tagger.errors import BadInput, ProsodyError, os_reason


@contextlib.contextmanager
def replaced_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; move it over ``path`` on success, delete it on an error.

    A symbolic link stays a link: its target is replaced. A device or a pipe cannot be replaced, so its own path is yielded.

    Args:
        path: the file to replace.
        durable: flush the new content and the move to the disk, so that neither is lost or cut short by a power failure.

    Raises:
        OSError: the file cannot be moved into place. Errors of the body pass through unchanged.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield target
        return
    partial = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        yield partial
        if durable:
            _flush_to_disk(partial)
        partial.replace(target)
        if durable and os.name == "posix":  # elsewhere a folder cannot be opened
            _flush_to_disk(target.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_file(path: Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path`` by way of `replaced_file`.

    Raises:
        OSError: the file cannot be written.
    """
    with replaced_file(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError) -> ProsodyError:
    """Return the error for an output file that cannot be written: `BadInput` for a bad path, else `ProsodyError` (a full disk)."""
    if isinstance(error, FileExistsError | NotADirectoryError | PermissionError | FileNotFoundError):
        return BadInput(f"cannot write {path}: {os_reason(error)}; give another path with -o")
    return ProsodyError(f"cannot write {path}: {os_reason(error)}; make room or give another path with -o")
