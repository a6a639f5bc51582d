"""A text spoken without its marks by a backend that reports word times, for comparison with a recording of the same text."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import MarkedText, plain
from prosody_tagger.segment import Word, segment_sentences
from synth.acoustics.mel_cepstra import HOP_SECONDS, Values, band_energies
from synth.audio.signal import concatenate
from synth.base import Audio, Speech, SpeechRequest, Synthesizer, WordTime
from synth.errors import RefusedRequest

ALIGNMENT_SPEED = 0.7
"""Rate of speech for alignment. At a slow rate the backend omits as few sounds as a careful speaker."""


class ReferenceReading(NamedTuple):
    """The features of a reference reading.

    Attributes:
        bands: `band_energies` of all pieces in a row, float32 of shape [frames, bands].
        spans: float64 of shape [words, 2]: the first frame and the end of each word; equal for a word without sound.
    """

    bands: Values
    spans: NDArray[np.float64]


async def read_for_alignment(marked: MarkedText, backend: Synthesizer, voice: str | None, top_hz: float) -> ReferenceReading:
    """Speak ``marked`` without its marks and return the features that alignment compares, up to ``top_hz``.

    Raises:
        BadInput: the backend reports no word times, or a word is longer than its limit.
        RefusedRequest: the backend has no such voice.
        BackendError: the backend failed.
    """
    able = backend.capabilities
    if not able.word_times:
        raise BadInput(f"the backend {backend.name!r} reports no word times; align with one that does, such as 'embedded'")
    bands: list[Values] = []
    times: dict[int, tuple[float, float]] = {}
    frames = 0
    async with aclosing(_read(marked, backend, voice, ALIGNMENT_SPEED if able.speed else 1.0)) as chunks:
        async for offset, speech in chunks:
            for word in speech.words or ():
                times[offset + word.offset] = frames + word.start / HOP_SECONDS, frames + word.end / HOP_SECONDS
            if len(speech.audio.samples):
                bands.append(band_energies(speech.audio, top_hz))
                frames += len(bands[-1])
    spans = np.array([times.get(word.core_start, (0.0, 0.0)) for word in marked.words])
    return ReferenceReading(np.concatenate(bands) if bands else np.zeros((0, 1), np.float32), spans)


async def read_plainly(text: str, backend: Synthesizer, language: str | None = None) -> tuple[Audio, tuple[WordTime, ...]]:
    """Speak ``text`` without marks, a sentence at a time, and return the audio and the time of each word.

    Args:
        text: of any length.
        backend: one that reports word times.
        language: the name of one of its voices, or a BCP 47 tag; None is its default.

    Raises:
        RefusedRequest: the backend reports no word times, or has no such voice.
        BadInput: a word is longer than the backend's limit.
        BackendError: the backend failed.
    """
    parts: list[Audio] = []
    times: list[WordTime] = []
    seconds = 0.0
    voice = await voice_for(backend, language)
    async with aclosing(_read(plain(text), backend, voice, 1.0)) as chunks:
        async for offset, speech in chunks:
            if speech.words is None:
                raise RefusedRequest(f"the backend {backend.name!r} reports no word times; use the embedded voice as reference")
            times += [word.moved(offset, seconds) for word in speech.words]
            parts.append(speech.audio)
            seconds += speech.audio.seconds
    return concatenate(parts, backend.capabilities.rate), tuple(times)


async def voice_for(backend: Synthesizer, language: str | None) -> str | None:
    """Return the voice name to request for ``language``: the tag itself if the backend knows it, else without its region."""
    if language is None:
        return None
    wanted = language.strip().lower().replace("_", "-")
    known = {name.lower() for each in await backend.voices() for name in (each.name, each.language)}
    return wanted if wanted in known else wanted.partition("-")[0]


async def _read(
    marked: MarkedText, backend: Synthesizer, voice: str | None, speed: float
) -> AsyncGenerator[tuple[int, Speech], None]:
    """Speak ``marked`` without its marks, piece by piece; yield each chunk with the offset of its piece in the text."""
    for start, end in _pieces(marked.text, marked.words, backend.capabilities.max_chars):
        piece = marked.slice(start, end)
        request = SpeechRequest(MarkedText(piece.text, (), piece.aliases), voice=voice, speed=speed)
        async with aclosing(backend.speak(request)) as chunks:
            async for speech in chunks:
                yield start, speech


def _pieces(text: str, words: Sequence[Word], max_chars: int) -> Iterator[tuple[int, int]]:
    """Yield the span of each sentence from its first word to its last, split before a word where it exceeds ``max_chars``.

    Raises:
        BadInput: a single word exceeds it.
    """
    index = 0
    for _, end in segment_sentences(text):
        first = index
        while index < len(words) and words[index].start < end:
            word = words[index]
            if word.end - word.start > max_chars:
                beginning = text[word.start : word.start + 20]
                raise BadInput(
                    f"the word {beginning!r}... has {word.end - word.start} characters; the voice takes {max_chars} at a time"
                )
            if word.end - words[first].start > max_chars:
                yield words[first].start, words[index - 1].end
                first = index
            index += 1
        if index > first:
            yield words[first].start, words[index - 1].end
