"""The sentences of one text, spoken in order: cut, spoken and joined; by another voice where the one asked for fails."""

import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from ai_core.finishing import Finished, finish
from ai_core.parts import Parts
from ai_core.pieces import cut
from prosody_tagger.markup import PAUSE_MS, Mark, MarkedText
from prosody_tagger.segment import word_after, words
from synth.audio import concatenate, resample
from synth.base import Audio, SpeechRequest, WordTime
from synth.errors import BackendError, BackendUnavailable, RefusedRequest
from synth.joining import Spoken, join
from synth.lowering import lower
from synth.tempo import at_speed, check_speed

GUIDE = "embedded"
"""The backend in whose speech the words of any other are looked for."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Said:
    """One sentence: its sound, its words in seconds from its start, who spoke it, and who was asked before."""

    audio: Audio
    words: tuple[WordTime, ...]
    backend: str
    fallback: str | None
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Piece:
    """One request as it was answered; offsets count from the start of the sentence."""

    spoken: Spoken
    left: list[Mark] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Speaker:
    """Speaks one text, sentence by sentence, and hands the voice's context from one request to the next.

    A voice that fails is replaced by the one of ``PROSODY_FALLBACK`` for the rest of the text; what was spoken before stays.
    """

    def __init__(
        self, parts: Parts, backend: str, request: SpeechRequest, *, realise: bool = True, language: str | None = None
    ) -> None:
        """``request`` says how every sentence is to be spoken; its text is not used.

        With ``realise`` a sentence is spoken whole, and what the voice did not do is made in its sound; without, it is cut at its
        pauses, and marks that the voice does not obey are left. ``language`` is that of the text, a BCP 47 tag, for finding its
        words in the sound.

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
        self._first = self._current = backend
        self._rest: Audio | None = None
        self._news: list[str] = []
        try:
            self._voice = parts.voice(backend)
            self._check_reference()
        except BackendUnavailable as error:
            self._fall_back(error)

    async def say(self, sentence: MarkedText, *, last: bool) -> Said:
        """Speak one sentence, whose marks stand at slots; ``last`` says whether the text ends with it.

        Raises:
            RefusedRequest: the backend cannot speak this.
            BackendError: it failed, and nothing is to speak in its place.
        """
        try:
            return await self._say(sentence, last)
        except BackendError as error:
            self._fall_back(error)
        return await self._say(sentence, last)

    async def _say(self, sentence: MarkedText, last: bool) -> Said:
        voice, rate = self._voice, self._parts.settings.rate
        able = voice.capabilities
        lowered = lower(sentence, able)
        obeyed = set(lowered.request.marks)
        ours = [mark for mark in sentence.marks if mark not in obeyed]
        at_cuts = [mark for mark in ours if mark.is_pause and (not self._realise or _is_outside(mark, sentence.text))]
        found = cut(replace(sentence, marks=tuple(at_cuts)), able.max_chars)
        if not found.spans:  # nothing to hand to the voice: every pause is ours
            found = cut(sentence, able.max_chars)
        to_make = [mark for mark in lowered.realised if mark not in at_cuts]
        pieces = await self._pieces(lowered.request, found.spans, to_make)
        joined = join([piece.spoken for piece in pieces], found.gaps, rate, before=self._rest, last=last)
        to_make += [mark for piece in pieces for mark in piece.left]
        finished = Finished(joined.audio, joined.words, ())
        if self._realise and pieces:
            known = joined.words if able.word_times else None
            intensity, language = self._request.intensity, self._guide_language
            guide = self._parts.voice(GUIDE)
            finished = await finish(joined.audio, sentence, known, to_make, guide, intensity=intensity, language=language)
            to_make = []
        self._rest = joined.rest
        news, self._news = self._news, []
        warnings = (
            *news,
            *(warning for piece in pieces for warning in piece.warnings),
            *_not_done([mark for mark in (*lowered.dropped, *to_make) if mark not in at_cuts], sentence.text, voice.name),
            *finished.warnings,
        )
        fallback = self._first if self._current != self._first else None
        return Said(finished.audio, finished.words, voice.name, fallback, tuple(dict.fromkeys(warnings)))

    async def _pieces(self, sentence: MarkedText, spans: Sequence[tuple[int, int]], to_make: Sequence[Mark]) -> list[_Piece]:
        """The spans of a sentence, spoken one after another. ``to_make`` are marks that will be made in the sound."""
        pieces = []
        for start, end in spans:
            text = sentence.slice(start, end, with_end=end == len(sentence.text))
            breaks = tuple(mark.offset - start for mark in to_make if _is_break(mark) and start < mark.offset < end)
            request = replace(self._request, text=text, unfinished=(start, end) != spans[-1], breaks=breaks)
            pieces.append(await self._speak(request, start))
        return pieces

    async def _speak(self, request: SpeechRequest, offset: int) -> _Piece:
        """One piece, whole, at the pipeline's rate and the job's speed. ``offset`` is where it starts in the sentence."""
        able = self._voice.capabilities
        asked = request if able.speed else replace(request, speed=1.0)
        piece = _Piece(Spoken(Audio(concatenate([], able.rate).samples, able.rate)))
        sounds: list[Audio] = []
        times: list[WordTime] = []
        seconds = 0.0
        async with aclosing(self._voice.speak(asked)) as speeches:
            async for speech in speeches:
                times.extend(word.moved(offset, seconds) for word in speech.words or ())
                sounds.append(speech.audio)
                seconds += speech.audio.seconds
                piece.left.extend(replace(mark, offset=mark.offset + offset) for mark in speech.left)
                piece.warnings.extend(speech.warnings)
                self._request = replace(self._request, context=speech.context)
        sound = resample(concatenate(sounds, able.rate), self._parts.settings.rate)
        piece.spoken = at_speed(Spoken(sound, tuple(times)), request.speed / asked.speed)
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
        if self._request.reference is not None and not self._voice.capabilities.references:
            raise RefusedRequest(
                f"backend {self._voice.name} has voices of its own and cannot take one from a recording; "
                "leave the reference out, or use a backend that can (`prosody doctor` lists them)"
            )


def _is_outside(pause: Mark, text: str) -> bool:
    """Whether a pause stands before the first word of a sentence, or after its last."""
    runs = words(text)
    return not runs or pause.offset <= runs[0].core_start or word_after(runs, pause.offset) is None


def _is_break(mark: Mark) -> bool:
    """Whether it is a pause as long as that of a comma, so that one may stand there."""
    return mark.is_pause and mark.silence_ms >= PAUSE_MS["pause_short"]


def _not_done(marks: Sequence[Mark], text: str, backend: str) -> tuple[str, ...]:
    """A warning for each mark of ``text`` that stayed without effect."""
    runs = words(text)
    said = []
    for mark in marks:
        index = word_after(runs, mark.offset)
        word = "" if index is None else f" before {runs[index].core(text)!r}"
        said.append(f"<{mark.kind}>{word} was not spoken: backend {backend} cannot do it there")
    return tuple(said)
