"""The voice store: recordings that users uploaded, to be spoken in, under the hash of recording and transcript.

An entry is one line of JSON followed by the bytes of the recording; `api.voice_storage` keeps the entries. Everything here blocks,
for disk and decoding: call it in a thread where that matters.
"""

import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from api.voice_storage import FolderStorage, MemoryStorage, StoreFailed, StoreFull, VoiceStorage, is_voice_id
from prosody_tagger.errors import BadInput
from synth.audio.decoding import decode
from synth.base import Reference
from synth.errors import RefusedRequest
from synth.reference import MAX_BYTES, MAX_SECONDS, REFERENCE_FORMATS, read_reference

__all__ = [
    "DamagedVoice",
    "StoreFailed",
    "StoreFull",
    "StoredVoice",
    "UnknownVoice",
    "VoiceStore",
    "VoiceStoreSettings",
    "is_voice_id",
]

MAX_VOICES = 100
MAX_TOTAL_BYTES = 200_000_000
MAX_NAME = 100
"""Longest name of a voice, in code points."""

_MAX_HEADER = 32_000
"""Longest line before the recording, in bytes. The transcript of 30 s and a name, escaped as JSON, are shorter."""

_JOINERS = re.compile("[\u200c\u200d]")  # zero-width joiners: not printable, but part of Persian words and of emoji

_log = logging.getLogger(__name__)


class UnknownVoice(RefusedRequest):
    """No voice is stored under this id."""


class DamagedVoice(BadInput):
    """The stored entry differs from the upload."""


class VoiceStoreSettings(BaseModel):
    """Where uploaded voices are stored, and how many.

    Attributes:
        voices: folder for uploaded voices; not set: they are held in memory until the service ends.
        max_voices: number of voices that are stored.
        max_voices_bytes: bytes of all stored voices together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    voices: Path | None = None
    max_voices: int = Field(default=MAX_VOICES, ge=0, le=100_000)
    max_voices_bytes: int = Field(default=MAX_TOTAL_BYTES, ge=0)


@dataclass(frozen=True, slots=True)
class StoredVoice:
    """A stored recording.

    Attributes:
        id: ``voice_`` and the SHA-256 of transcript and recording: the same upload has the same id.
        name: given by the user; None if there is none.
        seconds: length of the recording.
        created: time of the first upload, in seconds since 1970.
    """

    id: str
    name: str | None
    seconds: float
    created: float


class VoiceStore:
    """The voices of one folder, or of this process. Safe for threads, and for several processes with the same folder."""

    def __init__(self, folder: Path | None, *, max_voices: int = MAX_VOICES, max_bytes: int = MAX_TOTAL_BYTES) -> None:
        """Open ``folder``, which is created if needed; None stores in memory.

        Raises:
            BadInput: the folder cannot be created or written.
        """
        self._storage: VoiceStorage = MemoryStorage() if folder is None else FolderStorage(folder)
        self._max_voices, self._max_bytes = max_voices, max_bytes

    def add(self, audio: bytes, text: str, name: str | None = None) -> StoredVoice:
        """Store a recording and its transcript. One that is stored already stays unchanged, with its first name.

        Raises:
            BadInput: `synth.reference.read_reference` refuses it, or the name is too long or holds control characters.
            StoreFull: there would be too many voices or bytes, or the disk is full.
            StoreFailed: the folder cannot be written.
        """
        name = _check_name(name)
        reference = read_reference(audio, text)
        voice = f"voice_{reference.digest}"
        header = _EntryHeader(
            name=name,
            text=reference.text,
            form=reference.audio_format,
            seconds=decode(audio, reference.audio_format, max_seconds=MAX_SECONDS).seconds,
            created=round(time.time(), 3),
            size=len(audio),
        )
        with self._storage.locked():
            try:
                return self._read(voice)[0].stored(voice)
            except (UnknownVoice, DamagedVoice):
                entry = header.line() + audio
                self._check_room(voice, len(entry))
                self._storage.write(voice, entry)
        return header.stored(voice)

    def list(self) -> list[StoredVoice]:
        """Return the stored voices, the oldest first. Damaged entries are skipped and logged."""
        found = []
        for voice, size in self._storage.sizes().items():
            try:
                header, length = _parse_header(self._storage.read(voice, _MAX_HEADER))
                if size != length + header.size:
                    raise ValueError(f"{size} bytes")
                found.append(header.stored(voice))
            except KeyError:
                continue  # deleted meanwhile
            except ValueError:
                _log.warning("%s is damaged and not listed; delete it or upload it again", voice)
        return sorted(found, key=lambda stored: (stored.created, stored.id))

    def get(self, id: str) -> Reference:
        """Return the recording and its transcript.

        Raises:
            UnknownVoice: there is none under this id, or it is not an id.
            DamagedVoice: its bytes have changed since it was stored.
            StoreFailed: the folder cannot be read.
        """
        return self._read(_check_id(id))[1]

    def delete(self, id: str) -> None:
        """Delete a voice, damaged or not.

        Raises:
            UnknownVoice: there is none under this id, or it is not an id.
            StoreFailed: the folder cannot be written.
        """
        with self._storage.locked():
            try:
                self._storage.remove(_check_id(id))
            except KeyError:
                raise _unknown(id) from None

    def _read(self, voice: str) -> "tuple[_EntryHeader, Reference]":
        try:
            entry = self._storage.read(voice, _MAX_HEADER + MAX_BYTES)
            header, length = _parse_header(entry)
        except KeyError:
            raise _unknown(voice) from None
        except ValueError:
            raise _damaged(voice) from None
        reference = Reference(entry[length:], header.form, header.text)
        if f"voice_{reference.digest}" != voice:
            raise _damaged(voice)
        return header, reference

    def _check_room(self, voice: str, size: int) -> None:
        others = {other: length for other, length in self._storage.sizes().items() if other != voice}
        if len(others) >= self._max_voices:
            raise StoreFull(f"{len(others)} voices are stored, and {self._max_voices} is the limit; delete one first")
        if sum(others.values()) + size > self._max_bytes:
            raise StoreFull(
                f"with {size} bytes more, the voices would exceed {self._max_bytes} bytes; delete one, or send a shorter recording"
            )


class _EntryHeader(BaseModel):
    """The line of JSON before the recording."""

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


def _parse_header(entry: bytes) -> tuple[_EntryHeader, int]:
    """Return the header of an entry and its length in bytes.

    Raises:
        ValueError: the entry does not begin with a valid one.
    """
    length = entry.find(b"\n", 0, _MAX_HEADER) + 1
    try:
        return _EntryHeader.model_validate_json(entry[:length]), length
    except ValidationError:
        raise ValueError("no valid header") from None


def _check_name(name: str | None) -> str | None:
    name = name.strip() if name else ""
    if len(name) > MAX_NAME or not _JOINERS.sub("", name).isprintable():
        raise BadInput(f"the name {name[:20]!r} has {len(name)} characters; give at most {MAX_NAME}, all of them printable")
    return name or None


def _check_id(id: str) -> str:
    if not is_voice_id(id):
        raise _unknown(id)
    return id


def _unknown(id: str) -> UnknownVoice:
    return UnknownVoice(f"there is no voice {id[:80]!r}; upload a recording, or list the ids of the stored voices")


def _damaged(voice: str) -> DamagedVoice:
    return DamagedVoice(f"the voice {voice!r} is damaged; upload the recording again, or delete it")
