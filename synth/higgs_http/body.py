"""The body of an answer, read ahead."""

import asyncio
from collections.abc import AsyncGenerator

from synth.higgs_http.errors import Fault, Peer


class Body:
    """Reads a body in a task of its own: a slow listener keeps no server waiting, and of a quick server all is taken at once.

    Args:
        chunks: the body as it comes.
        most: bytes that may wait to be taken.
        late: when the body must have ended, in the event loop's time, and the fault if it has not.
        peer: who sends it.
    """

    def __init__(self, chunks: AsyncGenerator[bytes, None], most: int, late: tuple[float, Fault], peer: Peer) -> None:
        self._chunks = chunks
        self._most = most
        self._deadline, self._late = late
        self._peer = peer
        self._waiting: list[bytes] = []
        self._size = 0  # of all that waits
        self._news = asyncio.Event()
        self._fault: Fault | None = None
        self._reader = asyncio.create_task(self._read())

    async def take(self) -> bytes | None:
        """What has come since the last time, at least one byte; None at the end.

        Raises:
            Fault: the body broke off, and all that came before has been taken.
        """
        await self._news.wait()
        if self._waiting:
            taken = b"".join(self._waiting)
            self._waiting, self._size = [], 0
            if not self._reader.done():
                self._news.clear()
            return taken
        if self._fault is not None:
            raise self._fault
        return self._reader.result()  # None, or an error that nobody has thought of

    async def close(self) -> None:
        """Stop reading. Safe to call twice."""
        if not self._reader.done():
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._chunks.aclose()

    async def _read(self) -> None:
        import httpx

        try:
            async with asyncio.timeout_at(self._deadline):
                async for chunk in self._chunks:
                    if not chunk:
                        continue
                    self._size += len(chunk)
                    if self._size > self._most:
                        raise self._peer.broken(f"sent more than {self._most} bytes for one piece")
                    self._waiting.append(chunk)
                    if len(self._waiting) == 1:
                        self._news.set()
        except Fault as fault:
            self._fault = fault
        except httpx.HTTPError as error:
            self._fault = self._peer.failed(error)
        except TimeoutError:
            self._fault = self._late
        finally:
            self._news.set()
