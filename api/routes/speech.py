"""The project's own endpoints: speak, mark and measure a text, and what each backend does with each mark."""

import asyncio
import base64
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from ai_core.alignment import ALIGNMENT_BACKEND
from ai_core.job import Job, Result, check_length
from ai_core.measurement import measure_recording
from ai_core.pipeline import tag_whole
from ai_core.reply.write import reply_job
from ai_core.results import marks_json, result_json
from api.errors import documented
from api.openapi import AUDIO_RESPONSE, SPEAK_BODY, SSML_TYPE
from api.responses import encode_file, result_headers, streaming_response
from api.schemas import AudioFormat, MarkedOut, MarkRequest, MeasuredOut, SpeakRequest, SpeechOptions, SpokenOut
from api.service import MARKING, MEASURING, ServiceDep, cancel_on_disconnect
from prosody_tagger.density import DENSITIES
from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS, PAUSE_MS, MarkedText, parse, render
from synth import registry
from synth.audio.encoding import MEDIA_TYPES
from synth.base import Audio
from synth.errors import BackendUnavailable

router = APIRouter(tags=["speech"])


@router.post(
    "/speak",
    response_model=SpokenOut,
    responses={**documented(404, 409, 410, 502, 503, 504), 200: AUDIO_RESPONSE},
    openapi_extra=SPEAK_BODY,
    summary="Speak a text, or a reply",
)
async def speak(request: Request, service: ServiceDep) -> Response:
    """Speaks `text`, or a reply to `input` that makes the `points`. The tagger marks plain text; with `marked`, the text is spoken
    with its own marks. A body of type `application/ssml+xml` is SSML, and the other fields are in the query.

    Returns the audio, with details in headers. With `Accept: application/json`, returns one object with the audio, the details and
    the time of each word."""
    asked, text = await _read_speak_request(request)
    accepted = request.headers.get("accept", "")
    as_json, as_events = "application/json" in accepted, "text/event-stream" in accepted
    reference = await service.reference(asked.voice)
    job = Job(
        text,
        intensity=asked.intensity,
        density=asked.density,
        strength=asked.strength,
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
        spoken_job, reply = job, None
        if asked.input is not None:
            check_length(asked.input, service.settings)
            written, spoken_job = await reply_job(asked.input, asked.points, job, service.settings)
            reply = written.text
        if as_events or (asked.stream and not as_json):
            length = len(spoken_job.marked.text)
            return await streaming_response(service.speak(spoken_job), asked.format, length, events=as_events, reply=reply)
        result = await service.collect(spoken_job)
        data = await encode_file(result.audio, asked.format)
        if as_json:
            return Response(_spoken(result, data, asked.format, reply).model_dump_json(), media_type="application/json")
        return Response(data, 200, result_headers(result, reply), MEDIA_TYPES[asked.format])

    return await cancel_on_disconnect(request, work)


async def _read_speak_request(request: Request) -> tuple[SpeakRequest, str | MarkedText]:
    """Return the request and its text: plain, or with marks that are its own. The options of SSML are in the query.

    Raises:
        RequestValidationError: the body is not JSON, or has wrong fields.
        BadInput: SSML or marked text that does not parse.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    try:
        if kind == SSML_TYPE:
            from prosody_tagger.ssml import from_ssml

            options = SpeechOptions.model_validate(dict(request.query_params))
            try:
                source = body.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadInput(f"the SSML is not UTF-8 at byte {error.start}; send it as UTF-8") from None
            marked = from_ssml(source)
            return SpeakRequest.model_construct(
                **options.model_dump(), text=marked.text, marked=True, input=None, points=[]
            ), marked
        asked = SpeakRequest.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from None
    if asked.text is None:
        return asked, ""
    return asked, parse(asked.text) if asked.marked else asked.text


def _spoken(result: Result, data: bytes, audio_format: AudioFormat, reply: str | None) -> SpokenOut:
    return SpokenOut(
        **result_json(result, base64.b64encode(data).decode()),
        format=audio_format,
        media_type=MEDIA_TYPES[audio_format],
        reply=reply,
        report=result.report.as_dict() if result.report else None,
    )


@router.post("/mark", responses=documented(503, 504), summary="Mark a text", response_model_exclude_defaults=True)
async def mark(request: Request, asked: MarkRequest, service: ServiceDep) -> MarkedOut:
    """Returns where the tagger would stress words and pause. `warnings` is only there if there are any."""
    check_length(asked.text, service.settings)
    job = Job(asked.text, intensity=asked.intensity, density=asked.density)

    async def work() -> MarkedOut:
        async with service.scheduler.limiter(MARKING).permit():
            tagged = await tag_whole(job, service.runtime)
        marked, marks = tagged.marked, marks_json(tagged.marked, tagged.scores)
        return MarkedOut(text=marked.text, marked=render(marked), marks=marks, warnings=list(tagged.warnings))  # type: ignore[arg-type]

    return await cancel_on_disconnect(request, work)


@router.post("/measure", responses=documented(502, 503, 504), summary="Measure the marks in a recording")
async def measure(
    request: Request,
    service: ServiceDep,
    audio: Annotated[UploadFile, File(description="The recording: wav, flac, mp3 or opus.")],
    text: Annotated[str, Form(description="Its transcript, with marks.")],
    reference: Annotated[UploadFile | None, File(description="The same text in the same voice, without marks.")] = None,
    language: Annotated[str | None, Form(description="Language of the text, a BCP 47 tag.", max_length=35)] = None,
) -> MeasuredOut:
    """Returns for each mark whether it is audible, with the measured values."""
    marked = parse(text)
    check_length(marked.text, service.settings)
    recording = await _decode_upload(audio)
    unmarked = None if reference is None else await _decode_upload(reference)

    async def work() -> MeasuredOut:
        async with service.scheduler.limiter(MEASURING).permit():
            report, alignment, warnings = await measure_recording(recording, marked, unmarked, language, service.runtime)
        return MeasuredOut(
            text=marked.text,
            marked=render(marked),
            trusted=alignment.trusted,
            confidence=round(alignment.confidence, 4),
            warnings=warnings,
            **report.as_dict(),
        )

    return await cancel_on_disconnect(request, work)


async def _decode_upload(upload: UploadFile) -> Audio:
    from synth.audio.decoding import decode

    return await asyncio.to_thread(decode, await upload.read())


@router.get("/v1/prosody", responses=documented(), summary="What each backend does with each mark")
async def prosody(service: ServiceDep) -> dict[str, Any]:
    """Returns the marks, the values of the options, and for each backend whether it is ready and how it supports each mark:
    `native` (the model obeys it), `rendered` (the engine's controls render it), `realised` (in the audio) or `dropped`."""
    settings = service.settings
    return {
        "marks": {kind: {"notation": f"<{kind}>", "ms": PAUSE_MS.get(kind)} for kind in KINDS},
        "intensities": list(DENSITIES),
        "densities": dict(DENSITIES),
        "strengths": list(DENSITIES),
        "formats": list(MEDIA_TYPES),
        "max_chars": settings.max_chars,
        "sample_rate": settings.rate,
        "default_backend": settings.backend,
        "fallback": settings.fallback,
        "word_guide": ALIGNMENT_BACKEND,
        "backends": {name: _backend_info(name, service) for name in registry.BACKENDS},
    }


def _backend_info(name: str, service: ServiceDep) -> dict[str, Any]:
    about = registry.BACKENDS[name].about
    try:
        backend = service.runtime.backend(name)
    except BackendUnavailable as error:
        return {"about": about, "ready": False, "detail": str(error)}
    capabilities, reason = backend.capabilities, backend.unready()
    return {
        "about": about,
        "ready": reason is None,
        "detail": reason,
        "marks": dict(capabilities.marks),
        "sample_rate": capabilities.rate,
        "languages": list(capabilities.languages),
        "max_chars": capabilities.max_chars,
        "streaming": capabilities.streaming,
        "word_times": capabilities.word_times,
        "reference_voices": capabilities.references,
    }
