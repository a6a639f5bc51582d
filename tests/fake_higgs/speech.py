"""Speech of the fake: the embedded voice, with the pauses of v3's tags, in the requested format."""

import asyncio
import re
from zlib import crc32

from prosody_tagger.markup import KINDS, plain
from synth.audio.encoding import encode
from synth.audio.signal import concatenate, resample, silence
from synth.base import Audio, SpeechRequest
from synth.embedded.backend import MAX_CHARS, EmbeddedSettings, EmbeddedVoice

from .api_error import ApiError, invalid

MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "pcm": "audio/pcm",
}

PAUSE_SECONDS = {"<|prosody:pause|>": 0.5, "<|prosody:long_pause|>": 1.0}
"""Lengths that the fake gives v3's pause tags; those of the model are about 0.4 to 0.7 s and 0.7 to 1.5 s."""

_CONTROL = re.compile(r"<\|.*?\|>", re.DOTALL)
_V3_VALUES = {
    "emotion": "elation amusement enthusiasm determination pride contentment affection relief contemplation confusion surprise awe "
    "longing arousal anger fear disgust bitterness sadness shame helplessness",
    "style": "singing shouting whispering",
    "sfx": "cough laughter crying screaming burping humming sigh sniff sneeze",
    "prosody": "speed_very_slow speed_slow speed_fast speed_very_fast pause long_pause pitch_low pitch_high expressive_high "
    "expressive_low",
}
V3_TAGS = frozenset(f"<|{category}:{value}|>" for category, values in _V3_VALUES.items() for value in values.split())
"""All 43 tags of Higgs Audio v3, as listed in its model card."""

_PROJECT_MARK = re.compile(rf"</?(?:{'|'.join(KINDS)})\b", re.IGNORECASE)
_PIECE = re.compile(rf"(?s).{{1,{MAX_CHARS}}}(?!\S)|.{{1,{MAX_CHARS}}}")


def check_text(text: str, *, v3: bool) -> None:
    """Refuse a text with a mark of this project, or with a control token; v3 accepts its own tags."""
    if mark := _PROJECT_MARK.search(text):
        raise ApiError(400, "unknown_tag", f"unknown tag {mark[0]!r} in the text")
    for token in _CONTROL.findall(text):
        if not (v3 and token in V3_TAGS):
            raise ApiError(400, "unknown_tag", f"unknown tag {token!r} in the text")


class FakeSpeaker:
    """Speaks with the embedded voice, at a pitch for each name of a voice; results are cached."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._cache: dict[tuple[str, str, float, str], bytes] = {}

    async def speak(self, text: str, voice: str, audio_format: str, speed: float = 1.0) -> bytes:
        """Return ``text`` spoken, as a file."""
        if audio_format not in MEDIA_TYPES:
            raise invalid(f"this server cannot encode {audio_format}")
        key = (text, voice, speed, audio_format)
        if key not in self._cache:
            self._cache[key] = await self._synthesize(text, voice, audio_format, speed)
        return self._cache[key]

    async def _synthesize(self, text: str, voice: str, audio_format: str, speed: float) -> bytes:
        engine = EmbeddedVoice(EmbeddedSettings(pitch=25 + crc32(voice.encode()) % 50))
        parts: list[Audio] = []
        position = 0
        for tag in _CONTROL.finditer(text):
            parts += await _say(engine, text[position : tag.start()], speed, self._rate, unfinished=True)
            parts.append(silence(round(PAUSE_SECONDS.get(tag[0], 0.0) * self._rate), self._rate))
            position = tag.end()
        parts += await _say(engine, text[position:], speed, self._rate, unfinished=False)
        return await asyncio.to_thread(encode, concatenate(parts, self._rate), audio_format)


async def _say(engine: EmbeddedVoice, text: str, speed: float, rate: int, *, unfinished: bool) -> list[Audio]:
    """Return ``text``, which has no tags, spoken in pieces of a length that the engine accepts."""
    return [
        resample(speech.audio, rate)
        for piece in _PIECE.findall(text)
        async for speech in engine.speak(SpeechRequest(plain(piece), speed=speed, unfinished=unfinished))
    ]
