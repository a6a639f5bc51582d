"""vLLM and SGLang with Higgs Audio, through OpenAI's speech API: ``/audio/speech``, ``/audio/voices``, ``/models``.

The two differ. The fake accepts only what both accept: SGLang requires model and voice and streams pcm alone; neither reads base64
without a data URI.
"""

from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from . import reference
from .api_error import ApiError, invalid
from .events import EVENT_STREAM, speech_events
from .responses import audio_response, model_list
from .speech import FakeSpeaker, check_text
from .state import Fake

V3_MODELS = ("bosonai/higgs-tts-3-4b", "bosonai/higgs-audio-v3-tts-4b")
MODELS = ("bosonai/higgs-audio-v2-generation-3B-base", *V3_MODELS)
VOICES = ("default", "belinda", "chadwick", "en_man", "en_woman")
MAX_CHARS = 4_096


class OpenAISpeechBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    input: str
    model: str
    voice: str
    response_format: Literal["wav", "mp3", "pcm", "flac", "opus"] = "wav"
    speed: float = Field(default=1.0, ge=0.25, le=4.0)
    stream: bool = False
    stream_format: Literal["audio", "sse"] | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    max_new_tokens: int | None = Field(default=None, ge=1)
    ref_audio: str | None = None
    ref_text: str | None = None


def router(fake: Fake) -> APIRouter:
    routes = APIRouter()
    options = fake.options
    speaker = FakeSpeaker(options.rate)

    @routes.post("/audio/speech")
    async def speech(body: OpenAISpeechBody) -> Response:
        _check(body)
        voice = body.voice
        if body.ref_audio is not None:
            voice = reference.voice_id(reference.clip(body.ref_audio, bare=False), body.ref_text or "")
        content = await speaker.speak(body.input, voice, body.response_format, body.speed)
        if body.stream and options.events and body.stream_format != "audio":
            events = speech_events(content, body.response_format, options.chunk_bytes)
            return StreamingResponse(iter([events]), media_type=EVENT_STREAM)
        answer = audio_response(content, body.response_format, stream=body.stream)
        if options.rate_header and body.response_format == "pcm":
            answer.headers["x-sample-rate"] = str(options.rate)
        return answer

    @routes.get("/audio/voices")
    async def voices() -> dict[str, list[str]]:
        return {"voices": list(VOICES), "uploaded_voices": []}

    @routes.get("/models")
    async def models() -> dict[str, object]:
        return model_list(MODELS)

    return routes


def _check(body: OpenAISpeechBody) -> None:
    if body.model not in MODELS:
        raise ApiError(404, "NotFoundError", f"The model `{body.model}` does not exist.")
    if not body.input.strip():
        raise invalid("Input text cannot be empty")
    if len(body.input) > MAX_CHARS:
        raise invalid(f"input must be at most {MAX_CHARS} characters")
    check_text(body.input, v3=body.model in V3_MODELS)
    if body.stream and body.response_format != "pcm":
        raise invalid("stream=true requires response_format='pcm'")
    if body.ref_audio is not None and body.ref_text is None:
        raise invalid("ref_audio needs ref_text")
    if body.ref_audio is None and body.voice not in VOICES:
        raise invalid(f"Invalid voice {body.voice!r}. Supported: {', '.join(VOICES)}")
