"""The whole service on loopback, as `prosody serve` runs it, in a thread; and helpers for its tests."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from ai_core.settings import Settings, TaggerSettings
from api.app import create_app
from api.errors import codes_of
from api.service import Service
from api.settings import ApiSettings
from synth.base import Synthesizer

SENTENCE = "The train leaves at nine."
MARKED = "It's <emph>only $299 <pause_short:300ms>today."
FOREVER = 30.0
"""Seconds after which a test that waits fails: long enough for a busy machine."""


@dataclass(frozen=True)
class Server:
    """A running service.

    Attributes:
        url: its base URL.
        address: host and port.
        service: the service itself. Its counters may be read from any thread.
        loop: its event loop.
    """

    url: str
    address: tuple[str, int]
    service: Service
    loop: asyncio.AbstractEventLoop

    def running(self, backend: str) -> int:
        return self.service.scheduler.limiter(backend).running

    def waiting(self, backend: str) -> int:
        return self.service.scheduler.limiter(backend).waiting

    def tasks(self) -> int:
        """Return the number of tasks on its loop, without the one that counts."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(FOREVER)


@contextmanager
def serving(tagger: Path, api: ApiSettings | None = None, *, voice: Synthesizer | None = None, **settings: Any) -> Iterator[Server]:
    """Run a service with the tagger of the folder ``tagger``; ``settings`` are those of `ai_core.settings`.

    With ``voice``, such as a `fake_voice.FakeVoice`, that is the default backend.
    """
    if voice is not None:
        settings = {"backend": voice.name} | settings
    chosen = Settings(tagger=TaggerSettings(adapter=tagger), fallback="none", **settings)
    api = api or ApiSettings()
    app = create_app(chosen, api, {} if voice is None else {voice.name: voice})
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=api.connections,
        timeout_keep_alive=api.keep_alive,
        timeout_graceful_shutdown=5,
    )
    with running(config) as (url, loop):
        yield Server(url, ("127.0.0.1", int(url.rpartition(":")[2])), app.state.service, loop)


@contextmanager
def running(config: uvicorn.Config) -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    """Run uvicorn with ``config`` in a thread during the block; yield its base URL and its event loop."""
    server, loop = uvicorn.Server(config), asyncio.new_event_loop()
    thread = threading.Thread(target=_run, args=(loop, server), name="service", daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", loop
    finally:
        server.should_exit = True
        thread.join(FOREVER)
        assert not thread.is_alive()


def _run(loop: asyncio.AbstractEventLoop, server: uvicorn.Server) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(server.serve())


def wait_until(holds: Callable[[], object], seconds: float = FOREVER) -> None:
    """Wait until the condition holds; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


async def until(holds: Callable[[], object], seconds: float = FOREVER) -> None:
    """Wait like `wait_until`, on an event loop."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.001)


def talk(address: tuple[str, int], *parts: bytes, pause: float = 0.0) -> bytes:
    """Send bytes, with pauses between the parts; return the response, empty if the server closes the connection without one."""
    with socket.create_connection(address, timeout=FOREVER) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the response may have been sent before
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while not _is_whole(said) and (chunk := connection.recv(65536)):
                said += chunk
        return said


def _is_whole(said: bytes) -> bool:
    top, end, body = said.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", top)
    return bool(end) and length is not None and len(body) >= int(length[1])


def head(method: str, path: str, *fields: str) -> bytes:
    """Return the head of an HTTP/1.1 request that closes the connection."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *fields, "", "")).encode("latin-1")


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the error of a response; fail unless it has the JSON and a code that are documented."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert body["error"]["message"]
    assert body["error"]["code"] in codes_of(answer.status_code)
    assert "Traceback" not in answer.text
    return dict(body["error"])


def events_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the JSON of server-sent events."""
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


def value_of(metrics: str, name: str, **labels: str) -> float:
    """Return one value of the text of /metrics; 0 if it is not there yet."""
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    for line in metrics.splitlines():
        found, _, rest = line.partition("{")
        if found.split(" ")[0] == name and wanted <= set(rest.partition("}")[0].split(",")):
            return float(line.rpartition(" ")[2])
    return 0.0
