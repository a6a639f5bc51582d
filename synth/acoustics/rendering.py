"""A text spoken by a voice that tells its word times: what a recording of the same text is held against."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import MarkedText
from prosody_tagger.segment import Word, sentences
from synth.acoustics.features import HOP_SECONDS, Values, energies
from synth.base import SpeechRequest, Synthesizer

SPEED = 0.7
"""The voice's rate of speech: slow, so that it leaves out as little as a careful speaker does."""


class Rendering(NamedTuple):
    """What the voice said.

    Attributes:
        bands: its `energies`, all pieces in a row.
        spans: float64 of shape [words, 2], the frames at which each word of the text starts and ends; the same where it makes no
            sound.
    """

    bands: Values
    spans: NDArray[np.float64]


async def render(marked: MarkedText, runs: Sequence[Word], voice: Synthesizer, name: str | None, top: float) -> Rendering:
    """``marked`` without its marks, in the voice of that ``name``, heard up to ``top`` Hz.

    Raises:
        BadInput: the voice does not tell word times, or a word is too long for it.
        RefusedRequest: the voice has no such name.
        BackendError: the voice failed.
    """
    if not voice.capabilities.word_times:
        raise BadInput(f"the voice {voice.name!r} does not tell when it says a word; align with one that does, as 'embedded'")
    speed = SPEED if voice.capabilities.speed else 1.0
    bands: list[Values] = []
    times: dict[int, tuple[float, float]] = {}
    frames = 0
    for start, end in _pieces(marked.text, runs, voice.capabilities.max_chars):
        piece = marked.slice(start, end)
        request = SpeechRequest(MarkedText(piece.text, (), piece.aliases), voice=name, speed=speed)
        async for speech in voice.speak(request):
            for word in speech.words or ():
                times[start + word.offset] = frames + word.start / HOP_SECONDS, frames + word.end / HOP_SECONDS
            if len(speech.audio.samples):
                bands.append(energies(speech.audio, top))
                frames += len(bands[-1])
    silent = (0.0, 0.0)
    spans = np.array([times.get(run.core_start, silent) for run in runs])
    return Rendering(np.concatenate(bands) if bands else np.zeros((0, 1), np.float32), spans)


def _pieces(text: str, runs: Sequence[Word], most: int) -> Iterator[tuple[int, int]]:
    """The words of each sentence from the first to the last, cut before a word where they are longer than ``most``."""
    index = 0
    for _, end in sentences(text):
        first = index
        while index < len(runs) and runs[index].start < end:
            run = runs[index]
            if run.end - run.start > most:
                said = text[run.start : run.start + 20]
                raise BadInput(f"the word {said!r}... has {run.end - run.start} characters; the voice takes {most} at a time")
            if run.end - runs[first].start > most:
                yield runs[first].start, runs[index - 1].end
                first = index
            index += 1
        if index > first:
            yield runs[first].start, runs[index - 1].end
