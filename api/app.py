"""The application: settings, middleware and routes put together, for `prosody serve` or ``uvicorn --factory``."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from ai_core.runtime import Runtime
from ai_core.settings import Settings, load_settings
from api import errors
from api.middleware import RequestMiddleware
from api.openapi import complete_openapi
from api.rate_limit import RateLimits
from api.routes import health, openai, speech
from api.security_middleware import PUBLIC_PATHS, SecurityMiddleware
from api.service import ClientDisconnected, Service
from api.settings import ApiSettings, load_api_settings
from prosody_tagger.errors import ProsodyError
from synth.base import Synthesizer

DOC_PATHS = (
    "/docs",
    "/openapi.json",
    *(f"/swagger/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")),
)
"""Public: static content only, and browsers cannot attach an API key to such requests."""

UPLOAD_PATHS = ("/measure", "/v1/audio/voices")


def create_app(
    settings: Settings | None = None, api: ApiSettings | None = None, backends: Mapping[str, Synthesizer] | None = None
) -> FastAPI:
    """Create the service, by default with the settings of the environment.

    ``backends`` are ready-made ones by name, beside those of `synth.registry`.

    Raises:
        BadInput: a setting that cannot be used, or a service without keys that other machines could reach.
    """
    api = api or load_api_settings()
    service = Service(Runtime(settings or load_settings(fallback="none"), backends), api)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start_warm_up()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="prosody-speech",
        summary="Speech that stresses the right words and pauses in the right places, and proof that it did.",
        version=version("prosody-speech"),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    patch_fastapi(app)  # serves the files of /docs itself; FastAPI's own page loads them from a CDN
    app.state.service = service
    for routes in (speech, openai, health):
        app.include_router(routes.router)
    app.add_exception_handler(ProsodyError, errors.on_prosody_error)
    app.add_exception_handler(RequestValidationError, errors.on_invalid_request)
    app.add_exception_handler(HTTPException, errors.on_http_exception)
    app.add_exception_handler(ClientDisconnected, _on_disconnect)
    app.add_exception_handler(Exception, errors.on_unexpected)
    complete_openapi(app)

    # The middleware added last is the outermost.
    limits = RateLimits(api)
    app.add_middleware(
        SecurityMiddleware,
        settings=api,
        refuse=_refuse,
        host=api.host,
        check=limits.check if limits else None,
        public=(*PUBLIC_PATHS, *DOC_PATHS),
        uploads=UPLOAD_PATHS,
    )
    app.add_middleware(RequestMiddleware, metrics=service.metrics)
    if api.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(api.origins), allow_methods=["*"], allow_headers=["*"], expose_headers=["*"]
        )
    return app


def _refuse(status: int, code: str, message: str, headers: Mapping[str, str]) -> Response:
    return errors.error_response(status, code, message, headers)


async def _on_disconnect(request: Request, _: Exception) -> Response:
    """Return a response for the log only: the client has disconnected."""
    request.scope.setdefault("state", {})["disconnected"] = True
    return Response(status_code=499)
