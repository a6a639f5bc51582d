"""Error responses of each dialect."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .options import Dialect

CHAT_PATH = "/v1/chat/completions"


class ApiError(Exception):
    """A refused request: HTTP status, the dialect's type of the error, and its message."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message


def invalid(message: str) -> ApiError:
    return ApiError(400, "invalid_request_error", message)


def unauthorized() -> ApiError:
    return ApiError(401, "authentication_error", "invalid or missing API key")


def error_body(error: ApiError, dialect: "Dialect", path: str) -> dict[str, Any]:
    """Return the JSON of an error response: Boson gives message and type, the others follow vLLM."""
    if dialect == "boson" and path != CHAT_PATH:
        return {"error": {"message": error.message, "type": error.kind}}
    if error.status == 401:
        return {"error": "Unauthorized"}
    kind = "BadRequestError" if error.kind == "invalid_request_error" else error.kind
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.status}}
