"""A synthesizer for tests that needs no engine: a tone for each word, at known times.

It can be slow, fail and stream, and counts what it is asked.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from prosody_tagger.markup import KINDS, PAUSES
from prosody_tagger.segment import segment_words
from synth.base import Audio, Capabilities, Speech, SpeechRequest, Synthesizer, Voice, WordTime
from synth.errors import RefusedRequest

RATE = 24_000
GAP_SECONDS = 0.03
"""Silence after each word."""
SECONDS_PER_CHAR = 0.02


@dataclass
class FakeVoice(Synthesizer):
    """Every word is a tone whose pitch depends on the word and the voice, and whose length depends on its letters.

    Its counters may be read from any thread.

    Attributes:
        delay: seconds before the first audio of each request.
        error: raised instead of speaking, by the requests that ``fails`` picks.
        fails: says of the number of a request, from 0, whether it fails.
        streaming: yield a chunk for each word instead of one for each request.
        released: requests wait before their first audio until it is set; clear it to hold them.
        requests: every request received.
        running, most_running: requests being spoken now, and at most at the same time.
        completed, cancelled: requests spoken to their end, and given up before it.
    """

    name: str = "fake"
    delay: float = 0.0
    error: Exception | None = None
    fails: Callable[[int], bool] = lambda number: True
    streaming: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[SpeechRequest] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    completed: int = 0
    cancelled: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        self.released.set()

    def reset(self) -> None:
        """Forget everything: as a new voice."""
        self.released.set()
        self.__dict__ |= vars(FakeVoice(self.name))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            marks={kind: "realised" if kind in PAUSES else "rendered" for kind in KINDS},
            rate=RATE,
            languages=("en-us", "en-gb"),
            max_chars=2_000,
            streaming=self.streaming,
            word_times=True,
        )

    async def voices(self) -> tuple[Voice, ...]:
        return (Voice("low", "en-us"), Voice("high", "en-gb"))

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        number = len(self.requests)
        self.requests.append(request)
        if request.reference is not None:
            raise RefusedRequest("the fake voice does not speak in the voice of a recording")
        if request.voice not in (None, "low", "high"):
            raise RefusedRequest(f"unknown voice {request.voice!r}; the voices: low, high")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        ended = False
        try:
            await asyncio.sleep(self.delay)
            while not self.released.is_set():  # noqa: ASYNC110 (the test's own thread sets it)
                await asyncio.sleep(0.001)
            if self.error is not None and self.fails(number):
                ended = True
                raise self.error
            for chunk in self._chunks(request):
                yield chunk
            ended = True
            self.completed += 1
        finally:
            self.running -= 1
            self.cancelled += not ended

    def _chunks(self, request: SpeechRequest) -> list[Speech]:
        text = request.text.text
        unrealised = tuple(mark for mark in request.text.marks if mark.is_pause)
        chunks = []
        start = 0.0
        for word in segment_words(text):
            spoken = word.core(text)
            seconds = len(spoken) * SECONDS_PER_CHAR / request.speed
            samples = np.concatenate([tone(spoken, request.voice, seconds), np.zeros(round(GAP_SECONDS * RATE), np.float32)])
            end = start + round(seconds * RATE) / RATE
            chunks.append((samples, WordTime(spoken, word.core_start, start, end)))
            start += len(samples) / RATE
        if self.streaming and len(chunks) > 1:
            last = len(chunks) - 1
            seconds = 0.0
            found = []
            for index, (samples, time) in enumerate(chunks):
                words = (time.moved(0, -seconds),)
                found.append(Speech(Audio(samples, RATE), words, unrealised if index == last else ()))
                seconds += len(samples) / RATE
            return found
        silence = np.zeros(round(GAP_SECONDS * RATE), np.float32)
        audio = np.concatenate([samples for samples, _ in chunks] or [silence])
        return [Speech(Audio(audio, RATE), tuple(time for _, time in chunks), unrealised)]

    async def close(self) -> None:
        self.closed = True


def tone(word: str, voice: str | None, seconds: float) -> np.ndarray:
    """Return float32 samples of a tone without clicks; other words have other pitches, and the voice "high" an octave more."""
    frequency = (120 + crc32(word.encode("utf-8", "surrogatepass")) % 200) * (2 if voice == "high" else 1)
    time = np.arange(round(seconds * RATE)) / RATE
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.005)
    return (0.3 * fade * np.sin(2 * np.pi * frequency * time)).astype(np.float32)
