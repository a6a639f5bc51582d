"""Jobs, results, warnings about marks, and validation of texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ai_core.settings import Settings
from prosody_tagger.density import Density, nearest_level
from prosody_tagger.errors import BadInput, MarkupError
from prosody_tagger.markup import Mark, MarkedText, concatenate, line_column, plain
from prosody_tagger.segment import has_word, word_after
from synth.audio.signal import concatenate as concatenate_audio
from synth.base import Audio, Reference, Strength, WordTime

if TYPE_CHECKING:
    from synth.acoustics.report import Report

Focus = tuple[tuple[int, int], ...]
"""Spans of a text, each of which must contain an emphasis."""


@dataclass(frozen=True, slots=True)
class Job:
    """A text to speak, and options. None means the default of the settings.

    Attributes:
        text: a text, with or without marks.
        intensity: sets density and strength together; a number of emphases per word takes the nearest named strength.
        density: how many words the tagger stresses.
        strength: how strongly the voice renders a mark.
        speed: 1.0 is the voice's own rate of speech, 2.0 twice as fast.
        focus: spans of the text; the tagger stresses at least one word in each.
        reference: a recording whose voice to use, instead of a named voice.
        language: language of the text, a BCP 47 tag; used to align its words if the voice gives no word times.
        realise: whether marks that the voice does not support are realised in its audio.
        report: whether to measure every mark in the result.
        times: whether the result needs word times. If not, words are only aligned to realise a mark, and the first sentence is
            streamed if it needs no post-processing.
        tag: whether the tagger marks the text. By default, it marks a ``str`` and not a `MarkedText`. Existing marks are kept in
            either case.
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
    density: Density | None = None
    strength: Strength | None = None
    tag: bool | None = None

    @property
    def marked(self) -> MarkedText:
        """The text and the marks that the user gave it.

        Raises:
            MarkupError: the text holds a lone surrogate.
        """
        return plain(self.text) if isinstance(self.text, str) else self.text

    @property
    def is_tagged(self) -> bool:
        """Whether the tagger marks the text."""
        return isinstance(self.text, str) if self.tag is None else self.tag

    def density_in(self, settings: Settings) -> Density:
        """The density of the job, else of the settings."""
        for given in (self.density, self.intensity, settings.density):
            if given is not None:
                return given
        return settings.intensity

    def strength_in(self, settings: Settings) -> Strength:
        """The strength of the job, else of the settings.

        Raises:
            BadInput: the intensity is neither low, medium or high nor a number from 0 to 1.
        """
        if self.strength is not None:
            return self.strength
        if self.intensity is not None:
            return nearest_level(self.intensity)
        return settings.strength or nearest_level(settings.intensity)


@dataclass(frozen=True, slots=True)
class Result:
    """Speech and its description: of a sentence or a part of one from `stream`, of the whole job from `collect`.

    Attributes:
        audio: mono audio.
        marked: the unchanged text and its marks, each at its slot; offsets count from the start of this text.
        scores: for each mark the tagger's probability; None if the user or a rule set the mark.
        words: the time of each word, in seconds from the start of ``audio``; empty if not known.
        backend: the backend that spoke; the last one, if it changed within the job.
        fallback: the requested backend, if it failed; else None.
        report: the measurement of each mark, from `collect` of a job with ``report`` set.
        unrealised: marks without effect.
        warnings: deviations from the request, as text.
        complete: whether this result ends a sentence. If a sentence is streamed in parts, the first part has the text.
        timings: seconds spent so far: ``load`` the tagger, ``tag``, ``speak`` (which overlaps with tagging the rest of a long
            text),
            ``measure`` the marks, and ``total``.
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


def join_results(results: Sequence[Result]) -> Result:
    """Join the results of all sentences of a job, at least one, into one result."""
    words: list[WordTime] = []
    unrealised: list[Mark] = []
    offset, seconds = 0, 0.0
    for result in results:
        words.extend(word.moved(offset, seconds) for word in result.words)
        unrealised.extend(mark.moved(offset) for mark in result.unrealised)
        offset += len(result.marked.text)
        seconds += result.audio.seconds
    return replace(
        results[-1],
        audio=concatenate_audio([result.audio for result in results], results[-1].audio.rate),
        marked=concatenate([result.marked for result in results]),
        scores=tuple(score for result in results for score in result.scores),
        words=tuple(words),
        unrealised=tuple(unrealised),
        warnings=tuple(dict.fromkeys(warning for result in results for warning in result.warnings)),
    )


def dropped_warnings(marks: Sequence[Mark], marked: MarkedText, backend: str) -> list[str]:
    """A warning for each mark that the backend cannot express."""
    return [f"{_described(mark, marked)} was dropped: backend {backend} does not support it there" for mark in marks]


def skipped_warnings(marks: Sequence[Mark], marked: MarkedText, backend: str) -> list[str]:
    """A warning for each mark that was not realised in the audio because realisation is turned off."""
    reason = f"backend {backend} does not support it there, and realisation in the audio is turned off"
    return [f"{_described(mark, marked)} was not realised: {reason}" for mark in marks]


def _described(mark: Mark, marked: MarkedText) -> str:
    """A mark and the word after it: "<emph> before 'only'"."""
    index = word_after(marked.words, mark.offset)
    return f"<{mark.kind}>" + ("" if index is None else f" before {marked.words[index].core(marked.text)!r}")


def check_length(text: str, settings: Settings) -> None:
    """Check the length of a text.

    Raises:
        BadInput: it is longer than ``PROSODY_MAX_CHARS``.
    """
    if len(text) > settings.max_chars:
        raise BadInput(
            f"the text has {len(text):,} characters; at most {settings.max_chars:,} are allowed: "
            "shorten it, or raise PROSODY_MAX_CHARS"
        )


def check_text(marked: MarkedText, settings: Settings) -> None:
    """Check that a text can be spoken.

    Raises:
        BadInput: the text is too long or has neither a word nor a pause; its pauses are too long in total; no word follows an emph
            or pitch mark.
    """
    check_length(marked.text, settings)
    silence = sum(mark.silence_ms for mark in marked.marks) / 1000
    if not silence and not has_word(marked.text):
        raise BadInput(f"no text: {marked.text[:40]!r} contains no word")
    if silence > settings.max_silence:
        raise BadInput(
            f"the pauses add up to {silence:g} s; at most {settings.max_silence:g} s are allowed: shorten them, "
            "or raise PROSODY_MAX_SILENCE"
        )
    for mark in marked.marks:
        if not mark.is_pause and word_after(marked.words, mark.offset) is None:
            where = line_column(marked.text, mark.offset)
            raise MarkupError(f"<{mark.kind}> at {where} of the text has no word after it; put it before the word to mark")
