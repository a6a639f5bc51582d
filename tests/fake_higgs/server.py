"""Runs the fake under uvicorn in a thread, with access to its connections."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from .app import create_app
from .middleware import TRANSPORT, RecordingMiddleware
from .options import Options
from .state import Fake

_BACKLOG = 512


class _Protocol(H11Protocol):
    """The protocol of uvicorn, which also passes the transport to the application."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.access_log = False  # the middleware logs requests
        # asyncio sets this only on sockets that it opens itself. Without it every small response is 40 ms late.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        app = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[TRANSPORT] = transport
            await app(scope, receive, send)

        self.app = with_transport


@contextmanager
def serve(options: Options | None = None, *, port: int = 0) -> Iterator[Fake]:
    """Run a fake server on 127.0.0.1 during the block; port 0 is any free one. Its base URL is `Fake.url`.

    Raises:
        ExceptionGroup: at the end, if the fake itself failed, or a response could not have the fault that was set.
    """
    app = create_app(options)
    fake = app.state
    with socket.create_server(("127.0.0.1", port), backlog=_BACKLOG) as listener:
        fake.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        thread = threading.Thread(target=_run, args=(loop, app, listener, stop), name="fake-higgs", daemon=True)
        thread.start()
        try:
            yield fake
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
    if fake.failures:
        raise ExceptionGroup("the fake server itself failed", [error for error in fake.failures if isinstance(error, Exception)])


def _run(loop: asyncio.AbstractEventLoop, app: RecordingMiddleware, listener: socket.socket, stop: asyncio.Event) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_serve(app, listener, stop))


async def _serve(app: RecordingMiddleware, listener: socket.socket, stop: asyncio.Event) -> None:
    # uvicorn.Server checks every 100 ms whether to stop, too slow for the many servers that tests start.
    config = uvicorn.Config(app, http=_Protocol, ws="none", lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Protocol(config, state, {}, loop), sock=listener, backlog=_BACKLOG)
    await stop.wait()
    server.close()
    for connection in tuple(state.connections):
        connection.transport.abort()
    await asyncio.sleep(0)  # lets the transports report that they are closed
    await asyncio.gather(*state.tasks, return_exceptions=True)
