"""Is each mark heard? A recording, its marked text and the times of its words go in; what every mark did in the sound comes out."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import Mark, MarkedText
from prosody_tagger.segment import Word, segment_sentences, segment_words, word_after
from synth.acoustics.contours import Contours, contours
from synth.acoustics.report import ChangeReport, FalseReport, MarkReport, Report, WordReport, known
from synth.acoustics.silences import silence_within, silences
from synth.acoustics.word_features import (
    EMPHATIC,
    STANDS_OUT,
    Departure,
    Figures,
    apart,
    departure,
    emphasis,
    figures,
    rise_of,
    voiced_part,
)
from synth.base import Audio, WordTime

PAUSE_TOLERANCE_MS = 20.0
FALSE_PAUSE_MS = 150.0
CHANGED = 1.5
"""`Departure.score` from which on a word is emphasised against the reference, where the others are not."""

PITCH_SEMITONES = 1.5
"""What a pitch mark has to do: above or below the neighbours, or from the word's first third to its last. Less is rarely heard."""

_PAUSES_HERE = regex.compile(r"[\p{P}--[\p{Pd}'’]]|\s\p{Pd}|\p{Pd}\s|--|[\u2012-\u2015]|\n", regex.V1)
_SPOKEN = regex.compile(r"[\p{L}\p{S}%&@#]")
_LETTERS_A_DIGIT = 5
_LETTERS_A_WORD = 1.5  # a word of one letter is longer than the letter's share
_NEIGHBOURS = 3


def measure(
    audio: Audio,
    marked: MarkedText,
    words: Sequence[WordTime],
    *,
    reference: tuple[Audio, Sequence[WordTime]] | None = None,
    reading: tuple[Audio, Sequence[WordTime]] | None = None,
) -> Report:
    """What every mark of ``marked`` did in ``audio``, whose ``words`` are heard at the times given.

    An emphasis is realised if its word is more prominent than every word of its sentence without one; or, with a ``reference`` (a
    plain rendering of the same text by the same voice, and its words), if it departs from there by `CHANGED`; or, with a
    ``reading`` (a plain reading by any voice, and its words), if it stands out by `EMPHATIC`. A pause is
    realised if the silence at its slot is the length asked, by 20 ms, or the voice's own where that is longer: the reference's,
    and without one whatever stands at punctuation. A high or low word is `PITCH_SEMITONES` off its neighbours, a rising or
    falling one rises or falls by that much; with a reference, against that, and over the rest of the sentence counts as well.

    Raises:
        BadInput: audio that cannot be measured, or words that are not those of the text.
    """
    runs = segment_words(marked.text)
    clip = _Clip(audio, marked, runs, words, contours(audio))
    others = [
        None if other is None else _Clip(other[0], marked, runs, other[1], contours(other[0])) for other in (reference, reading)
    ]
    return _Measurement(clip, *others).report()


class _Clip:
    """A recording with its words, one for each of the text's: those that were not given have no length."""

    def __init__(self, audio: Audio, marked: MarkedText, runs: Sequence[Word], words: Sequence[WordTime], sound: Contours) -> None:
        self.audio, self.marked, self.runs, self.sound = audio, marked, runs, sound
        given = {word.offset: word for word in words}
        known_offsets = {run.core_start for run in runs}
        for word in words:
            if word.offset not in known_offsets:
                raise BadInput(
                    f"no word of the text starts at {word.offset}, where {word.word!r} is said to be; give its own words"
                )
        last = 0.0
        self.words: list[WordTime] = []
        for run in runs:
            word = given.get(run.core_start) or WordTime(run.core(marked.text), run.core_start, last, last, 0.0)
            last = word.end
            self.words.append(word)
        self.figures: Figures = figures(sound, self.words)
        self.silences = silences(audio, self.words)


@dataclass(frozen=True, slots=True)
class _Sentence:
    """Word indices ``[first, end)``."""

    first: int
    end: int


class _Measurement:
    """One recording against its marks, and against the reference and the plain reading as far as there are any."""

    def __init__(self, clip: _Clip, other: _Clip | None, reading: _Clip | None) -> None:
        self.clip, self.other = clip, other
        self.text = clip.marked.text
        self.heard = clip.figures.seconds > 0
        self.bound: Mapping[int, list[Mark]] = self._bound()
        self.emphasised = self._bears({"emph"})
        self.marked = np.array([index in self.bound for index in range(len(clip.words))], dtype=bool)
        self.sentences = self._sentences()
        self.departure: Departure | None = None
        if other is not None:
            plain_words = ~self.marked & self.heard
            self.departure = departure(clip.figures, other.figures, plain_words if plain_words.any() else None)
        self.emphasis = None if reading is None else emphasis(clip.figures, reading.figures)
        self.asked: Counter[tuple[int | None, int]] = Counter()
        for mark in clip.marked.marks:
            self.asked[self._place(mark)] += mark.silence_ms  # pauses in one slot add up
        self.words = self._words()

    def report(self) -> Report:
        return Report(
            marks=tuple(self._mark(mark) for mark in self.clip.marked.marks),
            false=tuple(self._false()),
            words=tuple(self.words),
            seconds=self.clip.audio.seconds,
            compared=self.other is not None,
        )

    def _bound(self) -> dict[int, list[Mark]]:
        """The marks that belong to words, by the index of the word."""
        bound: dict[int, list[Mark]] = {}
        for mark in self.clip.marked.marks:
            index = None if mark.is_pause else word_after(self.clip.runs, mark.offset)
            if index is not None:
                bound.setdefault(index, []).append(mark)
        return bound

    def _bears(self, kinds: set[str]) -> NDArray[np.bool_]:
        return np.array(
            [any(mark.kind in kinds for mark in self.bound.get(index, ())) for index in range(len(self.clip.words))], dtype=bool
        )

    def _sentences(self) -> list[_Sentence]:
        """The sentence of each word."""
        starts = np.array([run.core_start for run in self.clip.runs])
        found: list[_Sentence] = []
        for start, end in segment_sentences(self.text):
            first, last = np.searchsorted(starts, (start, end))
            found += [_Sentence(int(first), int(last))] * int(last - first)
        return found

    def _words(self) -> list[WordReport]:
        rows: list[WordReport] = []
        values = self.clip.figures
        weights = np.array([_weight(word.word) for word in self.clip.words])
        for index, word in enumerate(self.clip.words):
            others = self._others(index)
            around = slice(self.sentences[index].first, self.sentences[index].end)
            rest = self.heard[around].copy()
            rest[index - around.start] = False
            expected = weights[index] * values.seconds[others].sum() / max(weights[others].sum(), 1e-9)
            rows.append(
                WordReport(
                    word=word.word,
                    offset=word.offset,
                    start=float(word.start),
                    end=float(word.end),
                    confidence=float(word.confidence),
                    duration_ms=1000 * float(values.seconds[index]),
                    duration_ratio=float(values.seconds[index] / expected) if self.heard[index] and expected > 0 else None,
                    energy_db=known(values.energy[index] - _middle(values.energy[others])),
                    pitch_semitones=known(values.height[index] - _middle(values.height[others])),
                    rise_semitones=known(values.rise[index]),
                    prominence=float(values.prominence[index]),
                    prominence_z=apart(float(values.prominence[index]), values.prominence[around][rest]),
                    rank=1 + int(np.count_nonzero(values.prominence[around] > values.prominence[index])),
                    boundary=float(values.boundary[index]),
                )
            )
        return rows

    def _others(self, index: int) -> NDArray[np.int64]:
        """Words to compare a word with: those of its sentence that are heard and bear no mark, else those of the text."""
        free = self.heard & ~self.marked
        free[index] = False
        own = self.sentences[index]
        near = np.flatnonzero(free[own.first : own.end]) + own.first
        return near if len(near) else np.flatnonzero(free)

    def _mark(self, mark: Mark) -> MarkReport:
        index = word_after(self.clip.runs, mark.offset)
        word = None if index is None else self.clip.words[index].word
        if mark.is_pause:
            return self._pause(mark, index, word)
        if index is None:
            return MarkReport(mark.kind, mark.offset, None, False, 0.0, "no word follows it")
        if not self.heard[index]:
            return MarkReport(mark.kind, mark.offset, word, False, 0.0, "its word is not heard")
        return self._emphasis(mark, index) if mark.kind == "emph" else self._pitch(mark, index)

    def _emphasis(self, mark: Mark, index: int) -> MarkReport:
        prominence = self.clip.figures.prominence
        rivals = self._others(index)
        note, score = "", 0.0
        if len(rivals):
            strongest = float(prominence[rivals].max())
            total = prominence[index] + strongest
            score = float(prominence[index] / total) if total > 0 else 0.0
        elif self.departure is None and self.emphasis is None:
            note = "there is no other word to compare it with; give a reference"
        if self.departure is not None:
            score = max(score, _share(float(self.departure.score[index]), CHANGED))
        if self.emphasis is not None:
            score = max(score, _share(float(self.emphasis[index]), EMPHATIC))
        return self._of_word(mark, index, score, note)

    def _pitch(self, mark: Mark, index: int) -> MarkReport:
        sign = 1.0 if mark.kind in ("pitch_high", "pitch_rising") else -1.0
        level = self._level(index)
        values = [level] if mark.kind in ("pitch_high", "pitch_low") else self._rises(index)
        if self.departure is not None and mark.kind in ("pitch_high", "pitch_low"):
            values = [float(self.departure.level[index]) if not math.isnan(level) else float("nan")]
        told = [sign * value for value in values if not math.isnan(value)]
        note = "" if told else "its word has too little voice to tell the pitch"
        return self._of_word(mark, index, _share(max(told), PITCH_SEMITONES) if told else 0.0, note, level)

    def _rises(self, index: int) -> list[float]:
        """By how much the word rises; with a reference, against that, and so from it to the end of its sentence."""
        if self.other is None:
            return [float(self.clip.figures.rise[index])]
        last = self.sentences[index].end - 1
        return [_rise(self.clip, first, end) - _rise(self.other, first, end) for first, end in {(index, index), (index, last)}]

    def _level(self, index: int) -> float:
        """The pitch of a word, in semitones above the line through the words around it."""
        levels = self.clip.figures.level
        others = self._others(index)
        others = others[~np.isnan(levels[others])]
        nearest = np.sort(others[np.argsort(np.abs(others - index), kind="stable")][: 2 * _NEIGHBOURS])
        if not len(nearest):
            return float("nan")
        times = np.array([(word.start + word.end) / 2 for word in self.clip.words])
        return float(levels[index] - _line(times[nearest], levels[nearest], float(times[index])))

    def _of_word(self, mark: Mark, index: int, score: float, note: str, level: float | None = None) -> MarkReport:
        return MarkReport(
            kind=mark.kind,
            offset=mark.offset,
            word=self.clip.words[index].word,
            realised=score >= 0.5,
            score=score,
            note=note,
            figures=self.words[index],
            level_semitones=None if level is None else known(level),
            change=self._change(index),
        )

    def _change(self, index: int) -> ChangeReport | None:
        if self.departure is None:
            return None
        changed = self.departure
        return ChangeReport(
            duration_ratio=float(np.exp(changed.log_duration[index])),
            energy_db=float(changed.energy[index]),
            pitch_semitones=float(changed.semitones[index]),
            rise_semitones=known(changed.rise[index]),
            prominence=float(changed.prominence[index]),
            departure=float(changed.score[index]),
        )

    def _pause(self, mark: Mark, index: int | None, word: str | None) -> MarkReport:
        asked = self.asked[self._place(mark)]
        silence = self._silence(self.clip, mark, index)
        own = None if self.other is None else self._silence(self.other, mark, index)
        if not self.heard.any():
            return MarkReport(mark.kind, mark.offset, word, False, 0.0, "no word is heard", asked_ms=asked, silence_ms=silence)
        wanted = max(float(asked), own or 0.0)
        if own is None and silence > asked and self._is_punctuated(index):
            wanted = silence  # the voice's own, for all that can be told
        off = abs(silence - wanted)
        score = 1 - 0.5 * off / PAUSE_TOLERANCE_MS
        if off > PAUSE_TOLERANCE_MS:
            score = 0.5 * min(silence, wanted) / max(silence, wanted)
        return MarkReport(
            kind=mark.kind,
            offset=mark.offset,
            word=word,
            realised=off <= PAUSE_TOLERANCE_MS,
            score=score,
            asked_ms=asked,
            silence_ms=silence,
            reference_ms=own,
        )

    def _place(self, mark: Mark) -> tuple[int | None, int]:
        """The index of the word after a mark, and where in that word's core it stands; 0 before it."""
        index = word_after(self.clip.runs, mark.offset)
        return index, 0 if index is None else max(0, mark.offset - self.clip.runs[index].core_start)

    def _silence(self, clip: _Clip, mark: Mark, index: int | None) -> float:
        if index is not None and self._place(mark)[1]:
            return silence_within(clip.audio, clip.words[index])
        after = np.flatnonzero(clip.figures.seconds > 0)
        after = after[np.searchsorted(after, len(clip.words) if index is None else index) :]
        return clip.silences[after[0] if len(after) else len(clip.words)]

    def _is_punctuated(self, index: int | None) -> bool:
        """Whether a voice may pause at the slot before a word without being asked."""
        if index in (0, None):
            return True
        runs = self.clip.runs
        assert index is not None
        return bool(_PAUSES_HERE.search(self.text, runs[index - 1].core_end, runs[index].core_start))

    def _false(self) -> list[FalseReport]:
        found: list[FalseReport] = []
        asked = {word_after(self.clip.runs, mark.offset) for mark in self.clip.marked.marks if mark.is_pause}
        for index, word in enumerate(self.clip.words):
            if not self.heard[index]:
                continue
            row = self.words[index]
            changed = None if self.departure is None else float(self.departure.score[index])
            if changed is not None:
                stands_out = changed >= CHANGED
            elif self.emphasis is not None:
                stands_out = bool(self.emphasis[index] >= EMPHATIC)
            else:
                stands_out = row.prominence_z >= STANDS_OUT
            if stands_out and not self.marked[index]:
                found.append(FalseReport("emph", word.offset, word.word, prominence=row.prominence, departure=changed))
            silence = self.clip.silences[index]
            own = self.other.silences[index] if self.other else 0.0
            unexpected = bool(self.other) or not self._is_punctuated(index)
            if index and index not in asked and unexpected and silence - own >= FALSE_PAUSE_MS:
                found.append(FalseReport("pause", word.offset, word.word, silence_ms=silence))
        return found


def _weight(word: str) -> float:
    """How long a word is when spoken, in letters."""
    return _LETTERS_A_WORD + len(_SPOKEN.findall(word)) + _LETTERS_A_DIGIT * sum(letter.isdigit() for letter in word)


def _middle(values: NDArray[np.float64]) -> float:
    """The median of what is known."""
    certain = values[~np.isnan(values)]
    return float(np.median(certain)) if len(certain) else float("nan")


def _share(value: float, enough: float) -> float:
    """0 to 1, where ``enough`` is 0.5."""
    return min(1.0, max(0.0, value / (2 * enough)))


def _line(at: NDArray[np.float64], values: NDArray[np.float64], place: float) -> float:
    """The value at ``place`` of the straight line through ``values``, or their median where there are too few for a line."""
    if len(at) <= 2 or np.ptp(at) <= 0:
        return float(np.median(values))
    centre = at.mean()
    slope = np.sum((at - centre) * (values - values.mean())) / np.sum((at - centre) ** 2)
    return float(values.mean() + slope * (np.clip(place, at.min(), at.max()) - centre))


def _rise(clip: _Clip, first: int, last: int) -> float:
    """The rise of the pitch from the start of one word to the end of another, semitones."""
    start, end = clip.words[first].start, clip.words[last].end
    pitch = clip.sound.semitones[max(0, int(start / clip.sound.step)) : max(0, int(end / clip.sound.step) + 1)]
    return rise_of(voiced_part(pitch))
