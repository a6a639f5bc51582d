"""The service with the fake voice, which needs no engine: errors of a backend, density and strength, a service without espeak."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fake_voice import GAP_SECONDS, SECONDS_PER_CHAR, FakeVoice
from served import SENTENCE, Server, error_of, events_of, serving, wait_until

from api.settings import ApiSettings
from synth.errors import BackendBusy, BackendError, BackendTimeout, BackendUnavailable

TESTS = Path(__file__).resolve().parents[1]
TWO_SENTENCES = f"{SENTENCE} The bus left at eight."


@pytest.fixture(scope="module")
def server(tiny_tagger: Path) -> Iterator[Server]:
    """A service that speaks one text at a time, with one more in the queue."""
    with serving(tiny_tagger, ApiSettings(running=1, waiting=1), voice=FakeVoice(), realise=False) as server:
        yield server


@pytest.fixture
def voice(server: Server) -> FakeVoice:
    """The voice of the service, reset for each test."""
    voice = server.service.runtime.backend("fake")
    assert isinstance(voice, FakeVoice)
    voice.reset()
    return voice


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        yield client


def speak(client: httpx.Client, **fields: object) -> httpx.Response:
    return client.post("/speak", json={"text": SENTENCE, "marked": True} | fields)


def test_words_have_exact_times(client: httpx.Client) -> None:
    answer = client.post("/speak", json={"text": SENTENCE, "marked": True}, headers={"accept": "application/json"}).json()
    assert answer["backend"] == "fake"
    start = answer["words"][0]["start"]
    for word in answer["words"]:
        assert word["start"] == pytest.approx(start, abs=1e-3)
        assert word["end"] - word["start"] == pytest.approx(len(word["word"]) * SECONDS_PER_CHAR, abs=1e-3)
        start = word["end"] + GAP_SECONDS


@pytest.mark.parametrize("streaming", [False, True])
def test_a_streaming_voice_has_the_same_audio(client: httpx.Client, voice: FakeVoice, streaming: bool) -> None:
    whole = speak(client, text=TWO_SENTENCES, format="pcm").content
    voice.streaming = streaming
    assert speak(client, text=TWO_SENTENCES, format="pcm", stream=True).content == whole


# A backend that is busy


REQUESTS = {
    "speak": ("/speak", {"text": SENTENCE}),
    "speak as JSON": ("/speak", {"text": SENTENCE}),
    "speak, streamed": ("/speak", {"text": TWO_SENTENCES, "stream": True}),
    "speak as events": ("/speak", {"text": TWO_SENTENCES}),
    "OpenAI": ("/v1/audio/speech", {"input": TWO_SENTENCES, "response_format": "pcm"}),
    "OpenAI as events": ("/v1/audio/speech", {"input": TWO_SENTENCES, "stream_format": "sse"}),
}
ACCEPT = {"speak as JSON": "application/json", "speak as events": "text/event-stream"}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_busy_backend_is_503_with_retry_after(client: httpx.Client, voice: FakeVoice, name: str) -> None:
    path, body = REQUESTS[name]
    voice.error = BackendBusy("4 requests are open; try again later", retry_after=7)
    answer = client.post(path, json=body | {"marked": True}, headers={"accept": ACCEPT.get(name, "*/*")})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert error_of(answer)["code"] == "busy"
    assert error_of(answer)["message"] == "4 requests are open; try again later"


def test_a_full_queue_is_503_with_retry_after(client: httpx.Client, server: Server, voice: FakeVoice) -> None:
    voice.released.clear()
    with ThreadPoolExecutor(2) as pool:
        accepted = []
        for number in range(2):
            accepted.append(pool.submit(speak, client, text=f"Number {number}."))
            wait_until(lambda number=number: server.running("fake") + server.waiting("fake") == number + 1)
        refused = speak(client, text="One too many.")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        voice.released.set()
        assert [future.result().status_code for future in accepted] == [200, 200]
    assert (len(voice.requests), voice.completed, voice.most_running) == (2, 2, 1)


def test_a_backend_that_gets_busy_within_a_stream_ends_it_with_an_error(client: httpx.Client, voice: FakeVoice) -> None:
    voice.error, voice.fails = BackendBusy("full"), lambda number: number == 1
    events: list[dict[str, object]] = []

    def read() -> None:
        with client.stream(
            "POST", "/speak", json={"text": TWO_SENTENCES, "marked": True}, headers={"accept": "text/event-stream"}
        ) as a:
            assert a.status_code == 200
            for line in a.iter_lines():
                events.extend(events_of([line]))

    with pytest.raises(httpx.RemoteProtocolError):
        read()
    assert [event["type"] for event in events] == ["speech.sentence", "speech.audio.delta", "error"]
    assert base64.b64decode(str(events[1]["audio"]))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BackendError("broken"), 502, "backend_failed"),
        (BackendTimeout("slow"), 504, "backend_timeout"),
        (BackendUnavailable("missing"), 503, "backend_unavailable"),
        (RuntimeError("a bug"), 500, "internal_error"),
    ],
)
def test_other_failures_keep_their_status_and_have_no_retry_after(
    client: httpx.Client, voice: FakeVoice, error: Exception, status: int, code: str
) -> None:
    voice.error = error
    answer = speak(client)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert "retry-after" not in answer.headers


# Density and strength


def emphases(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    return sum(mark["kind"] == "emph" for mark in answer.json()["marks"])


def test_marking_at_intensity_0_stresses_nothing(client: httpx.Client) -> None:
    text = " ".join([SENTENCE] * 5)
    assert emphases(client.post("/mark", json={"text": text})) > 0
    for field in ("intensity", "density"):
        assert emphases(client.post("/mark", json={"text": text, field: 0})) == 0
        assert emphases(client.post("/mark", json={"text": text, field: 1})) > 5
    assert emphases(client.post("/mark", json={"text": text, "intensity": 1, "density": 0})) == 0
    assert emphases(client.post("/mark", json={"text": text, "intensity": 0, "density": 1})) > 5


@pytest.mark.parametrize(
    ("fields", "stressed", "strength"),
    [
        ({"intensity": 0}, False, "low"),
        ({"intensity": "high"}, True, "high"),
        ({"density": 0}, False, "medium"),
        ({"density": "high"}, True, "medium"),
        ({"strength": "low"}, True, "low"),
        ({"intensity": "low", "density": 1}, True, "low"),
        ({"intensity": 1, "density": 0, "strength": "low"}, False, "low"),
        ({"intensity": "low", "strength": "high"}, True, "high"),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/speak", "/v1/audio/speech"])
def test_intensity_sets_density_and_strength_and_each_overrides_it(
    client: httpx.Client, voice: FakeVoice, path: str, fields: dict[str, object], stressed: bool, strength: str
) -> None:
    text = " ".join([SENTENCE] * 5)
    answer = client.post(path, json={"text" if path == "/speak" else "input": text} | fields)
    assert answer.status_code == 200, answer.text
    assert {request.strength for request in voice.requests} == {strength}
    assert any(mark.kind == "emph" for request in voice.requests for mark in request.text.marks) == stressed


@pytest.mark.parametrize("path", ["/speak", "/v1/audio/speech", "/mark"])
@pytest.mark.parametrize("field", ["density", "strength"])
@pytest.mark.parametrize("value", ["extreme", True, -0.1, 1.1, ["low"]], ids=str)
def test_invalid_values(client: httpx.Client, path: str, field: str, value: object) -> None:
    answer = client.post(path, json={"input" if path.startswith("/v1") else "text": SENTENCE, field: value})
    assert answer.status_code == 422
    assert str(error_of(answer)["param"]).startswith(field)


def test_the_values_are_listed(client: httpx.Client) -> None:
    body = client.get("/v1/prosody").json()
    assert body["densities"] == {"low": 0.05, "medium": 0.09, "high": 0.18}
    assert body["strengths"] == body["intensities"] == ["low", "medium", "high"]


# Without espeak


WITHOUT_ESPEAK = """
import sys
sys.modules["espeakng_loader"] = None  # importing it raises ImportError
import asyncio
import httpx
from pathlib import Path
from ai_core.settings import Settings, TaggerSettings
from api.app import create_app
from fake_voice import FakeVoice

voice = FakeVoice()
app = create_app(Settings(backend="fake", tagger=TaggerSettings(adapter=Path(sys.argv[1]))), backends={"fake": voice})

async def main():
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client,
    ):
        spoken = await client.post("/speak", json={"text": "The train leaves at nine."})
        assert (spoken.status_code, spoken.content[:4]) == (200, b"RIFF"), spoken.text
        assert (await client.post("/mark", json={"text": "The train leaves at nine."})).status_code == 200
        lost = await client.post("/speak", json={"text": "The train leaves.", "backend": "embedded"})
        assert lost.status_code == 503, lost.text
        assert (await client.get("/v1/prosody")).json()["backends"]["embedded"]["ready"] is False

asyncio.run(main())
assert voice.completed == 1
"""


def test_the_service_runs_without_espeak(tiny_tagger: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_ESPEAK, str(tiny_tagger)]
    environment = {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "PATH": ""}
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
