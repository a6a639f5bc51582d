"""Word alignment: the start and end of each word in speech."""

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
"""Backend that speaks the reference for alignment."""

_FEW_WORDS, _LIKELY = 3, 0.3
"""Texts of at most ``_FEW_WORDS`` words need only the confidence ``_LIKELY``: so short an alignment never scores high, and a
backend most likely spoke the text that it was given."""


async def align_words(audio: Audio, text: str | MarkedText, runtime: Runtime, language: str | None = None) -> "Alignment":
    """Align the words of ``text`` with ``audio``.

    Uses the neural aligner of ``PROSODY_ALIGNER`` if it is set, else compares the audio with the alignment backend's speech.

    Args:
        audio: speech of any speaker, mono.
        text: its transcript; marks are ignored.
        runtime: provides the aligner and the backend.
        language: BCP 47 tag of the text, or the name of a voice of the alignment backend.

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
        The speech, and whether its word times can be trusted. ``words`` is None if there is nothing to align or alignment failed.

    Raises:
        ModelError: the aligner of ``PROSODY_ALIGNER`` cannot be loaded.
    """
    speech = replace(speech, words=None)
    if not len(speech.audio.samples) or not marked.words:
        return speech, True
    try:
        found = await align_words(speech.audio, marked, runtime, language)
    except BackendError as error:
        warning = f"the words could not be aligned with the audio, so no mark was realised in it: {error}"
        return replace(speech, warnings=(*speech.warnings, warning)), True
    trusted = found.trusted or (len(found.words) <= _FEW_WORDS and found.confidence >= _LIKELY)
    return replace(speech, words=found.words), trusted
