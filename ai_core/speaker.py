"""The sentences of one text: cut, spoken and joined, in order; by another voice where the one asked for fails."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from ai_core.chunking import Cut, cut
from ai_core.concurrency import in_order
from ai_core.realisation import Finished, finish
from ai_core.runtime import Parts
from prosody_tagger.markup import PAUSE_MS, Mark, MarkedText, plain
from prosody_tagger.segment import Word, segment_words, word_after
from synth.audio.joining import SentenceStream, Spoken, join
from synth.audio.signal import concatenate, resample
from synth.audio.time_stretch import check_speed, time_stretch
from synth.base import Audio, Capabilities, SpeechRequest, Synthesizer, WordTime
from synth.errors import BackendError, BackendUnavailable, RefusedRequest
from synth.lowering import PartitionedMarks, partition_marks

_LONG_SECONDS = 20.0
"""More sound than this is not joined where everybody waits for it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence to speak, its marks at slots, with the tagger's score of each and what it did not do from here on, in words.

    ``last`` says whether the text ends with it.
    """

    marked: MarkedText
    scores: tuple[float | None, ...] = ()
    last: bool = True
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence that was spoken.

    Attributes:
        sentence: what was to be said.
        audio: its sound.
        words: when each word is heard, in seconds from its start.
        backend: who spoke.
        fallback: who was asked before.
        unrealised: marks that stayed without effect.
        warnings: what was not done as asked, in words.
        complete: whether the sentence ends with this; of one in parts, the first has the text.
    """

    sentence: Sentence
    audio: Audio
    words: tuple[WordTime, ...]
    backend: str
    fallback: str | None
    unrealised: tuple[Mark, ...] = ()
    warnings: tuple[str, ...] = ()
    complete: bool = True


@dataclass(slots=True)
class _Piece:
    """One request as it was answered; offsets count from the start of the sentence."""

    spoken: Spoken
    unrealised: list[Mark] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A sentence as its voice spoke it. ``at_cuts`` are pauses that joining makes, ``to_make`` marks to be made in the sound."""

    voice: Synthesizer
    found: Cut
    lowered: PartitionedMarks
    pieces: list[_Piece]
    at_cuts: list[Mark]
    to_make: list[Mark]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A sentence, and what became of it: it was spoken, the voice failed, or the voice had failed before."""

    sentence: Sentence
    voice: Synthesizer
    spoken: _Spoken | None = None
    error: BackendError | None = None


class Speaker:
    """Speaks one text, sentence by sentence, and hands the voice's context from one request to the next.

    A voice that fails is replaced by the one of ``PROSODY_FALLBACK`` for the rest of the text; what was spoken before stays.
    """

    def __init__(
        self,
        parts: Parts,
        backend: str,
        request: SpeechRequest,
        *,
        realise: bool = True,
        language: str | None = None,
        times: bool = True,
    ) -> None:
        """``request`` says how every sentence is to be spoken; its text is not used.

        With ``realise`` a sentence is spoken whole, and what the voice did not do is made in its sound; without, it is cut at its
        pauses, and marks that the voice does not obey are left. ``language`` is that of the text, a BCP 47 tag, for finding its
        words in the sound. Without ``times`` nobody asks when each word is heard.

        Raises:
            BadInput: there is no such backend, or it cannot speak as asked.
            BackendUnavailable: it lacks something, and nothing is to speak in its place.
        """
        check_speed(request.speed)
        if request.reference is not None and request.voice is not None:
            raise RefusedRequest("a voice and a reference recording were both given; give the one to speak in")
        self._parts = parts
        self._request = request
        self._realise = realise
        self._guide_language = language
        self._times = times
        self._first = self._current = backend
        self._failed: Synthesizer | None = None
        self._rest: Audio | None = None
        self._news: list[str] = []
        try:
            self._voice = parts.voice(backend)
            self._check_reference()
        except BackendUnavailable as error:
            self._fall_back(error)

    async def speak(self, sentences: AsyncIterable[Sentence]) -> AsyncGenerator[Said, None]:
        """Speak the sentences of the text in order. While one is finished, the next are spoken.

        The first is passed on as it comes, where that can be: it is what somebody waits for.

        Raises:
            RefusedRequest: the backend cannot speak this.
            BackendError: it failed, and nothing is to speak in its place.
        """
        rest = aiter(sentences)
        first = await anext(rest)
        if self._passes(first.marked):
            async for said in self._pass_on(first):
                yield said
        else:
            rest = _with(first, rest)
        async with aclosing(in_order(rest, self._attempt, self._able(self._voice).at_once)) as attempts:
            async for attempt in attempts:
                yield await self._finish(attempt.sentence, await self._settled(attempt))

    def _passes(self, sentence: MarkedText) -> bool:
        """Whether a sentence can be passed on as it comes: it leaves us nothing to do, and nobody to take over half-way."""
        able, settings = self._able(self._voice), self._parts.settings
        return (
            able.streaming
            and not self._times
            and settings.fallback in (None, "none", self._current)
            and able.rate == settings.rate
            and (able.speed or self._request.speed == 1.0)
            and len(sentence.text) <= able.max_chars
            and bool(segment_words(sentence.text))
            and (not self._realise or partition_marks(sentence, able).request.marks == sentence.marks)
            and not any(mark.is_pause for mark in sentence.marks)
        )

    async def _pass_on(self, sentence: Sentence) -> AsyncGenerator[Said, None]:
        voice, passing = self._voice, SentenceStream(self._parts.settings.rate)
        lowered = partition_marks(sentence.marked, self._able(voice))
        request = replace(self._request, text=lowered.request)
        unrealised = [mark for mark in sentence.marked.marks if mark not in lowered.request.marks]
        made = [mark for mark in unrealised if mark not in lowered.dropped]
        text = sentence.marked.text
        warnings = [*_dropped(lowered.dropped, text, voice.name), *_unmade(made, text, voice.name)]
        said = Said(sentence, passing.nothing, (), voice.name, None, tuple(unrealised), complete=False)
        async with aclosing(voice.speak(request)) as speeches:
            async for speech in speeches:
                warnings.extend(speech.warnings)
                warnings.extend(_unmade(speech.unrealised, text, voice.name))
                said = replace(said, unrealised=(*said.unrealised, *speech.unrealised))
                self._request = replace(self._request, context=speech.context)
                passed = passing.add(speech.audio)
                if len(passed.samples):
                    yield replace(said, audio=passed)
                    said = replace(said, sentence=Sentence(plain(""), last=sentence.last), unrealised=())
        end = passing.end(last=sentence.last)
        self._rest = end.rest
        yield replace(said, audio=end.audio, warnings=tuple(dict.fromkeys(warnings)), complete=True)

    def _able(self, voice: Synthesizer) -> Capabilities:
        return voice.capabilities_of(self._request.voice)

    async def _attempt(self, sentence: Sentence) -> _Attempt:
        voice = self._voice
        if voice is self._failed:
            return _Attempt(sentence, voice)
        try:
            return _Attempt(sentence, voice, await self._speak(sentence.marked))
        except BackendError as error:
            self._failed = voice
            return _Attempt(sentence, voice, error=error)

    async def _settled(self, attempt: _Attempt) -> _Spoken:
        """The sentence as the voice spoke it that speaks now: the other one, once a sentence before it could not be spoken."""
        if attempt.error is not None and attempt.voice is self._voice:
            self._fall_back(attempt.error)
        if attempt.spoken is not None and attempt.voice is self._voice:
            return attempt.spoken
        return await self._speak(attempt.sentence.marked)

    async def _speak(self, sentence: MarkedText) -> _Spoken:
        voice = self._voice
        able = self._able(voice)
        lowered = partition_marks(sentence, able)
        obeyed = set(lowered.request.marks)
        ours = [mark for mark in sentence.marks if mark not in obeyed]
        runs = segment_words(sentence.text)
        at_cuts = [mark for mark in ours if mark.is_pause and (not self._realise or _is_outside(mark, runs))]
        found = cut(replace(sentence, marks=tuple(at_cuts)), able.max_chars)
        if not found.spans:  # nothing to hand to the voice: every pause is ours
            found = cut(sentence, able.max_chars)
        to_make = [mark for mark in lowered.realised if mark not in at_cuts]
        pieces = await self._pieces(voice, lowered.request, found.spans, to_make)
        to_make += [mark for piece in pieces for mark in piece.unrealised]
        return _Spoken(voice, found, lowered, pieces, at_cuts, to_make)

    async def _finish(self, sentence: Sentence, spoken: _Spoken) -> Said:
        marked, able, pieces = sentence.marked, self._able(spoken.voice), spoken.pieces
        sounds = [piece.spoken for piece in pieces]
        asked = partial(join, sounds, spoken.found.gaps, self._parts.settings.rate, before=self._rest, last=sentence.last)
        long = sum(sound.audio.seconds for sound in sounds) > _LONG_SECONDS
        joined = await asyncio.to_thread(asked) if long else asked()
        self._rest = joined.rest
        finished = Finished(joined.audio, joined.words, tuple(spoken.to_make), ())
        if self._realise and pieces and (self._times or spoken.to_make):
            known = joined.words if able.word_times else None
            strength, language = self._request.strength, self._guide_language
            finished = await finish(joined.audio, marked, known, spoken.to_make, self._parts, strength=strength, language=language)
        dropped = [mark for mark in spoken.lowered.dropped if mark not in spoken.at_cuts]
        unmade = [] if self._realise else [mark for mark in spoken.to_make if mark not in spoken.at_cuts]
        news, self._news = self._news, []
        warnings = (
            *news,
            *(warning for piece in pieces for warning in piece.warnings),
            *_dropped(dropped, marked.text, spoken.voice.name),
            *_unmade(unmade, marked.text, spoken.voice.name),
            *finished.warnings,
        )
        fallback = self._first if self._current != self._first else None
        unrealised = [mark for mark in dict.fromkeys((*dropped, *finished.unrealised)) if mark not in spoken.at_cuts]
        told = tuple(dict.fromkeys(warnings))
        return Said(sentence, finished.audio, finished.words, spoken.voice.name, fallback, tuple(unrealised), told)

    async def _pieces(
        self, voice: Synthesizer, sentence: MarkedText, spans: Sequence[tuple[int, int]], to_make: Sequence[Mark]
    ) -> list[_Piece]:
        """The spans of a sentence, spoken one after another. ``to_make`` are marks that will be made in the sound."""
        pieces = []
        for start, end in spans:
            text = sentence.slice(start, end, with_end=end == len(sentence.text))
            breaks = tuple(mark.offset - start for mark in to_make if _is_break(mark) and start < mark.offset < end)
            request = replace(self._request, text=text, unfinished=(start, end) != spans[-1], breaks=breaks)
            pieces.append(await self._piece(voice, request, start))
        return pieces

    async def _piece(self, voice: Synthesizer, request: SpeechRequest, offset: int) -> _Piece:
        """One piece, whole, at the pipeline's rate and the job's speed. ``offset`` is where it starts in the sentence."""
        able = self._able(voice)
        asked = request if able.speed else replace(request, speed=1.0)
        piece = _Piece(Spoken(Audio(concatenate([], able.rate).samples, able.rate)))
        sounds: list[Audio] = []
        times: list[WordTime] = []
        seconds = 0.0
        async with aclosing(voice.speak(asked)) as speeches:
            async for speech in speeches:
                times.extend(word.moved(offset, seconds) for word in speech.words or ())
                sounds.append(speech.audio)
                seconds += speech.audio.seconds
                piece.unrealised.extend(mark.moved(offset) for mark in speech.unrealised)
                piece.warnings.extend(speech.warnings)
                if voice is self._voice:
                    self._request = replace(self._request, context=speech.context)
        sound = resample(concatenate(sounds, able.rate), self._parts.settings.rate)
        piece.spoken = time_stretch(Spoken(sound, tuple(times)), request.speed / asked.speed)
        return piece

    def _fall_back(self, error: BackendError) -> None:
        """Go on with the other voice, or raise ``error`` where there is none to go on with."""
        name = self._parts.settings.fallback
        if name is None or name in ("none", self._current):
            raise error
        self._current, self._voice = name, self._parts.voice(name)
        lost = "" if self._request.voice is None else f" in its own voice, not {self._request.voice!r}"
        lost = lost if self._request.reference is None else " in its own voice, not that of the recording"
        self._request = replace(self._request, voice=None, reference=None, context=None)
        self._news = [f"{self._first} failed: {error}. From here on {name} speaks{lost}"]
        _log.warning("%s failed: %s; %s speaks in its place", self._first, error, name)

    def _check_reference(self) -> None:
        if self._request.reference is not None and not self._able(self._voice).references:
            raise RefusedRequest(
                f"backend {self._voice.name} has voices of its own and cannot take one from a recording; "
                "leave the reference out, or use a backend that can (`prosody doctor` lists them)"
            )


async def _with(first: Sentence, rest: AsyncIterator[Sentence]) -> AsyncGenerator[Sentence, None]:
    yield first
    async for sentence in rest:
        yield sentence


def _is_outside(pause: Mark, runs: Sequence[Word]) -> bool:
    """Whether a pause stands before the first word of a sentence, or after its last."""
    return not runs or pause.offset <= runs[0].core_start or word_after(runs, pause.offset) is None


def _is_break(mark: Mark) -> bool:
    """Whether it is a pause as long as that of a comma, so that one may stand there."""
    return mark.is_pause and mark.silence_ms >= PAUSE_MS["pause_short"]


def _dropped(marks: Sequence[Mark], text: str, backend: str) -> list[str]:
    """A warning for each mark of ``text`` that nothing can do."""
    return [f"{mark} was not spoken: backend {backend} cannot do it there" for mark in _shown(marks, text)]


def _unmade(marks: Sequence[Mark], text: str, backend: str) -> list[str]:
    """A warning for each mark of ``text`` that would have been made in the sound."""
    return [f"{mark} was left to backend {backend}: marks are not made in its sound, as asked" for mark in _shown(marks, text)]


def _shown(marks: Sequence[Mark], text: str) -> Iterator[str]:
    runs = segment_words(text)
    for mark in marks:
        index = word_after(runs, mark.offset)
        yield f"<{mark.kind}>" + ("" if index is None else f" before {runs[index].core(text)!r}")
