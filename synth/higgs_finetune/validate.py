"""What is wrong with a manifest and its recordings, before hours are spent on it."""

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
from synth.higgs_finetune.chatml import is_left_out
from synth.higgs_finetune.clips import MAX_SECONDS, Progress, ahead, read_file
from synth.higgs_finetune.manifest import BadRow, Manifest, Row
from synth.higgs_local.backend import MAX_CHARS
from synth.lowering import max_duration

if TYPE_CHECKING:
    from rich.console import Console

_NEAR_PEAK = 0.999
_LETTER = regex.compile(r"[\p{L}\p{N}]")
_UNFIT = regex.compile(r"[^\P{Cc}\t\r\n]")
_TAG = regex.compile(r"</?([A-Za-z_][\w.-]{0,63}+)[^<>\n]{0,128}+>")

CHECKS: Mapping[str, str] = {
    "form": "rows are conversations with something to learn",
    "text": "there is text, and it can be spoken",
    "exists": "recordings are there",
    "decodes": "recordings can be decoded",
    "length": "recordings are neither a blip nor a chapter",
    "rate": "recordings have all of a voice's band",
    "silence": "recordings are speech for the most part",
    "clipping": "recordings are not clipped",
    "plausible": "texts and recordings are as long as each other",
    "duplicates": "nothing is there twice",
}
"""Every check, and what holds where it is passed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is taken.

    Attributes:
        min_seconds: of a recording.
        max_seconds: likewise; the memory that training needs grows with it.
        min_rate: Hz. Codes are made at 24 kHz: what has been sampled at less is muffled, and so will be the voice.
        silent: the RMS of the loud parts of a recording that holds nothing but noise, of full scale.
        most_silence: the part of a recording that may be silence.
        most_clipped: the part of its samples that may stand at full scale, three or more in a row.
        seconds_per_char: the most that a small letter takes to say.
        letters_per_second: the most that anybody says.
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
class Fault:
    """What is wrong with a row: one of `CHECKS`, where the row stands, and why."""

    check: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        path: the manifest.
        rows: how many there are, bad ones included.
        spoken: how many of them have a recording to learn.
        seconds: of those recordings, all together.
        marks: how many marks of each kind they have, where any.
        speakers: how many the manifest names.
        faults: all that is wrong, in the manifest's order.
        notes: what is worth knowing, and no fault.
        digests: the SHA-256 of each sound that is learnt, by where its row stands.
    """

    path: Path
    rows: int
    spoken: int
    seconds: float
    marks: Mapping[str, int]
    speakers: int
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    digests: Mapping[str, str]

    @property
    def bad(self) -> tuple[BadRow, ...]:
        """Every row that something is wrong with, once."""
        reasons: dict[str, list[str]] = {}
        for fault in self.faults:
            reasons.setdefault(fault.source, []).append(fault.reason)
        return tuple(BadRow(source, "; ".join(found)) for source, found in reasons.items())

    @property
    def ok(self) -> bool:
        return not self.faults


def validate(manifest: Manifest, limits: Limits | None = None, progress: Progress | None = None) -> Report:
    """Look at every row, and at every recording once. ``progress`` counts recordings."""
    limits = limits or Limits()
    heard: dict[Path, _Heard] = {}
    clips = manifest.clips
    for done, (path, found) in enumerate(ahead(lambda path: _hear(path, limits), clips), 1):
        heard[path] = found.result()
        if progress is not None:
            progress(done, len(clips))
    faults = [Fault("form", row.source, row.reason) for row in manifest.bad]
    seen: dict[str, str] = {}
    for row in manifest.rows:
        faults += _of_row(row, heard, limits)
        faults += _of_copies(row, heard, seen)
    learnt = [heard[row.clip] for row in manifest.rows if row.clip is not None]
    kinds = [mark.kind for row in manifest.rows for mark in row.text.marks]
    return Report(
        manifest.path,
        len(manifest.rows) + len(manifest.bad),
        len(learnt),
        sum(one.seconds for one in learnt),
        {kind: kinds.count(kind) for kind in KINDS if kind in kinds},
        len({row.speaker for row in manifest.rows if row.speaker is not None}),
        tuple(sorted(faults, key=lambda fault: _line(fault.source))),
        tuple(_notes(manifest.rows)),
        {row.source: heard[row.clip].digest for row in manifest.rows if row.clip is not None and heard[row.clip].digest},
    )


def in_both(train: Report, held_out: Report) -> tuple[Fault, ...]:
    """Rows that are to be held out and are trained on all the same: their losses would say nothing."""
    trained = {digest: source for source, digest in reversed(list(train.digests.items()))}
    return tuple(
        Fault("duplicates", source, f"it is trained on as well, in {trained[digest]}; take one of the two out")
        for source, digest in held_out.digests.items()
        if digest in trained
    )


def show(report: Report, console: "Console") -> None:
    """Print the checks as a table, and the bad rows below it."""
    from rich.table import Table
    from rich.text import Text

    counts = {check: len({fault.source for fault in report.faults if fault.check == check}) for check in CHECKS}
    table = Table("check", "holds where it is passed", "bad rows", title=Text(str(report.path)), title_justify="left")
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
class _Heard:
    """A recording: the SHA-256 of its sound, its length, and what is wrong with it, as check and reason."""

    digest: str = ""
    seconds: float = 0.0
    faults: tuple[tuple[str, str], ...] = ()


def _hear(path: Path, limits: Limits) -> _Heard:
    """Runs in a thread."""
    try:
        data = read_file(path)
    except BadInput as error:
        return _Heard(faults=(("exists", str(error)),))
    try:
        audio = decode(data, max_seconds=MAX_SECONDS)
    except BadInput as error:
        return _Heard(faults=(("decodes", str(error)),))
    digest = sha256(f"{audio.rate} ".encode() + audio.samples.tobytes()).hexdigest()
    return _Heard(digest, audio.seconds, tuple(_of_sound(audio, limits)))


def _of_sound(audio: Audio, limits: Limits) -> Iterator[tuple[str, str]]:
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
    if (part := _silence(centred, level)) > limits.most_silence:
        yield "silence", f"{part:.0%} of it is silence; cut that off"
    if (part := _clipped(audio)) > limits.most_clipped:
        yield "clipping", f"{part:.1%} of its samples are clipped; record it more quietly"


def _silence(audio: Audio, level: float) -> float:
    """The part of 10 ms frames that are below ``level``."""
    frame = max(1, round(FRAME_SECONDS * audio.rate))
    usable = len(audio.samples) // frame * frame
    rms = np.sqrt(np.mean(audio.samples[:usable].reshape(-1, frame).astype(np.float64) ** 2, axis=1))
    return float(np.mean(rms < level))


def _clipped(audio: Audio) -> float:
    """The part of samples in flat tops: three or more of one value at the recording's own peak, whatever its volume is now."""
    samples = audio.samples
    middle = samples[1:-1]
    is_flat = (samples[:-2] == middle) & (middle == samples[2:]) & (np.abs(middle) >= _NEAR_PEAK * np.abs(samples).max())
    return float(np.sum(is_flat)) / len(samples)


def _of_row(row: Row, heard: Mapping[Path, _Heard], limits: Limits) -> Iterator[Fault]:
    for what, text in [("the text", row.text.text), *(("a transcript", turn.text.text) for turn in row.references)]:
        if fault := _text_fault(text):
            yield Fault("text", row.source, f"{what} {fault}")
    for path in dict.fromkeys(row.clips):
        for check, reason in heard[path].faults:
            yield Fault(check, row.source, f"{path}: {reason}")
    spoken = [(turn.text.text, turn.clip) for turn in row.references] + [(row.text.text, row.clip)]
    for text, clip in spoken:
        if clip is not None and heard[clip].seconds and (fault := _pace_fault(text, heard[clip].seconds, limits)):
            yield Fault("plausible", row.source, f"{clip}: {fault}")


def _text_fault(text: str) -> str | None:
    if not _LETTER.search(text):
        return f"{text[:20]!r} has no words; give what is said"
    unfit = _UNFIT.search(text)
    return f"holds the control character {unfit[0]!r}; take it out" if unfit else None


def _pace_fault(text: str, seconds: float, limits: Limits) -> str | None:
    letters = len(_LETTER.findall(text))
    if letters > limits.letters_per_second * seconds:
        return f"nobody says {letters} letters in {seconds:.1f} s; give the whole recording, or only what it says"
    if seconds > max_duration(text, limits.seconds_per_char):
        return f"{letters} letters do not take {seconds:.1f} s to say; cut the recording, or give all that it says"
    return None


def _of_copies(row: Row, heard: Mapping[Path, _Heard], seen: dict[str, str]) -> Iterator[Fault]:
    """What of a row is there already. ``seen`` has where each recording, or text with its answer, was seen first."""
    if row.clip is None:
        key = sha256(f"{row.text.text}\0{row.answer}".encode()).hexdigest()
        what = "it"
    else:
        key, what = heard[row.clip].digest, "its recording"
        if key and any(turn.clip is not None and heard[turn.clip].digest == key for turn in row.references):
            yield Fault("duplicates", row.source, "it would learn to copy: recording of the voice and answer are one; change one")
    if key in seen:
        yield Fault("duplicates", row.source, f"{what} is that of {seen[key]}; keep one")
    elif key:
        seen[key] = row.source


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    @lru_cache
    def looks_meant(name: str) -> bool:
        return closest(name, KINDS) is not None

    tags = [(tag[0], row.source) for row in rows for tag in _TAG.finditer(row.text.text) if looks_meant(tag[1])]
    if tags:
        yield f"{len(tags)} tags are taken for text, {tags[0][0]} in {tags[0][1]} for one; the marks are {', '.join(KINDS)}"
    long = [row.source for row in rows if row.clip is not None and len(row.text.text) > MAX_CHARS]
    if long:
        yield f"{len(long)} texts, that of {long[0]} for one, are longer than the {MAX_CHARS} characters of one request"
    systems = [row.source for row in rows if row.clip is not None and is_left_out(row.system)]
    if systems:
        yield (
            f"{len(systems)} system messages, that of {systems[0]} for one, are left out where speech is learnt: the voice is "
            "asked without them; a message of the role scene is kept"
        )


def _line(source: str) -> tuple[str, int]:
    name, _, line = source.rpartition(":")
    return name, int(line)
