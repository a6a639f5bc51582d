"""What stands before the application: the key, the size of a body, and a client that leaves."""

import asyncio
import hmac
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OPEN = ("/live", "/ready")


class Front:
    """ASGI middleware.

    Args:
        app: what answers.
        key: what clients must send as a bearer token; None lets everybody in.
        most: bytes of the longest body.
    """

    def __init__(self, app: ASGIApp, key: str | None, most: int) -> None:
        self._app = app
        self._key = key
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not self._is_let_in(scope["path"], headers.get(b"authorization", b"")):
            await _refuse(send, 401, "authentication_error", "the API key is missing or wrong; send it as a bearer token")
            return
        body = await self._body(receive, headers.get(b"content-length", b""))
        if body is None:
            await _refuse(
                send, 413, "invalid_request_error", f"the body has more than {self._most} bytes; send a shorter recording"
            )
            return
        if isinstance(body, bytes):
            await self._answer(scope, receive, send, body)

    def _is_let_in(self, path: str, sent: bytes) -> bool:
        return self._key is None or path in _OPEN or hmac.compare_digest(sent, b"Bearer " + self._key.encode())

    async def _body(self, receive: Receive, length: bytes) -> bytes | bool | None:
        """The whole body; None if it is too long, False if the client left."""
        if length.isdigit() and int(length[:20]) > self._most:
            return None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            body += message.get("body", b"")
            if len(body) > self._most:
                return None
            if not message.get("more_body", False):
                return bytes(body)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Answer; drop it as soon as the client is gone, so that the engine stops."""
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            if waiting:
                return waiting.pop()
            await asyncio.Event().wait()  # a client that leaves is noticed here below
            raise AssertionError

        answer = asyncio.ensure_future(self._app(scope, replay, send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not answer.done():
                answer.cancel()
            results = await asyncio.gather(answer, gone, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, status: int, kind: str, message: str) -> None:
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
