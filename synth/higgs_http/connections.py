"""The connections to one server: one set for each event loop, bounded, closed with the loop at the latest."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from synth.errors import BackendTimeout
from synth.higgs_http.errors import SETTING

if TYPE_CHECKING:
    import httpx


class Connections:
    """A client of httpx, and who may use it at once.

    Attributes:
        client: the client.
    """

    def __init__(self, client: "httpx.AsyncClient", most: int) -> None:
        self.client = client
        self._most = most
        self._free = asyncio.Semaphore(most)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._holder = _held(client)

    async def open(self) -> None:
        """Have the client closed when the event loop ends, as it does with every generator that is still open."""
        await anext(self._holder)

    async def close(self) -> None:
        await self._holder.aclose()

    @asynccontextmanager
    async def turn(self, patience: float) -> AsyncIterator[None]:
        """One of the connections, waited for ``patience`` seconds at most.

        Raises:
            BackendTimeout: none became free.
        """
        try:
            async with asyncio.timeout(patience if self._free.locked() else None):
                await self._free.acquire()
        except TimeoutError:
            raise BackendTimeout(
                f"all {self._most} connections stayed in use for {patience:g} s; "
                f"raise {SETTING}MAX_CONNECTIONS, or ask for less at once"
            ) from None
        try:
            yield
        finally:
            self._free.release()

    def lock(self, name: str) -> asyncio.Lock:
        """The lock of that name; who holds on to it keeps it."""
        return self._locks.setdefault(name, asyncio.Lock())


class PerLoop:
    """The `Connections` of each event loop, made when first asked for."""

    def __init__(self, client: "Callable[[], httpx.AsyncClient]", most: int) -> None:
        self._client = client
        self._most = most
        self._known: dict[asyncio.AbstractEventLoop, Connections] = {}

    async def get(self) -> Connections:
        """Those of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._known:
            for known in list(self._known):  # threads with loops of their own may add to it meanwhile
                if known.is_closed():
                    self._known.pop(known, None)
            self._known[loop] = Connections(self._client(), self._most)
            await self._known[loop].open()
        return self._known[loop]

    async def close(self) -> None:
        """Close those of the running loop. The next `get` makes others."""
        known = self._known.pop(asyncio.get_running_loop(), None)
        if known is not None:
            await known.close()


async def _held(client: "httpx.AsyncClient") -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await client.aclose()
