"""Middleware that records every request, checks the key, and delivers the response with or without a fault."""

import asyncio
import logging
import time
from collections.abc import MutableMapping
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .api_error import error_body, unauthorized
from .fault_actions import perform_fault
from .state import CONTROL, Fake, ReceivedRequest
from .writer import FakeResponse, ResponseWriter

_LOG = logging.getLogger("fake_higgs")
TRANSPORT = "fake_higgs.transport"


class RecordingMiddleware:
    """ASGI middleware in front of the dialects. ``state`` is the `Fake` that it records to."""

    def __init__(self, app: ASGIApp, fake: Fake) -> None:
        self.app = app
        self.state = fake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(CONTROL):
            await self.app(scope, receive, send)
            return
        received = _received(scope)
        self.state.requests.append(received)
        if not await _read_body(received, receive):
            received.mark_disconnected()
            return
        received.fault = self.state.next_fault(received.path)
        writer = ResponseWriter(
            received, self.state.options, send, scope.get("extensions", {}).get(TRANSPORT), lambda: self._response(scope, received)
        )
        await self._respond_unless_disconnected(writer, receive)

    async def _respond_unless_disconnected(self, writer: ResponseWriter, receive: Receive) -> None:
        """Send the response; stop as soon as the client disconnects."""
        received = writer.received
        work = asyncio.ensure_future(self._respond(writer))
        disconnected = asyncio.ensure_future(_until_disconnected(receive))
        try:
            await asyncio.wait((work, disconnected), return_when=asyncio.FIRST_COMPLETED)
            if received.answered is None and disconnected.done():
                received.mark_disconnected()
        finally:
            work.cancel()
            disconnected.cancel()
            results = await asyncio.gather(work, disconnected, return_exceptions=True)
        _LOG.info("%s %s: %s%s", received.method, received.path, received.status, f" ({received.fault})" if received.fault else "")
        for error in results:
            if isinstance(error, Exception):
                self.state.failures.append(error)
                raise error

    async def _respond(self, writer: ResponseWriter) -> None:
        while writer.received.path in self.state.held:  # noqa: ASYNC110 (another thread changes it)
            await asyncio.sleep(0.005)
        await (perform_fault(writer) if writer.received.fault else writer.deliver_correct())

    async def _response(self, scope: Scope, received: ReceivedRequest) -> FakeResponse:
        """Return the correct response as a whole."""
        key = self.state.options.key
        if key is not None and received.headers.get("authorization") != f"Bearer {key}":
            error = unauthorized()
            response: ASGIApp = JSONResponse(error_body(error, self.state.options.dialect, received.path), error.status)
        else:
            response = self.app
        messages: list[MutableMapping[str, Any]] = []
        waiting = [{"type": "http.request", "body": received.body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await asyncio.Event().wait()  # type: ignore[return-value]

        async def keep(message: Message) -> None:
            messages.append(message)

        await response(scope, replay, keep)
        start, *rest = messages
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
        return FakeResponse(start["status"], headers, b"".join(message.get("body", b"") for message in rest))


def _received(scope: Scope) -> ReceivedRequest:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    return ReceivedRequest(scope["method"], scope["path"], headers, scope.get("client"), time.monotonic())


async def _read_body(received: ReceivedRequest, receive: Receive) -> bool:
    """Read the body of a request; return whether it is complete."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            received.body = b"".join(pieces)
            return True


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
