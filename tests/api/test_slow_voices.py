"""A backend whose server is slow to list its voices: the service goes on responding to other requests."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_higgs import Fake, Options, serve
from served import FOREVER, SENTENCE, Server, serving, wait_until

from synth.higgs_http.settings import HiggsSettings

VOICES = "/v1/audio/voices"


@dataclass(frozen=True)
class SlowList:
    """A service, and the server behind it."""

    server: Server
    fake: Fake

    def listings(self) -> int:
        """Return how many lists have been requested from the server."""
        return sum(request.path == VOICES for request in self.fake.requests)

    @contextmanager
    def during_list(self, method: str, path: str, **arguments: Any) -> Iterator[Future[httpx.Response]]:
        """Send a request that needs the list, and run the block while the list is outstanding."""
        with httpx.Client(base_url=self.server.url, timeout=FOREVER, trust_env=False) as client, ThreadPoolExecutor(1) as pool:
            before = self.listings()
            with self.fake.hold(VOICES):
                response = pool.submit(client.request, method, path, **arguments)
                wait_until(lambda: self.listings() > before)
                yield response
                assert not response.done()
            response.result(FOREVER)


@pytest.fixture(scope="module")
def slow_list(tiny_tagger: Path) -> Iterator[SlowList]:
    with serve(Options(dialect="openai-speech")) as fake:
        higgs = HiggsSettings(dialect="openai-speech", url=fake.url, api_key=fake.options.key, retries=0, connect_timeout=60)
        with serving(tiny_tagger, backend="higgs-http", higgs=higgs, realise=False) as server:
            wait_until(lambda: server.service.is_warm)
            yield SlowList(server, fake)


@pytest.fixture
def alive(slow_list: SlowList) -> Iterator[httpx.Client]:
    """A client that has a connection to the service already."""
    with httpx.Client(base_url=slow_list.server.url, timeout=FOREVER, trust_env=False) as client:
        assert client.get("/live").status_code == 200
        yield client


def speech(voice: str) -> dict[str, object]:
    return {"model": "tts-1", "input": SENTENCE, "voice": voice, "response_format": "wav"}


def test_live_is_answered_while_voices_are_listed(slow_list: SlowList, alive: httpx.Client) -> None:
    with slow_list.during_list("GET", "/v1/audio/voices") as response:
        assert [alive.get("/live").status_code for _ in range(20)] == [200] * 20
    assert response.result().status_code == 200
    assert "belinda" in response.result().json()["voices"]


def test_live_is_answered_while_a_voice_of_openai_is_looked_up(slow_list: SlowList, alive: httpx.Client) -> None:
    with slow_list.during_list("POST", "/v1/audio/speech", json=speech("alloy")) as response:
        assert [alive.get("/live").status_code for _ in range(20)] == [200] * 20
    assert response.result().status_code == 200
    assert slow_list.fake.requests[-1].json["voice"] == "default"  # the server has no alloy


def test_speech_with_a_voice_of_the_server_does_not_wait_for_the_list(slow_list: SlowList, alive: httpx.Client) -> None:
    with slow_list.during_list("GET", "/v1/audio/voices"):
        response = alive.post("/v1/audio/speech", json=speech("belinda"))
        assert response.status_code == 200
        assert response.content[:4] == b"RIFF"
