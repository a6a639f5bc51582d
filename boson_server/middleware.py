"""ASGI middleware: API key, size limit of bodies, cancellation when the client disconnects."""

import asyncio
import hmac
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OPEN = ("/live", "/ready")


class RequestFilter:
    """Refuses requests without the key or with too large a body, and cancels the application when the client disconnects.

    Args:
        app: the application.
        key: API key that clients must send as a bearer token; None allows all requests.
        max_body: largest body, in bytes.
    """

    def __init__(self, app: ASGIApp, key: str | None, max_body: int) -> None:
        self._app = app
        self._key = key
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not self._is_authorised(scope["path"], headers.get(b"authorization", b"")):
            await _refuse(send, 401, "authentication_error", "the API key is missing or wrong; send it as a bearer token")
            return
        body = await self._body(receive, headers.get(b"content-length", b""))
        if body is None:
            await _refuse(
                send, 413, "invalid_request_error", f"the body has more than {self._max_body} bytes; send a shorter recording"
            )
            return
        if isinstance(body, bytes):
            await self._respond(scope, receive, send, body)

    def _is_authorised(self, path: str, sent: bytes) -> bool:
        return self._key is None or path in _OPEN or hmac.compare_digest(sent, b"Bearer " + self._key.encode())

    async def _body(self, receive: Receive, length: bytes) -> bytes | bool | None:
        """Return the body; None if it is too large, False if the client has disconnected."""
        if length.isdigit() and int(length[:20]) > self._max_body:
            return None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            body += message.get("body", b"")
            if len(body) > self._max_body:
                return None
            if not message.get("more_body", False):
                return bytes(body)

    async def _respond(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Run the application, and cancel it as soon as the client disconnects, so that the engine stops."""
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            if unread:
                return unread.pop()
            await asyncio.Event().wait()  # the task below notices a disconnect
            raise AssertionError

        response = asyncio.ensure_future(self._app(scope, replay, send))
        disconnected = asyncio.ensure_future(_until_disconnected(receive))
        try:
            await asyncio.wait((response, disconnected), return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnected.cancel()
            if not response.done():
                response.cancel()
            results = await asyncio.gather(response, disconnected, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, status: int, kind: str, message: str) -> None:
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
