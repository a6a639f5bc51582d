"""Responses, and how they are written to a connection."""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from http import HTTPStatus

from starlette.types import Send

from .options import Options
from .state import ReceivedRequest

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class FakeResponse:
    """A response. Names of headers are in lower case. Without a Content-Length it is streamed in chunks."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def streamed(self) -> bool:
        return "content-length" not in self.headers

    @property
    def media_type(self) -> str:
        """Its content type, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0]

    def with_body(self, body: bytes) -> "FakeResponse":
        """Return a copy with that body, and its length if the response has one."""
        headers = self.headers if self.streamed else self.headers | {"content-length": str(len(body))}
        return replace(self, body=body, headers=headers)

    def with_header(self, name: str, value: str | None) -> "FakeResponse":
        """Return a copy with that header; None removes it."""
        others = {known: text for known, text in self.headers.items() if known != name}
        return replace(self, headers=others if value is None else others | {name: value})


class ResponseWriter:
    """Writes the response to one request.

    Attributes:
        received: the request.
        options: of the server.
        correct: computes the correct response.
    """

    def __init__(
        self,
        received: ReceivedRequest,
        options: Options,
        send: Send,
        transport: asyncio.Transport | None,
        correct: Callable[[], Awaitable[FakeResponse]],
    ) -> None:
        self.received = received
        self.options = options
        self.correct = correct
        self._send = send
        self._transport = transport

    async def deliver_correct(self) -> None:
        await self.deliver(await self.correct())

    async def deliver(self, response: FakeResponse) -> None:
        """Send a response as HTTP requires."""
        *pieces, last = split(response.body, self.options.chunk_bytes) if response.streamed else [response.body]
        await self.start(response)
        for piece in pieces:
            await self.send(piece)
            if self.options.chunk_delay_ms:
                await asyncio.sleep(self.options.chunk_delay_ms / 1000)
        await self.end(last)

    async def start(self, response: FakeResponse) -> None:
        """Send status and headers, after the delay."""
        await self.delay()
        self.received.status = response.status
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()]
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})

    async def send(self, piece: bytes) -> None:
        """Send a part of the body."""
        # Recorded before, so that it is there when the client has the bytes.
        self.received.sent.append(time.monotonic())
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes) -> None:
        """Send the last part of the body."""
        self.received.sent.append(time.monotonic())
        self.received.mark_answered()
        await self._send({"type": "http.response.body", "body": piece, "more_body": False})

    async def delay(self) -> None:
        """Wait until the delay of the options is over."""
        await asyncio.sleep(max(0.0, self.received.arrived + self.options.delay_ms / 1000 - time.monotonic()))

    async def start_raw(self, response: FakeResponse) -> None:
        """Send status and headers without uvicorn, which would not let the body differ from them."""
        await self.delay()
        self.received.status = response.status
        headers = response.headers | ({"transfer-encoding": "chunked"} if response.streamed else {})
        lines = [
            f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
            *(f"{name}: {headers[name]}" for name in headers),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def send_raw(self, pieces: Iterable[bytes], *, chunked: bool) -> None:
        """Send parts of the body, likewise."""
        for piece in pieces:
            self.received.sent.append(time.monotonic())
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)

    async def hang_up(self) -> None:
        """Close the connection (FIN), and wait until it is closed."""
        self.received.mark_answered()
        self.transport.close()
        await wait_forever()

    async def reset(self) -> None:
        """Reset the connection (RST), and wait until it is closed."""
        self.received.mark_answered()
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()
        await wait_forever()

    @property
    def transport(self) -> asyncio.Transport:
        """The connection. It is there only if `serve` runs the fake."""
        if self._transport is None:
            raise RuntimeError("only a fake that `serve` runs can break connections")
        return self._transport


def split(data: bytes, size: int) -> list[bytes]:
    """Split ``data`` into pieces of ``size`` bytes, the last one possibly shorter; at least one, possibly empty."""
    return [data[start : start + size] for start in range(0, max(1, len(data)), size)]


async def wait_forever() -> None:
    """Wait until cancelled; the middleware does that when the connection is closed."""
    await asyncio.Event().wait()
