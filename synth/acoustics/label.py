"""From a recording and its transcript to marked text: which words the speaker stressed, and where the pauses were.

A word is stressed if it stands out: by its wavelet prominence, and by how far it departs from a plain reading of the same text
(longer, louder, higher than another voice says it, against the words around it). A pause is a silence that listeners take for one:
F. Goldman-Eisler, "Psycholinguistics: Experiments in spontaneous speech" (1968), counts those of 250 ms and more.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import PAUSE_MS, Mark, MarkedText, normalise
from prosody_tagger.segment import segment_words, word_after
from synth.acoustics.contours import contours
from synth.acoustics.silences import silences
from synth.acoustics.word_features import EMPHATIC, STANDS_OUT, apart, emphasis, figures
from synth.base import Audio, Synthesizer, WordTime

SURE_ENOUGH = 0.3
"""Confidence in a word's place below which it bears no emph."""

SHORTEST_PAUSE_MS = 235.0  # 250, less what a silence is measured short by
LONG_PAUSE_MS = (PAUSE_MS["pause_short"] + PAUSE_MS["pause_long"]) / 2


@dataclass(frozen=True, slots=True)
class LabelledWord:
    """A word as it was said.

    Attributes:
        word, offset, start, end, confidence: as in `synth.base.WordTime`.
        prominence, boundary: of `synth.acoustics.prominence`; the boundary is the one after the word.
        emphasis: how much the word stands out (`figures.emphasis`); without a plain reading, `figures.apart`.
        silence_ms: before the word.
    """

    word: str
    offset: int
    start: float
    end: float
    confidence: float
    prominence: float
    boundary: float
    emphasis: float
    silence_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, with the numbers rounded."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Label:
    """The transcript with the marks that were heard, and every word."""

    marked: MarkedText
    words: tuple[LabelledWord, ...]


def label(
    audio: Audio,
    text: str,
    words: Sequence[WordTime],
    *,
    plain: tuple[Audio, Sequence[WordTime]] | None = None,
    emphases_per_word: float | None = None,
) -> Label:
    """The marks heard in a recording of ``text``, whose ``words`` are heard at the times given.

    Args:
        audio: the recording.
        text: what is said in it. Not a letter of it changes.
        words: when each word is heard.
        plain: a plain reading of the same text by any voice, and its words.
        emphases_per_word: mark so many of the words that stand out most, in place of those that stand out enough.

    Raises:
        BadInput: audio that cannot be measured, or words that are not those of the text.
    """
    runs = segment_words(text)
    starts = {run.core_start for run in runs}
    for word in words:
        if word.offset not in starts:
            raise BadInput(f"no word of the text starts at {word.offset}, where {word.word!r} is said to be; give its own words")
    measured = figures(contours(audio), words)
    if plain is None:
        heard = np.array([word.end > word.start for word in words], dtype=bool)
        scores = np.array(
            [apart(one, np.delete(measured.prominence, at)[np.delete(heard, at)]) for at, one in enumerate(measured.prominence)]
        )
    else:
        # The same words of both: each reading tells only of what it says.
        times = {word.offset: word for word in plain[1]}
        same = [times.get(word.offset, WordTime(word.word, word.offset, 0.0, 0.0)) for word in words]
        scores = emphasis(measured, figures(contours(plain[0]), same))
    enough = STANDS_OUT if plain is None else EMPHATIC
    gaps = silences(audio, words)
    found = tuple(
        LabelledWord(
            word=word.word,
            offset=word.offset,
            start=float(word.start),
            end=float(word.end),
            confidence=float(word.confidence),
            prominence=float(measured.prominence[index]),
            boundary=float(measured.boundary[index]),
            emphasis=float(scores[index]),
            silence_ms=float(gaps[index]),
        )
        for index, word in enumerate(words)
    )
    marks = [Mark("emph", found[index].offset) for index in _emphatic(found, enough, emphases_per_word)] + _pauses(found)
    # A mark belongs before the opening quote or bracket of its word.
    placed = [Mark(mark.kind, runs[index].start) for mark in marks if (index := word_after(runs, mark.offset)) is not None]
    return Label(normalise(MarkedText(text, tuple(placed))), found)


async def label_recording(
    audio: Audio, text: str, voice: Synthesizer, *, language: str | None = None, emphases_per_word: float | None = None
) -> Label:
    """As `label`, with the words found by aligning ``audio`` with ``voice``, which reads the text plainly as well.

    Raises:
        BadInput: the recording cannot be measured, or what is said in it is not ``text``.
        BackendError: the voice failed.
    """
    from synth.acoustics.align import align
    from synth.acoustics.plain_reading import read_plainly

    if not segment_words(text):
        raise BadInput("the transcript holds no word; write down what is said")
    alignment = await align(audio, text, voice, language=language)
    if not alignment.trusted:
        raise BadInput(f"what is said is not the transcript (confidence {alignment.confidence:.2f}); correct one of the two")
    plain = await read_plainly(text, voice, language)
    return label(audio, text, alignment.words, plain=plain, emphases_per_word=emphases_per_word)


def _emphatic(words: Sequence[LabelledWord], enough: float, per_word: float | None) -> list[int]:
    """The words that stand out, by index."""
    sure = [index for index, word in enumerate(words) if word.end > word.start and word.confidence >= SURE_ENOUGH]
    if per_word is None:
        return [index for index in sure if words[index].emphasis >= enough]
    return sorted(sure, key=lambda index: -words[index].emphasis)[: round(per_word * len(words))]


def _pauses(words: Sequence[LabelledWord]) -> list[Mark]:
    """A mark for each silence between two words that is long enough."""
    marks = []
    for word in words[1:]:
        if word.silence_ms >= SHORTEST_PAUSE_MS:
            marks.append(Mark("pause_long" if word.silence_ms >= LONG_PAUSE_MS else "pause_short", word.offset))
    return marks
