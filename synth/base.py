"""The contract between the pipeline and a voice: what is asked, what comes back, what a backend says of itself."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.markup import KINDS, Mark, MarkedText

Strength = Literal["low", "medium", "high"]
"""How strongly a voice renders a mark. How many words are stressed is another thing: the tagger's density."""

Support = Literal["native", "rendered", "realised", "dropped"]
"""What becomes of a mark: the model obeys it, controls of the engine do, it is made in the audio afterwards, or nothing does it."""


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """Mono sound: ``samples`` float32 of shape [n] in [-1, 1], ``rate`` in Hz."""

    samples: NDArray[np.float32]
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class WordTime:
    """When a word is heard. ``offset`` is where its core starts in the user's text; ``start`` and ``end`` are seconds.

    ``confidence``, 0 to 1, is how sure it is that this word is heard there; 1 where the voice itself says so.
    """

    word: str
    offset: int
    start: float
    end: float
    confidence: float = 1.0

    def moved(self, offset: int, seconds: float) -> "WordTime":
        """The same word in a text and a sound that begin so much earlier."""
        return replace(self, offset=self.offset + offset, start=self.start + seconds, end=self.end + seconds)


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice that a backend offers. ``language`` is a BCP 47 tag."""

    name: str
    language: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """A recording of the voice to speak in. `synth.reference` reads and checks one.

    Attributes:
        audio: the file's bytes as they are.
        form: what they hold: wav, flac, mp3 or opus.
        text: what is said in it.
    """

    audio: bytes = field(repr=False)
    form: str
    text: str = field(repr=False)

    @property
    def digest(self) -> str:
        """The SHA-256 of recording and text, in hexadecimal digits: the same voice has the same digest."""
        return sha256(self.text.encode() + b"\0" + self.audio).hexdigest()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend does with each mark, and its limits.

    Attributes:
        marks: for every kind of mark, what becomes of it.
        rate: sample rate of its audio, Hz.
        languages: BCP 47 tags of the languages that it speaks.
        max_chars: the longest text of one request, in code points; the pipeline splits by it.
        streaming: whether `speak` yields audio before a request is wholly spoken.
        word_times: whether its `Speech` tells when each word is heard.
        references: whether it speaks in the voice of a `Reference`.
        speed: whether it speaks at the rate of speech that a request asks for.
        at_once: how many requests of one text it pays to have spoken at once; 1 where each takes what the last one returned.
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
            raise ValueError(f"capabilities say nothing of {', '.join(sorted(missing))}")


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One piece to speak: at most ``max_chars`` long, and within one sentence unless the caller knows better.

    Attributes:
        text: the words and the marks that the backend is to obey itself (see `synth.lowering`).
        voice: a name from the backend's `voices`; None is its default.
        speed: 1.0 is the voice's own rate of speech, 2.0 twice as fast.
        seed: makes a sampling voice repeatable; voices that do not sample ignore it.
        strength: how strongly marks are rendered.
        unfinished: more of the same sentence follows, so the voice should not fall as at its end.
        context: what the backend's last `Speech` of the same text returned, to keep its voice; None at the start.
        reference: a recording to take the voice from, in place of a name.
        breaks: starts of words before which a pause will be cut in; the voice may phrase its speech for it, as at a comma.
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
    """What was spoken.

    Attributes:
        audio: the sound of this chunk; a backend that does not stream yields one chunk.
        words: times of the words within this chunk's audio, or None if the backend does not know.
        unrealised: marks of the request that were not done and remain to be realised.
        context: hand it back with the next piece of the same text.
        warnings: what the user should know of this chunk, in words.
    """

    audio: Audio
    words: tuple[WordTime, ...] | None = None
    unrealised: tuple[Mark, ...] = ()
    context: object = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()


class Synthesizer(ABC):
    """A voice. It speaks one piece and knows nothing of HTTP, of the tagger or of another backend.

    It is opened once and shared: `speak` may be called again before an earlier call has ended.
    """

    name: str

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What it does with each mark, and its limits."""

    def capabilities_of(self, voice: str | None) -> Capabilities:
        """What it does in that voice, for backends whose voices differ in it."""
        return self.capabilities

    @abstractmethod
    async def voices(self) -> tuple[Voice, ...]:
        """Every voice that it offers, its default first. It may ask a server; it never blocks the event loop."""

    def unready(self) -> str | None:
        """What keeps it from speaking, and what to do about it, as far as can be told without speaking; None if nothing."""
        return None

    @abstractmethod
    def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        """Speak one piece. Closing the generator cancels.

        Raises:
            RefusedRequest: unknown voice, speed out of range, text too long.
            BackendError: the engine failed.
        """

    async def close(self) -> None:  # noqa: B027 (a voice that holds nothing has nothing to do here)
        """Let go of what it holds. Safe to call twice."""
