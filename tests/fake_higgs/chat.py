"""Boson's hackathon server: chat completions with audio. The dialect ``boson-chat`` has ``/audio/speech`` too, with pcm alone."""

import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from . import reference
from .api_error import ApiError, invalid
from .responses import audio_response, model_list
from .speech import FakeSpeaker, check_text
from .state import Fake

MODEL = "higgs-audio-generation-Hackathon"
VOICES = ("belinda", "broom_salesman", "chadwick", "en_man", "en_woman", "mabel", "vex", "zh_man_sichuan")
MAX_CHARS = 8_000


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class InputAudio(_StrictModel):
    data: str
    format: Literal["wav", "mp3"]


class AudioPart(_StrictModel):
    type: Literal["input_audio"]
    input_audio: InputAudio


class TextPart(_StrictModel):
    type: Literal["text"]
    text: str


class ChatMessage(_StrictModel):
    role: Literal["system", "user", "assistant"]
    content: str | list[Annotated[TextPart | AudioPart, Field(discriminator="type")]]

    @property
    def text(self) -> str | None:
        """Its text; None if it has other parts too."""
        if isinstance(self.content, str):
            return self.content
        texts = [part.text for part in self.content if isinstance(part, TextPart)]
        return "".join(texts) if len(texts) == len(self.content) else None

    @property
    def audio(self) -> InputAudio | None:
        """Its recording, if that is its only part."""
        if isinstance(self.content, list) and len(self.content) == 1 and isinstance(self.content[0], AudioPart):
            return self.content[0].input_audio
        return None


class OutputAudio(_StrictModel):
    voice: str | None = None
    format: Literal["wav"] = "wav"


class ChatBody(_StrictModel):
    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    modalities: list[Literal["text", "audio"]]
    audio: OutputAudio | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: Literal[False] = False


class ChatSpeechBody(_StrictModel):
    model: str
    input: str
    voice: str = VOICES[0]
    response_format: Literal["pcm"] = "pcm"


def router(fake: Fake) -> APIRouter:
    """Return the routes of chat completions."""
    routes = APIRouter()
    speaker = FakeSpeaker(fake.options.rate)

    @routes.post("/chat/completions")
    async def chat(body: ChatBody) -> dict[str, Any]:
        text, voice = _text_and_voice(body)
        audio = await speaker.speak(text, voice, "wav")
        data = base64.b64encode(audio).decode()
        message = {
            "role": "assistant",
            "content": text,
            "audio": {"id": "audio-1", "data": data, "expires_at": 0, "transcript": text},
        }
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": len(text), "completion_tokens": 0, "total_tokens": len(text)},
        }

    return routes


def speech_router(fake: Fake) -> APIRouter:
    """Return the routes ``/audio/speech`` and ``/models``."""
    routes = APIRouter()
    speaker = FakeSpeaker(fake.options.rate)

    @routes.post("/audio/speech")
    async def speech(body: ChatSpeechBody) -> Response:
        _check_model(body.model)
        _check_voice(body.voice)
        _check_text(body.input)
        return audio_response(await speaker.speak(body.input, body.voice, "pcm"), "pcm", stream=True)

    @routes.get("/models")
    async def models() -> dict[str, object]:
        return model_list([MODEL])

    return routes


def _text_and_voice(body: ChatBody) -> tuple[str, str]:
    """Check a request; return the text to speak and a name for the voice."""
    _check_model(body.model)
    if sorted(body.modalities) != ["audio", "text"]:
        raise invalid('modalities must be ["text", "audio"]')
    turns = body.messages[1:] if body.messages[0].role == "system" else body.messages
    if [turn.role for turn in turns] not in (["user"], ["user", "assistant", "user"]):
        raise invalid("messages must be: system (or not), a reference as user and assistant (or not), the text as user")
    text = turns[-1].text
    if text is None:
        raise invalid("the last message must be text")
    _check_text(text)
    if body.messages[0].role == "system" and body.messages[0].text is None:
        raise invalid("the system message must be text")
    if len(turns) == 1:
        voice = body.audio.voice if body.audio and body.audio.voice else VOICES[0]
        _check_voice(voice)
        return text, voice
    transcript, recording = turns[0].text, turns[1].audio
    if not transcript or recording is None:
        raise invalid("a reference is its transcript as user and its recording as assistant")
    check_text(transcript, v3=False)
    return text, reference.voice_id(reference.clip(recording.data), transcript)


def _check_model(name: str) -> None:
    if name != MODEL:
        raise ApiError(404, "NotFoundError", f"The model `{name}` does not exist.")


def _check_voice(name: str) -> None:
    if name not in VOICES:
        raise invalid(f"there is no voice {name!r}; there are {', '.join(VOICES)}")


def _check_text(text: str) -> None:
    if not text.strip():
        raise invalid("there is no text to speak")
    if len(text) > MAX_CHARS:
        raise invalid(f"This model's maximum context length is {MAX_CHARS} characters")
    check_text(text, v3=False)
