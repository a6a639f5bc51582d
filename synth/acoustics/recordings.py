"""Find recordings with their transcripts: in a folder, beside a file, or in a manifest."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prosody_tagger.errors import BadInput, os_reason

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
TRANSCRIPT_SUFFIXES = (".txt", ".lab")
_AUDIO_KEYS = ("audio", "audio_filepath", "audio_url", "path", "wav", "file")
_TEXT_KEYS = ("text", "transcript", "transcription", "sentence")
_SPEAKER_KEYS = ("speaker", "speaker_id", "source")
_MAX_TRANSCRIPT_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class TranscribedRecording:
    """A sound file, its transcript, and its speaker if known."""

    path: Path
    text: str
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class SkippedRecording:
    """A file or manifest row that cannot be used, and why."""

    source: str
    reason: str


def in_manifest(manifest: Path, folder: Path | None = None) -> Iterator[TranscribedRecording | SkippedRecording]:
    """Yield the recordings of a manifest, reading it row by row. Relative paths start at ``folder``, or at the manifest's folder.

    A row is a JSON object with the path under "audio", the transcript under "text" and optionally a "speaker", or path and
    transcript separated by a tab or "|"; further columns are ignored. A path without a suffix is tried with each of
    `AUDIO_SUFFIXES`, also in a folder "wavs".

    Raises:
        BadInput: the manifest cannot be read.
    """
    base = manifest.parent if folder is None else folder
    try:
        with manifest.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(_MAX_TRANSCRIPT_BYTES), b""), 1):
                if line.strip():
                    yield _read_row(line, f"{manifest}:{number}", base)
    except OSError as error:
        raise BadInput(f"cannot read {manifest}: {os_reason(error)}") from None


def in_folder(folder: Path) -> Iterator[TranscribedRecording | SkippedRecording]:
    """Yield every sound file in ``folder`` and below, in order, with its transcript: NAME.txt or NAME.lab beside NAME.wav.

    The speaker is the name of the file's folder, unless that is ``folder`` itself.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
            yield beside(path, folder)


def beside(path: Path, folder: Path) -> TranscribedRecording | SkippedRecording:
    """Return the sound file at ``path``, somewhere in ``folder``, with the transcript beside it."""
    transcript = next((name for suffix in TRANSCRIPT_SUFFIXES if (name := path.with_suffix(suffix)).is_file()), None)
    if transcript is None:
        return SkippedRecording(str(path), f"there is no {path.stem}.txt or {path.stem}.lab beside it")
    try:
        if transcript.stat().st_size > _MAX_TRANSCRIPT_BYTES:
            return SkippedRecording(
                str(path), f"{transcript.name} is larger than {_MAX_TRANSCRIPT_BYTES} bytes; a transcript is shorter"
            )
        text = " ".join(transcript.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError):
        return SkippedRecording(str(path), f"{transcript.name} cannot be read as UTF-8")
    return TranscribedRecording(path, text, None if path.parent == folder else path.parent.name)


def _read_row(data: bytes, source: str, base: Path) -> TranscribedRecording | SkippedRecording:
    """Return the recording of one line of a manifest."""
    speaker: str | None = None
    try:
        line = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return SkippedRecording(source, "the line is not UTF-8")
    if line.lstrip().startswith("{"):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            return SkippedRecording(source, "the line is not JSON")
        audio, text, who = (
            next((row[key] for key in keys if key in row), None) for keys in (_AUDIO_KEYS, _TEXT_KEYS, _SPEAKER_KEYS)
        )
        if not isinstance(audio, str) or not isinstance(text, str):
            return SkippedRecording(source, 'the row needs a path under "audio" and the words under "text"')
        speaker = str(who) if who is not None else None
    else:
        fields = line.rstrip("\r\n").split("\t" if "\t" in line else "|")
        if len(fields) < 2:
            return SkippedRecording(source, "expected path and text with a tab or | between them")
        audio, text = fields[0].strip(), fields[1].strip()
    path = _find_file(audio, base)
    if path is None:
        return SkippedRecording(source, f"there is no file {audio!r}")
    return TranscribedRecording(path, text, speaker)


def _find_file(name: str, base: Path) -> Path | None:
    """Return the file that a manifest refers to; None if there is none."""
    if not name or "\0" in name:
        return None
    candidates = (base / name, *(folder / f"{name}{suffix}" for folder in (base, base / "wavs") for suffix in AUDIO_SUFFIXES))
    try:
        return next((path for path in candidates if path.is_file()), None)
    except OSError:  # the name is too long
        return None
