"""The synthesis pipeline: text -> marks -> speech -> audio.

`stream` yields the speech of a job sentence by sentence, `collect` returns all of it. The commands and the service call these two.
Each sentence is tagged, split into chunks and spoken by the backend; the chunks are joined, and the remaining marks are realised in
the audio.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ai_core.alignment import find_word_times
from ai_core.chunking import Chunks, at_slots, is_at_edge, split_chunks
from ai_core.job import Job as Job
from ai_core.job import Result as Result
from ai_core.job import check_text, dropped_warnings, join_results, skipped_warnings
from ai_core.live import LiveSentence, can_speak_live
from ai_core.measurement import with_report
from ai_core.runtime import Runtime
from prosody_tagger.markup import PAUSE_MS, Mark, MarkedText, TaggedText, add_marks, concatenate_tagged, plain
from prosody_tagger.segment import segment_sentences
from synth.audio.joining import join
from synth.audio.signal import concatenate, resample
from synth.audio.time_stretch import check_speed, time_stretch
from synth.base import Audio, Capabilities, Speech, SpeechRequest, Synthesizer
from synth.errors import BackendError, BackendUnavailable, RefusedRequest
from synth.lowering import PartitionedMarks, partition_marks

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
U = TypeVar("U")

_THREAD_SECONDS = 20.0
"""Longer audio is joined in a thread so the event loop is not blocked."""

_log = logging.getLogger(__name__)


async def collect(job: Job | str | MarkedText, runtime: Runtime | None = None) -> Result:
    """Speak a whole job, or a text with default options.

    Raises:
        BadInput: the text is empty or over a limit, a mark has no word, or the voice or the backend is unknown.
        BackendError: the backend failed.
    """
    if runtime is None:
        async with Runtime() as own:
            return await collect(job, own)
    async with aclosing(stream(job, runtime)) as results:
        result = join_results([each async for each in results])
    return await with_report(result, runtime, job.language) if isinstance(job, Job) and job.report else result


async def stream(job: Job | str | MarkedText, runtime: Runtime | None = None) -> AsyncGenerator[Result, None]:
    """Speak a job sentence by sentence, and stream the first sentence if possible. The texts of the results add up to the job's
    text.

    Closing the iterator cancels the synthesis. Raises the same errors as `collect`.
    """
    if runtime is None:
        async with Runtime() as own, aclosing(stream(job, own)) as results:
            async for result in results:
                yield result
        return

    if not isinstance(job, Job):
        job = Job(job)
    began = time.perf_counter()
    timings: dict[str, float] = {}
    check_text(job.marked, runtime.settings)
    speaker = _Speaker(job, runtime)
    if job.is_tagged:
        await runtime.tagger()
        timings["load"] = time.perf_counter() - began

    start = time.perf_counter()
    async with aclosing(_sentences(job, runtime, timings)) as sentences, aclosing(speaker.speak(sentences)) as results:
        async for result in results:
            now = time.perf_counter()
            spent = {"speak": now - start - timings["tag"], "total": now - began}
            yield replace(result, timings={**timings, **spent})


async def tag(job: Job, runtime: Runtime) -> AsyncGenerator[TaggedText, None]:
    """Tag the text of a job, in portions of whole sentences, with marks at their slots.

    The first portion of a long text does not wait for the rest. Existing marks are kept, without a score.

    Raises:
        ModelError: the tagger cannot be loaded.
    """
    own = at_slots(job.marked) if job.marked.marks else job.marked
    if not job.is_tagged:
        yield TaggedText(own, (None,) * len(own.marks))
        return
    start = 0
    tagger = await runtime.tagger()
    async with aclosing(tagger.tag(own.text, job.density_in(runtime.settings), job.focus)) as portions:
        async for portion in portions:
            end = start + len(portion.marked.text)
            if own.marks or own.aliases:
                portion = add_marks(portion, own.slice(start, end, with_end=end == len(own.text)))
            yield portion
            start = end


async def tag_whole(job: Job, runtime: Runtime) -> TaggedText:
    """Tag the text of a job, as `tag` does, as one portion."""
    async with aclosing(tag(job, runtime)) as portions:
        return concatenate_tagged([portion async for portion in portions])


async def _sentences(job: Job, runtime: Runtime, timings: dict[str, float]) -> AsyncGenerator[TaggedText, None]:
    """The tagged sentences of a job. Adds the seconds until the first is tagged to ``timings``."""
    began = time.perf_counter()
    remaining = len(job.marked.text)
    async with aclosing(tag(job, runtime)) as portions:
        async for portion in portions:
            timings.setdefault("tag", time.perf_counter() - began)
            length = len(portion.marked.text)
            remaining -= length
            for start, end in segment_sentences(portion.marked.text) or [(0, 0)]:
                yield portion.slice(start, end, with_end=not remaining and end == length)


class _Plan(NamedTuple):
    """How a sentence is spoken: its chunks, the pauses that joining them makes, and the marks to realise in the joined audio."""

    chunks: Chunks
    marks: PartitionedMarks
    joined_pauses: frozenset[Mark]
    to_realise: tuple[Mark, ...]


class _Speaker:
    """Speaks the sentences of one job, and passes the backend's context from request to request.

    If the backend fails, the one of ``PROSODY_FALLBACK`` speaks the rest of the text.
    """

    def __init__(self, job: Job, runtime: Runtime) -> None:
        """Check the options of the job.

        Raises:
            BadInput: the backend is unknown, or does not support an option.
            BackendUnavailable: the backend is not installed or configured, and there is no fallback.
        """
        settings = runtime.settings
        check_speed(job.speed)
        if job.reference is not None and job.voice is not None:
            raise RefusedRequest("a voice and a reference recording exclude each other; give one of them")
        self._job, self._runtime, self._settings = job, runtime, settings
        strength = job.strength_in(settings)
        self._request = SpeechRequest(plain(""), job.voice, job.speed, job.seed, strength, reference=job.reference)
        self._realises = settings.realise if job.realise is None else job.realise
        self._first = self._current = job.backend or settings.backend
        self._failure: tuple[str, BackendError] | None = None
        self._rest: Audio | None = None
        self._remaining = len(job.marked.text)
        self._warnings: list[str] = []
        try:
            self._backend: Synthesizer = runtime.backend(self._current)
            if job.reference is not None and not self._capabilities.references:
                raise RefusedRequest(
                    f"backend {self._backend.name} does not support reference recordings; "
                    "leave the reference out, or use another backend (`prosody doctor` lists them)"
                )
        except BackendUnavailable as error:
            self._fall_back(error)

    @property
    def _capabilities(self) -> Capabilities:
        return self._backend.capabilities_of(self._request.voice)

    async def speak(self, sentences: AsyncIterable[TaggedText]) -> AsyncGenerator[Result, None]:
        """Speak the sentences and yield their results in order. The next sentences are spoken while one is realised.

        The first sentence is streamed if it needs no post-processing.

        Raises:
            RefusedRequest: the backend refused a sentence.
            BackendError: the backend failed, and there is no fallback.
        """
        rest = aiter(sentences)
        first = await anext(rest)
        if can_speak_live(first.marked, self._request, self._backend, self._job, self._settings, realise=self._realises):
            live = LiveSentence(self._backend, self._request, self._settings.rate)
            async for result in live.speak(first, last=self._is_last(first)):
                yield result
            self._rest, self._request = live.rest, live.request
        else:
            rest = _chained(first, rest)
        async with aclosing(map_ordered(rest, self._attempt, self._capabilities.at_once)) as attempts:
            async for sentence, backend, outcome in attempts:
                pieces = outcome if isinstance(outcome, list) and backend == self._current else await self._retry(sentence, outcome)
                yield await self._finish(sentence, pieces)

    def _is_last(self, sentence: TaggedText) -> bool:
        """Whether this sentence is the last of the text. Must be called once per sentence, in order."""
        self._remaining -= len(sentence.marked.text)
        return not self._remaining

    async def _attempt(self, sentence: TaggedText) -> tuple[TaggedText, str, list[Speech] | Exception]:
        """Speak a sentence; return it with the backend and its speech or error. A backend that has failed is not called again."""
        backend = self._current
        if self._failure is not None and self._failure[0] == backend:
            return sentence, backend, self._failure[1]
        try:
            return sentence, backend, await self._speak(sentence.marked)
        except BackendError as error:
            self._failure = backend, error
            return sentence, backend, error

    async def _retry(self, sentence: TaggedText, outcome: list[Speech] | Exception) -> list[Speech]:
        """Speak a sentence with the fallback, because its backend failed on this sentence or an earlier one."""
        if isinstance(outcome, BackendError) and self._failure is not None and self._failure[0] == self._current:
            self._fall_back(outcome)
        return await self._speak(sentence.marked)

    def _plan(self, sentence: MarkedText) -> _Plan:
        capabilities = self._capabilities
        marks = partition_marks(sentence, capabilities)
        ours = [mark for mark in sentence.marks if mark not in set(marks.request.marks)]
        pauses = [mark for mark in ours if mark.is_pause and (not self._realises or is_at_edge(mark, sentence.words))]
        chunks = split_chunks(sentence.with_marks(pauses), capabilities.max_chars)
        if not chunks.spans:  # nothing to speak: joining makes every pause
            chunks = split_chunks(sentence, capabilities.max_chars)
        to_realise = tuple(mark for mark in marks.realised if mark not in pauses)
        return _Plan(chunks, marks, frozenset(pauses), to_realise)

    async def _speak(self, sentence: MarkedText) -> list[Speech]:
        """Speak the chunks of a sentence, at the pipeline's sample rate and the job's speed; offsets count from the sentence's
        start."""
        backend, plan = self._backend, self._plan(sentence)
        capabilities, spans = self._capabilities, plan.chunks.spans
        spoken = []
        for start, end in spans:
            text = plan.marks.request.slice(start, end, with_end=end == len(sentence.text))
            breaks = tuple(mark.offset - start for mark in plan.to_realise if _is_break(mark) and start < mark.offset < end)
            request = replace(self._request, text=text, unfinished=(start, end) != spans[-1], breaks=breaks)
            parts: list[Speech] = []
            async with aclosing(backend.speak(request if capabilities.speed else replace(request, speed=1.0))) as speeches:
                async for speech in speeches:
                    parts.append(speech)
                    if backend is self._backend:
                        self._request = replace(self._request, context=speech.context)
            whole = _whole_chunk(parts, capabilities.rate, self._settings.rate, start)
            spoken.append(whole if capabilities.speed else time_stretch(whole, request.speed))
        return spoken

    async def _finish(self, sentence: TaggedText, pieces: list[Speech]) -> Result:
        """Join the speech of a sentence's chunks and realise its marks."""
        marked, plan, last = sentence.marked, self._plan(sentence.marked), self._is_last(sentence)
        joining = partial(join, pieces, plan.chunks.gaps, self._settings.rate, before=self._rest, last=last)
        is_long = sum(piece.audio.seconds for piece in pieces) > _THREAD_SECONDS
        speech, self._rest = await asyncio.to_thread(joining) if is_long else joining()
        speech = replace(speech, unrealised=(*plan.to_realise, *speech.unrealised))
        name, warnings, self._warnings = self._backend.name, [*self._warnings, *speech.warnings], []
        dropped = [mark for mark in plan.marks.dropped if mark not in plan.joined_pauses]
        warnings += dropped_warnings(dropped, marked, name)
        if not self._realises:
            skipped = [mark for mark in speech.unrealised if mark not in plan.joined_pauses]
            warnings += skipped_warnings(skipped, marked, name)
        elif pieces and (self._job.times or speech.unrealised):
            speech = await self._realise(replace(speech, warnings=()), marked)
            warnings += speech.warnings
        unrealised = [mark for mark in dict.fromkeys((*dropped, *speech.unrealised)) if mark not in plan.joined_pauses]
        return Result(
            speech.audio,
            marked,
            sentence.scores,
            speech.words or (),
            name,
            self._first if self._current != self._first else None,
            unrealised=tuple(unrealised),
            warnings=tuple(dict.fromkeys((*sentence.warnings, *warnings))),
        )

    async def _realise(self, speech: Speech, marked: MarkedText) -> Speech:
        """Realise the unrealised marks of a sentence in its audio, if its words have times or can be aligned."""
        from synth.acoustics.realise import realise

        trusted = True
        if not self._capabilities.word_times:
            speech, trusted = await find_word_times(speech, marked, self._runtime, self._job.language)
        if speech.unrealised and speech.words is not None:
            strength = self._request.strength
            speech = await asyncio.to_thread(realise, speech, marked, strength=strength, trusted=trusted)
        return speech if trusted else replace(speech, words=())

    def _fall_back(self, error: BackendError) -> None:
        """Switch to the fallback backend, or raise ``error`` if there is none."""
        name = self._settings.fallback
        if name is None or name in ("none", self._current):
            raise error
        self._current, self._backend = name, self._runtime.backend(name)
        lost = "" if self._request.voice is None else f", with its default voice instead of {self._request.voice!r}"
        lost = lost if self._request.reference is None else ", with its default voice instead of that of the recording"
        self._request = replace(self._request, voice=None, reference=None, context=None)
        self._warnings = [f"backend {self._first} failed: {error}. Backend {name} speaks the rest of the text{lost}"]
        _log.warning("backend %s failed: %s; backend %s speaks the rest of the text", self._first, error, name)


def _whole_chunk(parts: "Sequence[Speech]", rate: int, wanted_rate: int, offset: int) -> Speech:
    """Join the chunks of one request, resampled to ``wanted_rate``; ``offset`` is the position of its text in the sentence."""
    seconds, words = 0.0, []
    for part in parts:
        words += [word.moved(offset, seconds) for word in part.words or ()]
        seconds += part.audio.seconds
    return Speech(
        resample(concatenate([part.audio for part in parts], rate), wanted_rate),
        tuple(words),
        tuple(mark.moved(offset) for part in parts for mark in part.unrealised),
        warnings=tuple(warning for part in parts for warning in part.warnings),
    )


def _is_break(mark: Mark) -> bool:
    """Whether a pause is at least as long as that of a comma, so that the voice may phrase for it."""
    return mark.is_pause and mark.silence_ms >= PAUSE_MS["pause_short"]


async def _chained(first: T, rest: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    yield first
    async for item in rest:
        yield item


async def map_ordered(items: AsyncIterable[T], work: Callable[[T], Awaitable[U]], at_once: int) -> AsyncGenerator[U, None]:
    """Run ``work`` on items concurrently and yield the results in input order.

    At most ``at_once`` tasks run at a time, started in order, and at most ``at_once`` results are buffered. An error is raised in
    place of its item's result. Closing the generator cancels all tasks.
    """
    tasks: asyncio.Queue[asyncio.Task[U] | None] = asyncio.Queue(at_once)
    slots = asyncio.Semaphore(at_once)
    started: set[asyncio.Task[U]] = set()

    async def run(item: T) -> U:
        try:
            return await work(item)
        finally:
            slots.release()

    async def feed() -> None:
        try:
            async for item in items:
                await slots.acquire()
                task = asyncio.create_task(run(item))
                started.add(task)
                await tasks.put(task)
        except Exception:
            await tasks.put(None)
            raise
        await tasks.put(None)

    feeder = asyncio.create_task(feed())
    try:
        while (task := await tasks.get()) is not None:
            yield await task
            started.discard(task)
        await feeder
    finally:
        feeder.cancel()
        for task in started:
            task.cancel()
        await asyncio.gather(feeder, *started, return_exceptions=True)
