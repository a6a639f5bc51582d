"""A text spoken by a voice that tells its word times: what a recording of the same text is held against."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import MarkedText
from prosody_tagger.segment import Word
from synth.acoustics.guide import pieces
from synth.acoustics.mel_cepstra import HOP_SECONDS, Values, energies
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
    for start, end in pieces(marked.text, runs, voice.capabilities.max_chars):
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
