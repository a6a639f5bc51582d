"""The interface of a backend: requests, speech, capabilities."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.markup import KINDS, Mark, MarkedText

Strength = Literal["low", "medium", "high"]
"""How strongly a voice renders a mark. Not to be confused with density, the number of words that the tagger stresses."""

Support = Literal["native", "rendered", "realised", "dropped"]
"""Support of a mark: by the model itself, by controls of the engine, by changing the audio afterwards, or none."""


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """Mono audio: ``samples`` float32 of shape [n] in [-1, 1], ``rate`` in Hz."""

    samples: NDArray[np.float32]
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class WordTime:
    """The time of a word in an audio.

    Attributes:
        offset: offset of its core in the user's text.
        start, end: seconds.
        confidence: probability that the time is right, 0 to 1; 1 if the backend reported it.
    """

    word: str
    offset: int
    start: float
    end: float
    confidence: float = 1.0

    def moved(self, offset: int, seconds: float) -> "WordTime":
        """Return the word moved by ``offset`` code points and ``seconds``."""
        return replace(self, offset=self.offset + offset, start=self.start + seconds, end=self.end + seconds)


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice that a backend offers. ``language`` is a BCP 47 tag."""

    name: str
    language: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """A recording whose voice to speak with; `synth.reference` reads and checks it.

    Attributes:
        audio: the bytes of the file.
        audio_format: wav, flac, mp3 or opus.
        text: its transcript.
    """

    audio: bytes = field(repr=False)
    audio_format: str
    text: str = field(repr=False)

    @property
    def digest(self) -> str:
        """The SHA-256 of recording and transcript, in hexadecimal digits."""
        return sha256(self.text.encode() + b"\0" + self.audio).hexdigest()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Capabilities and limits of a backend.

    Attributes:
        marks: for every kind of mark, how it is supported.
        rate: sample rate of its audio, Hz.
        languages: BCP 47 tags of the languages that it speaks.
        max_chars: longest text of one request, in code points; the pipeline splits longer texts.
        streaming: whether `speak` yields audio before the whole request is spoken.
        word_times: whether its `Speech` has word times.
        references: whether it supports a `Reference`.
        speed: whether it speaks at the requested speed; if not, the pipeline stretches the audio.
        at_once: how many requests of one text to run concurrently; 1 if each needs the context of the previous one.
    """

    marks: Mapping[str, Support]
    rate: int
    languages: tuple[str, ...]
    max_chars: int
    streaming: bool = False
    word_times: bool = False
    references: bool = False
    speed: bool = True
    at_once: int = 1

    def __post_init__(self) -> None:
        missing = set(KINDS) - set(self.marks)
        if missing:
            raise ValueError(f"capabilities lack {', '.join(sorted(missing))}")


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One chunk of text to speak, at most ``max_chars`` long and usually within one sentence.

    Attributes:
        text: the words, and the marks that the backend supports itself (see `synth.lowering`).
        voice: a name from the backend's `voices`; None is its default.
        speed: 1.0 is the voice's own rate of speech, 2.0 twice as fast.
        seed: random seed for backends that use sampling; others ignore it.
        strength: how strongly marks are rendered.
        unfinished: whether the sentence continues after this chunk, so that its pitch should not fall.
        context: the ``context`` of the previous `Speech` of the same text, to keep the voice consistent; None at the start.
        reference: a recording whose voice to use, instead of a named voice.
        breaks: starts of words before which a pause will be inserted; the voice may phrase for it, as at a comma.
    """

    text: MarkedText
    voice: str | None = None
    speed: float = 1.0
    seed: int | None = None
    strength: Strength = "medium"
    unfinished: bool = False
    context: object = None
    reference: Reference | None = None
    breaks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Speech:
    """Audio of a text, from a backend or a later stage of the pipeline.

    Attributes:
        audio: the audio; a backend that does not stream yields one `Speech` per request.
        words: times of the words within the audio, or None if they are not known.
        unrealised: marks that are not realised in the audio.
        context: to be passed with the next request of the same text.
        warnings: messages for the user.
    """

    audio: Audio
    words: tuple[WordTime, ...] | None = None
    unrealised: tuple[Mark, ...] = ()
    context: object = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()


class Synthesizer(ABC):
    """A backend. It does not depend on the pipeline, the tagger or another backend.

    Instances are shared: `speak` may be called again before an earlier call has ended.
    """

    name: str

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """Capabilities and limits of the backend."""

    def capabilities_of(self, voice: str | None) -> Capabilities:
        """Return the capabilities of one voice, for backends whose voices differ."""
        return self.capabilities

    @abstractmethod
    async def voices(self) -> tuple[Voice, ...]:
        """Return the voices, the default first. May query a server; never blocks the event loop."""

    def unready(self) -> str | None:
        """Return why the backend is not ready and how to fix it, without speaking; None if it seems ready."""
        return None

    @abstractmethod
    def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        """Speak one request. Closing the generator cancels it.

        Raises:
            RefusedRequest: unknown voice, speed out of range, text too long.
            BackendError: the engine failed.
        """

    async def close(self) -> None:  # noqa: B027 (a backend without resources has nothing to close)
        """Release all resources. Safe to call twice."""
