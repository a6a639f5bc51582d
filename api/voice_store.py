"""Recordings of voices that users sent, kept under the hash of what they hold.

    <folder>/voice_<64 hexadecimal digits>     a line of JSON, then the bytes of the recording
    <folder>/.lock                             held while something is written or removed, by any process

Everything here blocks, for disk and decoding: call it in a thread where that matters.
"""

import errno
import fcntl
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from prosody_tagger.errors import BadInput, ProsodyError
from synth.audio.decoding import decode
from synth.base import Reference
from synth.errors import RefusedRequest
from synth.reference import MAX_BYTES, MAX_SECONDS, REFERENCE_FORMATS, read_reference

MAX_VOICES = 100
MAX_TOTAL_BYTES = 200_000_000
MAX_NAME = 100
"""The longest name of a voice, in code points."""

_ID = re.compile(r"voice_[0-9a-f]{64}", re.ASCII)
_MAX_HEAD = 32_000  # bytes of the line before the recording: a transcript of half a minute and a name, escaped, are less
_JOINERS = re.compile("[\u200c\u200d]")  # not printable by themselves, and part of Persian words and of emoji
_PART = ".part-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_log = logging.getLogger(__name__)


class UnknownVoice(RefusedRequest):
    """No recording is kept under this id."""


class StoreFull(BadInput):
    """There is no room for another recording."""


class DamagedVoice(BadInput):
    """What is kept under this id is not what was sent."""


class StoreFailed(ProsodyError):
    """The folder of the recordings cannot be read or written. The cause has the path; the message, which clients see, has not."""


class ReferenceSettings(BaseModel):
    """Where uploaded voices are kept, and how many.

    Attributes:
        voices: the folder; None keeps them in memory, until the service ends.
        max_voices: most recordings.
        max_voices_bytes: most bytes of all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    voices: Path | None = None
    max_voices: int = Field(default=MAX_VOICES, ge=0, le=100_000)
    max_voices_bytes: int = Field(default=MAX_TOTAL_BYTES, ge=0)


@dataclass(frozen=True, slots=True)
class StoredVoice:
    """A recording that is kept.

    Attributes:
        id: ``voice_`` and the SHA-256 of transcript and recording: the same upload has the same id.
        name: what its user calls it.
        seconds: how long the recording is.
        created: when it was first sent, seconds since 1970.
    """

    id: str
    name: str | None
    seconds: float
    created: float


def is_voice_id(text: str) -> bool:
    """Whether ``text`` has the form of an id, so that it cannot be the name of a backend's voice."""
    return bool(_ID.fullmatch(text))


class ReferenceStore:
    """The recordings of one folder, or of this process. Threads, and processes on one folder, may use it at once."""

    def __init__(self, folder: Path | None, *, max_voices: int = MAX_VOICES, max_bytes: int = MAX_TOTAL_BYTES) -> None:
        """Opens the folder, which is made if there is none.

        Raises:
            BadInput: it cannot be made or written.
        """
        self._shelf: _Shelf = _Memory() if folder is None else _Folder(folder)
        self._max_voices, self._max_bytes = max_voices, max_bytes

    def add(self, audio: bytes, text: str, name: str | None = None) -> StoredVoice:
        """Keep a recording and what is said in it. One that is kept already stays as it is, with its first name.

        Raises:
            BadInput: `synth.reference.read_reference` refuses it, or the name is too long or holds control characters.
            StoreFull: there are too many voices, too many bytes, or the disk is full.
            StoreFailed: the folder cannot be written.
        """
        name = _checked_name(name)
        reference = read_reference(audio, text)
        voice = f"voice_{reference.digest}"
        head = _Head(
            name=name,
            text=reference.text,
            form=reference.form,
            seconds=decode(audio, reference.form, max_seconds=MAX_SECONDS).seconds,
            created=round(time.time(), 3),
            size=len(audio),
        )
        with self._shelf.locked():
            try:
                return self._read(voice)[0].stored(voice)
            except (UnknownVoice, DamagedVoice):
                entry = head.line() + audio
                self._check_room(voice, len(entry))
                self._shelf.write(voice, entry)
        return head.stored(voice)

    def list(self) -> list[StoredVoice]:
        """What is kept, the oldest first. Damaged entries are left out and logged."""
        found = []
        for voice, size in self._shelf.sizes().items():
            try:
                head, length = _head(self._shelf.read(voice, _MAX_HEAD))
                if size != length + head.size:
                    raise ValueError(f"{size} bytes")
                found.append(head.stored(voice))
            except KeyError:
                continue  # removed since
            except ValueError:
                _log.warning("%s is damaged and left out; delete it or send it again", voice)
        return sorted(found, key=lambda stored: (stored.created, stored.id))

    def get(self, id: str) -> Reference:
        """The recording and its text, to be spoken in.

        Raises:
            UnknownVoice: there is none under this id, or it is no id.
            DamagedVoice: its bytes have changed since it was kept.
            StoreFailed: the folder cannot be read.
        """
        return self._read(_checked_id(id))[1]

    def delete(self, id: str) -> None:
        """Forget a recording, whole or damaged.

        Raises:
            UnknownVoice: there is none under this id, or it is no id.
            StoreFailed: the folder cannot be written.
        """
        with self._shelf.locked():
            try:
                self._shelf.remove(_checked_id(id))
            except KeyError:
                raise _unknown(id) from None

    def _read(self, voice: str) -> "tuple[_Head, Reference]":
        try:
            entry = self._shelf.read(voice, _MAX_HEAD + MAX_BYTES)
            head, length = _head(entry)
        except KeyError:
            raise _unknown(voice) from None
        except ValueError:
            raise _damaged(voice) from None
        reference = Reference(entry[length:], head.form, head.text)
        if f"voice_{reference.digest}" != voice:
            raise _damaged(voice)
        return head, reference

    def _check_room(self, voice: str, size: int) -> None:
        others = {other: length for other, length in self._shelf.sizes().items() if other != voice}
        if len(others) >= self._max_voices:
            raise StoreFull(f"{len(others)} voices are kept, and no more than {self._max_voices} may be; delete one first")
        if sum(others.values()) + size > self._max_bytes:
            raise StoreFull(
                f"with {size} bytes more the voices would have more than {self._max_bytes}; delete one, or send a shorter recording"
            )


class _Head(BaseModel):
    """What is kept beside the recording."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)] | None
    text: str
    form: str = Field(pattern=f"^({'|'.join(REFERENCE_FORMATS)})$")
    seconds: float = Field(ge=0, allow_inf_nan=False)
    created: float = Field(ge=0, allow_inf_nan=False)
    size: int = Field(ge=0)

    def line(self) -> bytes:
        return self.model_dump_json().encode() + b"\n"

    def stored(self, voice: str) -> StoredVoice:
        return StoredVoice(voice, self.name, self.seconds, self.created)


def _head(entry: bytes) -> tuple[_Head, int]:
    """What stands before the recording, and how many bytes that is.

    Raises:
        ValueError: no such line.
    """
    length = entry.find(b"\n", 0, _MAX_HEAD) + 1
    try:
        return _Head.model_validate_json(entry[:length]), length
    except ValidationError:
        raise ValueError("no head") from None


class _Shelf(Protocol):
    """Where entries lie. Only ids come in as names; a missing one is a KeyError."""

    def locked(self) -> AbstractContextManager[None]: ...

    def sizes(self) -> dict[str, int]: ...

    def read(self, voice: str, most: int) -> bytes: ...

    def write(self, voice: str, entry: bytes) -> None: ...

    def remove(self, voice: str) -> None: ...


class _Memory:
    """Entries that end with the process."""

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._lock:
            yield

    def sizes(self) -> dict[str, int]:
        return {voice: len(entry) for voice, entry in self._entries.copy().items()}

    def read(self, voice: str, most: int) -> bytes:
        return self._entries[voice][:most]

    def write(self, voice: str, entry: bytes) -> None:
        self._entries[voice] = entry

    def remove(self, voice: str) -> None:
        del self._entries[voice]


class _Folder:
    """Entries that are files. One appears whole or not at all, whatever stops the process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock_file():
                pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadInput(f"voices cannot be kept in {str(folder)!r}: {reason}; give a folder that can be written") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        # A lock belongs to the opened file, so that of another thread is another's as much as that of another process.
        with _failing(), self._lock_file() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def sizes(self) -> dict[str, int]:
        found = {}
        with _failing(), os.scandir(self._folder) as entries:
            for entry in entries:
                if is_voice_id(entry.name) and entry.is_file(follow_symlinks=False):
                    try:
                        found[entry.name] = entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue  # removed since
        return found

    def read(self, voice: str, most: int) -> bytes:
        with _failing():
            try:
                with (self._folder / voice).open("rb") as file:
                    return file.read(most)
            except FileNotFoundError:
                raise KeyError(voice) from None

    def write(self, voice: str, entry: bytes) -> None:
        self._sweep()
        with _failing():
            handle, part = tempfile.mkstemp(prefix=_PART, dir=self._folder)
            try:
                with open(handle, "wb") as file:
                    file.write(entry)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, self._folder / voice)
            except BaseException:
                os.unlink(part)
                raise
            self._settle()

    def remove(self, voice: str) -> None:
        with _failing():
            try:
                (self._folder / voice).unlink()
            except FileNotFoundError:
                raise KeyError(voice) from None
            self._settle()

    def _lock_file(self) -> "AbstractContextManager[int]":
        return _opened(self._folder / ".lock", os.O_RDWR | os.O_CREAT)

    def _settle(self) -> None:
        """Have the disk remember the folder's names too."""
        with _opened(self._folder, os.O_RDONLY) as folder:
            os.fsync(folder)

    def _sweep(self) -> None:
        """Remove what a process left that was killed while it wrote; nobody else writes, as the lock is held."""
        with _failing():
            for left in self._folder.glob(f"{_PART}*"):
                left.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _failing() -> Iterator[None]:
    """What the system says becomes what to tell a client."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if error.errno in _FULL:
            raise StoreFull(f"the voice cannot be kept: {reason}; delete one, or tell who runs the service") from error
        raise StoreFailed(f"the voices cannot be read or written: {reason}; tell who runs the service") from error


def _checked_name(name: str | None) -> str | None:
    name = name.strip() if name else ""
    if len(name) > MAX_NAME or not _JOINERS.sub("", name).isprintable():
        raise BadInput(f"the name {name[:20]!r} has {len(name)} characters; give at most {MAX_NAME}, all of them printable")
    return name or None


def _checked_id(id: str) -> str:
    if not is_voice_id(id):
        raise _unknown(id)
    return id


def _unknown(id: str) -> UnknownVoice:
    return UnknownVoice(f"there is no voice {id[:80]!r}; send a recording, or list the ids of those that are kept")


def _damaged(voice: str) -> DamagedVoice:
    return DamagedVoice(f"the voice {voice!r} is damaged; send the recording again, or delete it")
