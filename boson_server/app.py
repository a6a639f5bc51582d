"""The HTTP service: OpenAI's speech form, and whether it is ready."""

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

from .encoding import MEDIA, encode, pcm
from .middleware import Front
from .request import Recording, Refusal, SpeechBody, invalid, order_of
from .worker import Engine, Worker

_LOG = logging.getLogger("boson_server")
NO_VOICE = "default"
"""The voice of the model's own choosing."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the server behaves.

    Attributes:
        name: the model's name, which requests must give.
        voices: recordings to speak in, by name.
        key: what clients must send as a bearer token; None lets everybody in.
        waiting: most requests that wait while one is spoken.
        max_body: bytes of the longest body.
    """

    name: str = "bosonai/higgs-audio-v2-generation-3B-base"
    voices: Mapping[str, Recording] = field(default_factory=dict)
    key: str | None = field(default=None, repr=False)
    waiting: int = 8
    max_body: int = 16_000_000


def create_app(load: Callable[[], Engine], options: Options) -> ASGIApp:
    """The application; ``load`` makes the engine, in a thread, once the application starts."""
    worker = Worker(load, options.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.close()

    app = FastAPI(title="boson_multimodal", openapi_url=None, lifespan=lifespan)

    @app.post("/v1/audio/speech")
    async def speech(body: SpeechBody) -> Response:
        if body.model != options.name:
            raise Refusal(404, "NotFoundError", f"there is no model {body.model[:80]!r}; this is {options.name}")
        order = order_of(body, _recording(body, options.voices))
        sound = worker.speak(order)
        if not body.stream:
            async with aclosing(sound):
                pieces = [piece async for piece in sound]
            samples = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)
            if not len(samples):
                raise _silent()
            return Response(encode(samples, worker.rate, body.response_format), headers=_headers(body.response_format, worker.rate))
        first = await anext(sound, None)  # a failure before the first sound still has a status of its own
        if first is None:
            raise _silent()
        return SoundStream(_streamed(first, sound), _headers("pcm", worker.rate))

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
        why = worker.unready
        return JSONResponse({"ready": why is None} | ({"why": why} if why else {}), 200 if why is None else 503)

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return _refusal(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _refusal(invalid(f"{'.'.join(str(part) for part in first['loc'])[:80]}: {first['msg'][:200]}"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return _refusal(Refusal(error.status_code, "invalid_request_error", str(error.detail)))

    return Front(app, options.key, options.max_body)


class SoundStream(Response):
    """Sound as it is made; the generator is closed however the answer ends."""

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


async def _streamed(first: np.ndarray, sound: AsyncGenerator[np.ndarray, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(sound):
        yield pcm(first)
        async for piece in sound:
            yield pcm(piece)


def _recording(body: SpeechBody, voices: Mapping[str, Recording]) -> Recording | None:
    if body.voice is None or body.voice == NO_VOICE or body.ref_audio is not None:
        return None
    if body.voice not in voices:
        raise invalid(f"there is no voice {body.voice[:80]!r}; GET /v1/audio/voices lists them")
    return voices[body.voice]


def _silent() -> Refusal:
    return Refusal(500, "server_error", "the model spoke nothing; try again, with another seed if one was given")


def _headers(form: str, rate: int) -> dict[str, str]:
    return {"content-type": MEDIA[form], "x-sample-rate": str(rate)}


def _refusal(error: Refusal) -> JSONResponse:
    _LOG.info("refused: %s %s", error.status, error.kind)
    body = {"error": {"message": error.message, "type": error.kind, "param": None, "code": error.status}}
    return JSONResponse(body, error.status, {"retry-after": str(error.retry_after)} if error.retry_after is not None else None)
