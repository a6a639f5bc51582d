"""The endpoints of OpenAI's form, so that whatever speaks it works here unchanged."""

import asyncio
import base64
import binascii
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from ai_core.job import Job, check_length
from api.errors import UnknownModel, documented
from api.responses import SOUND, stream_answer
from api.schemas import Deleted, Model, Models, SpeechRequest, Voices, VoiceShown
from api.service import Here, unless_gone
from prosody_tagger.errors import BadInput
from prosody_tagger.markup import closest, parse
from synth import registry
from synth.base import Synthesizer

router = APIRouter(prefix="/v1", tags=["OpenAI's form"])

OPENAI_VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
)  # fmt: skip
"""Clients send these whatever server they talk to. A backend that has no voice of that name speaks in its own."""

OPENAI_MODELS = ("tts-1", "gpt-4o", "prosody")
"""What the names of models begin with that mean the backend that is set."""


@router.post(
    "/audio/speech",
    responses={**documented(404, 409, 410, 502, 503, 504), 200: SOUND},
    response_class=Response,
    summary="Speak a text, in OpenAI's form",
)
async def speech(request: Request, asked: SpeechRequest, service: Here) -> Response:
    """Speaks `input`, sentence by sentence as it is made; with `stream_format: sse` as events. The input is plain text unless
    `marked` says that it holds marks."""
    backend = _backend(asked.model)
    name = _voice_name(asked.voice)
    reference = await service.reference(name)
    voice = None if reference else await _voice(name, service.runtime.backend(backend or service.settings.backend))
    check_length(asked.input, service.settings)
    job = Job(
        parse(asked.input) if asked.marked else asked.input,
        intensity=asked.intensity,
        backend=backend,
        voice=voice,
        speed=asked.speed,
        seed=asked.seed,
        reference=reference,
        language=asked.language,
        times=asked.stream_format == "sse",
        realise=asked.realise,
    )
    length = len(job.marked.text)

    async def work() -> Response:
        return await stream_answer(service.speak(job), asked.response_format, length, events=asked.stream_format == "sse")

    return await unless_gone(request, work)


@router.get("/models", responses=documented(), summary="The backends, as OpenAI lists models")
async def models() -> Models:
    return Models(data=[Model(id="prosody"), *(Model(id=name) for name in registry.BACKENDS), Model(id="tts-1")])


@router.get("/models/{model}", responses=documented(404), summary="One of them")
async def model(model: str) -> Model:
    _backend(model)
    return Model(id=model)


@router.get("/audio/voices", responses=documented(502, 503, 504), summary="The voices of a backend, and those that were uploaded")
async def voices(service: Here, backend: Annotated[str | None, Query(max_length=100)] = None) -> Voices:
    name = backend or service.settings.backend
    own = await service.runtime.backend(name).voices()
    kept = await asyncio.to_thread(service.store.list)
    data = [VoiceShown(id=v.name, name=v.name, language=v.language, description=v.description) for v in own]
    data += [
        VoiceShown(
            id=v.id, name=v.name or v.id, language=None, description="uploaded", seconds=round(v.seconds, 3), created=int(v.created)
        )
        for v in kept
    ]
    return Voices(backend=name, data=data, voices=[voice.id for voice in data])


_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["audio", "text"],
                    "properties": {
                        "audio": {
                            "type": "string",
                            "format": "binary",
                            "description": "3 to 30 s: wav, flac, mp3 or opus.",
                        },
                        "text": {"type": "string", "description": "What is said in it."},
                        "name": {"type": "string", "description": "What you call the voice."},
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["audio", "text"],
                    "properties": {
                        "audio": {"type": "string", "description": "The recording in base64, or as a data URI."},
                        "text": {"type": "string"},
                        "name": {"type": "string"},
                    },
                }
            },
        },
    }
}

_NAMES = {"audio": ("audio", "ref_audio", "audio_sample", "file"), "text": ("text", "ref_text"), "name": ("name", "title")}
"""What other servers of this form call the fields."""


@router.post("/audio/voices", status_code=201, responses=documented(409, 503), openapi_extra=_UPLOAD, summary="Keep a voice")
async def add_voice(request: Request, service: Here) -> VoiceShown:
    """Keeps a recording to speak in, for backends that can. The same recording and text have the same id."""
    audio, text, name = await _upload(request)
    kept = await asyncio.to_thread(service.store.add, audio, text, name)
    return VoiceShown(
        id=kept.id,
        name=kept.name or kept.id,
        language=None,
        description="uploaded",
        seconds=round(kept.seconds, 3),
        created=int(kept.created),
    )


@router.delete("/audio/voices/{voice}", responses=documented(404, 503), summary="Forget a voice")
async def delete_voice(voice: str, service: Here) -> Deleted:
    await asyncio.to_thread(service.store.delete, voice)
    return Deleted(id=voice)


async def _upload(request: Request) -> tuple[bytes, str, str | None]:
    """Recording, text and name, from a form or from JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields: dict[str, Any] = {}
    if kind == "multipart/form-data":
        async with request.form(max_files=4, max_fields=16) as form:
            for key, value in form.items():
                fields[key] = value if isinstance(value, str) else await value.read()
    elif kind == "application/json":
        try:
            found = await request.json()
        except (ValueError, RecursionError):
            raise BadInput("the body is not JSON") from None
        fields = found if isinstance(found, dict) else {}
    else:
        raise BadInput(f"the content type is {kind[:80]!r}; send a form (multipart/form-data) with audio and text, or JSON")
    audio, text, name = (next((fields[key] for key in _NAMES[field] if key in fields), None) for field in ("audio", "text", "name"))
    if isinstance(audio, str):
        audio = _unpacked(audio)
    if not isinstance(audio, bytes):
        raise BadInput("there is no recording; send it in the field audio")
    if not isinstance(text, str) or not isinstance(name, str | None):
        raise BadInput("there is no transcript; send what is said in the recording in the field text")
    return audio, text, name


def _unpacked(text: str) -> bytes:
    """The bytes of base64, with or without the head of a data URI."""
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("the recording is not base64; send a file in a form, or base64") from None


def _backend(model: str) -> str | None:
    """The backend that a model's name means; None is the one that is set.

    Raises:
        UnknownModel: it means none.
    """
    if model in registry.BACKENDS:
        return model
    if model.startswith(OPENAI_MODELS):
        return None
    hint = closest(model, registry.BACKENDS)
    nearest = f"; did you mean {hint}?" if hint else ""
    raise UnknownModel(f"there is no model {model[:80]!r}{nearest} (the models: prosody, {', '.join(registry.BACKENDS)})")


def _voice_name(voice: str | dict[str, Any] | None) -> str | None:
    if not isinstance(voice, dict):
        return voice
    name = voice.get("id")
    if not isinstance(name, str):
        raise BadInput("voice is an object without an id; send a name, or an object with the id of a voice")
    return name


async def _voice(name: str | None, voice: Synthesizer) -> str | None:
    """The backend's voice of that name; its default for OpenAI's names that it does not have."""
    if name in OPENAI_VOICES and name not in {own.name for own in await voice.voices()}:
        return None
    return name or None
