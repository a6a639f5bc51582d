"""Marks made true in the audio, whatever voice spoke it.

Pauses are put in to the sample, emphasis and pitch are put into the sound of the word. What is true already is left as it is, and
what cannot be done is told.
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import Mark, MarkedText
from prosody_tagger.segment import Word, segment_sentences, segment_words, word_after
from synth.acoustics.pause_placement import gaps_by_silences, gaps_by_times
from synth.acoustics.pauses import put_in
from synth.acoustics.sentence import reshape_sentence
from synth.audio.signal import FRAME_SECONDS, concatenate
from synth.base import Audio, Strength, WordTime

SURE = 0.5
"""The confidence in a word's time from which on its sound is changed."""

_FAINTEST = 1e-4  # a recording that never gets louder is silence
_LEAST_RANGE_DB = 6.0  # between the loud and the soft frames of any speech; in noise it is less
_FEWEST_FRAMES = 10  # by which that can be told
_NAMED, _LONGEST_NAME = 5, 40  # words in a warning, and their letters
_UNTRUSTED = "the words could not be found in the sound, and only pauses at punctuation can be made without"


@dataclass(frozen=True, slots=True)
class Realised:
    """What was made of a recording.

    Attributes:
        audio: the sound.
        words: the words that were given, at their new times.
        done: marks that were made, or were true before.
        unrealised: marks that were not made.
        warnings: why not, in words.
    """

    audio: Audio
    words: tuple[WordTime, ...]
    done: tuple[Mark, ...]
    unrealised: tuple[Mark, ...]
    warnings: tuple[str, ...]


def realise(
    audio: Audio,
    marked: MarkedText,
    words: Sequence[WordTime],
    *,
    strength: Strength = "medium",
    trusted: bool = True,
    marks: Collection[Mark] | None = None,
) -> Realised:
    """Make the marks of ``marked`` true in ``audio``, a recording of its text.

    Audio with no mark to make is returned as it is, and so is audio without speech in it.

    Args:
        audio: mono, [n] samples.
        marked: the text and its marks.
        words: the time of each of ``segment_words(marked.text)``, in seconds of ``audio``; a word that is not heard has no length.
        strength: how strong emphasis and pitch marks come out.
        trusted: whether ``words`` are where they are said to be. If not, pauses at the edges of the text and at punctuation are
            made by the silences of the recording, and nothing else is.
        marks: those to make; None means all.

    Raises:
        BadInput: samples that are no numbers, more than one channel, words that are not those of the text, or a mark to make
            that the text does not have.
    """
    runs = segment_words(marked.text)
    _check(audio, runs, words)
    given = frozenset(marked.marks if marks is None else marks)
    strange = given.difference(marked.marks)
    if strange:
        mark = min(strange, key=lambda mark: mark.offset)
        raise BadInput(f"<{mark.kind}> at offset {mark.offset} is no mark of the text; give marks that it has")
    wanted = tuple(mark for mark in marked.marks if mark in given)
    fault = _fault(audio, runs)
    if not wanted or fault:
        warnings = (f"{fault}, so no mark was made",) if wanted else ()
        return Realised(audio, tuple(words), (), wanted, warnings)
    work = _Work(Audio(np.asarray(audio.samples, dtype=np.float32), audio.rate), marked.text, runs, words)
    work.reshape([mark for mark in wanted if not mark.is_pause], strength, trusted=trusted)
    work.pause([mark for mark in wanted if mark.is_pause], trusted=trusted)
    done = tuple(mark for mark in wanted if mark not in work.unrealised)
    unrealised = tuple(mark for mark in wanted if mark in work.unrealised)
    return Realised(audio if not done else work.audio, tuple(work.words), done, unrealised, work.warnings())


def _check(audio: Audio, runs: Sequence[Word], words: Sequence[WordTime]) -> None:
    if audio.samples.ndim != 1:
        raise BadInput(f"the audio has the shape {list(audio.samples.shape)}; give one channel")
    broken = len(audio.samples) - int(np.count_nonzero(np.isfinite(audio.samples)))
    if broken:
        raise BadInput(f"{broken} of {len(audio.samples)} samples are NaN or infinite; export the recording again")
    if [word.offset for word in words] != [run.core_start for run in runs]:
        raise BadInput(f"{len(words)} word times do not fit the {len(runs)} words of the text; give one for each, in order")
    for word in words:
        if not (np.isfinite([word.start, word.end]).all() and word.start <= word.end):
            raise BadInput(f"the word {word.word!r} is said to be heard from {word.start:g} to {word.end:g} s; give times in order")
    for before, word in pairwise(words):
        if word.start < before.start:
            raise BadInput(
                f"the word {word.word!r} is said to begin at {word.start:g} s, before {before.word!r} at {before.start:g} s"
            )


def _fault(audio: Audio, runs: Sequence[Word]) -> str | None:
    """Why there is no speech in a recording that should hold some."""
    if not runs:
        return None
    if not len(audio.samples):
        return "the audio holds 0 samples"
    if np.abs(audio.samples).max() < _FAINTEST:
        return "the audio is silent"
    width = max(1, round(FRAME_SECONDS * audio.rate))
    count = len(audio.samples) // width
    if count < _FEWEST_FRAMES:
        return None
    power = np.mean(np.square(audio.samples[: count * width].reshape(count, width), dtype=np.float64), axis=1)
    loud, soft = np.percentile(10 * np.log10(np.maximum(power, 1e-12)), (95, 5))
    return "the audio is as loud throughout as noise, not as speech" if loud - soft < _LEAST_RANGE_DB else None


class _Work:
    """A recording, its sound and words as they are by now, and the marks that were left with the reasons."""

    def __init__(self, audio: Audio, text: str, runs: Sequence[Word], words: Sequence[WordTime]) -> None:
        self.audio, self.words = audio, [_within(word, audio.seconds) for word in words]
        self.unrealised: set[Mark] = set()
        self._text, self._runs = text, runs
        self._reasons: dict[str, list[str]] = {}

    def reshape(self, marks: Sequence[Mark], strength: Strength, *, trusted: bool) -> None:
        """Make the emphasis and pitch marks, sentence by sentence."""
        bound = self._bound(marks, trusted=trusted)
        if not bound:
            return
        before, rate = self.audio.samples, self.audio.rate
        pieces: list[Audio] = []
        position = added = 0
        for (first, last), (start, end) in self._sentences():
            wanted = [(index - first, mark) for index in range(first, last) for mark in bound.get(index, ())]
            words = [word.moved(0, -start / rate) for word in self.words[first:last]]
            if wanted and end > start:
                piece = Audio(before[start:end], rate)
                made = reshape_sentence(piece, [_within(word, piece.seconds) for word in words], wanted, strength)
                for index, mark in made.unrealised:
                    self._leave(mark, "too little voice is heard", first + index)
                pieces += [Audio(before[position:start], rate), made.audio]
                position, words = end, made.words
            self.words[first:last] = [word.moved(0, (start + added) / rate) for word in words]
            added = sum(len(piece.samples) for piece in pieces) - position
        self.audio = concatenate([*pieces, Audio(before[position:], rate)], rate)

    def _bound(self, marks: Sequence[Mark], *, trusted: bool) -> dict[int, list[Mark]]:
        """The marks that can be made, by the index of their words."""
        bound: dict[int, list[Mark]] = {}
        for mark in marks:
            index = word_after(self._runs, mark.offset)
            reason = self._reason(index, trusted=trusted)
            if index is None or reason:
                self._leave(mark, reason, index)
            else:
                bound.setdefault(index, []).append(mark)
        return bound

    def pause(self, marks: Sequence[Mark], *, trusted: bool) -> None:
        """Put the pauses in."""
        if trusted:
            gaps, unrealised = gaps_by_times(self.audio, self._runs, self.words, marks)
        else:
            gaps, unrealised = gaps_by_silences(self.audio, self._text, self._runs, marks)
        for mark in unrealised:
            reason = "the word is too short to be cut" if trusted else _UNTRUSTED
            self._leave(mark, reason, word_after(self._runs, mark.offset))
        if gaps:
            self.audio, moved = put_in(self.audio, gaps, self.words)
            self.words = list(moved)

    def warnings(self) -> tuple[str, ...]:
        """One for each reason, with the words that it concerns."""
        told = []
        for reason, named in self._reasons.items():
            rest = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
            told.append(f"{reason}, so these marks were left out: {', '.join(named[:_NAMED])}{rest}")
        return tuple(told)

    def _reason(self, index: int | None, *, trusted: bool) -> str:
        """Why the sound of a word cannot be changed; empty if it can."""
        if index is None:
            return "no word follows"
        if not trusted:
            return _UNTRUSTED
        word = self.words[index]
        if word.end <= word.start:
            return "the word is not heard"
        return "" if word.confidence >= SURE else "it is not sure where the word is heard"

    def _leave(self, mark: Mark, reason: str, index: int | None) -> None:
        self.unrealised.add(mark)
        where = "at the end" if index is None else f"at {self.words[index].word[:_LONGEST_NAME]!r}"
        self._reasons.setdefault(reason, []).append(f"<{mark.kind}> {where}")

    def _sentences(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Of every sentence with words in it the words ``[first, last)``, and the samples, cut midway between the sentences."""
        starts = [run.core_start for run in self._runs]
        edges = [bisect_left(starts, start) for start, _ in segment_sentences(self._text)]
        spans = [(first, last) for first, last in pairwise([*edges, len(self._runs)]) if last > first]
        if not spans:
            return []
        cuts = [0]
        for _, last in spans[:-1]:
            middle = round((self.words[last - 1].end + self.words[last].start) / 2 * self.audio.rate)
            cuts.append(max(cuts[-1], min(middle, len(self.audio.samples))))
        return list(zip(spans, pairwise([*cuts, len(self.audio.samples)]), strict=True))


def _within(word: WordTime, seconds: float) -> WordTime:
    return replace(word, start=min(max(word.start, 0.0), seconds), end=min(max(word.end, 0.0), seconds))
