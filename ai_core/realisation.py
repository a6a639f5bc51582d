"""What is done to a sentence once it is spoken: its words found in the sound, and its marks made true there."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from ai_core.alignment import find_words
from ai_core.runtime import Parts
from prosody_tagger.markup import Mark, MarkedText
from prosody_tagger.segment import segment_words
from synth.acoustics.realise import Realised, realise
from synth.base import Audio, Strength, WordTime
from synth.errors import BackendError

_FEW, _LIKELY = 3, 0.3


@dataclass(frozen=True, slots=True)
class Finished:
    """A sentence: its sound, its words (none if they were not found), the marks that stayed without effect, and why."""

    audio: Audio
    words: tuple[WordTime, ...]
    unrealised: tuple[Mark, ...]
    warnings: tuple[str, ...]


async def finish(
    audio: Audio,
    sentence: MarkedText,
    words: tuple[WordTime, ...] | None,
    marks: Collection[Mark],
    parts: Parts,
    *,
    strength: Strength,
    language: str | None = None,
) -> Finished:
    """Make ``marks`` true in the sound of ``sentence``.

    Args:
        audio: the sound.
        sentence: what is said in it, and its marks.
        words: when each word is heard, or None if the voice does not know: then they are found in the sound.
        marks: those of the sentence that are to be made.
        parts: what the words are found with.
        strength: how strongly.
        language: BCP 47 tag of what is spoken.

    Raises:
        ModelError: the aligner that is set cannot be loaded.
    """
    trusted = True
    if words is None:
        if not len(audio.samples) or not segment_words(sentence.text):
            return Finished(audio, (), tuple(marks), ())
        try:
            found = await find_words(audio, sentence, parts, language)
        except BackendError as error:
            return Finished(
                audio, (), tuple(marks), (f"the words were not looked for in the sound, and no mark was made there: {error}",)
            )
        words = found.words
        # A few words are hard to tell from others by their sound, and a voice that was just asked for them most likely said them.
        trusted = found.trusted or (len(words) <= _FEW and found.confidence >= _LIKELY)
    made = Realised(audio, words, (), (), ())
    if marks:
        made = await asyncio.to_thread(realise, audio, sentence, words, strength=strength, trusted=trusted, marks=marks)
    return Finished(made.audio, made.words if trusted else (), made.unrealised, made.warnings)
