"""What `synth.acoustics.measure` found, as data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class WordReport:
    """A word against the others of its sentence that bear no mark. What cannot be told (not heard, or without voice) is None.

    Attributes:
        word, offset, start, end, confidence: as in `synth.base.WordTime`.
        duration_ms: how long it is.
        duration_ratio: that, divided by how long it would be if all words took time by their letters.
        energy_db: its power less the others' median.
        pitch_semitones: the peak of its pitch less the others' median.
        rise_semitones: the pitch of its last third less that of its first.
        prominence: of `synth.acoustics.prominence`.
        prominence_z: by how many standard deviations of the other words' prominence it is above their mean, marked or not.
        rank: 1 is the most prominent word of its sentence.
        boundary: the strength of the boundary after it.
    """

    word: str
    offset: int
    start: float
    end: float
    confidence: float
    duration_ms: float
    duration_ratio: float | None
    energy_db: float | None
    pitch_semitones: float | None
    rise_semitones: float | None
    prominence: float
    prominence_z: float
    rank: int
    boundary: float


@dataclass(frozen=True, slots=True)
class ChangeReport:
    """A word against the same word of the reference, beyond what the unmarked words changed.

    Attributes:
        duration_ratio: of the durations.
        energy_db, pitch_semitones, rise_semitones: the differences; None where there is no voice.
        prominence: the difference.
        departure: duration, energy and pitch together, in standard deviations of what separates two plain readings.
    """

    duration_ratio: float
    energy_db: float
    pitch_semitones: float
    rise_semitones: float | None
    prominence: float
    departure: float


@dataclass(frozen=True, slots=True)
class MarkReport:
    """Whether one mark is heard.

    Attributes:
        kind, offset: of the mark.
        word: the word that follows it, or None at the end of the text.
        realised: whether it is.
        score: 0 to 1; realised from 0.5 on. 1 is a pause of exactly the length, a word with all the prominence, or a pitch twice
            as far off as it has to be.
        note: why it could not be told, or an empty string.
        figures: of the word, for emph and pitch marks.
        level_semitones: for pitch marks, the pitch of the word less what its neighbours let expect.
        change: of the word against the reference, if there is one.
        asked_ms: for pauses, the silence that all pauses of the slot ask for.
        silence_ms: the silence at the slot.
        reference_ms: the silence at the slot of the reference.
    """

    kind: str
    offset: int
    word: str | None
    realised: bool
    score: float
    note: str = ""
    figures: WordReport | None = None
    level_semitones: float | None = None
    change: ChangeReport | None = None
    asked_ms: int | None = None
    silence_ms: float | None = None
    reference_ms: float | None = None


@dataclass(frozen=True, slots=True)
class FalseReport:
    """Something that is heard and was not asked for: a word that stands out ("emph"), or a silence before it ("pause")."""

    kind: str
    offset: int
    word: str
    prominence: float | None = None
    departure: float | None = None
    silence_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Every mark, what was heard without one, and every word.

    Attributes:
        marks: one for each mark of the text, in its order.
        false: what was not asked for.
        words: every word.
        seconds: length of the recording.
        compared: whether there was a reference.
    """

    marks: tuple[MarkReport, ...]
    false: tuple[FalseReport, ...]
    words: tuple[WordReport, ...]
    seconds: float
    compared: bool

    @property
    def asked(self) -> int:
        return len(self.marks)

    @property
    def realised(self) -> int:
        return sum(mark.realised for mark in self.marks)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: numbers rounded, what is not known null, the same keys always."""
        return {
            "asked": self.asked,
            "realised": self.realised,
            "false_realisations": len(self.false),
            "by_kind": _by_kind(self.marks),
            "marks": [_plain(mark) for mark in self.marks],
            "false": [_plain(item) for item in self.false],
            "words": [_plain(word) for word in self.words],
            "seconds": round(self.seconds, 4),
            "compared": self.compared,
        }


def known(value: float) -> float | None:
    """``value``, or None if it is nan."""
    return None if math.isnan(value) else float(value)


def _by_kind(marks: Sequence[MarkReport]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for mark in marks:
        count = counts.setdefault(mark.kind, {"asked": 0, "realised": 0})
        count["asked"] += 1
        count["realised"] += mark.realised
    return counts


def _plain(value: Any) -> Any:
    if isinstance(value, WordReport | ChangeReport | MarkReport | FalseReport):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return round(value, 4) if isinstance(value, float) else value
