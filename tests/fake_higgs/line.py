"""The way back to one client, and what goes along it."""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from http import HTTPStatus

from starlette.types import Send

from .options import Options
from .record import Received

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Names of headers are in small letters. One without a length is streamed, in chunks."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def streamed(self) -> bool:
        return "content-length" not in self.headers

    @property
    def kind(self) -> str:
        """Its content type."""
        return self.headers.get("content-type", "").partition(";")[0]

    def with_body(self, body: bytes) -> "Answer":
        headers = self.headers if self.streamed else self.headers | {"content-length": str(len(body))}
        return replace(self, body=body, headers=headers)

    def with_header(self, name: str, value: str | None) -> "Answer":
        """With that header; None takes it away."""
        others = {known: text for known, text in self.headers.items() if known != name}
        return replace(self, headers=others if value is None else others | {name: value})


class Line:
    """The way back to one client.

    Attributes:
        received: what it asked.
        options: how the server behaves.
    """

    def __init__(
        self,
        received: Received,
        options: Options,
        send: Send,
        transport: asyncio.Transport | None,
        proper: Callable[[], Awaitable[Answer]],
    ) -> None:
        self.received = received
        self.options = options
        self.proper = proper
        self._send = send
        self._transport = transport

    async def deliver_proper(self) -> None:
        await self.deliver(await self.proper())

    async def deliver(self, answer: Answer) -> None:
        """Send an answer as it should be."""
        *pieces, last = cut(answer.body, self.options.chunk_bytes) if answer.streamed else [answer.body]
        await self.start(answer)
        for piece in pieces:
            await self.send(piece)
            if self.options.chunk_delay_ms:
                await asyncio.sleep(self.options.chunk_delay_ms / 1000)
        await self.end(last)

    async def start(self, answer: Answer) -> None:
        """Send status and headers, not before the delay is over."""
        await self.delay()
        self.received.status = answer.status
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})

    async def send(self, piece: bytes) -> None:
        """Send a part of the body."""
        # Noted beforehand, so that it is there by the time the client has the bytes.
        self.received.sent.append(time.monotonic())
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes) -> None:
        """Send the last part of the body."""
        self.received.sent.append(time.monotonic())
        self.received.mark_answered()
        await self._send({"type": "http.response.body", "body": piece, "more_body": False})

    async def delay(self) -> None:
        await asyncio.sleep(max(0.0, self.received.arrived + self.options.delay_ms / 1000 - time.monotonic()))

    async def start_raw(self, answer: Answer) -> None:
        """Status and headers past uvicorn, which would see to it that what they promise is kept."""
        await self.delay()
        self.received.status = answer.status
        headers = answer.headers | ({"transfer-encoding": "chunked"} if answer.streamed else {})
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", *(f"{name}: {headers[name]}" for name in headers)]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def send_raw(self, pieces: Iterable[bytes], *, chunked: bool) -> None:
        """Runtime of the body, likewise."""
        for piece in pieces:
            self.received.sent.append(time.monotonic())
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)

    async def hang_up(self) -> None:
        """Close the connection in order (FIN), and wait until it is closed."""
        self.received.mark_answered()
        self.transport.close()
        await for_ever()

    async def reset(self) -> None:
        """Break the connection off (RST), and wait until it is closed."""
        self.received.mark_answered()
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()
        await for_ever()

    @property
    def transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise RuntimeError("only a fake that `serve` runs can break connections")
        return self._transport


def cut(data: bytes, size: int) -> list[bytes]:
    """Pieces of ``size``, the last perhaps shorter; at least one, which may be empty."""
    return [data[start : start + size] for start in range(0, max(1, len(data)), size)]


async def for_ever() -> None:
    """Until cancelled, as `front` does when the connection is closed."""
    await asyncio.Event().wait()
