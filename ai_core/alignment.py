"""Where the words of a text are in a sound: by the neural aligner where one is set, else by comparing with the guide's speech."""

import asyncio
from typing import TYPE_CHECKING

from ai_core.runtime import Parts
from prosody_tagger.markup import MarkedText
from synth.base import Audio

if TYPE_CHECKING:
    from synth.acoustics.align import Alignment

GUIDE = "embedded"
"""The backend in whose speech the words of any other are looked for."""


async def find_words(audio: Audio, text: str | MarkedText, parts: Parts, language: str | None = None) -> "Alignment":
    """When each word of ``text`` is heard in ``audio``.

    Args:
        audio: anyone's speech, of one channel.
        text: what is said in it. Marks make no difference.
        parts: whose ``PROSODY_ALIGNER`` says which aligner.
        language: BCP 47 tag of what is spoken; for the guide, also the name of one of its voices.

    Raises:
        BadInput: the sound or the text cannot be aligned, or (`ModelError`) the aligner cannot be loaded.
        BackendError: the guide failed.
    """
    aligner = await parts.aligner()
    if aligner is not None:
        return await asyncio.to_thread(aligner.align, audio, text, language=language)
    from synth.acoustics.align import align

    return await align(audio, text, parts.voice(GUIDE), language=language)
