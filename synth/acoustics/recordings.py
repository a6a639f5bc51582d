"""Recordings and what is said in them: from a folder, a file, or a manifest."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prosody_tagger.errors import BadInput

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
TRANSCRIPT_SUFFIXES = (".txt", ".lab")
_AUDIO_KEYS = ("audio", "audio_filepath", "audio_url", "path", "wav", "file")
_TEXT_KEYS = ("text", "transcript", "transcription", "sentence")
_SPEAKER_KEYS = ("speaker", "speaker_id", "source")
_MAX_TRANSCRIPT_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Recording:
    """A sound file, what is said in it, and who says it where that is known."""

    path: Path
    text: str
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Unusable:
    """Something that should have been a recording, and why it is none."""

    place: str
    reason: str


def in_manifest(manifest: Path, folder: Path | None = None) -> Iterator[Recording | Unusable]:
    """The rows of a manifest, read as they are needed. Relative paths start at ``folder``, or at the manifest's own.

    A row is a JSON object with the path under "audio" and the words under "text" (and perhaps a "speaker"), or path and text with
    a tab or a "|" between; of more columns the rest is left unread. A path without a suffix is looked for with each that we know,
    and in a folder "wavs" as well.

    Raises:
        BadInput: the manifest cannot be read.
    """
    base = manifest.parent if folder is None else folder
    try:
        with manifest.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(_MAX_TRANSCRIPT_BYTES), b""), 1):
                if line.strip():
                    yield _row(line, f"{manifest}:{number}", base)
    except OSError as error:
        raise BadInput(f"cannot read {manifest}: {(error.strerror or str(error)).lower()}") from None


def in_folder(folder: Path) -> Iterator[Recording | Unusable]:
    """Every sound file in ``folder`` and below, in order, with its transcript: NAME.txt or NAME.lab beside NAME.wav.

    The speaker is the name of the folder that the file lies in, if that is not ``folder`` itself.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
            yield beside(path, folder)


def beside(path: Path, folder: Path) -> Recording | Unusable:
    """The sound file at ``path``, somewhere in ``folder``, with the transcript beside it."""
    transcript = next((name for suffix in TRANSCRIPT_SUFFIXES if (name := path.with_suffix(suffix)).is_file()), None)
    if transcript is None:
        return Unusable(str(path), f"there is no {path.stem}.txt or {path.stem}.lab beside it")
    try:
        if transcript.stat().st_size > _MAX_TRANSCRIPT_BYTES:
            return Unusable(str(path), f"{transcript.name} is larger than {_MAX_TRANSCRIPT_BYTES} bytes; that is no transcript")
        text = " ".join(transcript.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError):
        return Unusable(str(path), f"{transcript.name} cannot be read as UTF-8")
    return Recording(path, text, None if path.parent == folder else path.parent.name)


def _row(data: bytes, place: str, base: Path) -> Recording | Unusable:
    """One line of a manifest."""
    speaker: str | None = None
    try:
        line = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Unusable(place, "the line is not UTF-8")
    if line.lstrip().startswith("{"):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            return Unusable(place, "the line is not JSON")
        audio, text, who = (
            next((row[key] for key in keys if key in row), None) for keys in (_AUDIO_KEYS, _TEXT_KEYS, _SPEAKER_KEYS)
        )
        if not isinstance(audio, str) or not isinstance(text, str):
            return Unusable(place, 'the row needs a path under "audio" and the words under "text"')
        speaker = str(who) if who is not None else None
    else:
        fields = line.rstrip("\r\n").split("\t" if "\t" in line else "|")
        if len(fields) < 2:
            return Unusable(place, "expected path and text with a tab or | between them")
        audio, text = fields[0].strip(), fields[1].strip()
    path = _found(audio, base)
    if path is None:
        return Unusable(place, f"there is no file {audio!r}")
    return Recording(path, text, speaker)


def _found(name: str, base: Path) -> Path | None:
    """The file that a manifest means."""
    if not name or "\0" in name:
        return None
    places = (base / name, *(folder / f"{name}{suffix}" for folder in (base, base / "wavs") for suffix in AUDIO_SUFFIXES))
    try:
        return next((path for path in places if path.is_file()), None)
    except OSError:  # a name that is too long
        return None
