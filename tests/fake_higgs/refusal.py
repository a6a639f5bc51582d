"""How each dialect says no."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .options import Dialect

CHAT_PATH = "/v1/chat/completions"


class Refusal(Exception):
    """A request that the server does not fulfil: HTTP status, the dialect's name for the error, what is said of it."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message


def invalid(message: str) -> Refusal:
    return Refusal(400, "invalid_request_error", message)


def unauthorized() -> Refusal:
    return Refusal(401, "authentication_error", "invalid or missing API key")


def error_body(refusal: Refusal, dialect: "Dialect", path: str) -> dict[str, Any]:
    """The JSON of an answer that says no: Boson gives message and type, the others do as vLLM."""
    if dialect == "boson" and path != CHAT_PATH:
        return {"error": {"message": refusal.message, "type": refusal.kind}}
    if refusal.status == 401:
        return {"error": "Unauthorized"}
    kind = "BadRequestError" if refusal.kind == "invalid_request_error" else refusal.kind
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": refusal.status}}
