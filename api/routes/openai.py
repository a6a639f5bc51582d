"""Endpoints compatible with OpenAI's API, so that its clients work unchanged: speech, models, voices."""

import asyncio
import base64
import binascii
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from ai_core.job import Job, check_length
from api.errors import UnknownModel, documented
from api.openapi import AUDIO_RESPONSE, VOICE_BODY
from api.responses import streaming_response
from api.schemas import DeletedOut, ModelList, ModelOut, OpenAISpeechRequest, VoiceList, VoiceOut
from api.service import ServiceDep, cancel_on_disconnect
from api.voice_store import StoredVoice
from prosody_tagger.errors import BadInput
from prosody_tagger.markup import closest, parse
from synth import registry
from synth.base import Synthesizer

router = APIRouter(prefix="/v1", tags=["OpenAI's API"])

OPENAI_VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
)  # fmt: skip
"""Clients send these to any server. A backend without a voice of that name uses its default voice."""

OPENAI_MODELS = ("tts-1", "gpt-4o", "prosody")
"""Prefixes of model names that mean the backend of the settings."""


@router.post(
    "/audio/speech",
    responses={**documented(404, 409, 410, 502, 503, 504), 200: AUDIO_RESPONSE},
    response_class=Response,
    summary="Speak a text, as OpenAI does",
)
async def speech(request: Request, asked: OpenAISpeechRequest, service: ServiceDep) -> Response:
    """Speaks `input` and streams the audio sentence by sentence; with `stream_format: sse` as events. The input is plain text
    unless
    `marked` says that it contains marks."""
    backend = _backend_name(asked.model)
    name = _voice_name(asked.voice)
    reference = await service.reference(name)
    voice = None if reference else await _known_voice(name, service.runtime.backend(backend or service.settings.backend))
    check_length(asked.input, service.settings)
    job = Job(
        parse(asked.input) if asked.marked else asked.input,
        intensity=asked.intensity,
        density=asked.density,
        strength=asked.strength,
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
        return await streaming_response(service.speak(job), asked.response_format, length, events=asked.stream_format == "sse")

    return await cancel_on_disconnect(request, work)


@router.get("/models", responses=documented(), summary="List the backends as models")
async def models() -> ModelList:
    return ModelList(data=[ModelOut(id="prosody"), *(ModelOut(id=name) for name in registry.BACKENDS), ModelOut(id="tts-1")])


@router.get("/models/{model}", responses=documented(404), summary="One model")
async def model(model: str) -> ModelOut:
    _backend_name(model)
    return ModelOut(id=model)


@router.get("/audio/voices", responses=documented(502, 503, 504), summary="List the voices of a backend and the uploaded voices")
async def voices(service: ServiceDep, backend: Annotated[str | None, Query(max_length=100)] = None) -> VoiceList:
    name = backend or service.settings.backend
    own = await service.runtime.backend(name).voices()
    stored = await asyncio.to_thread(service.store.list)
    data = [VoiceOut(id=v.name, name=v.name, language=v.language, description=v.description) for v in own]
    data += map(_uploaded, stored)
    return VoiceList(backend=name, data=data, voices=[voice.id for voice in data])


@router.post("/audio/voices", status_code=201, responses=documented(409, 503), openapi_extra=VOICE_BODY, summary="Upload a voice")
async def add_voice(request: Request, service: ServiceDep) -> VoiceOut:
    """Stores a recording to speak in, for backends that can. The same recording and transcript have the same id."""
    audio, text, name = await _read_upload(request)
    return _uploaded(await asyncio.to_thread(service.store.add, audio, text, name))


@router.delete("/audio/voices/{voice}", responses=documented(404, 503), summary="Delete an uploaded voice")
async def delete_voice(voice: str, service: ServiceDep) -> DeletedOut:
    await asyncio.to_thread(service.store.delete, voice)
    return DeletedOut(id=voice)


def _uploaded(voice: StoredVoice) -> VoiceOut:
    return VoiceOut(
        id=voice.id,
        name=voice.name or voice.id,
        language=None,
        description="uploaded",
        seconds=round(voice.seconds, 3),
        created=int(voice.created),
    )


_FIELDS = {"audio": ("audio", "ref_audio", "audio_sample", "file"), "text": ("text", "ref_text"), "name": ("name", "title")}
"""Names of each field of an upload, here and in compatible servers."""


async def _read_upload(request: Request) -> tuple[bytes, str, str | None]:
    """Return recording, transcript and name, from a form or from JSON.

    Raises:
        BadInput: the body is neither, or recording or transcript are missing.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields: dict[str, Any] = {}
    if kind == "multipart/form-data":
        async with request.form(max_files=4, max_fields=16) as form:
            for key, value in form.items():
                fields[key] = value if isinstance(value, str) else await value.read()
    elif kind == "application/json":
        try:
            body = await request.json()
        except (ValueError, RecursionError):
            raise BadInput("the body is not JSON") from None
        fields = body if isinstance(body, dict) else {}
    else:
        raise BadInput(f"the content type is {kind[:80]!r}; send a form (multipart/form-data) with audio and text, or JSON")
    audio, text, name = (next((fields[key] for key in names if key in fields), None) for names in _FIELDS.values())
    if isinstance(audio, str):
        audio = _decode_base64(audio)
    if not isinstance(audio, bytes):
        raise BadInput("there is no recording; send it in the field audio")
    if not isinstance(text, str) or not isinstance(name, str | None):
        raise BadInput("there is no transcript; send it in the field text")
    return audio, text, name


def _decode_base64(text: str) -> bytes:
    """Return the bytes of base64 text or of a data URI."""
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("the recording is not base64; send a file in a form, or base64") from None


def _backend_name(model: str) -> str | None:
    """Return the backend that a model name means; None for the one of the settings.

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


async def _known_voice(name: str | None, backend: Synthesizer) -> str | None:
    """Return ``name``, or None, the backend's default, for a voice of OpenAI that the backend does not have."""
    if name in OPENAI_VOICES and name not in {voice.name for voice in await backend.voices()}:
        return None
    return name or None
