"""The result of `synth.acoustics.measure`, as data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class WordReport:
    """A word compared with the unmarked words of its sentence; values that cannot be measured (no length, no voice) are None.

    Attributes:
        word, offset, start, end, confidence: as in `synth.base.WordTime`.
        duration_ms: duration in milliseconds.
        duration_ratio: the duration divided by the one expected from the number of letters.
        energy_db: power minus the others' median.
        pitch_semitones: peak of the pitch minus the others' median.
        rise_semitones: pitch of the last third minus that of the first.
        prominence: as in `synth.acoustics.prominence`.
        prominence_z: prominence in standard deviations above the mean of all other words of the sentence, marked or not.
        rank: 1 for the most prominent word of its sentence.
        boundary: the strength of the boundary after the word.
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
    """A word compared with the same word of the reference, minus the median change of the unmarked words.

    Attributes:
        duration_ratio: ratio of the durations.
        energy_db, pitch_semitones: the differences; 0 without voice.
        rise_semitones: the difference; None without voice.
        prominence: the difference.
        departure: duration, energy and pitch together, in standard deviations between two plain readings.
    """

    duration_ratio: float
    energy_db: float
    pitch_semitones: float
    rise_semitones: float | None
    prominence: float
    departure: float


@dataclass(frozen=True, slots=True)
class MarkReport:
    """Whether one mark is audible.

    Attributes:
        kind, offset: of the mark.
        word: the word that follows it, or None at the end of the text.
        realised: whether it is audible.
        score: 0 to 1; realised from 0.5 on. 1 is a pause of exactly the requested length, a word with all the prominence, or a
            pitch twice as far from its neighbours as required.
        note: why it could not be measured, or an empty string.
        figures: the features of the word, for emph and pitch marks.
        level_semitones: for pitch marks, the pitch of the word minus the value interpolated from its neighbours.
        change: the word compared with the reference, if there is one.
        asked_ms: for pauses, the silence that all pauses of the slot together request.
        silence_ms: the silence at the slot.
        reference_ms: the silence at the same slot of the reference.
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
    """Something audible without a mark: a word that stands out ("emph"), or a silence before it ("pause")."""

    kind: str
    offset: int
    word: str
    prominence: float | None = None
    departure: float | None = None
    silence_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The measurement of a recording.

    Attributes:
        marks: one for each mark of the text, in its order.
        false: what is audible without a mark.
        words: one for each word of the text.
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
        """Return the report for JSON: the same keys always, numbers rounded, and None for unknown values."""
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


def none_if_nan(value: float) -> float | None:
    """Return ``value``, or None if it is nan."""
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
