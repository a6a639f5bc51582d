"""The application: settings, guards and endpoints put together, for `prosody serve` or ``uvicorn --factory``."""

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
from api import errors as problems
from api.middleware import Watch
from api.rate_limit import RateLimits
from api.routes import health as operations
from api.routes import openai
from api.routes import speech as speak
from api.security import PUBLIC, Guard
from api.service import ClientGone, Service
from api.settings import ApiSettings, load_api_settings
from prosody_tagger.errors import ProsodyError

DOCS = ("/docs", "/openapi.json", *(f"/swagger/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")))
"""They hold nothing that this project's sources do not, and a browser cannot send a key for them."""

UPLOADS = ("/measure", "/v1/audio/voices")


def create_app(settings: Settings | None = None, api: ApiSettings | None = None) -> FastAPI:
    """The service, by default with the settings of the environment.

    Raises:
        BadInput: a setting that cannot be used, or a service that others would reach without a key.
    """
    api = api or load_api_settings()
    service = Service(Runtime(settings or load_settings(fallback="none")), api)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.load()
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
    patch_fastapi(app)  # /docs with files of ours: FastAPI's own loads them from a network that may not be there
    app.state.service = service
    for part in (speak, openai, operations):
        app.include_router(part.router)
    app.add_exception_handler(ProsodyError, problems.on_error)
    app.add_exception_handler(RequestValidationError, problems.on_invalid)
    app.add_exception_handler(HTTPException, problems.on_http)
    app.add_exception_handler(ClientGone, _on_gone)
    app.add_exception_handler(Exception, problems.on_unexpected)
    _describe(app)

    # The last added is the outermost.
    limits = RateLimits(api)
    app.add_middleware(
        Guard,
        settings=api,
        refuse=_refuse,
        host=api.host,
        check=limits.check if limits else None,
        public=(*PUBLIC, *DOCS),
        uploads=UPLOADS,
    )
    app.add_middleware(Watch, metrics=service.metrics)
    if api.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(api.origins), allow_methods=["*"], allow_headers=["*"], expose_headers=["*"]
        )
    return app


def _refuse(status: int, code: str, message: str, headers: Mapping[str, str]) -> Response:
    return problems.problem(status, code, message, headers)


async def _on_gone(request: Request, _: Exception) -> Response:
    """Nobody reads this."""
    request.scope.setdefault("state", {})["gone"] = True
    return Response(status_code=499)


def _describe(app: FastAPI) -> None:
    """Complete what FastAPI cannot know: the key that may be asked for, and the bodies that the routes read themselves."""
    make = app.openapi

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            found = make()
            from api.schemas import SpeakRequest

            found["components"]["schemas"]["SpeakRequest"] = SpeakRequest.model_json_schema(
                ref_template="#/components/schemas/{model}"
            )
            found["components"]["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "description": "One of PROSODY_API__KEYS, where some are set."}
            }
            found["security"] = [{"bearer": []}, {}]
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
