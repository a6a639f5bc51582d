"""Helpers for the tests of higgs-http: a backend that uses a fake server, and a check that errors repeat no secrets."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import numpy as np
import pytest
from fake_higgs import Fake

from prosody_tagger.markup import MarkedText, plain
from synth.base import Speech, SpeechRequest
from synth.higgs_http.backend import HiggsHttp, HiggsSettings

KEY = "bai-very-secret-0123456789-abcdef"
TEXT = "The quick zebra whispers a number to nobody in particular."
RATE = 24_000
HANG_SECONDS = 60.0  # a test that waits longer has failed


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset proxies and the developer's own API key."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("BOSON_API_KEY", raising=False)


def backend_at(fake: Fake, **settings: Any) -> HiggsHttp:
    """Return a backend with the fake's dialect and no retries. Its time limits are long enough for a busy machine."""
    defaults = {"connect_timeout": 30.0, "read_timeout": 30.0, "total_timeout": 60.0, "retries": 0, "api_key": fake.options.key}
    return HiggsHttp(HiggsSettings(**{"dialect": fake.options.dialect, "url": fake.url, **defaults, **settings}))


async def speak(backend: HiggsHttp, text: str | MarkedText = TEXT, /, **request: Any) -> list[Speech]:
    """Return all chunks of one piece of text."""
    marked = plain(text) if isinstance(text, str) else text
    async with aclosing(backend.speak(SpeechRequest(marked, **request))) as speeches:
        return [speech async for speech in speeches]


def spoken(backend: HiggsHttp, text: str | MarkedText = TEXT, /, **request: Any) -> list[Speech]:
    """Return all chunks of one piece of text, spoken in a new event loop."""
    return asyncio.run(speak(backend, text, **request))


def samples(speeches: list[Speech]) -> np.ndarray:
    """Return the samples of all chunks, shape [n]."""
    return np.concatenate([speech.audio.samples for speech in speeches])


def warnings(speeches: list[Speech]) -> tuple[str, ...]:
    """Return the warnings of all chunks."""
    return tuple(warning for speech in speeches for warning in speech.warnings)


def assert_no_secrets(message: str, text: str = TEXT) -> None:
    """Check that ``message`` repeats neither the key nor 24 characters of ``text``."""
    assert KEY not in message
    for start in range(len(text) - 23):
        assert text[start : start + 24] not in message


def wait_until(condition: Callable[[], object], seconds: float = HANG_SECONDS) -> None:
    """Block this thread until ``condition`` holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def raw_server(answer: bytes, *, then_hold: bool = False) -> Iterator[str]:
    """Run a server that sends the bytes ``answer`` to every client and yield its base URL.

    With ``then_hold`` it keeps the connection open until the client closes it.
    """

    def run() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(HANG_SECONDS)
                try:
                    connection.recv(1 << 20)
                    connection.sendall(answer)
                    if then_hold:
                        connection.recv(1)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1 << 20)
                except OSError:
                    pass  # the client closed the connection

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
