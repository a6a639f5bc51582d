"""What is said of an error: one shape everywhere, OpenAI's, with a status for each kind."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from api.admission import Busy
from api.voice_store import DamagedVoice, StoreFailed, StoreFull, UnknownVoice
from prosody_tagger.errors import BadInput, ModelError, ProsodyError
from synth.errors import BackendError, BackendTimeout, BackendUnavailable, RefusedRequest

_log = logging.getLogger(__name__)


class UnknownModel(RefusedRequest):
    """No backend goes by this name, which stood where OpenAI's form has a model's."""


_STATUS: tuple[tuple[type[ProsodyError], int, str], ...] = (
    (UnknownVoice, 404, "voice_not_found"),
    (UnknownModel, 404, "model_not_found"),
    (DamagedVoice, 410, "voice_damaged"),
    (StoreFull, 409, "store_full"),
    (StoreFailed, 503, "store_failed"),
    (ModelError, 503, "model_unavailable"),
    (BadInput, 400, "bad_input"),
    (Busy, 503, "busy"),
    (BackendTimeout, 504, "backend_timeout"),
    (BackendUnavailable, 503, "backend_unavailable"),
    (BackendError, 502, "backend_failed"),
)
"""The first that fits counts."""


class Detail(BaseModel):
    """What was wrong, with which value, and what to do next."""

    message: str
    type: str = Field(description="invalid_request_error, authentication_error, rate_limit_error or server_error")
    code: str
    param: str | None = Field(default=None, description="The field of the request that was wrong.")


class Problem(BaseModel):
    """The answer to a request that failed."""

    error: Detail


def problem(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None, param: str | None = None
) -> JSONResponse:
    """The answer to a request that failed."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = Problem(error=Detail(message=message, type=kind, code=code, param=param))
    return JSONResponse(body.model_dump(), status, dict(headers or {}))


def of_error(error: ProsodyError) -> JSONResponse:
    """The answer that says what one of our errors says."""
    if isinstance(error, Busy):
        return problem(503, "busy", str(error), {"Retry-After": str(error.retry_after)})
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return problem(status, code, str(error))
    return problem(500, "internal_error", str(error))


async def on_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProsodyError)
    return of_error(error)


async def on_invalid(_: Request, error: Exception) -> JSONResponse:
    """A body that does not parse is 400, one with wrong fields 422. What was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
    if first["type"] == "json_invalid":
        reason = str(first.get("ctx", {}).get("error", first["msg"]))[:200]
        return problem(400, "invalid_json", f"the body is not JSON: {reason}")
    where = f"{place}: " if place else "the body: "
    return problem(422, "invalid_field", f"{where}{str(first['msg'])[:300]}", param=place or None)


async def on_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    return problem(error.status_code, codes.get(error.status_code, "bad_request"), str(error.detail), error.headers)


async def on_unexpected(request: Request, error: Exception) -> JSONResponse:
    """What nobody thought of. The log has all of it, the answer has nothing but where to look."""
    _log.error("unexpected %s", type(error).__name__, exc_info=error)
    name = request.scope.get("state", {}).get("request_id", "unknown")
    return problem(500, "internal_error", f"something went wrong here; the log has it under request {name}")


_SAID = {
    400: "The text or another value cannot be used.",
    401: "An API key is needed, or the one sent is not valid.",
    403: "Without API keys the service answers on its own machine only.",
    404: "There is nothing under this path or id.",
    405: "The path has no such method.",
    409: "There is no room for another voice.",
    410: "The voice is damaged; send it again.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    414: "The path is too long.",
    422: "A field is missing, unknown or of the wrong type.",
    429: "Too many requests; Retry-After says when to come back.",
    431: "The headers are too large.",
    500: "An error of the service itself.",
    502: "The backend failed.",
    503: "Busy, with Retry-After; or the backend, the tagger or the store is not there.",
    504: "The backend took too long.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route: the errors that it may answer with, beside those of every route."""
    every = (400, 401, 403, 405, 408, 413, 414, 422, 429, 431, 500)
    return {status: {"model": Problem, "description": _SAID[status]} for status in sorted({*every, *statuses})}
