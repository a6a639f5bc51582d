"""Measure whether each mark of a text is audible in a recording of it, given the times of its words."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import regex
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import Mark, MarkedText
from prosody_tagger.segment import segment_sentences, word_after
from synth.acoustics.contours import measure_contours
from synth.acoustics.pause_measurement import silence_within_ms, silences_ms
from synth.acoustics.report import ChangeReport, FalseReport, MarkReport, Report, WordReport, none_if_nan
from synth.acoustics.word_features import (
    EMPHATIC,
    STANDS_OUT,
    Departure,
    departure,
    emphasis_score,
    prominence_z,
    rise_of,
    voiced_part,
    word_features,
)
from synth.base import Audio, WordTime

PAUSE_TOLERANCE_MS = 20.0
FALSE_PAUSE_MS = 150.0
CHANGED = 1.5
"""The `Departure.score` from which on a word counts as emphasised against the reference."""

PITCH_SEMITONES = 1.5
"""The least effect of a pitch mark: above or below the neighbours, or from the word's first third to its last."""

_PAUSE_PUNCTUATION = regex.compile(r"[\p{P}--[\p{Pd}'’]]|\s\p{Pd}|\p{Pd}\s|--|[\u2012-\u2015]|\n", regex.V1)
_SPOKEN = regex.compile(r"[\p{L}\p{S}%&@#]")
_LETTERS_A_DIGIT = 5  # the expected duration of a digit, in letters
_LETTERS_A_WORD = 1.5  # added for each word, as short words are longer than their letters suggest
_NEIGHBOURS = 3  # words on either side that a word's pitch is compared with


def measure(
    audio: Audio,
    marked: MarkedText,
    words: Sequence[WordTime],
    *,
    reference: tuple[Audio, Sequence[WordTime]] | None = None,
    reading: tuple[Audio, Sequence[WordTime]] | None = None,
) -> Report:
    """Return what every mark of ``marked`` does in ``audio``.

    Emphasis is realised if its word is more prominent than every unmarked word of its sentence; or, with a ``reference``, if it
    departs from it by `CHANGED`; or, with a ``reading``, if its score is at least `EMPHATIC`. A pause is realised if the silence
    at its slot has the requested length within 20 ms, or is the voice's own where that is longer: the silence of the reference,
    or without one any silence at punctuation. A high or low word is `PITCH_SEMITONES` from its neighbours, a rising or falling one
    rises or falls by as much; with a reference, compared with it, and for a rise or fall also up to the end of the sentence.

    Args:
        audio: mono, float32 of shape [samples].
        marked: the text of the recording and its marks.
        words: the times of the text's words, in seconds; words that are missing count as not audible.
        reference: plain speech of the same text by the same voice, and its words.
        reading: plain speech of the same text by any voice, and its words.

    Raises:
        BadInput: audio that cannot be measured, or words that are not those of the text.
    """
    recording = _MeasuredRecording(audio, marked, words)
    others = [None if other is None else _MeasuredRecording(other[0], marked, other[1]) for other in (reference, reading)]
    return _Measurement(recording, *others).report()


class _MeasuredRecording:
    """A recording with the features of its words, one for each word of the text; words without a time have no length."""

    def __init__(self, audio: Audio, marked: MarkedText, words: Sequence[WordTime]) -> None:
        self.audio, self.marked, self.text_words = audio, marked, marked.words
        self.contours = measure_contours(audio)
        given = {word.offset: word for word in words}
        known_offsets = {word.core_start for word in self.text_words}
        for time in words:
            if time.offset not in known_offsets:
                raise BadInput(
                    f"the word {time.word!r} has offset {time.offset}, where no word of the text starts; give the text's own words"
                )
        last = 0.0
        self.words: list[WordTime] = []
        for word in self.text_words:
            time = given.get(word.core_start) or WordTime(word.core(marked.text), word.core_start, last, last, 0.0)
            last = time.end
            self.words.append(time)
        self.features = word_features(self.contours, self.words)
        self.silences = silences_ms(audio, self.words)


class _Measurement:
    """A recording compared with its marks, with a reference and with a plain reading, if there are any."""

    def __init__(
        self, recording: _MeasuredRecording, reference: _MeasuredRecording | None, reading: _MeasuredRecording | None
    ) -> None:
        self.recording, self.reference = recording, reference
        self.text = recording.marked.text
        self.audible = recording.features.seconds > 0
        self.marks_by_word = self._marks_by_word()
        self.marked = np.array([index in self.marks_by_word for index in range(len(recording.words))], dtype=bool)
        self.sentences = self._sentence_of_each_word()
        self.departure: Departure | None = None
        if reference is not None:
            unmarked = ~self.marked & self.audible
            self.departure = departure(recording.features, reference.features, unmarked if unmarked.any() else None)
        self.emphasis = None if reading is None else emphasis_score(recording.features, reading.features)
        self.asked: Counter[tuple[int | None, int]] = Counter()
        for mark in recording.marked.marks:
            self.asked[self._slot(mark)] += mark.silence_ms  # pauses in one slot add up
        self.words = self._word_reports()

    def report(self) -> Report:
        return Report(
            marks=tuple(self._mark(mark) for mark in self.recording.marked.marks),
            false=tuple(self._false_realisations()),
            words=tuple(self.words),
            seconds=self.recording.audio.seconds,
            compared=self.reference is not None,
        )

    def _marks_by_word(self) -> Mapping[int, list[Mark]]:
        """Return the marks other than pauses, by the index of their word."""
        by_word: dict[int, list[Mark]] = {}
        for mark in self.recording.marked.marks:
            index = None if mark.is_pause else word_after(self.recording.text_words, mark.offset)
            if index is not None:
                by_word.setdefault(index, []).append(mark)
        return by_word

    def _sentence_of_each_word(self) -> list[range]:
        """Return the word indices of the sentence that each word belongs to."""
        starts = np.array([word.core_start for word in self.recording.text_words])
        sentences: list[range] = []
        for start, end in segment_sentences(self.text):
            first, last = np.searchsorted(starts, (start, end)).tolist()
            sentences += [range(first, last)] * (last - first)
        return sentences

    def _word_reports(self) -> list[WordReport]:
        rows: list[WordReport] = []
        values = self.recording.features
        weights = np.array([_expected_length(word.word) for word in self.recording.words])
        for index, word in enumerate(self.recording.words):
            others = self._others(index)
            around = slice(self.sentences[index].start, self.sentences[index].stop)
            rest = self.audible[around].copy()
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
                    duration_ratio=float(values.seconds[index] / expected) if self.audible[index] and expected > 0 else None,
                    energy_db=none_if_nan(values.energy[index] - _median(values.energy[others])),
                    pitch_semitones=none_if_nan(values.height[index] - _median(values.height[others])),
                    rise_semitones=none_if_nan(values.rise[index]),
                    prominence=float(values.prominence[index]),
                    prominence_z=prominence_z(float(values.prominence[index]), values.prominence[around][rest]),
                    rank=1 + int(np.count_nonzero(values.prominence[around] > values.prominence[index])),
                    boundary=float(values.boundary[index]),
                )
            )
        return rows

    def _others(self, index: int) -> NDArray[np.int64]:
        """Return the words to compare a word with: the audible unmarked ones of its sentence, or else of the text."""
        comparable = self.audible & ~self.marked
        comparable[index] = False
        sentence = self.sentences[index]
        near = np.flatnonzero(comparable[sentence.start : sentence.stop]) + sentence.start
        return near if len(near) else np.flatnonzero(comparable)

    def _mark(self, mark: Mark) -> MarkReport:
        index = word_after(self.recording.text_words, mark.offset)
        word = None if index is None else self.recording.words[index].word
        if mark.is_pause:
            return self._pause(mark, index, word)
        if index is None:
            return MarkReport(mark.kind, mark.offset, None, False, 0.0, "no word follows it")
        if not self.audible[index]:
            return MarkReport(mark.kind, mark.offset, word, False, 0.0, "its word is not audible")
        return self._emphasis(mark, index) if mark.kind == "emph" else self._pitch(mark, index)

    def _emphasis(self, mark: Mark, index: int) -> MarkReport:
        prominence = self.recording.features.prominence
        rivals = self._others(index)
        note, score = "", 0.0
        if len(rivals):
            strongest = float(prominence[rivals].max())
            total = prominence[index] + strongest
            score = float(prominence[index] / total) if total > 0 else 0.0
        elif self.departure is None and self.emphasis is None:
            note = "there is no other word to compare it with; give a reference"
        if self.departure is not None:
            score = max(score, _score(float(self.departure.score[index]), CHANGED))
        if self.emphasis is not None:
            score = max(score, _score(float(self.emphasis[index]), EMPHATIC))
        return self._word_mark(mark, index, score, note)

    def _pitch(self, mark: Mark, index: int) -> MarkReport:
        sign = 1.0 if mark.kind in ("pitch_high", "pitch_rising") else -1.0
        level = self._level(index)
        values = [level] if mark.kind in ("pitch_high", "pitch_low") else self._rises(index)
        if self.departure is not None and mark.kind in ("pitch_high", "pitch_low"):
            values = [float(self.departure.level[index]) if not math.isnan(level) else float("nan")]
        semitones = [sign * value for value in values if not math.isnan(value)]
        note = "" if semitones else "too little of its word is voiced to measure the pitch"
        return self._word_mark(mark, index, _score(max(semitones), PITCH_SEMITONES) if semitones else 0.0, note, level)

    def _rises(self, index: int) -> list[float]:
        """Return by how much the word rises; with a reference, compared with it, and also to the end of the sentence."""
        if self.reference is None:
            return [float(self.recording.features.rise[index])]
        spans = {(index, index), (index, self.sentences[index].stop - 1)}
        return [_rise(self.recording, first, last) - _rise(self.reference, first, last) for first, last in spans]

    def _level(self, index: int) -> float:
        """Return the pitch of a word, in semitones above the line through the words around it; nan if it is unknown."""
        levels = self.recording.features.level
        others = self._others(index)
        others = others[~np.isnan(levels[others])]
        nearest = np.sort(others[np.argsort(np.abs(others - index), kind="stable")][: 2 * _NEIGHBOURS])
        if not len(nearest):
            return float("nan")
        times = np.array([(word.start + word.end) / 2 for word in self.recording.words])
        return float(levels[index] - _line_at(float(times[index]), times[nearest], levels[nearest]))

    def _word_mark(self, mark: Mark, index: int, score: float, note: str, level: float | None = None) -> MarkReport:
        return MarkReport(
            kind=mark.kind,
            offset=mark.offset,
            word=self.recording.words[index].word,
            realised=score >= 0.5,
            score=score,
            note=note,
            figures=self.words[index],
            level_semitones=None if level is None else none_if_nan(level),
            change=self._change(index),
        )

    def _change(self, index: int) -> ChangeReport | None:
        if self.departure is None:
            return None
        departure = self.departure
        return ChangeReport(
            duration_ratio=float(np.exp(departure.log_duration[index])),
            energy_db=float(departure.energy[index]),
            pitch_semitones=float(departure.semitones[index]),
            rise_semitones=none_if_nan(departure.rise[index]),
            prominence=float(departure.prominence[index]),
            departure=float(departure.score[index]),
        )

    def _pause(self, mark: Mark, index: int | None, word: str | None) -> MarkReport:
        asked = self.asked[self._slot(mark)]
        silence = self._silence(self.recording, mark, index)
        own = None if self.reference is None else self._silence(self.reference, mark, index)
        if not self.audible.any():
            return MarkReport(mark.kind, mark.offset, word, False, 0.0, "no word is audible", asked_ms=asked, silence_ms=silence)
        wanted = max(float(asked), own or 0.0)
        if own is None and silence > asked and self._is_punctuated(index):
            wanted = silence  # it may be the voice's own
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

    def _slot(self, mark: Mark) -> tuple[int | None, int]:
        """Return the index of the word after a mark, and the mark's offset within that word's core, 0 if before it."""
        index = word_after(self.recording.text_words, mark.offset)
        return index, 0 if index is None else max(0, mark.offset - self.recording.text_words[index].core_start)

    def _silence(self, recording: _MeasuredRecording, mark: Mark, index: int | None) -> float:
        """Return the milliseconds of silence at the slot of a mark before the word ``index``."""
        if index is not None and self._slot(mark)[1]:
            return silence_within_ms(recording.audio, recording.words[index])
        after = np.flatnonzero(recording.features.seconds > 0)
        after = after[np.searchsorted(after, len(recording.words) if index is None else index) :]
        return recording.silences[after[0] if len(after) else len(recording.words)]

    def _is_punctuated(self, index: int | None) -> bool:
        """Return whether a voice may pause at the slot before a word without a mark."""
        if index in (0, None):
            return True
        words = self.recording.text_words
        assert index is not None
        return bool(_PAUSE_PUNCTUATION.search(self.text, words[index - 1].core_end, words[index].core_start))

    def _false_realisations(self) -> list[FalseReport]:
        """Return words and silences that stand out without a mark."""
        found: list[FalseReport] = []
        marks, text_words = self.recording.marked.marks, self.recording.text_words
        paused = {word_after(text_words, mark.offset) for mark in marks if mark.is_pause}
        for index, word in enumerate(self.recording.words):
            if not self.audible[index]:
                continue
            row = self.words[index]
            score = None if self.departure is None else float(self.departure.score[index])
            if score is not None:
                stands_out = score >= CHANGED
            elif self.emphasis is not None:
                stands_out = bool(self.emphasis[index] >= EMPHATIC)
            else:
                stands_out = row.prominence_z >= STANDS_OUT
            if stands_out and not self.marked[index]:
                found.append(FalseReport("emph", word.offset, word.word, prominence=row.prominence, departure=score))
            silence = self.recording.silences[index]
            own = self.reference.silences[index] if self.reference else 0.0
            unexpected = bool(self.reference) or not self._is_punctuated(index)
            if index and index not in paused and unexpected and silence - own >= FALSE_PAUSE_MS:
                found.append(FalseReport("pause", word.offset, word.word, silence_ms=silence))
        return found


def _expected_length(word: str) -> float:
    """Return the expected duration of a word, in letters."""
    return _LETTERS_A_WORD + len(_SPOKEN.findall(word)) + _LETTERS_A_DIGIT * sum(letter.isdigit() for letter in word)


def _median(values: NDArray[np.float64]) -> float:
    """Return the median of the values that are not nan; nan if there are none."""
    present = values[~np.isnan(values)]
    return float(np.median(present)) if len(present) else float("nan")


def _score(value: float, threshold: float) -> float:
    """Scale a value to 0 to 1, with ``threshold`` at 0.5."""
    return min(1.0, max(0.0, value / (2 * threshold)))


def _line_at(time: float, times: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Return the value at ``time`` of the regression line through ``values``; their median if they are too few for a line."""
    if len(times) <= 2 or np.ptp(times) <= 0:
        return float(np.median(values))
    centre = times.mean()
    slope = np.sum((times - centre) * (values - values.mean())) / np.sum((times - centre) ** 2)
    return float(values.mean() + slope * (np.clip(time, times.min(), times.max()) - centre))


def _rise(recording: _MeasuredRecording, first: int, last: int) -> float:
    """Return the rise of the pitch, in semitones, from the start of one word to the end of another."""
    start, end, step = recording.words[first].start, recording.words[last].end, recording.contours.step
    return rise_of(voiced_part(recording.contours.semitones[max(0, int(start / step)) : max(0, int(end / step) + 1)]))
