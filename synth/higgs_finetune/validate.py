"""Checks of a manifest and its recordings before training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import regex

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS, closest
from synth.audio.decoding import decode
from synth.audio.signal import FRAME_SECONDS, SILENCE_DB, silence_level
from synth.base import Audio
from synth.higgs_finetune.chatml import ManifestRow, is_dropped
from synth.higgs_finetune.codec_cache import MAX_SECONDS, ProgressCallback, prefetch, read_file
from synth.higgs_finetune.manifest import BadRow, Manifest
from synth.higgs_local.backend import MAX_CHARS
from synth.lowering import max_duration

if TYPE_CHECKING:
    from rich.console import Console

_NEAR_PEAK = 0.999  # share of the recording's peak from which a sample may be clipped
_LETTER = regex.compile(r"[\p{L}\p{N}]")
_CONTROL_CHARACTER = regex.compile(r"[^\P{Cc}\t\r\n]")
_TAG = regex.compile(r"</?([A-Za-z_][\w.-]{0,63}+)[^<>\n]{0,128}+>")

CHECKS: Mapping[str, str] = {
    "form": "rows are conversations with something to learn",
    "text": "there is text, and it can be spoken",
    "exists": "recordings exist",
    "decodes": "recordings can be decoded",
    "length": "recordings are neither too short nor too long",
    "rate": "recordings have the full bandwidth of a voice",
    "silence": "recordings are mostly speech",
    "clipping": "recordings are not clipped",
    "plausible": "texts and recordings match in length",
    "duplicates": "no row or recording occurs twice",
}
"""Name of every check, and the property of manifests that pass it."""


@dataclass(frozen=True, slots=True)
class ValidationLimits:
    """Thresholds of the checks.

    Attributes:
        min_seconds: shortest recording.
        max_seconds: longest recording; training memory grows with it.
        min_rate: lowest sample rate in Hz. Codes are made at 24 kHz: a recording with less bandwidth gives a muffled voice.
        silent: lowest RMS of a recording's loud parts, relative to full scale; a recording below it is taken for noise.
        most_silence: highest share of a recording that may be silence.
        most_clipped: highest share of samples that may be clipped: at full scale, three or more in a row.
        seconds_per_char: longest time for a lower-case letter.
        letters_per_second: highest rate of speech.
    """

    min_seconds: float = 0.3
    max_seconds: float = 40.0
    min_rate: int = 16_000
    silent: float = 1e-3
    most_silence: float = 0.6
    most_clipped: float = 1e-3
    seconds_per_char: float = 0.2
    letters_per_second: float = 35.0


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A problem of a row: the failed check (a key of `CHECKS`), the position of the row, and the reason."""

    check: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """Result of the checks of one manifest.

    Attributes:
        path: the manifest.
        rows: number of rows, bad ones included.
        spoken: number of rows whose answer is a recording.
        seconds: total length of these recordings.
        marks: number of marks of each kind that occurs.
        speakers: number of different speakers that the manifest names.
        problems: all problems, in the order of the manifest.
        notes: remarks that do not make a row bad.
        digests: SHA-256 of the audio that each row learns, keyed by the row's source.
    """

    path: Path
    rows: int
    spoken: int
    seconds: float
    marks: Mapping[str, int]
    speakers: int
    problems: tuple[RowProblem, ...]
    notes: tuple[str, ...]
    digests: Mapping[str, str]

    @property
    def bad(self) -> tuple[BadRow, ...]:
        """All rows with problems, each once with all its reasons."""
        reasons: dict[str, list[str]] = {}
        for problem in self.problems:
            reasons.setdefault(problem.source, []).append(problem.reason)
        return tuple(BadRow(source, "; ".join(found)) for source, found in reasons.items())

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


def validate(
    manifest: Manifest, limits: ValidationLimits | None = None, progress: ProgressCallback | None = None
) -> ValidationReport:
    """Check every row, and read every recording once. ``progress`` counts recordings."""
    limits = limits or ValidationLimits()
    recordings: dict[Path, _CheckedRecording] = {}
    clips = manifest.clips
    for done, (path, checked) in enumerate(prefetch(lambda path: _check_recording(path, limits), clips), 1):
        recordings[path] = checked.result()
        if progress is not None:
            progress(done, len(clips))
    problems = [RowProblem("form", row.source, row.reason) for row in manifest.bad]
    first_seen: dict[str, str] = {}
    for row in manifest.rows:
        problems += _row_problems(row, recordings, limits)
        problems += _duplicate_problems(row, recordings, first_seen)
    learnt = [recordings[row.clip] for row in manifest.rows if row.clip is not None]
    kinds = [mark.kind for row in manifest.rows for mark in row.text.marks]
    return ValidationReport(
        manifest.path,
        len(manifest.rows) + len(manifest.bad),
        len(learnt),
        sum(one.seconds for one in learnt),
        {kind: kinds.count(kind) for kind in KINDS if kind in kinds},
        len({row.speaker for row in manifest.rows if row.speaker is not None}),
        tuple(sorted(problems, key=lambda problem: _file_and_line(problem.source))),
        tuple(_notes(manifest.rows)),
        {row.source: recordings[row.clip].digest for row in manifest.rows if row.clip is not None and recordings[row.clip].digest},
    )


def find_overlap(train: ValidationReport, held_out: ValidationReport) -> tuple[RowProblem, ...]:
    """Return the held-out rows whose recordings are also in the training data: their losses would mean nothing."""
    trained = {digest: source for source, digest in reversed(list(train.digests.items()))}
    return tuple(
        RowProblem("duplicates", source, f"its recording is also in the training data, in {trained[digest]}; remove one of the two")
        for source, digest in held_out.digests.items()
        if digest in trained
    )


def print_report(report: ValidationReport, console: "Console") -> None:
    """Print the checks as a table, then a summary, the notes and the bad rows."""
    from rich.table import Table
    from rich.text import Text

    counts = {check: len({problem.source for problem in report.problems if problem.check == check}) for check in CHECKS}
    table = Table("check", "true if passed", "bad rows", title=Text(str(report.path)), title_justify="left")
    for check, meaning in CHECKS.items():
        table.add_row(check, meaning, str(counts[check]) if counts[check] else "none", style="red" if counts[check] else None)
    console.print(table)
    marks = ", ".join(f"{count} {kind}" for kind, count in report.marks.items()) or "none"
    console.print(
        f"{report.rows} rows, {len(report.bad)} of them bad; {report.spoken} recordings to learn, "
        f"{report.seconds / 60:.1f} minutes; {report.speakers} speakers named; marks: {marks}",
        highlight=False,
    )
    for note in report.notes:
        console.print(Text(f"note: {note}"))
    for row in report.bad:
        console.print(Text(f"{row.source}: {row.reason}", style="red"), soft_wrap=True)


@dataclass(frozen=True, slots=True)
class _CheckedRecording:
    """Result of the checks of a recording: SHA-256 of its audio, its length, and its problems as check and reason."""

    digest: str = ""
    seconds: float = 0.0
    problems: tuple[tuple[str, str], ...] = ()


def _check_recording(path: Path, limits: ValidationLimits) -> _CheckedRecording:
    """Read, decode and check a recording. Runs in a thread."""
    try:
        data = read_file(path)
    except BadInput as error:
        return _CheckedRecording(problems=(("exists", str(error)),))
    try:
        audio = decode(data, max_seconds=MAX_SECONDS)
    except BadInput as error:
        return _CheckedRecording(problems=(("decodes", str(error)),))
    digest = sha256(f"{audio.rate} ".encode() + audio.samples.tobytes()).hexdigest()
    return _CheckedRecording(digest, audio.seconds, tuple(_audio_problems(audio, limits)))


def _audio_problems(audio: Audio, limits: ValidationLimits) -> Iterator[tuple[str, str]]:
    seconds = audio.seconds
    if not limits.min_seconds <= seconds <= limits.max_seconds:
        yield "length", f"it lasts {seconds:.2f} s; give {limits.min_seconds:g} to {limits.max_seconds:g} s"
    if audio.rate < limits.min_rate:
        yield "rate", f"it has {audio.rate} Hz; give a recording made at {limits.min_rate} Hz or more"
    centred = Audio(audio.samples - np.mean(audio.samples), audio.rate)
    level = silence_level(centred)
    if level * 10 ** (SILENCE_DB / 20) < limits.silent:
        yield "silence", "it is silent; record it louder"
        return
    if (share := _silence_share(centred, level)) > limits.most_silence:
        yield "silence", f"{share:.0%} of it is silence; cut that off"
    if (share := _clipped_share(audio)) > limits.most_clipped:
        yield "clipping", f"{share:.1%} of its samples are clipped; record it more quietly"


def _silence_share(audio: Audio, level: float) -> float:
    """Return the share of 10 ms frames whose RMS is below ``level``."""
    frame = max(1, round(FRAME_SECONDS * audio.rate))
    usable = len(audio.samples) // frame * frame
    rms = np.sqrt(np.mean(audio.samples[:usable].reshape(-1, frame).astype(np.float64) ** 2, axis=1))
    return float(np.mean(rms < level))


def _clipped_share(audio: Audio) -> float:
    """Return the share of samples in flat tops: three or more equal ones at the recording's own peak."""
    samples = audio.samples
    middle = samples[1:-1]
    is_flat = (samples[:-2] == middle) & (middle == samples[2:]) & (np.abs(middle) >= _NEAR_PEAK * np.abs(samples).max())
    return float(np.sum(is_flat)) / len(samples)


def _row_problems(row: ManifestRow, recordings: Mapping[Path, _CheckedRecording], limits: ValidationLimits) -> Iterator[RowProblem]:
    for what, text in [("the text", row.text.text), *(("a transcript", turn.text.text) for turn in row.references)]:
        if reason := _text_problem(text):
            yield RowProblem("text", row.source, f"{what} {reason}")
    for path in dict.fromkeys(row.clips):
        for check, reason in recordings[path].problems:
            yield RowProblem(check, row.source, f"{path}: {reason}")
    spoken = [(turn.text.text, turn.clip) for turn in row.references] + [(row.text.text, row.clip)]
    for text, clip in spoken:
        if clip is None or not recordings[clip].seconds:
            continue
        if reason := _pace_problem(text, recordings[clip].seconds, limits):
            yield RowProblem("plausible", row.source, f"{clip}: {reason}")


def _text_problem(text: str) -> str | None:
    if not _LETTER.search(text):
        return f"{text[:20]!r} has no words; give the spoken text"
    control = _CONTROL_CHARACTER.search(text)
    return f"contains the control character {control[0]!r}; remove it" if control else None


def _pace_problem(text: str, seconds: float, limits: ValidationLimits) -> str | None:
    letters = len(_LETTER.findall(text))
    if letters > limits.letters_per_second * seconds:
        return f"{letters} letters cannot be spoken in {seconds:.1f} s; give the whole recording, or only the text that it contains"
    if seconds > max_duration(text, limits.seconds_per_char):
        return f"{letters} letters do not take {seconds:.1f} s to speak; cut the recording, or give all of its text"
    return None


def _duplicate_problems(
    row: ManifestRow, recordings: Mapping[Path, _CheckedRecording], first_seen: dict[str, str]
) -> Iterator[RowProblem]:
    """Yield problems of recordings, or texts with their answer, that occurred before. Updates ``first_seen``: digest to source."""
    if row.clip is None:
        key = sha256(f"{row.text.text}\0{row.answer}".encode()).hexdigest()
        what = "it"
    else:
        key, what = recordings[row.clip].digest, "its recording"
        if key and any(turn.clip is not None and recordings[turn.clip].digest == key for turn in row.references):
            reason = "reference recording and answer are the same, so the model would learn to copy; change one of the two"
            yield RowProblem("duplicates", row.source, reason)
    if key in first_seen:
        yield RowProblem("duplicates", row.source, f"{what} is the same as in {first_seen[key]}; keep one")
    elif key:
        first_seen[key] = row.source


def _notes(rows: Sequence[ManifestRow]) -> Iterator[str]:
    @lru_cache
    def is_like_a_mark(name: str) -> bool:
        return closest(name, KINDS) is not None

    tags = [(tag[0], row.source) for row in rows for tag in _TAG.finditer(row.text.text) if is_like_a_mark(tag[1])]
    if tags:
        yield f"{len(tags)} tags are read as text, for example {tags[0][0]} in {tags[0][1]}; the marks are {', '.join(KINDS)}"
    long = [row.source for row in rows if row.clip is not None and len(row.text.text) > MAX_CHARS]
    if long:
        yield f"{len(long)} texts, for example in {long[0]}, are longer than the {MAX_CHARS} characters of one request"
    systems = [row.source for row in rows if row.clip is not None and is_dropped(row.system)]
    if systems:
        yield (
            f"{len(systems)} system messages, for example in {systems[0]}, are dropped, because requests for speech have none; "
            "a message of the role scene is kept"
        )


def _file_and_line(source: str) -> tuple[str, int]:
    name, _, line = source.rpartition(":")
    return name, int(line)
