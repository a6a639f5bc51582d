"""Find when each word is heard in an audio."""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from ai_core.runtime import Runtime
from prosody_tagger.markup import MarkedText
from synth.base import Audio, Speech
from synth.errors import BackendError

if TYPE_CHECKING:
    from synth.acoustics.align import Alignment

ALIGNMENT_BACKEND = "embedded"
"""The backend whose reading of a text is the reference that other audio is aligned with."""

_FEW_WORDS, _LIKELY = 3, 0.3
"""A few words are hard to tell from others by their sound, and a voice that was just asked for them most likely said them: up to
so many words are trusted from this confidence on."""


async def align_words(audio: Audio, text: str | MarkedText, runtime: Runtime, language: str | None = None) -> "Alignment":
    """Find when each word of ``text`` is heard in ``audio``.

    By the neural aligner of ``PROSODY_ALIGNER`` where one is set, else by comparing with the alignment backend's reading.

    Args:
        audio: anyone's speech, mono.
        text: what is said in it. Its marks do not matter.
        runtime: has the aligner and the backend.
        language: BCP 47 tag of what is spoken; for the alignment backend, also the name of one of its voices.

    Raises:
        BadInput: the audio or the text cannot be aligned, or (`ModelError`) the aligner cannot be loaded.
        BackendError: the alignment backend failed.
    """
    aligner = await runtime.aligner()
    if aligner is not None:
        return await asyncio.to_thread(aligner.align, audio, text, language=language)
    from synth.acoustics.align import align

    return await align(audio, text, runtime.backend(ALIGNMENT_BACKEND), language=language)


async def find_word_times(speech: Speech, marked: MarkedText, runtime: Runtime, language: str | None) -> tuple[Speech, bool]:
    """Add word times to the speech of a backend that gives none.

    Returns:
        The speech, and whether the times can be trusted. Its ``words`` are None where they could not be looked for.

    Raises:
        ModelError: the aligner that is set cannot be loaded.
    """
    speech = replace(speech, words=None)
    if not len(speech.audio.samples) or not marked.words:
        return speech, True
    try:
        found = await align_words(speech.audio, marked, runtime, language)
    except BackendError as error:
        warning = f"the words were not looked for in the sound, and no mark was made there: {error}"
        return replace(speech, warnings=(*speech.warnings, warning)), True
    trusted = found.trusted or (len(found.words) <= _FEW_WORDS and found.confidence >= _LIKELY)
    return replace(speech, words=found.words), trusted
