"""A job and its result: what to speak and how, what came out, and what cannot be spoken."""

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
"""Spans of a text that carry its point."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to speak, and how. None means the setting's default.

    Attributes:
        text: a text, or one with marks.
        intensity: sets density and strength together; a number of emphases per word is spoken at the nearest named strength.
        density: how many words the tagger stresses.
        strength: how strongly the voice renders a mark.
        speed: 1.0 is the voice's own rate of speech, 2.0 twice as fast.
        focus: spans of the text that carry its point: the tagger stresses a word in each.
        reference: a recording to take the voice from, in place of a voice's name.
        language: that of the text, a BCP 47 tag: where the voice does not know when it says each word, the words are aligned in
            that language.
        realise: whether marks that the voice does not obey are made in its audio.
        report: whether every mark is measured in the result.
        times: whether the result needs the time of each word. Without, words are only aligned where a mark is to be made, and
            the first sentence is sent while it is spoken if nothing has to be changed in it.
        tag: whether the tagger marks the text. By default it marks a ``str``, and leaves a `MarkedText` to its own marks; marks
            that the text has stay in either case.
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
        """The density to tag with, by the job or else by the settings."""
        for given in (self.density, self.intensity, settings.density):
            if given is not None:
                return given
        return settings.intensity

    def strength_in(self, settings: Settings) -> Strength:
        """The strength to speak with, by the job or else by the settings.

        Raises:
            BadInput: an intensity that is not low, medium or high, nor a number from 0 to 1.
        """
        if self.strength is not None:
            return self.strength
        if self.intensity is not None:
            return nearest_level(self.intensity)
        return settings.strength or nearest_level(settings.intensity)


@dataclass(frozen=True, slots=True)
class Result:
    """What came out: of one sentence or a part of it from `stream`, of the whole job from `collect`.

    Attributes:
        audio: mono audio.
        marked: the text, untouched, and its marks, each at its slot; offsets count from its own start.
        scores: for each mark the tagger's probability, or None where the user or a rule set it.
        words: the time of each word, in seconds from the start of ``audio``; empty if the words were not found.
        backend: the backend that spoke; the last one, if it changed within the job.
        fallback: the backend that was asked first and failed; None if none did.
        report: the measurement of each mark, from `collect` of a job that asks for it.
        unrealised: marks that stayed without effect.
        warnings: what was not done, or not as asked, in words.
        complete: whether a sentence ends with it; of one that is sent in parts, the first has the text.
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


def join_results(results: Sequence[Result]) -> Result:
    """One result of those of all sentences of a job, at least one."""
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
    """A warning for each mark of a text that nothing can express on a backend."""
    return [f"{_described(mark, marked)} was not spoken: backend {backend} cannot do it there" for mark in marks]


def skipped_warnings(marks: Sequence[Mark], marked: MarkedText, backend: str) -> list[str]:
    """A warning for each mark of a text that would have been realised in the audio, if that were not turned off."""
    reason = "marks are not made in its sound, as asked"
    return [f"{_described(mark, marked)} was left to backend {backend}: {reason}" for mark in marks]


def _described(mark: Mark, marked: MarkedText) -> str:
    """A mark with the word after it: "<emph> before 'only'"."""
    index = word_after(marked.words, mark.offset)
    return f"<{mark.kind}>" + ("" if index is None else f" before {marked.words[index].core(marked.text)!r}")


def check_length(text: str, settings: Settings) -> None:
    """Refuse a text over the limit.

    Raises:
        BadInput: it is longer than ``PROSODY_MAX_CHARS``.
    """
    if len(text) > settings.max_chars:
        raise BadInput(
            f"the text has {len(text):,} characters; at most {settings.max_chars:,} are taken: "
            "shorten it, or raise PROSODY_MAX_CHARS"
        )


def check_text(marked: MarkedText, settings: Settings) -> None:
    """Refuse a text that cannot be spoken.

    Raises:
        BadInput: no word and no pause, too long a text, pauses too long in all, emph or pitch with no word after it.
    """
    check_length(marked.text, settings)
    silence = sum(mark.silence_ms for mark in marked.marks) / 1000
    if not silence and not has_word(marked.text):
        raise BadInput(f"no text: {marked.text[:40]!r} holds no word to speak")
    if silence > settings.max_silence:
        raise BadInput(
            f"the pauses add up to {silence:g} s; at most {settings.max_silence:g} s are taken: shorten them, "
            "or raise PROSODY_MAX_SILENCE"
        )
    for mark in marked.marks:
        if not mark.is_pause and word_after(marked.words, mark.offset) is None:
            where = line_column(marked.text, mark.offset)
            raise MarkupError(f"<{mark.kind}> at {where} of the text has no word after it; put it before the word that it means")
