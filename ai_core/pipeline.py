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

from ai_core.alignment import GUIDE
from ai_core.runtime import Parts
from ai_core.settings import Settings
from ai_core.speaker import Sentence, Speaker
from ai_core.tagging import Density, Focus
from prosody_tagger.density import nearest_level
from prosody_tagger.errors import BadInput, MarkupError
from prosody_tagger.markup import Mark, MarkedText, line_column, plain
from prosody_tagger.markup import concatenate as concatenate_texts
from prosody_tagger.segment import segment_sentences, segment_words, word_after
from synth.audio.signal import concatenate
from synth.base import Audio, Reference, SpeechRequest, WordTime

if TYPE_CHECKING:
    from synth.acoustics.report import Report

_GLANCE = 200


@dataclass(frozen=True, slots=True)
class Job:
    """What to speak, and how. None means the setting's default.

    ``intensity`` says how many words the tagger stresses; a number of emphases a word is spoken as strongly as the nearest name.
    A ``str`` is plain text, which the tagger marks; a `MarkedText` is spoken with its own marks and no others. ``focus`` are the
    spans of a plain text that it is said for: the tagger stresses a word in each. ``reference`` is a recording to take the voice
    from, in place of a voice's name. ``language`` is that of the text, a BCP 47 tag: where the voice does not know when it says
    each word, the words are looked for in that language. With ``realise`` the marks that the voice does not obey are made in its
    sound; with ``report`` every mark is measured in what came out. Without ``times`` nobody asks when each word is heard: then
    words are only looked for where a mark is to be made, and where none is, the first sentence is passed on before it is whole.
    """

    text: str | MarkedText
    intensity: Density | None = None
    backend: str | None = None
    voice: str | None = None
    speed: float = 1.0
    seed: int | None = None
    focus: Focus = ()
    reference: Reference | None = None
    language: str | None = None
    realise: bool | None = None
    report: bool = False
    times: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """What came out: of one sentence or a part of it from `stream`, of the whole job from `collect`.

    Attributes:
        audio: the sound.
        marked: the text, untouched, and its marks, each at its slot; offsets count from its own start.
        scores: for each mark the tagger's probability, or None where the user or a rule set it.
        words: when each word is heard, in seconds from the start of ``audio``; empty if the backend does not know.
        backend: who spoke; of a job within which the voice had to change, who spoke its end.
        fallback: who was asked first, if somebody else had to speak.
        report: what was measured of each mark, from `collect` of a job that asks for it.
        unrealised: marks that stayed without effect.
        warnings: what was not done, or not as asked, in words.
        complete: whether a sentence ends with it; of one that is passed on in parts, the first has the text.
        timings: seconds spent so far: to ``load`` the tagger, to ``tag``, to ``speak`` (a long text is tagged further meanwhile),
            to ``measure`` the marks, and in ``total``.
    """

    audio: Audio
    marked: MarkedText
    scores: tuple[float | None, ...]
    words: tuple[WordTime, ...]
    backend: str
    fallback: str | None = None
    report: "Report | None" = None
    unrealised: tuple[Mark, ...] = ()
    warnings: tuple[str, ...] = ()
    complete: bool = True
    timings: dict[str, float] = field(default_factory=dict)


async def collect(job: Job | str | MarkedText, parts: Parts | None = None) -> Result:
    """Speak the whole job. A text alone is a job with every default.

    Raises:
        BadInput: no text, a text or pauses over the limit, a mark without a word, an unknown voice or backend.
        BackendError: the backend failed.
    """
    async with aclosing(stream(job, parts)) as speaking:
        together = put_together([result async for result in speaking])
    return await with_report(together, job.language, parts) if isinstance(job, Job) and job.report else together


def put_together(results: Sequence[Result]) -> Result:
    """The results of a whole job as one; there must be one at least."""
    times: list[WordTime] = []
    unrealised: list[Mark] = []
    offset, seconds = 0, 0.0
    for result in results:
        times.extend(word.moved(offset, seconds) for word in result.words)
        unrealised.extend(mark.moved(offset) for mark in result.unrealised)
        offset += len(result.marked.text)
        seconds += result.audio.seconds
    return replace(
        results[-1],
        audio=concatenate([result.audio for result in results], results[-1].audio.rate),
        marked=concatenate_texts([result.marked for result in results]),
        scores=tuple(score for result in results for score in result.scores),
        words=tuple(times),
        unrealised=tuple(unrealised),
        warnings=tuple(dict.fromkeys(warning for result in results for warning in result.warnings)),
    )


async def with_report(result: Result, language: str | None = None, parts: Parts | None = None) -> Result:
    """``result`` with a report on each of its marks, if it is known where its words are."""
    from synth.acoustics.measure import measure
    from synth.acoustics.plain_reading import read_plainly

    if not result.words:
        return replace(result, warnings=(*result.warnings, "no mark was measured: it is not known when each word is heard"))
    began = time.perf_counter()
    reading = await read_plainly(result.marked.text, (parts or Parts()).voice(GUIDE), language)
    report = await asyncio.to_thread(measure, result.audio, result.marked, result.words, reading=reading)
    spent = time.perf_counter() - began
    return replace(result, report=report, timings={**result.timings, "measure": spent, "total": result.timings["total"] + spent})


async def stream(job: Job | str | MarkedText, parts: Parts | None = None) -> AsyncGenerator[Result, None]:
    """Speak the job a sentence at a time, or sooner; the texts of the results, put together, are the job's text.

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
    intensity = settings.intensity if job.intensity is None else job.intensity
    check(job.text, settings)
    request = SpeechRequest(plain(""), job.voice, job.speed, job.seed, nearest_level(intensity), reference=job.reference)
    realise = settings.realise if job.realise is None else job.realise
    speaker = Speaker(parts, job.backend or settings.backend, request, realise=realise, language=job.language, times=job.times)
    if isinstance(job.text, str):
        await parts.tagger()
        timings["load"] = time.perf_counter() - began

    start = time.perf_counter()
    async with (
        aclosing(_sentences(job.text, intensity, job.focus, parts, timings)) as found,
        aclosing(speaker.speak(found)) as said,
    ):
        async for one in said:
            now = time.perf_counter()
            yield Result(
                one.audio,
                one.sentence.marked,
                one.sentence.scores,
                one.words,
                one.backend,
                one.fallback,
                unrealised=one.unrealised,
                warnings=(*one.sentence.warnings, *one.warnings),
                complete=one.complete,
                timings={**timings, "speak": now - start - timings["tag"], "total": now - began},
            )


async def _sentences(
    text: str | MarkedText, intensity: Density, focus: Focus, parts: Parts, timings: dict[str, float]
) -> AsyncGenerator[Sentence, None]:
    """The sentences of a text with their marks. How long the first had to wait is put into ``timings``."""
    began = time.perf_counter()
    unrealised = len(text if isinstance(text, str) else text.text)
    async with aclosing(parts.portions(text, intensity, focus)) as portions:
        async for marked, scores, warnings in portions:
            timings.setdefault("tag", time.perf_counter() - began)
            unrealised -= len(marked.text)
            score_of = dict(zip(marked.marks, scores, strict=True))
            for start, end in segment_sentences(marked.text) or [(0, 0)]:
                last = not unrealised and end == len(marked.text)
                sentence = marked.slice(start, end, with_end=last)
                known = tuple(score_of[mark.moved(start)] for mark in sentence.marks)
                yield Sentence(sentence, known, last, () if start else warnings)


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
    silence = sum(mark.silence_ms for mark in marked.marks) / 1000
    if not silence and not _has_word(marked.text):
        raise BadInput(f"no text: {marked.text[:40]!r} holds no word to speak")
    if silence > settings.max_silence:
        raise BadInput(
            f"the pauses add up to {silence:g} s; at most {settings.max_silence:g} s are taken: shorten them, "
            "or raise PROSODY_MAX_SILENCE"
        )
    spoken = [mark for mark in marked.marks if not mark.is_pause]
    runs = segment_words(marked.text) if spoken else []
    for mark in spoken:
        if word_after(runs, mark.offset) is None:
            where = line_column(marked.text, mark.offset)
            raise MarkupError(f"<{mark.kind}> at {where} of the text has no word after it; put it before the word that it means")


def _has_word(text: str) -> bool:
    """Whether there is a word in it. The beginning of a long text mostly tells, and its first audio must not wait for the rest."""
    return bool(segment_words(text[:_GLANCE]) or segment_words(text))
