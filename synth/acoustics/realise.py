"""Realise marks in the audio of any voice: exact pauses, emphasis and pitch.

Pauses are inserted to the sample; emphasis and pitch marks change the audio of their words. Marks that the audio already realises
are left alone, and marks that cannot be realised are reported.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import Mark, MarkedText
from prosody_tagger.segment import Word, segment_sentences, word_after
from synth.acoustics import pitch_marks
from synth.acoustics.contours import Contours, measure_contours, without_octave_jumps
from synth.acoustics.emphasis import emphasise, stand_out
from synth.acoustics.modification import Modification, modify
from synth.acoustics.pause_placement import gaps_by_silences, gaps_by_times
from synth.acoustics.pauses import insert_pauses
from synth.audio.signal import FRAME_SECONDS, concatenate
from synth.base import Audio, Speech, Strength, WordTime

LEAST_CONFIDENCE = 0.5
"""The least confidence in a word's time at which its audio is changed."""

_EMPHASIS: Mapping[Strength, float] = {"low": 0.8, "medium": 1.15, "high": 1.5}
"""The strength of emphasis, where 1 is a clear one."""

_FEWEST_FRAMES = 2  # of an emphasised word
_FAINTEST = 1e-4  # peak amplitude below which a recording is silent
_LEAST_RANGE_DB = 6.0  # between the loud and the quiet frames of speech; noise has less
_FEWEST_RANGE_FRAMES = 10  # for that range to be measured
_LISTED, _LONGEST_NAME = 5, 40  # words listed in a warning, and their characters
_UNTRUSTED = "the words could not be aligned with the audio, so only pauses at punctuation can be realised"


def realise(speech: Speech, marked: MarkedText, *, strength: Strength = "medium", trusted: bool = True) -> Speech:
    """Realise marks of ``marked`` in the audio of ``speech``, a recording of its text.

    Audio without marks to realise, or without speech, is returned unchanged.

    Args:
        speech: mono audio, float32 of shape [samples]; in ``unrealised`` the marks to realise; in ``words`` the time of each of
            ``marked.words``, in seconds. A word that is not audible has no length.
        marked: the text and its marks.
        strength: how strongly emphasis and pitch marks are rendered.
        trusted: whether the times of ``words`` are right. If not, only pauses at punctuation and at the edges of the text are
            realised, at silences of the recording.

    Returns:
        The speech with its words at their new times. ``unrealised`` are the marks that could not be realised, ``warnings`` say
        why, after those that ``speech`` had.

    Raises:
        BadInput: samples that are NaN or infinite, more than one channel, words that are not those of the text, or a mark to
            realise that the text does not have.
    """
    audio, words = speech.audio, speech.words or ()
    _check(audio, marked.words, words)
    selected = frozenset(speech.unrealised)
    unknown = selected.difference(marked.marks)
    if unknown:
        mark = min(unknown, key=lambda mark: mark.offset)
        raise BadInput(f"<{mark.kind}> at offset {mark.offset} is not a mark of the text; give marks that it has")
    wanted = tuple(mark for mark in marked.marks if mark in selected)
    reason = _no_speech_reason(audio, marked.words)
    if not wanted or reason:
        warnings = (f"{reason}, so no mark was realised",) if wanted else ()
        return replace(speech, words=words, unrealised=wanted, warnings=(*speech.warnings, *warnings))
    work = _Realisation(Audio(np.asarray(audio.samples, dtype=np.float32), audio.rate), marked.text, marked.words, words)
    work.change_words([mark for mark in wanted if not mark.is_pause], strength, trusted=trusted)
    work.insert_pauses([mark for mark in wanted if mark.is_pause], trusted=trusted)
    unrealised = tuple(mark for mark in wanted if mark in work.unrealised)
    return replace(
        speech,
        audio=audio if unrealised == wanted else work.audio,
        words=tuple(work.words),
        unrealised=unrealised,
        warnings=(*speech.warnings, *work.warnings()),
    )


class _Realisation:
    """A recording and its words in their present state, and the marks left unrealised with the reasons."""

    def __init__(self, audio: Audio, text: str, text_words: Sequence[Word], words: Sequence[WordTime]) -> None:
        self.audio, self.words = audio, [_clipped(word, audio.seconds) for word in words]
        self.unrealised: set[Mark] = set()
        self._text, self._text_words = text, text_words
        self._reasons: dict[str, list[str]] = {}

    def change_words(self, marks: Sequence[Mark], strength: Strength, *, trusted: bool) -> None:
        """Realise emphasis and pitch marks, sentence by sentence."""
        by_word = self._marks_by_word(marks, trusted=trusted)
        if not by_word:
            return
        before, rate = self.audio.samples, self.audio.rate
        pieces: list[Audio] = []
        position = added = 0
        for (first, last), (start, end) in self._sentences():
            wanted = [(index - first, mark) for index in range(first, last) for mark in by_word.get(index, ())]
            words = [word.moved(0, -start / rate) for word in self.words[first:last]]
            if wanted and end > start:
                piece = Audio(before[start:end], rate)
                changed = _change_sentence(piece, [_clipped(word, piece.seconds) for word in words], wanted, strength)
                for index, mark in changed.unrealised:
                    self._leave(mark, "too little of the word is voiced", first + index)
                pieces += [Audio(before[position:start], rate), changed.audio]
                position, words = end, changed.words
            self.words[first:last] = [word.moved(0, (start + added) / rate) for word in words]
            added = sum(len(piece.samples) for piece in pieces) - position
        self.audio = concatenate([*pieces, Audio(before[position:], rate)], rate)

    def insert_pauses(self, marks: Sequence[Mark], *, trusted: bool) -> None:
        """Realise pauses."""
        if trusted:
            gaps, unrealised = gaps_by_times(self.audio, self._text_words, self.words, marks)
        else:
            gaps, unrealised = gaps_by_silences(self.audio, self._text, self._text_words, marks)
        for mark in unrealised:
            reason = "the word is too short to split" if trusted else _UNTRUSTED
            self._leave(mark, reason, word_after(self._text_words, mark.offset))
        if gaps:
            self.audio, moved = insert_pauses(self.audio, gaps, self.words)
            self.words = list(moved)

    def warnings(self) -> tuple[str, ...]:
        """Return one warning for each reason, with the words that it applies to."""
        warnings = []
        for reason, named in self._reasons.items():
            rest = f" and {len(named) - _LISTED} more" if len(named) > _LISTED else ""
            warnings.append(f"{reason}, so these marks were not realised:  {', '.join(named[:_LISTED])}{rest}")
        return tuple(warnings)

    def _marks_by_word(self, marks: Sequence[Mark], *, trusted: bool) -> dict[int, list[Mark]]:
        """Return the marks that can be realised, by the index of their word; note the reasons for the others."""
        by_word: dict[int, list[Mark]] = {}
        for mark in marks:
            index = word_after(self._text_words, mark.offset)
            reason = self._reason_against(index, trusted=trusted)
            if index is None or reason:
                self._leave(mark, reason, index)
            else:
                by_word.setdefault(index, []).append(mark)
        return by_word

    def _reason_against(self, index: int | None, *, trusted: bool) -> str:
        """Return why the audio of a word cannot be changed; an empty string if it can."""
        if index is None:
            return "no word follows"
        if not trusted:
            return _UNTRUSTED
        word = self.words[index]
        if word.end <= word.start:
            return "the word is not audible"
        return "" if word.confidence >= LEAST_CONFIDENCE else "the time of the word is uncertain"

    def _leave(self, mark: Mark, reason: str, index: int | None) -> None:
        """Note that a mark stays unrealised, and why."""
        self.unrealised.add(mark)
        where = "at the end" if index is None else f"at {self.words[index].word[:_LONGEST_NAME]!r}"
        self._reasons.setdefault(reason, []).append(f"<{mark.kind}> {where}")

    def _sentences(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Return for each sentence with words the span of word indices, and of samples up to midway to its neighbours."""
        starts = [word.core_start for word in self._text_words]
        edges = [bisect_left(starts, start) for start, _ in segment_sentences(self._text)]
        spans = [(first, last) for first, last in pairwise([*edges, len(self._text_words)]) if last > first]
        if not spans:
            return []
        cuts = [0]
        for _, last in spans[:-1]:
            middle = round((self.words[last - 1].end + self.words[last].start) / 2 * self.audio.rate)
            cuts.append(max(cuts[-1], min(middle, len(self.audio.samples))))
        return list(zip(spans, pairwise([*cuts, len(self.audio.samples)]), strict=True))


class _ChangedSentence(NamedTuple):
    """A sentence with its marks, its words at their new times, and the marks without enough voice, by word index."""

    audio: Audio
    words: list[WordTime]
    unrealised: tuple[tuple[int, Mark], ...]


def _change_sentence(
    audio: Audio, words: Sequence[WordTime], wanted: Sequence[tuple[int, Mark]], strength: Strength
) -> _ChangedSentence:
    """Realise emphasis and pitch marks, each given with the index of its word, in a sentence of those ``words``."""
    contours = measure_contours(audio)
    contours = contours._replace(semitones=without_octave_jumps(contours.semitones))
    audible = [index for index, word in enumerate(words) if word.end > word.start]
    unrealised = tuple((index, mark) for index, mark in wanted if not _can_bear(contours, words[index], mark.kind))
    change = Modification.none(len(contours.energy))
    emphasised: set[int] = set()
    for index, mark in wanted:
        if (index, mark) in unrealised or pitch_marks.is_realised(contours, words[index], mark.kind, strength):
            continue
        if mark.kind == "emph":
            emphasised.add(index)
        else:
            is_last = index == audible[-1]
            change += pitch_marks.pitch_change(contours, words[index], mark.kind, strength, is_last=is_last)
    if emphasised and not stand_out(contours, words, emphasised):
        return _ChangedSentence(*emphasise(audio, contours, words, emphasised, _EMPHASIS[strength], change), unrealised)
    if change.changed().any():
        return _ChangedSentence(*modify(audio, contours, change, words), unrealised)
    return _ChangedSentence(audio, list(words), unrealised)


def _can_bear(contours: Contours, word: WordTime, kind: str) -> bool:
    """Return whether there is enough voice for a mark: in the sentence for emphasis, in the word itself for pitch."""
    if kind == "emph":
        return word.end - word.start >= _FEWEST_FRAMES * contours.step and not np.isnan(contours.semitones).all()
    return pitch_marks.has_voice(contours, word)


def _check(audio: Audio, text_words: Sequence[Word], words: Sequence[WordTime]) -> None:
    if audio.samples.ndim != 1:
        raise BadInput(f"the audio has the shape {list(audio.samples.shape)}; give one channel")
    broken = len(audio.samples) - int(np.count_nonzero(np.isfinite(audio.samples)))
    if broken:
        raise BadInput(f"{broken} of {len(audio.samples)} samples are NaN or infinite; export the recording again")
    if [word.offset for word in words] != [word.core_start for word in text_words]:
        raise BadInput(f"{len(words)} word times do not fit the {len(text_words)} words of the text; give one for each, in order")
    for word in words:
        if not (np.isfinite([word.start, word.end]).all() and word.start <= word.end):
            raise BadInput(f"the word {word.word!r} has the times {word.start:g} to {word.end:g} s; give finite times in order")
    for before, word in pairwise(words):
        if word.start < before.start:
            raise BadInput(
                f"the word {word.word!r} begins at {word.start:g} s, before {before.word!r} at {before.start:g} s; "
                "give times in order"
            )


def _no_speech_reason(audio: Audio, text_words: Sequence[Word]) -> str | None:
    """Return why a recording that should contain speech does not; None if it does."""
    if not text_words:
        return None
    if not len(audio.samples):
        return "the audio has 0 samples"
    if np.abs(audio.samples).max() < _FAINTEST:
        return "the audio is silent"
    width = max(1, round(FRAME_SECONDS * audio.rate))
    count = len(audio.samples) // width
    if count < _FEWEST_RANGE_FRAMES:
        return None
    power = np.mean(np.square(audio.samples[: count * width].reshape(count, width), dtype=np.float64), axis=1)
    loud, soft = np.percentile(10 * np.log10(np.maximum(power, 1e-12)), (95, 5))
    return "the level of the audio hardly varies, as in noise, not speech" if loud - soft < _LEAST_RANGE_DB else None


def _clipped(word: WordTime, seconds: float) -> WordTime:
    """Return the word with its times limited to ``[0, seconds]``."""
    return replace(word, start=min(max(word.start, 0.0), seconds), end=min(max(word.end, 0.0), seconds))
