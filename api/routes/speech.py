"""The endpoints of this project's own form: speak, mark, measure, and what becomes of each mark."""

import base64
from typing import Annotated, Any

import fastapi
from fastapi import APIRouter, File, Request, Response, UploadFile
from pydantic import ValidationError

from ai_core.alignment import ALIGNMENT_BACKEND
from ai_core.job import Job, Result, check_length
from ai_core.measurement import measure_recording
from ai_core.pipeline import tag_whole
from ai_core.reply.write import reply_job
from ai_core.results import marks_json, result_json
from api.errors import documented
from api.responses import SOUND, coded, headers_of, stream_answer
from api.schemas import Form, Manner, Marked, MarkRequest, Measured, SpeakRequest, Spoken
from api.service import MARKING, MEASURING, Here, unless_gone
from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS, PAUSE_MS, MarkedText, parse, render
from synth import registry
from synth.audio.encoding import MEDIA_TYPES
from synth.base import Audio
from synth.errors import BackendUnavailable

SSML = "application/ssml+xml"

router = APIRouter(tags=["speech"])


async def spoken_request(request: Request) -> tuple[SpeakRequest, str | MarkedText]:
    """The request, and its text as it is to be read: SSML, marked, or plain. Of SSML the manner stands in the query."""
    from fastapi.exceptions import RequestValidationError

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    try:
        if kind == SSML:
            from prosody_tagger.ssml import from_ssml

            manner = Manner.model_validate(dict(request.query_params))
            try:
                source = body.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadInput(f"the SSML is not UTF-8 at byte {error.start}; send it as UTF-8") from None
            marked = from_ssml(source)
            return SpeakRequest.model_construct(**manner.model_dump(), text=marked.text, marked=True, input=None, points=[]), marked
        asked = SpeakRequest.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from None
    if asked.text is None:
        return asked, ""
    return asked, parse(asked.text) if asked.marked else asked.text


_SSML_EXAMPLE = '<speak>It costs <emphasis>nine</emphasis> dollars.<break time="300ms"/></speak>'
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/SpeakRequest"}},
            SSML: {"schema": {"type": "string"}, "example": _SSML_EXAMPLE},
        },
    }
}


@router.post(
    "/speak",
    response_model=Spoken,
    responses={**documented(404, 409, 410, 502, 503, 504), 200: SOUND},
    openapi_extra=_BODY,
    summary="Speak a text, or a reply",
)
async def speak(request: Request, service: Here) -> Response:
    """Speaks `text`, or a reply to `input` that makes the `points`. The tagger marks plain text; with `marked` it is spoken with
    its own marks; as `application/ssml+xml` it is SSML, and everything else stands in the query.

    Answers with the audio, and what was done in headers; with `Accept: application/json` with one object that holds both, and when
    each word is heard."""
    asked, text = await spoken_request(request)
    accepted = request.headers.get("accept", "")
    as_json, as_events = "application/json" in accepted, "text/event-stream" in accepted
    reference = await service.reference(asked.voice)
    job = Job(
        text,
        intensity=asked.intensity,
        backend=asked.backend,
        voice=None if reference else asked.voice,
        speed=asked.speed,
        seed=asked.seed,
        reference=reference,
        language=asked.language,
        realise=asked.realise,
        report=asked.report and not as_events and not (asked.stream and not as_json),
        times=as_json or as_events or asked.report,
    )

    async def work() -> Response:
        spoken, reply = job, None
        if asked.input is not None:
            check_length(asked.input, service.settings)
            written, spoken = await reply_job(asked.input, asked.points, job, service.settings)
            reply = written.text
        if as_events or (asked.stream and not as_json):
            length = len(spoken.marked.text)
            return await stream_answer(service.speak(spoken), asked.format, length, events=as_events, reply=reply)
        result = await service.collect(spoken)
        data = await coded(result.audio, asked.format)
        if as_json:
            return Response(spoken_json(result, data, asked.format, reply).model_dump_json(), media_type="application/json")
        return Response(data, 200, headers_of(result, reply), MEDIA_TYPES[asked.format])

    return await unless_gone(request, work)


def spoken_json(result: Result, data: bytes, form: Form, reply: str | None) -> Spoken:
    """The answer as one object."""
    return Spoken(
        **result_json(result, base64.b64encode(data).decode()),
        format=form,
        media_type=MEDIA_TYPES[form],
        reply=reply,
        report=result.report.as_dict() if result.report else None,
    )


@router.post("/mark", responses=documented(503, 504), summary="Mark a text", response_model_exclude_defaults=True)
async def mark(request: Request, asked: MarkRequest, service: Here) -> Marked:
    """Where the tagger would stress words and pause. `warnings` stands there where there are any."""
    check_length(asked.text, service.settings)

    async def work() -> Marked:
        async with service.stage.gate(MARKING).place():
            tagged = await tag_whole(Job(asked.text, intensity=asked.intensity), service.runtime)
        marked, marks = tagged.marked, marks_json(tagged.marked, tagged.scores)
        return Marked(text=marked.text, marked=render(marked), marks=marks, warnings=list(tagged.warnings))  # type: ignore[arg-type]

    return await unless_gone(request, work)


@router.post("/measure", responses=documented(502, 503, 504), summary="Is each mark heard in a recording?")
async def measure(
    request: Request,
    service: Here,
    audio: Annotated[UploadFile, File(description="The recording: wav, flac, mp3 or opus.")],
    text: Annotated[str, fastapi.Form(description="What is said in it, with its marks.")],
    reference: Annotated[UploadFile | None, File(description="The same text in the same voice, without marks.")] = None,
    language: Annotated[str | None, fastapi.Form(description="What is spoken, a BCP 47 tag.", max_length=35)] = None,
) -> Measured:
    """Tells for each mark whether it is heard, with the figures behind it."""
    marked = parse(text)
    check_length(marked.text, service.settings)
    sound = await _sound(audio)
    plain = None if reference is None else await _sound(reference)

    async def work() -> Measured:
        async with service.stage.gate(MEASURING).place():
            report, found, warnings = await measure_recording(sound, marked, plain, language, service.runtime)
        return Measured(
            text=marked.text,
            marked=render(marked),
            trusted=found.trusted,
            confidence=round(found.confidence, 4),
            warnings=warnings,
            **report.as_dict(),
        )

    return await unless_gone(request, work)


async def _sound(upload: UploadFile) -> Audio:
    import asyncio

    from synth.audio.decoding import decode

    return await asyncio.to_thread(decode, await upload.read())


@router.get("/v1/prosody", responses=documented(), summary="What each backend does with each mark")
async def prosody(service: Here) -> dict[str, Any]:
    """The marks, and for each backend whether it is ready and what becomes of each mark: `native` (the model obeys it), `rendered`
    (controls of the engine do), `realised` (made in the audio afterwards) or `dropped`."""
    backends = {}
    for name, backend in registry.BACKENDS.items():
        try:
            voice = service.runtime.backend(name)
        except BackendUnavailable as error:
            backends[name] = {"about": backend.about, "ready": False, "detail": str(error)}
            continue
        able, why = voice.capabilities, voice.unready()
        backends[name] = {
            "about": backend.about,
            "ready": why is None,
            "detail": why,
            "marks": dict(able.marks),
            "sample_rate": able.rate,
            "languages": list(able.languages),
            "max_chars": able.max_chars,
            "streaming": able.streaming,
            "word_times": able.word_times,
            "reference_voices": able.references,
        }
    settings = service.settings
    return {
        "marks": {kind: {"notation": f"<{kind}>", "ms": PAUSE_MS.get(kind)} for kind in KINDS},
        "intensities": ["low", "medium", "high"],
        "formats": list(MEDIA_TYPES),
        "max_chars": settings.max_chars,
        "sample_rate": settings.rate,
        "default_backend": settings.backend,
        "fallback": settings.fallback,
        "word_guide": ALIGNMENT_BACKEND,
        "backends": backends,
    }
