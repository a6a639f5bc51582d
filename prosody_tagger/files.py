"""Atomic file replacement: a reader sees the old content or all of the new, never a part."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; move it over ``path`` on success, delete it on an error.

    A symbolic link stays a link: its target is replaced. A device or a pipe cannot be replaced, so its own path is yielded.

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
        partial.replace(target)
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
