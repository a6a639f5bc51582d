"""What stands before the dialects: it records every request, wants the key, and delivers the answer, well or badly."""

import asyncio
import logging
import time
from collections.abc import MutableMapping
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .line import Answer, Line
from .misbehaving import misbehave
from .record import CONTROL, Fake, Received
from .refusal import error_body, unauthorized

_LOG = logging.getLogger("fake_higgs")
TRANSPORT = "fake_higgs.transport"


class Front:
    """ASGI middleware. ``state`` is the `Fake` that it serves."""

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
            received.mark_left()
            return
        received.fault = self.state.next_fault(received.path)
        line = Line(
            received, self.state.options, send, scope.get("extensions", {}).get(TRANSPORT), lambda: self._answer(scope, received)
        )
        await self._answer_unless_left(line, receive)

    async def _answer_unless_left(self, line: Line, receive: Receive) -> None:
        """Answer; drop it as soon as the client closes the connection."""
        received = line.received
        work = asyncio.ensure_future(misbehave(line) if received.fault else line.deliver_proper())
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if received.answered is None and gone.done():
                received.mark_left()
        finally:
            work.cancel()
            gone.cancel()
            results = await asyncio.gather(work, gone, return_exceptions=True)
        _LOG.info("%s %s: %s%s", received.method, received.path, received.status, f" ({received.fault})" if received.fault else "")
        for error in results:
            if isinstance(error, Exception):
                self.state.failures.append(error)
                raise error

    async def _answer(self, scope: Scope, received: Received) -> Answer:
        """The right answer, whole."""
        key = self.state.options.key
        if key is not None and received.headers.get("authorization") != f"Bearer {key}":
            refusal = unauthorized()
            response: ASGIApp = JSONResponse(error_body(refusal, self.state.options.dialect, received.path), refusal.status)
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
        return Answer(start["status"], headers, b"".join(message.get("body", b"") for message in rest))


def _received(scope: Scope) -> Received:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    return Received(scope["method"], scope["path"], headers, scope.get("client"), time.monotonic())


async def _read_body(received: Received, receive: Receive) -> bool:
    """Whether all of it came."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            received.body = b"".join(pieces)
            return True


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
