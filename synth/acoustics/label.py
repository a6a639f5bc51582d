"""Label a recording: from audio and transcript to marked text with the emphasis and pauses of the speaker.

A word is labelled as emphasised if it stands out by its wavelet prominence and by its departure from a plain reading of the same
text (longer, louder and higher than another voice reads it, relative to the other words). A silence of 250 ms or more is a pause,
the threshold of F. Goldman-Eisler, "Psycholinguistics: Experiments in spontaneous speech" (1968).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import PAUSE_MS, Mark, MarkedText, normalise
from prosody_tagger.segment import segment_words, word_after
from synth.acoustics.contours import measure_contours
from synth.acoustics.pause_measurement import silences_ms
from synth.acoustics.word_features import EMPHATIC, STANDS_OUT, emphasis_score, prominence_z, word_features
from synth.base import Audio, Synthesizer, WordTime

LEAST_CONFIDENCE = 0.3
"""Confidence in a word's time below which it is never labelled as emphasised."""

SHORTEST_PAUSE_MS = 235.0  # 250 minus the error by which a silence is measured too short
LONG_PAUSE_MS = (PAUSE_MS["pause_short"] + PAUSE_MS["pause_long"]) / 2


@dataclass(frozen=True, slots=True)
class LabelledWord:
    """A word of the recording.

    Attributes:
        word, offset, start, end, confidence: as in `synth.base.WordTime`.
        prominence, boundary: as in `synth.acoustics.prominence`; the boundary is the one after the word.
        emphasis: `word_features.emphasis_score`; without a plain reading, `word_features.prominence_z`.
        silence_ms: the silence before the word.
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
        """Return the word for JSON, with numbers rounded."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Label:
    """The transcript with the marks found in the recording, and every word."""

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
    """Label a recording of ``text`` with the times of its ``words``.

    Args:
        audio: the recording, mono.
        text: its transcript, which is never changed.
        words: the time of each word, in seconds.
        plain: a plain reading of the same text by any voice, and its words.
        emphases_per_word: label this share of the words, those with the highest scores, instead of applying a threshold.

    Raises:
        BadInput: audio that cannot be measured, or words that are not those of the text.
    """
    text_words = segment_words(text)
    starts = {word.core_start for word in text_words}
    for word in words:
        if word.offset not in starts:
            raise BadInput(
                f"the word {word.word!r} has offset {word.offset}, where no word of the text starts; give the text's own words"
            )
    features = word_features(measure_contours(audio), words)
    if plain is None:
        scores, threshold = _prominence_scores(features.prominence, words), STANDS_OUT
    else:
        # The plain reading may lack words: those get no length.
        times = {word.offset: word for word in plain[1]}
        same = [times.get(word.offset, WordTime(word.word, word.offset, 0.0, 0.0)) for word in words]
        scores, threshold = emphasis_score(features, word_features(measure_contours(plain[0]), same)), EMPHATIC
    silences = silences_ms(audio, words)
    labelled = tuple(
        LabelledWord(
            word=word.word,
            offset=word.offset,
            start=float(word.start),
            end=float(word.end),
            confidence=float(word.confidence),
            prominence=float(features.prominence[index]),
            boundary=float(features.boundary[index]),
            emphasis=float(scores[index]),
            silence_ms=float(silences[index]),
        )
        for index, word in enumerate(words)
    )
    marks = [Mark("emph", labelled[index].offset) for index in _emphasised(labelled, threshold, emphases_per_word)]
    marks += _pauses(labelled)
    # A mark belongs before the opening quote or bracket of its word.
    placed = [
        Mark(mark.kind, text_words[index].start) for mark in marks if (index := word_after(text_words, mark.offset)) is not None
    ]
    return Label(normalise(MarkedText(text, tuple(placed))), labelled)


async def label_recording(
    audio: Audio, text: str, backend: Synthesizer, *, language: str | None = None, emphases_per_word: float | None = None
) -> Label:
    """Label a recording without word times: ``backend`` reads the text for alignment, and as the plain reading.

    Raises:
        BadInput: the recording cannot be measured, or its content is not ``text``.
        BackendError: the backend failed.
    """
    from synth.acoustics.align import align
    from synth.acoustics.reference_reading import read_plainly

    if not segment_words(text):
        raise BadInput("the transcript contains no word; give the spoken text")
    alignment = await align(audio, text, backend, language=language)
    if not alignment.trusted:
        raise BadInput(
            f"the recording does not match the transcript (confidence {alignment.confidence:.2f}); correct one of the two"
        )
    plain = await read_plainly(text, backend, language)
    return label(audio, text, alignment.words, plain=plain, emphases_per_word=emphases_per_word)


def _prominence_scores(prominences: NDArray[np.float64], words: Sequence[WordTime]) -> NDArray[np.float64]:
    """Return the `prominence_z` of each word among the others that have a length, shape [words]."""
    audible = np.array([word.end > word.start for word in words], dtype=bool)
    return np.array(
        [
            prominence_z(prominence, np.delete(prominences, index)[np.delete(audible, index)])
            for index, prominence in enumerate(prominences)
        ]
    )


def _emphasised(words: Sequence[LabelledWord], threshold: float, per_word: float | None) -> list[int]:
    """Return the indices of the words to label as emphasised."""
    certain = [index for index, word in enumerate(words) if word.end > word.start and word.confidence >= LEAST_CONFIDENCE]
    if per_word is None:
        return [index for index in certain if words[index].emphasis >= threshold]
    return sorted(certain, key=lambda index: -words[index].emphasis)[: round(per_word * len(words))]


def _pauses(words: Sequence[LabelledWord]) -> list[Mark]:
    """Return a mark for each silence between two words that is long enough."""
    marks = []
    for word in words[1:]:
        if word.silence_ms >= SHORTEST_PAUSE_MS:
            marks.append(Mark("pause_long" if word.silence_ms >= LONG_PAUSE_MS else "pause_short", word.offset))
    return marks
