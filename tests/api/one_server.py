"""Fixtures: one service for every test that does not need another, and its client. A module asks for them by ``pytest_plugins``."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served import Server, serving, wait_until


@pytest.fixture(scope="session")
def served(tiny_tagger: Path) -> Iterator[Server]:
    with serving(tiny_tagger) as server:
        wait_until(lambda: server.service.is_warm)
        yield server


@pytest.fixture(scope="session")
def client(served: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30, trust_env=False) as client:
        yield client
