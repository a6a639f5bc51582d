"""A plain reading of a text by a voice that knows when it says each word: what the words sound like with no mark on any."""

from collections.abc import Iterator

from prosody_tagger.markup import plain
from prosody_tagger.segment import sentences, words
from synth.audio import concatenate
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
    name = _speaker(voice, language)
    parts: list[Audio] = []
    found: list[WordTime] = []
    seconds = 0.0
    for start, end in _pieces(text, limits.max_chars):
        async for chunk in voice.speak(SpeechRequest(plain(text[start:end]), voice=name)):
            if chunk.words is None:
                raise RefusedRequest(f"the voice {voice.name!r} does not tell its word times; align against the embedded voice")
            found += [word.moved(start, seconds) for word in chunk.words]
            parts.append(chunk.audio)
            seconds += chunk.audio.seconds
    return concatenate(parts, limits.rate), tuple(found)


def _speaker(voice: Synthesizer, language: str | None) -> str | None:
    """The name or tag itself where the voice knows it, else the language without its region."""
    if language is None:
        return None
    known = {name.lower() for each in voice.voices() for name in (each.name, each.language)}
    return language if language.strip().lower().replace("_", "-") in known else language.partition("-")[0]


def _pieces(text: str, longest: int) -> Iterator[tuple[int, int]]:
    """The sentences of ``text``; one that is too long in pieces of whole words, as far as a word is not too long itself."""
    for start, end in sentences(text):
        first = start
        for word in words(text[start:end]):
            if start + word.end - first > longest and start + word.start > first:
                yield first, start + word.start
                first = start + word.start
        yield first, end
