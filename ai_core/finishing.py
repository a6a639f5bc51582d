"""What is done to a sentence once it is spoken: its words found in the sound, and its marks made true there."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from prosody_tagger.markup import Mark, MarkedText
from synth.base import Audio, Intensity, Synthesizer, WordTime


@dataclass(frozen=True, slots=True)
class Finished:
    """A sentence: its sound, its words, the marks that stayed without effect, and why."""

    audio: Audio
    words: tuple[WordTime, ...]
    left: tuple[Mark, ...]
    warnings: tuple[str, ...]


async def finish(
    audio: Audio,
    sentence: MarkedText,
    words: tuple[WordTime, ...] | None,
    marks: Collection[Mark],
    guide: Synthesizer,
    *,
    intensity: Intensity,
    language: str | None = None,
) -> Finished:
    """Make ``marks`` true in the sound of ``sentence``.

    Args:
        audio: the sound.
        sentence: what is said in it, and its marks.
        words: when each word is heard, or None if the voice does not know: then they are found with ``guide``.
        marks: those of the sentence that are to be made.
        guide: a voice that knows its word times, in whose speech the words are looked for.
        intensity: how strongly.
        language: BCP 47 tag of what is spoken.
    """
    from synth.acoustics.realise import realise

    trusted = True
    if words is None:
        from synth.acoustics.align import align

        found = await align(audio, sentence, guide, language=language)
        words, trusted = found.words, found.trusted
    made = await asyncio.to_thread(realise, audio, sentence, words, intensity=intensity, trusted=trusted, marks=marks)
    return Finished(made.audio, made.words, made.left, made.warnings)
