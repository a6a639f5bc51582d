"""Where uploaded voices are stored, as entries of bytes: in memory, or as files of a folder that processes may share.

    <folder>/voice_<64 hexadecimal digits>     one entry
    <folder>/.lock                             locked while a process writes or deletes

Everything here blocks; call it in a thread where that matters.
"""

import errno
import fcntl
import os
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from prosody_tagger.errors import BadInput, ProsodyError, os_reason
from prosody_tagger.files import replaced_file

_ID = re.compile(r"voice_[0-9a-f]{64}", re.ASCII)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StoreFull(BadInput):
    """There is no room for another recording."""


class StoreFailed(ProsodyError):
    """The folder cannot be read or written. Its path is in the cause only: clients see the message."""


def is_voice_id(text: str) -> bool:
    """Return whether ``text`` has the form of an id, which no backend's voice name has."""
    return bool(_ID.fullmatch(text))


class VoiceStorage(Protocol):
    """Entries by id. Callers pass valid ids only; a missing entry raises KeyError."""

    def locked(self) -> AbstractContextManager[None]:
        """Exclude other writers within the block."""

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each entry."""

    def read(self, voice: str, limit: int) -> bytes:
        """Return the first ``limit`` bytes of an entry."""

    def write(self, voice: str, entry: bytes) -> None:
        """Store an entry. The caller holds the lock."""

    def remove(self, voice: str) -> None:
        """Delete an entry. The caller holds the lock."""


class MemoryStorage:
    """Entries that are lost when the process ends."""

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._lock:
            yield

    def sizes(self) -> dict[str, int]:
        return {voice: len(entry) for voice, entry in self._entries.copy().items()}

    def read(self, voice: str, limit: int) -> bytes:
        return self._entries[voice][:limit]

    def write(self, voice: str, entry: bytes) -> None:
        self._entries[voice] = entry

    def remove(self, voice: str) -> None:
        del self._entries[voice]


class FolderStorage:
    """Entries as files. An entry is written whole or not at all, also when the process is killed or power fails."""

    def __init__(self, folder: Path) -> None:
        """Create the folder if needed, readable by its owner only.

        Raises:
            BadInput: it cannot be created or written.
        """
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock_file():
                pass
        except (OSError, ValueError) as error:
            raise BadInput(
                f"voices cannot be stored in {str(folder)!r}: {os_reason(error)}; give a folder that can be written"
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        # flock belongs to the open file, and each call opens its own: so it excludes other threads as well as other processes.
        with _translated_errors(), self._lock_file() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def sizes(self) -> dict[str, int]:
        found = {}
        with _translated_errors(), os.scandir(self._folder) as entries:
            for entry in entries:
                if is_voice_id(entry.name) and entry.is_file(follow_symlinks=False):
                    try:
                        found[entry.name] = entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue  # deleted meanwhile
        return found

    def read(self, voice: str, limit: int) -> bytes:
        with _translated_errors():
            try:
                with (self._folder / voice).open("rb") as file:
                    return file.read(limit)
            except FileNotFoundError:
                raise KeyError(voice) from None

    def write(self, voice: str, entry: bytes) -> None:
        self._delete_partial_files()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with (
            _translated_errors(),
            replaced_file(self._folder / voice, durable=True) as partial,
            open(os.open(partial, flags, 0o600), "wb") as file,
        ):
            file.write(entry)

    def remove(self, voice: str) -> None:
        with _translated_errors():
            try:
                (self._folder / voice).unlink()
            except FileNotFoundError:
                raise KeyError(voice) from None
            with _opened(self._folder, os.O_RDONLY) as folder:
                os.fsync(folder)

    def _lock_file(self) -> AbstractContextManager[int]:
        return _opened(self._folder / ".lock", os.O_RDWR | os.O_CREAT)

    def _delete_partial_files(self) -> None:
        """Delete files that a process left when it was killed while writing. The lock is held, so no other process writes now."""
        with _translated_errors():
            for partial in self._folder.glob(".voice_*.part"):
                partial.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Turn OSError into errors whose messages clients may see, without paths."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__  # not `os_reason`: its fallback, the message, may hold a path
        if error.errno in _FULL:
            raise StoreFull(f"the voice cannot be stored: {reason}; delete one, or tell the operator of the service") from error
        raise StoreFailed(f"the voices cannot be read or written: {reason}; tell the operator of the service") from error
