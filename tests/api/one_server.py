"""Fixtures: services that test modules share, and their clients. A module asks for them by ``pytest_plugins``.

``served`` and ``client`` speak with the embedded voice; ``fake_served`` and ``fake_client`` with `fake_voice.FakeVoice`, for tests
in which the voice does not matter.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fake_voice import FakeVoice
from served import Server, serving, wait_until


def client_of(server: Server) -> httpx.Client:
    """Return a client whose responses have the extension ``processor_seconds``: of this process, where the server runs too."""

    def start(request: httpx.Request) -> None:
        request.extensions["started"] = time.process_time()

    def end(response: httpx.Response) -> None:
        response.extensions["processor_seconds"] = time.process_time() - response.request.extensions["started"]

    hooks = {"request": [start], "response": [end]}
    return httpx.Client(base_url=server.url, timeout=30, trust_env=False, event_hooks=hooks)


@pytest.fixture(scope="session")
def served(tiny_tagger: Path) -> Iterator[Server]:
    with serving(tiny_tagger) as server:
        wait_until(lambda: server.service.is_warm)
        yield server


@pytest.fixture(scope="session")
def client(served: Server) -> Iterator[httpx.Client]:
    with client_of(served) as client:
        yield client


@pytest.fixture(scope="session")
def fake_served(tiny_tagger: Path) -> Iterator[Server]:
    with serving(tiny_tagger, voice=FakeVoice()) as server:
        wait_until(lambda: server.service.is_warm)
        yield server


@pytest.fixture(scope="session")
def fake_client(fake_served: Server) -> Iterator[httpx.Client]:
    with client_of(fake_served) as client:
        yield client
