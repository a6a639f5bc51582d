"""Boson's cloud, which offers Higgs Audio v3: ``/audio/speech`` and ``/audio/voices``."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from . import reference
from .api_error import ApiError, invalid
from .responses import audio_response
from .speech import FakeSpeaker, check_text
from .state import Fake

MODELS = ("higgs-tts-3", "higgs-audio-v3-tts")
PRESETS = ("default", "chloe", "eleanor", "jake", "marcus", "nora", "oliver")
MAX_CHARS = 5_000


class BosonSpeechBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    input: str
    model: str
    voice: str | None = None
    response_format: Literal["mp3", "opus", "pcm", "wav", "aac", "flac"] = "mp3"
    stream: bool = False
    ref_audio: str | None = None
    ref_text: str | None = None


class RegistrationBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    ref_audio: str
    ref_text: str
    title: str | None = None


def router(fake: Fake) -> APIRouter:
    routes = APIRouter()
    speaker = FakeSpeaker(fake.options.rate)

    @routes.post("/audio/speech")
    async def speech(body: BosonSpeechBody) -> Response:
        _check(body, fake)
        voice = body.voice or "default"
        if body.ref_audio is not None:
            voice = reference.voice_id(reference.clip(body.ref_audio), body.ref_text or "")
        return audio_response(
            await speaker.speak(body.input, voice, body.response_format), body.response_format, stream=body.stream
        )

    @routes.post("/audio/voices")
    async def register(body: RegistrationBody) -> dict[str, str]:
        if not body.ref_text.strip():
            raise invalid("ref_text is empty")
        name = reference.voice_id(reference.clip(body.ref_audio, min_seconds=reference.MIN_SECONDS), body.ref_text)
        fake.voices[name] = body.title
        return {"voice_id": name}

    @routes.get("/audio/voices")
    async def voices() -> dict[str, list[dict[str, str | None]]]:
        known = {**{name: name.title() for name in PRESETS}, **fake.voices}
        return {"voices": [{"voice_id": name, "title": title} for name, title in known.items()]}

    return routes


def _check(body: BosonSpeechBody, fake: Fake) -> None:
    if body.model not in MODELS:
        raise ApiError(404, "model_not_found", f"there is no model {body.model!r}")
    if not body.input.strip():
        raise invalid("input is empty")
    if len(body.input) > MAX_CHARS:
        raise ApiError(400, "input_too_long", f"input has {len(body.input)} characters; at most {MAX_CHARS} are allowed")
    check_text(body.input, v3=True)
    if body.stream and body.response_format != "pcm":
        raise invalid("stream needs response_format pcm")
    if (body.ref_audio is None) != (body.ref_text is None):
        raise invalid("ref_audio and ref_text go together")
    if body.ref_audio is not None and body.voice is not None:
        raise invalid("voice cannot be given with ref_audio")
    if body.voice is not None and body.voice not in (*PRESETS, *fake.voices):
        raise ApiError(400, "voice_not_found", f"there is no voice {body.voice!r}")
