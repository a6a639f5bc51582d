"""A plain reading of a text by a voice that knows when it says each word: what the words sound like with no mark on any."""

from prosody_tagger.markup import plain
from prosody_tagger.segment import segment_words
from synth.acoustics.guide import pieces, speaker_of
from synth.audio.signal import concatenate
from synth.base import Audio, SpeechRequest, Synthesizer, WordTime
from synth.errors import RefusedRequest


async def read_plainly(text: str, voice: Synthesizer, language: str | None = None) -> tuple[Audio, tuple[WordTime, ...]]:
    """``text`` spoken by ``voice``, a sentence at a time, and when each word is heard.

    Args:
        text: as long as you like.
        voice: one whose speech has word times.
        language: the name of one of its voices, or a BCP 47 tag; None is its default.

    Raises:
        RefusedRequest: ``voice`` does not know its word times, or has no such name.
        BackendError: it failed.
    """
    limits = voice.capabilities
    name = await speaker_of(voice, language)
    parts: list[Audio] = []
    found: list[WordTime] = []
    seconds = 0.0
    for start, end in pieces(text, segment_words(text), limits.max_chars):
        async for chunk in voice.speak(SpeechRequest(plain(text[start:end]), voice=name)):
            if chunk.words is None:
                raise RefusedRequest(f"the voice {voice.name!r} does not tell its word times; align against the embedded voice")
            found += [word.moved(start, seconds) for word in chunk.words]
            parts.append(chunk.audio)
            seconds += chunk.audio.seconds
    return concatenate(parts, limits.rate), tuple(found)
