"""HTTP connections to one server: a bounded set for each event loop, closed with the loop at the latest."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from synth.errors import BackendTimeout, BackendUnavailable
from synth.higgs_http.dialects import MAX_ERROR, read
from synth.higgs_http.errors import BAD_ENVIRONMENT, SETTING, Endpoint
from synth.higgs_http.settings import HiggsSettings

if TYPE_CHECKING:
    import ssl

    import httpx

_ERROR_SECONDS = 2.0  # for the body of an error response, which only adds detail to the status


class Connections:
    """An httpx client for one event loop, and the limit on its concurrent use.

    Attributes:
        client: the client.
    """

    def __init__(self, client: "httpx.AsyncClient", max_connections: int) -> None:
        self.client = client
        self._max = max_connections
        self._free = asyncio.Semaphore(max_connections)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._closer = _close_at_end(client)

    async def open(self) -> None:
        """Have the client closed at the end of the event loop, which closes every asynchronous generator that is still open."""
        await anext(self._closer)

    async def close(self) -> None:
        """Close the client."""
        await self._closer.aclose()

    @asynccontextmanager
    async def slot(self, max_wait: float) -> AsyncIterator[None]:
        """Hold one of the connections during the block; wait at most ``max_wait`` seconds for it.

        Raises:
            BackendTimeout: none became free.
        """
        try:
            async with asyncio.timeout(max_wait if self._free.locked() else None):
                await self._free.acquire()
        except TimeoutError:
            raise BackendTimeout(
                f"all {self._max} connections stayed in use for {max_wait:g} s; "
                f"raise {SETTING}MAX_CONNECTIONS, or send fewer requests at once"
            ) from None
        try:
            yield
        finally:
            self._free.release()

    def lock(self, name: str) -> asyncio.Lock:
        """Return the lock of that name. It exists as long as a caller holds a reference to it."""
        return self._locks.setdefault(name, asyncio.Lock())

    async def post(self, url: str, content: bytes, endpoint: Endpoint) -> "httpx.Response":
        """POST a JSON body. Return the response as soon as its headers are here; the caller closes it.

        Raises:
            RequestFailed: no response, or one without success.
        """
        headers = {"Content-Type": "application/json", **endpoint.headers}
        return await self._send(self.client.build_request("POST", _parsed(url), content=content, headers=headers), endpoint)

    async def get(self, url: str, max_wait: float, endpoint: Endpoint) -> "httpx.Response":
        """GET ``url``, likewise. ``max_wait``: seconds to connect, and between two packets."""
        request = self.client.build_request("GET", _parsed(url), headers=endpoint.headers, timeout=max_wait)
        return await self._send(request, endpoint)

    async def _send(self, request: "httpx.Request", endpoint: Endpoint) -> "httpx.Response":
        import httpx

        try:
            response = await self.client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise endpoint.connection_error(error) from None
        async with closed_on_failure(response, endpoint):
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if not response.is_success:
                body = b"" if encoding != "identity" else await _error_body(response)
                raise endpoint.error_status(response.status_code, body, response.headers.get("retry-after"))
            if encoding != "identity":
                raise endpoint.invalid(f"sent its answer compressed ({encoding[:20]!r}), which was not requested")
        return response


class ConnectionsPerLoop:
    """The `Connections` of each event loop, opened at first use."""

    def __init__(self, settings: HiggsSettings) -> None:
        self._settings = settings
        self._by_loop: dict[asyncio.AbstractEventLoop, Connections] = {}

    async def get(self) -> Connections:
        """Return those of the running loop.

        Raises:
            BackendUnavailable: the proxy or the certificates set in the environment do not work.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            for other in list(self._by_loop):  # a copy: threads with their own loops may add to it meanwhile
                if other.is_closed():
                    self._by_loop.pop(other, None)
            self._by_loop[loop] = Connections(_client(self._settings), self._settings.max_connections)
            await self._by_loop[loop].open()
        return self._by_loop[loop]

    async def close(self) -> None:
        """Close those of the running loop. The next `get` opens new ones."""
        connections = self._by_loop.pop(asyncio.get_running_loop(), None)
        if connections is not None:
            await connections.close()


@asynccontextmanager
async def closed_on_failure(response: "httpx.Response", endpoint: Endpoint) -> AsyncIterator[None]:
    """Close ``response`` if the block fails, and turn an error of httpx into a `RequestFailed`."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        await response.aclose()
        raise endpoint.connection_error(error) from None
    except BaseException:
        await response.aclose()
        raise


def _client(settings: HiggsSettings) -> "httpx.AsyncClient":
    import httpx

    try:
        return httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"},  # limits on bytes received then limit what they decode to
            timeout=httpx.Timeout(settings.read_timeout, connect=settings.connect_timeout, pool=None),
            verify=_ssl_context(),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=settings.max_connections),
        )
    except (OSError, ImportError, ValueError, httpx.InvalidURL):
        raise BackendUnavailable(BAD_ENVIRONMENT) from None


@lru_cache(maxsize=1)
def _ssl_context() -> "ssl.SSLContext":
    """Return the trusted certificates. Reading them takes 25 ms, and every event loop has a client of its own."""
    import httpx

    return httpx.create_ssl_context()


@lru_cache(maxsize=8)
def _parsed(url: str) -> "httpx.URL":
    """Parse a URL once: that takes as long as the rest of building a request."""
    import httpx

    return httpx.URL(url)


async def _close_at_end(client: "httpx.AsyncClient") -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await client.aclose()


async def _error_body(response: "httpx.Response") -> bytes:
    """Return the body of an error response; empty if it is long or slow."""
    import httpx

    try:
        async with asyncio.timeout(_ERROR_SECONDS):
            return await read(response, MAX_ERROR) or b""
    except (TimeoutError, httpx.HTTPError):
        return b""
