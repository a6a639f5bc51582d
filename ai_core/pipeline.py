"""The one way through: text, marks, speech, sound.

`stream` speaks a job a sentence at a time, `collect` waits for all of it. The command line and the service call these; neither has
a way of its own.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ai_core.pieces import at_slots, cut
from ai_core.settings import Settings, load_settings
from prosody_tagger.errors import BadInput, MarkupError
from prosody_tagger.markup import Mark, MarkedText, place, plain
from prosody_tagger.segment import sentences, word_after, words
from synth import registry
from synth.audio import concatenate, resample
from synth.base import Audio, Intensity, SpeechRequest, Synthesizer, WordTime
from synth.joining import Spoken, join
from synth.lowering import lower

if TYPE_CHECKING:
    from prosody_tagger.tagger import ProsodyTagger


@dataclass(frozen=True, slots=True)
class Job:
    """What to speak, and how. None means the setting's default.

    A ``str`` is plain text, which the tagger marks; a `MarkedText` is spoken with its own marks and no others. ``focus`` are the
    spans of a plain text that it is said for: the tagger stresses a word in each.
    """

    text: str | MarkedText
    intensity: Intensity | None = None
    backend: str | None = None
    voice: str | None = None
    speed: float = 1.0
    seed: int | None = None
    focus: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What came out: of one sentence from `stream`, of the whole job from `collect`.

    Attributes:
        audio: the sound.
        marked: the text, untouched, and its marks, each at its slot; offsets count from its own start.
        scores: for each mark the tagger's probability, or None where the user set it.
        words: when each word is heard, in seconds from the start of ``audio``; empty if the backend does not know.
        backend: who spoke.
        fallback: who was asked first, if somebody else had to speak.
        warnings: what was not done, in words.
        timings: seconds spent so far: ``load`` the tagger, ``tag``, ``speak``, and ``total``.
    """

    audio: Audio
    marked: MarkedText
    scores: tuple[float | None, ...]
    words: tuple[WordTime, ...]
    backend: str
    fallback: str | None = None
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)


class Parts:
    """What the way through is made of: settings, the tagger and the voices, each loaded once, when first needed."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self._tagger: ProsodyTagger | None = None
        self._voices: dict[str, Synthesizer] = {}
        self._loading = asyncio.Lock()

    async def tagger(self) -> "ProsodyTagger":
        """The tagger.

        Raises:
            ModelError: it cannot be loaded.
        """
        async with self._loading:
            if self._tagger is None:
                self._tagger = await asyncio.to_thread(self._load_tagger)
            return self._tagger

    async def mark(
        self, text: str | MarkedText, intensity: Intensity, focus: tuple[tuple[int, int], ...] = ()
    ) -> tuple[MarkedText, tuple[float | None, ...]]:
        """The text with its marks at their slots, and the tagger's score of each; a text that has marks keeps them, unscored."""
        if isinstance(text, MarkedText):
            return at_slots(text), (None,) * len(text.marks)
        tagger = await self.tagger()
        tagged = await asyncio.to_thread(tagger.tag, text, intensity, focus)
        return tagged.marked, tagged.scores

    def voice(self, name: str) -> Synthesizer:
        """The backend of that name.

        Raises:
            BadInput: there is none.
            BackendUnavailable: it lacks something.
        """
        if name not in self._voices:
            group = registry.find(name).settings
            self._voices[name] = registry.create(name, getattr(self.settings, group))
        return self._voices[name]

    async def close(self) -> None:
        """Close every voice that was opened."""
        while self._voices:
            await self._voices.popitem()[1].close()

    def _load_tagger(self) -> "ProsodyTagger":
        from prosody_tagger.tagger import ProsodyTagger

        return ProsodyTagger.load(self.settings.tagger.adapter, base=self.settings.tagger.base)


async def collect(job: Job | str | MarkedText, parts: Parts | None = None) -> Result:
    """Speak the whole job. A text alone is a job with every default.

    Raises:
        BadInput: no text, a text or pauses over the limit, a mark without a word, an unknown voice or backend.
        BackendError: the backend failed.
    """
    marks: list[Mark] = []
    times: list[WordTime] = []
    results: list[Result] = []
    offset, seconds = 0, 0.0
    async with aclosing(stream(job, parts)) as speaking:
        async for result in speaking:
            marks.extend(replace(mark, offset=mark.offset + offset) for mark in result.marked.marks)
            times.extend(word.moved(offset, seconds) for word in result.words)
            results.append(result)
            offset += len(result.marked.text)
            seconds += result.audio.seconds
    return replace(
        results[-1],
        audio=concatenate([result.audio for result in results], results[-1].audio.rate),
        marked=replace(plain("".join(result.marked.text for result in results)), marks=tuple(marks)),
        scores=tuple(score for result in results for score in result.scores),
        words=tuple(times),
        warnings=tuple(dict.fromkeys(warning for result in results for warning in result.warnings)),
    )


async def stream(job: Job | str | MarkedText, parts: Parts | None = None) -> AsyncGenerator[Result, None]:
    """Speak the job a sentence at a time; the texts of the results, put together, are the job's text.

    Closing the iterator cancels what is being spoken. Raises as `collect` does.
    """
    if parts is None:
        own = Parts()
        try:
            async with aclosing(stream(job, own)) as results:
                async for result in results:
                    yield result
        finally:
            await own.close()
        return

    if not isinstance(job, Job):
        job = Job(job)
    began = time.perf_counter()
    timings: dict[str, float] = {}
    settings = parts.settings
    intensity = job.intensity or settings.intensity
    check(job.text, settings)
    voice = parts.voice(job.backend or settings.backend)
    if isinstance(job.text, str):
        await parts.tagger()
        timings["load"] = time.perf_counter() - began
    marked, scores = await parts.mark(job.text, intensity, job.focus)
    timings["tag"] = time.perf_counter() - began - sum(timings.values())
    score_of = dict(zip(marked.marks, scores, strict=True))

    request = SpeechRequest(plain(""), job.voice, job.speed, job.seed, intensity)
    able = voice.capabilities
    rest: Audio | None = None
    start_speaking = time.perf_counter()
    spans = sentences(marked.text) or [(0, 0)]
    for start, end in spans:
        last = end == len(marked.text)
        sentence = marked.slice(start, end, with_end=last)
        lowered = lower(sentence, able)
        undone = list(lowered.dropped)
        found = cut(sentence, able.max_chars)
        pieces = []
        for span in found.spans:
            request = replace(request, text=lowered.request.slice(*span), unfinished=span != found.spans[-1])
            spoken, left, context = await _speak(voice, request, span[0], settings.rate)
            request = replace(request, context=context)
            pieces.append(spoken)
            undone.extend(left)
        joined = join(pieces, found.gaps, settings.rate, before=rest, last=last)
        rest = joined.rest
        now = time.perf_counter()
        yield Result(
            joined.audio,
            sentence,
            tuple(score_of[replace(mark, offset=mark.offset + start)] for mark in sentence.marks),
            joined.words,
            voice.name,
            warnings=_not_done(undone, sentence.text, voice.name),
            timings={**timings, "speak": now - start_speaking, "total": now - began},
        )


async def _speak(voice: Synthesizer, request: SpeechRequest, offset: int, rate: int) -> tuple[Spoken, list[Mark], object]:
    """One piece, whole, at the pipeline's rate; the marks that the voice left; its context.

    ``offset`` is where the piece starts in the sentence, which times and marks are to count from.
    """
    left: list[Mark] = []
    sounds: list[Audio] = []
    times: list[WordTime] = []
    context = request.context
    seconds = 0.0
    async with aclosing(voice.speak(request)) as speeches:
        async for speech in speeches:
            times.extend(word.moved(offset, seconds) for word in speech.words or ())
            sounds.append(speech.audio)
            seconds += speech.audio.seconds
            left.extend(replace(mark, offset=mark.offset + offset) for mark in speech.left)
            context = speech.context
    return Spoken(resample(concatenate(sounds, voice.capabilities.rate), rate), tuple(times)), left, context


def check_length(text: str | MarkedText, settings: Settings) -> None:
    """Refuse a text over the limit.

    Raises:
        BadInput: it is.
    """
    length = len(text if isinstance(text, str) else text.text)
    if length > settings.max_chars:
        raise BadInput(
            f"the text has {length:,} characters; at most {settings.max_chars:,} are taken: shorten it, or raise PROSODY_MAX_CHARS"
        )


def check(text: str | MarkedText, settings: Settings) -> None:
    """Refuse what cannot be spoken.

    Raises:
        BadInput: no word and no pause, too long a text, pauses too long in all, emph or pitch with no word after it.
    """
    check_length(text, settings)
    marked = plain(text) if isinstance(text, str) else text
    runs = words(marked.text)
    silence = sum(mark.silence_ms for mark in marked.marks) / 1000
    if not runs and not silence:
        raise BadInput(f"no text: {marked.text[:40]!r} holds no word to speak")
    if silence > settings.max_silence:
        raise BadInput(
            f"the pauses add up to {silence:g} s; at most {settings.max_silence:g} s are taken: shorten them, "
            "or raise PROSODY_MAX_SILENCE"
        )
    for mark in marked.marks:
        if not mark.is_pause and word_after(runs, mark.offset) is None:
            where = place(marked.text, mark.offset)
            raise MarkupError(f"<{mark.kind}> at {where} of the text has no word after it; put it before the word that it means")


def _not_done(marks: Sequence[Mark], text: str, backend: str) -> tuple[str, ...]:
    """A warning for each mark of ``text`` that stayed without effect."""
    runs = words(text)
    said = []
    for mark in marks:
        index = word_after(runs, mark.offset)
        word = "" if index is None else f" before {runs[index].core(text)!r}"
        said.append(f"<{mark.kind}>{word} was not spoken: backend {backend} cannot do it there")
    return tuple(said)
