"""Clients that disconnect: their permit is free at once, and their synthesis stops, also at the server behind the backend."""

import asyncio
import contextlib
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fake_higgs import Fake, Options, serve
from served import FOREVER, SENTENCE, Server, head, serving, talk, value_of, wait_until

from api.settings import ApiSettings
from synth.higgs_http.settings import HiggsSettings

TRIES = 5
SENTENCES = 60
LONG = " ".join(f"This is sentence number {number} of a long text." for number in range(SENTENCES))


@dataclass(frozen=True)
class Slow:
    """A service with one permit and a slow backend, and the server behind the backend."""

    server: Server
    fake: Fake

    @property
    def idle(self) -> bool:
        return self.server.running("higgs-http") == self.server.waiting("higgs-http") == 0


@contextlib.contextmanager
def slowly(tagger: Path, **options: float) -> Iterator[Slow]:
    with serve(Options(**options)) as fake:
        higgs = HiggsSettings(url=fake.url, api_key=fake.options.key, retries=0)
        load = ApiSettings(running=1, waiting=5)
        with serving(tagger, load, backend="higgs-http", higgs=higgs, realise=False) as server:
            yield Slow(server, fake)


@pytest.fixture(scope="module")
def silent(tiny_tagger: Path) -> Iterator[Slow]:
    """No audio comes for longer than any test waits, so only a disconnect can free the permit."""
    with slowly(tiny_tagger, delay_ms=20_000 * FOREVER) as slow:
        yield slow


@pytest.fixture(scope="module")
def dripping(tiny_tagger: Path) -> Iterator[Slow]:
    """Audio comes slowly, in small chunks."""
    with slowly(tiny_tagger, delay_ms=10, chunk_bytes=48_000, chunk_delay_ms=60) as slow:
        yield slow


def asking(path: str = "/speak", accept: str = "*/*", **fields: object) -> bytes:
    body = json.dumps({"text": SENTENCE, "marked": True} | fields).encode()
    return head("POST", path, f"Accept: {accept}", "Content-Type: application/json", f"Content-Length: {len(body)}") + body


@contextlib.contextmanager
def asked(slow: Slow, request: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(slow.server.address, timeout=30) as connection:
        connection.sendall(request)
        yield connection


def cut(connection: socket.socket) -> None:
    """Disconnect with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def hang_up(connection: socket.socket) -> None:
    """Disconnect with FIN."""
    connection.close()


LEAVE = pytest.mark.parametrize("leave", [cut, hang_up])
Leave = Callable[[socket.socket], None]

WAITING = {
    "for sound": asking(),
    "for JSON": asking(accept="application/json"),
    "for a stream": asking(stream=True, text=LONG),
    "for events": asking(accept="text/event-stream"),
    "at the OpenAI endpoint": asking("/v1/audio/speech", input=SENTENCE),
}


@LEAVE
@pytest.mark.parametrize("request_", WAITING.values(), ids=WAITING.keys())
def test_disconnect_while_the_text_is_spoken(silent: Slow, request_: bytes, leave: Leave):
    for _ in range(TRIES):
        known = len(silent.fake.requests)
        with asked(silent, request_) as connection:
            wait_until(lambda known=known: len(silent.fake.requests) > known)
            assert silent.server.running("higgs-http") == 1
            leave(connection)
            wait_until(lambda: silent.idle)
        upstream = silent.fake.requests[known]
        assert upstream.ended.wait(FOREVER)
        assert upstream.disconnected is not None


@LEAVE
def test_disconnect_while_in_the_queue(silent: Slow, leave: Leave):
    known = len(silent.fake.requests)
    with asked(silent, asking(text="This one holds the permit.")) as holder:
        wait_until(lambda: len(silent.fake.requests) > known)
        for _ in range(TRIES):
            with asked(silent, asking()) as connection:
                wait_until(lambda: silent.server.waiting("higgs-http") == 1)
                leave(connection)
                wait_until(lambda: silent.server.waiting("higgs-http") == 0)
        assert silent.server.running("higgs-http") == 1
        cut(holder)
    wait_until(lambda: silent.idle)
    assert len(silent.fake.requests) == known + 1


@LEAVE
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_disconnect_while_audio_is_streamed(dripping: Slow, accept: str, leave: Leave):
    wait_until(lambda: dripping.idle)
    tasks = dripping.server.tasks()
    for _ in range(TRIES):
        known = len(dripping.fake.requests)
        with asked(dripping, asking(text=LONG, accept=accept, stream=True)) as connection:
            assert b"200 OK" in connection.recv(65536)
            assert connection.recv(65536)
            assert dripping.server.running("higgs-http") == 1
            leave(connection)
            wait_until(lambda: dripping.idle)
        assert all(upstream.ended.wait(FOREVER) for upstream in dripping.fake.requests)
        assert len(dripping.fake.requests) - known < SENTENCES / 2  # it stopped in the middle
    wait_until(lambda: dripping.server.tasks() <= tasks)  # so nothing is left that could send more requests


def test_the_permit_passes_to_the_next_request(silent: Slow):
    known = len(silent.fake.requests)
    with asked(silent, asking(text="The first.")) as first, asked(silent, asking(text="The second.")) as second:
        wait_until(lambda: len(silent.fake.requests) == known + 1 and silent.server.waiting("higgs-http") == 1)
        wait_until(lambda: silent.fake.requests[known].body)
        gone, stays = (first, second) if b"first" in silent.fake.requests[known].body else (second, first)
        cut(gone)
        wait_until(lambda: len(silent.fake.requests) == known + 2)
        cut(stays)
    wait_until(lambda: silent.idle)


def test_one_of_two_clients_with_one_synthesis_disconnects(tiny_tagger: Path):
    with slowly(tiny_tagger, delay_ms=400) as slow:
        with asked(slow, asking()) as leaver, asked(slow, asking()) as stayer:
            wait_until(lambda: slow.fake.requests)
            cut(leaver)
            answer = stayer.recv(65536)
        assert b"200 OK" in answer
        assert len(slow.fake.requests) == 1
        assert slow.fake.requests[0].disconnected is None


def test_a_disconnect_is_counted_and_not_logged_as_an_error(silent: Slow, caplog: pytest.LogCaptureFixture):
    def left() -> tuple[float, float]:
        text = silent.server.service.metrics.text().decode()
        return value_of(text, "prosody_cancellations_total"), value_of(text, "prosody_requests_total", path="/speak", status="left")

    before, known = left(), len(silent.fake.requests)
    with asked(silent, asking()) as connection:
        wait_until(lambda: len(silent.fake.requests) > known)
        cut(connection)
        wait_until(lambda: left() == (before[0] + 1, before[1] + 1))
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")]


def test_disconnect_before_the_body_is_complete(silent: Slow):
    with asked(silent, head("POST", "/speak", "Content-Length: 1000") + b'{"text": "') as connection:
        time.sleep(0.05)
        cut(connection)
    time.sleep(0.05)
    assert silent.idle
    assert talk(silent.server.address, head("GET", "/live")).startswith(b"HTTP/1.1 200")


def test_closing_the_sending_side_is_a_disconnect(silent: Slow):
    """As ASGI servers do: a client that closes its sending side is treated as disconnected."""
    known = len(silent.fake.requests)
    with asked(silent, asking()) as connection:
        wait_until(lambda: len(silent.fake.requests) > known)
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: silent.idle)


def test_no_task_is_left_after_random_disconnects(dripping: Slow):
    generator = random.Random(0)
    wait_until(lambda: dripping.idle)
    before = dripping.server.tasks()

    async def one(client: httpx.AsyncClient, number: int) -> None:
        stream, accept = generator.random() < 0.5, generator.choice(["*/*", "application/json", "text/event-stream"])
        body = {"text": f"Text {number % 40}. {LONG}", "marked": True, "stream": stream}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(generator.random() * 0.4):
                await client.post("/speak", json=body, headers={"accept": accept})

    async def crowd() -> None:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=dripping.server.url, timeout=30, trust_env=False, limits=limits) as client:
            await asyncio.gather(*(one(client, number) for number in range(200)))

    asyncio.run(crowd())
    wait_until(lambda: dripping.idle)
    wait_until(lambda: dripping.server.tasks() <= before)
    assert not dripping.server.service.scheduler._active
    assert all(upstream.ended.wait(FOREVER) for upstream in dripping.fake.requests)
    answer = httpx.post(f"{dripping.server.url}/speak", json={"text": "Hello.", "marked": True}, trust_env=False, timeout=30)
    assert answer.status_code == 200
