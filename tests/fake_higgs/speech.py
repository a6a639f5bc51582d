"""The fake's speech: the embedded voice, with the pauses of v3's tags, encoded as asked."""

import asyncio
import re
from zlib import crc32

from prosody_tagger.markup import KINDS, plain
from synth.audio.encoding import encode
from synth.audio.signal import concatenate, resample, silence
from synth.base import Audio, SpeechRequest
from synth.embedded.backend import MAX_CHARS, EmbeddedSettings, EmbeddedVoice

from .refusal import Refusal, invalid

MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "pcm": "audio/pcm",
}

PAUSE_SECONDS = {"<|prosody:pause|>": 0.5, "<|prosody:long_pause|>": 1.0}
"""What the fake makes of v3's pause tags; the model makes about 0.4 to 0.7 s and 0.7 to 1.5 s."""

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
"""All 43 tags of Higgs Audio v3, by its model card."""

_PROJECT_MARK = re.compile(rf"</?(?:{'|'.join(KINDS)})\b", re.IGNORECASE)
_PIECE = re.compile(rf"(?s).{{1,{MAX_CHARS}}}(?!\S)|.{{1,{MAX_CHARS}}}")


def check_text(text: str, *, v3: bool) -> None:
    """Refuse what no Higgs model may be given: a mark of this project, or a control token that is not one of ``v3``'s tags."""
    if mark := _PROJECT_MARK.search(text):
        raise Refusal(400, "unknown_tag", f"unknown tag {mark[0]!r} in the text")
    for token in _CONTROL.findall(text):
        if not (v3 and token in V3_TAGS):
            raise Refusal(400, "unknown_tag", f"unknown tag {token!r} in the text")


class Speaker:
    """Speaks; the same twice costs nothing the second time. Each name of a voice has a pitch of its own."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._made: dict[tuple[str, str, float, str], bytes] = {}

    async def speak(self, text: str, voice: str, form: str, speed: float = 1.0) -> bytes:
        """``text`` as a file of the format ``form``."""
        if form not in MEDIA_TYPES:
            raise invalid(f"this server cannot encode {form}")
        key = (text, voice, speed, form)
        if key not in self._made:
            self._made[key] = await self._make(text, voice, form, speed)
        return self._made[key]

    async def _make(self, text: str, voice: str, form: str, speed: float) -> bytes:
        engine = EmbeddedVoice(EmbeddedSettings(pitch=25 + crc32(voice.encode()) % 50))
        parts: list[Audio] = []
        position = 0
        for tag in _CONTROL.finditer(text):
            parts += await _say(engine, text[position : tag.start()], speed, self._rate, unfinished=True)
            parts.append(silence(round(PAUSE_SECONDS.get(tag[0], 0.0) * self._rate), self._rate))
            position = tag.end()
        parts += await _say(engine, text[position:], speed, self._rate, unfinished=False)
        return await asyncio.to_thread(encode, concatenate(parts, self._rate), form)


async def _say(engine: EmbeddedVoice, text: str, speed: float, rate: int, *, unfinished: bool) -> list[Audio]:
    """``text`` without tags, in pieces that the engine takes."""
    return [
        resample(speech.audio, rate)
        for piece in _PIECE.findall(text)
        async for speech in engine.speak(SpeechRequest(plain(piece), speed=speed, unfinished=unfinished))
    ]
