"""The fake as an ASGI application."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from . import boson, chat, control, openai_speech
from .api_error import ApiError, error_body, invalid
from .middleware import RecordingMiddleware
from .options import Options
from .state import CONTROL, Fake


def create_app(options: Options | None = None) -> RecordingMiddleware:
    """Return the application; its ``state`` is the `Fake`. It can break connections only if `serve` runs it."""
    fake = Fake(options or Options())
    app = FastAPI(title="Fake Higgs server", openapi_url=None)
    app.include_router(chat.router(fake), prefix="/v1")
    speech = {"boson": boson.router, "boson-chat": chat.speech_router, "openai-speech": openai_speech.router}
    app.include_router(speech[fake.options.dialect](fake), prefix="/v1")
    app.include_router(control.router(fake), prefix=CONTROL)

    def refuse(request: Request, refusal: ApiError) -> JSONResponse:
        return JSONResponse(error_body(refusal, fake.options.dialect, request.url.path), refusal.status)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return refuse(request, error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return refuse(request, invalid(f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        return refuse(request, ApiError(error.status_code, kind, str(error.detail)))

    return RecordingMiddleware(app, fake)
