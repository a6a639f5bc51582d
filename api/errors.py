"""Error responses: one JSON shape for every error, OpenAI's, with a status and a code for each kind."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from api.voice_store import DamagedVoice, StoreFailed, StoreFull, UnknownVoice
from prosody_tagger.errors import BadInput, ModelError, ProsodyError
from synth.errors import BackendBusy, BackendError, BackendTimeout, BackendUnavailable, RefusedRequest

_log = logging.getLogger(__name__)


class UnknownModel(RefusedRequest):
    """The request to an OpenAI endpoint names a model that means no backend."""


_STATUS: tuple[tuple[type[ProsodyError], int, str], ...] = (
    (UnknownVoice, 404, "voice_not_found"),
    (UnknownModel, 404, "model_not_found"),
    (DamagedVoice, 410, "voice_damaged"),
    (StoreFull, 409, "store_full"),
    (StoreFailed, 503, "store_failed"),
    (ModelError, 503, "model_unavailable"),
    (BadInput, 400, "bad_input"),
    (BackendBusy, 503, "busy"),
    (BackendTimeout, 504, "backend_timeout"),
    (BackendUnavailable, 503, "backend_unavailable"),
    (BackendError, 502, "backend_failed"),
    (ProsodyError, 500, "internal_error"),
)
"""Status and code of each class of error; the first class that matches counts."""

DESCRIPTIONS = {
    400: "The text or another value cannot be used; the message names it.",
    401: "An API key is needed, or the one sent is not valid.",
    403: "Without API keys the service answers requests from its own machine only.",
    404: "No such path, model or voice.",
    405: "The path does not support this method.",
    408: "The body arrived too slowly.",
    409: "There is no room for another voice; delete one first.",
    410: "The stored voice is damaged; upload it again.",
    413: "The body is too large.",
    414: "The path and the query are too long.",
    422: "A field is missing, unknown or of the wrong type; `param` names it.",
    429: "Too many requests; retry after `Retry-After` seconds.",
    431: "The headers are too large.",
    500: "Unexpected error of the service; its log has the details under the request id.",
    502: "The backend failed.",
    503: "The service or the backend is busy: retry after `Retry-After` seconds. Or the backend, the tagger or the voice store "
    "is unavailable: see `/ready`.",
    504: "The backend did not finish in time.",
}
"""What each status means, for the OpenAPI description and the documentation."""

_CODES_OF_HTTP = {404: "not_found", 405: "method_not_allowed"}  # for errors that FastAPI itself raises

_OTHER_CODES = {
    400: ("invalid_json", "invalid_content_length", "bad_request"),
    401: ("missing_api_key", "invalid_api_key"),
    403: ("no_keys_set", "wrong_host", "wrong_origin"),
    404: ("not_found",),
    405: ("method_not_allowed",),
    408: ("body_timeout",),
    413: ("body_too_large",),
    414: ("target_too_long",),
    422: ("invalid_field",),
    429: ("rate_limit_exceeded",),
    431: ("headers_too_large",),
}
"""Codes by status, beside those of `_STATUS`: of requests refused before a route handles them."""


def codes_of(status: int) -> tuple[str, ...]:
    """Return every value of ``code`` that an error with this status may have."""
    own = (code for _, of_class, code in _STATUS if of_class == status)
    return tuple(dict.fromkeys([*own, *_OTHER_CODES.get(status, ())]))


class ErrorDetail(BaseModel):
    """What was wrong, with which value, and what to do next."""

    message: str
    type: str = Field(description="invalid_request_error, authentication_error, permission_error, rate_limit_error or server_error")
    code: str
    param: str | None = Field(default=None, description="The field of the request that was wrong.")


class ErrorBody(BaseModel):
    """The response to a request that failed."""

    error: ErrorDetail


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None, param: str | None = None
) -> JSONResponse:
    """Return a response with the JSON body that every error has."""
    types = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = types.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = ErrorBody(error=ErrorDetail(message=message, type=kind, code=code, param=param))
    return JSONResponse(body.model_dump(), status, dict(headers or {}))


async def on_prosody_error(_: Request, error: Exception) -> JSONResponse:
    """Handle an error that this project raises on purpose."""
    assert isinstance(error, ProsodyError)
    status, code = next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, BackendBusy) else None
    return error_response(status, code, str(error), headers)


async def on_invalid_request(_: Request, error: Exception) -> JSONResponse:
    """Handle a body that is not JSON (400) or has wrong fields (422). The message does not repeat the values sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part != "body")[:200]
    if first["type"] == "json_invalid":
        reason = str(first.get("ctx", {}).get("error", first["msg"]))[:200]
        return error_response(400, "invalid_json", f"the body is not JSON: {reason}")
    where = f"{field}: " if field else "the body: "
    return error_response(422, "invalid_field", f"{where}{str(first['msg'])[:300]}", param=field or None)


async def on_http_exception(_: Request, error: Exception) -> JSONResponse:
    """Handle an error that FastAPI or Starlette raises, such as an unknown path."""
    assert isinstance(error, HTTPException)
    code = _CODES_OF_HTTP.get(error.status_code, "bad_request")
    return error_response(error.status_code, code, str(error.detail), error.headers)


async def on_unexpected(request: Request, error: Exception) -> JSONResponse:
    """Handle any other exception: log the traceback, and send nothing of it but the request id."""
    _log.error("unexpected %s", type(error).__name__, exc_info=error)
    request_id = request.scope.get("state", {}).get("request_id", "unknown")
    return error_response(
        500, "internal_error", f"unexpected error of the service; its log has the details under request {request_id}"
    )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route for OpenAPI: these error statuses and those that every route may return."""
    every = (400, 401, 403, 405, 408, 413, 414, 422, 429, 431, 500)
    return {status: {"model": ErrorBody, "description": DESCRIPTIONS[status]} for status in sorted({*every, *statuses})}
