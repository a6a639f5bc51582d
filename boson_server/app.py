"""The HTTP application: OpenAI's speech API, lists of models and voices, and health checks."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from .encoding import MEDIA_TYPES, encode, pcm
from .middleware import RequestFilter
from .request import RequestRefused, SpeechBody, VoiceRecording, invalid, speech_job
from .worker import EngineWorker, SpeechEngine

_LOG = logging.getLogger("boson_server")
NO_VOICE = "default"
"""Name of the voice without a recording; the model chooses the speaker."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of the server.

    Attributes:
        name: name of the model, which requests must contain.
        voices: recordings of voices, by name.
        key: API key that clients must send as a bearer token; None allows all requests.
        waiting: most requests that wait while one is being generated.
        max_body: largest request body, in bytes.
    """

    name: str = "bosonai/higgs-audio-v2-generation-3B-base"
    voices: Mapping[str, VoiceRecording] = field(default_factory=dict)
    key: str | None = field(default=None, repr=False)
    waiting: int = 8
    max_body: int = 16_000_000


def create_app(load: Callable[[], SpeechEngine], options: ServerOptions) -> ASGIApp:
    """Return the application. ``load`` makes the engine; it runs in the worker's thread when the application starts."""
    worker = EngineWorker(load, options.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.close()

    app = FastAPI(title="boson_multimodal", openapi_url=None, lifespan=lifespan)

    @app.post("/v1/audio/speech")
    async def speech(body: SpeechBody) -> Response:
        if body.model != options.name:
            raise RequestRefused(404, "NotFoundError", f"there is no model {body.model[:80]!r}; this is {options.name}")
        job = speech_job(body, _requested_voice(body, options.voices))
        audio = worker.speak(job)
        if not body.stream:
            async with aclosing(audio):
                chunks = [chunk async for chunk in audio]
            samples = np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.float32)
            if not len(samples):
                raise _empty_audio_error()
            return Response(encode(samples, worker.rate, body.response_format), headers=_headers(body.response_format, worker.rate))
        first = await anext(audio, None)  # an error before the first chunk still gets its own HTTP status
        if first is None:
            raise _empty_audio_error()
        return PcmStreamResponse(_pcm_chunks(first, audio), _headers("pcm", worker.rate))

    @app.get("/v1/audio/voices")
    async def voices() -> dict[str, list[str]]:
        return {"voices": [NO_VOICE, *sorted(options.voices)]}

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [{"id": options.name, "object": "model", "owned_by": "boson_multimodal"}]}

    @app.get("/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        reason = worker.unready
        return JSONResponse({"ready": reason is None} | ({"why": reason} if reason else {}), 200 if reason is None else 503)

    @app.exception_handler(RequestRefused)
    async def refused(request: Request, error: RequestRefused) -> JSONResponse:
        return _error_response(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _error_response(invalid(f"{'.'.join(str(part) for part in first['loc'])[:80]}: {first['msg'][:200]}"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return _error_response(RequestRefused(error.status_code, "invalid_request_error", str(error.detail)))

    return RequestFilter(app, options.key, options.max_body)


class PcmStreamResponse(Response):
    """Streams audio as it is generated, and closes the generator when the response ends for any reason."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._chunks):
            async for chunk in self._chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _pcm_chunks(first: np.ndarray, audio: AsyncGenerator[np.ndarray, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(audio):
        yield pcm(first)
        async for chunk in audio:
            yield pcm(chunk)


def _requested_voice(body: SpeechBody, voices: Mapping[str, VoiceRecording]) -> VoiceRecording | None:
    if body.voice is None or body.voice == NO_VOICE or body.ref_audio is not None:
        return None
    if body.voice not in voices:
        raise invalid(f"there is no voice {body.voice[:80]!r}; GET /v1/audio/voices lists them")
    return voices[body.voice]


def _empty_audio_error() -> RequestRefused:
    return RequestRefused(500, "server_error", "the model generated nothing; try again, with another seed if one was given")


def _headers(audio_format: str, rate: int) -> dict[str, str]:
    return {"content-type": MEDIA_TYPES[audio_format], "x-sample-rate": str(rate)}


def _error_response(error: RequestRefused) -> JSONResponse:
    _LOG.info("refused: %s %s", error.status, error.kind)
    body = {"error": {"message": error.message, "type": error.kind, "param": None, "code": error.status}}
    return JSONResponse(body, error.status, {"retry-after": str(error.retry_after)} if error.retry_after is not None else None)
