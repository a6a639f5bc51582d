"""The fake Higgs server responds like the real ones, refuses what they refuse, and has each fault as described."""

import asyncio
import base64
import io
import json
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from fake_higgs import Dialect, Fake, Fault, Options, create_app, fault_actions, serve, server, writer
from fake_higgs.fault_actions import ACTIONS

ROOT = Path(__file__).resolve().parent.parent
KEY = {"Authorization": "Bearer fake-key"}
V3 = {"model": "higgs-tts-3", "input": "It is only today."}
V2 = {"model": "bosonai/higgs-audio-v2-generation-3B-base", "voice": "default", "input": "It is only today."}
PCM = {"response_format": "pcm"}
WAV = {"response_format": "wav"}
STREAM = {**PCM, "stream": True}
CHAT_MODEL = "higgs-audio-generation-Hackathon"


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    default = {"role": "user", "content": "It is only today."}
    return {"model": CHAT_MODEL, "modalities": ["text", "audio"], "messages": list(messages) or [default], **more}


@contextmanager
def served(dialect: Dialect = "boson", **options: Any) -> Iterator[tuple[Fake, httpx.Client]]:
    with serve(Options(dialect=dialect, **options)) as fake, client(fake) as http:
        yield fake, http


def client(fake: Fake) -> httpx.Client:
    # Loading certificates, which are not used here, would take most of the time of these tests.
    return httpx.Client(base_url=fake.url, headers=KEY, timeout=60, trust_env=False, verify=False)


@pytest.fixture(scope="module")
def boson() -> Iterator[Fake]:
    with serve(Options(drip_ms=20, slow_ms=150, cut_ms=20, runaway_s=5)) as fake:
        yield fake


@pytest.fixture(scope="module")
def vllm() -> Iterator[Fake]:
    with serve(Options(dialect="openai-speech")) as fake:
        yield fake


@pytest.fixture(scope="module")
def hackathon() -> Iterator[Fake]:
    with serve(Options(dialect="boson-chat", runaway_s=5)) as fake:
        yield fake


@pytest.fixture(autouse=True)
def behave(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"boson", "vllm", "hackathon"} & set(request.fixturenames):
        request.getfixturevalue(name).misbehave(None)


def clip(seconds: float = 3.5, rate: int = 8000) -> str:
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.sin(np.arange(round(seconds * rate)) / 5), rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def speak(fake: Fake, body: dict[str, Any], path: str = "/audio/speech") -> httpx.Response:
    with client(fake) as http:
        return http.post(path, json=body)


def messages_with_reference(reference: dict[str, Any]) -> list[dict[str, Any]]:
    recording = {"role": "assistant", "content": [reference]}
    return [{"role": "user", "content": "Hello."}, recording, {"role": "user", "content": "Hi."}]


def read_into(received: bytearray, answer: httpx.Response) -> None:
    for piece in answer.iter_raw():
        received += piece


def recorded_sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the seconds that responses wait, in place of waiting."""
    waits: list[float] = []

    class Asyncio:
        async def sleep(self, seconds: float) -> None:
            waits.append(seconds)
            await asyncio.sleep(0)

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

    monkeypatch.setattr(writer, "asyncio", Asyncio())
    monkeypatch.setattr(fault_actions, "asyncio", Asyncio())
    return waits


def loudness(pcm: bytes) -> float:
    return float(np.abs(np.frombuffer(pcm, "<i2").astype(np.int32)).max())


def seconds(answer: httpx.Response) -> float:
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    return float(len(samples) / rate)


class TestBoson:
    @pytest.mark.parametrize("form", ["mp3", "opus", "wav", "flac"])
    def test_speaks_in_every_format(self, boson: Fake, form: str) -> None:
        answer = speak(boson, {**V3, "response_format": form})
        samples, rate = soundfile.read(io.BytesIO(answer.content))
        assert (answer.status_code, rate) == (200, 24_000)
        assert 0.8 < len(samples) / rate < 3
        assert np.abs(samples).max() > 0.1
        assert int(answer.headers["content-length"]) == len(answer.content)

    def test_gives_mp3_by_default(self, boson: Fake) -> None:
        assert speak(boson, V3).headers["content-type"] == "audio/mpeg"

    def test_streams_pcm_in_chunks_with_time_between(self, monkeypatch: pytest.MonkeyPatch) -> None:
        waits = recorded_sleeps(monkeypatch)
        with served(chunk_bytes=9_600, chunk_delay_ms=20) as (fake, http):
            with http.stream("POST", "/audio/speech", json={**V3, **STREAM}) as answer:
                pcm = b"".join(answer.iter_raw())
            assert answer.headers["transfer-encoding"] == "chunked"
            assert loudness(pcm) > 3000
            (received,) = fake.requests
            assert len(received.sent) == -(-len(pcm) // 9_600) > 2
            assert waits.count(0.02) == len(received.sent) - 1

    def test_is_deterministic_and_differs_by_voice(self, boson: Fake) -> None:
        first = speak(boson, {**V3, **PCM}).content
        assert speak(boson, {**V3, **PCM}).content == first
        assert speak(boson, {**V3, **PCM, "voice": "jake"}).content != first

    def test_pause_tags_are_silence(self, boson: Fake) -> None:
        tags = {"": 0.0, "<|prosody:pause|>": 0.5, "<|prosody:long_pause|>": 1.0, "<|emotion:awe|><|prosody:pitch_low|>": 0.0}
        for tag, silence in tags.items():
            pcm = speak(boson, {**V3, **PCM, "input": f"One {tag}two."}).content
            loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2").astype(np.int32)) > 300)
            longest = np.diff(loud).max() / 24_000
            assert silence <= longest < silence + 0.3

    def test_speaks_long_texts_completely(self, boson: Fake) -> None:
        short = speak(boson, {**V3, **WAV, "input": "It is only today. " * 10})
        long = speak(boson, {**V3, **WAV, "input": ("It is only today. " * 277)[:5000]})
        assert long.status_code == 200
        assert seconds(long) > 20 * seconds(short)

    @pytest.mark.parametrize(
        ("change", "status", "kind"),
        [
            ({"input": ""}, 400, "invalid_request_error"),
            ({"input": " \n"}, 400, "invalid_request_error"),
            ({"input": "a" * 5001}, 400, "input_too_long"),
            ({"input": 7}, 400, "invalid_request_error"),
            ({"input": "It is <emph>only today."}, 400, "unknown_tag"),
            ({"input": "It is <pause_short:300ms> today."}, 400, "unknown_tag"),
            ({"input": "</EMPH>"}, 400, "unknown_tag"),
            ({"input": "<|prosody:emph|>Now"}, 400, "unknown_tag"),
            ({"input": "<|eot_id|>"}, 400, "unknown_tag"),
            ({"input": "<|prosody:\npause|>"}, 400, "unknown_tag"),
            ({"model": "higgs-tts-9"}, 404, "model_not_found"),
            ({"model": None}, 400, "invalid_request_error"),
            ({"voice": "belinda"}, 400, "voice_not_found"),
            ({"response_format": "ogg"}, 400, "invalid_request_error"),
            ({"response_format": "aac"}, 400, "invalid_request_error"),
            ({"response_format": "wav", "stream": True}, 400, "invalid_request_error"),
            ({"stream": "true"}, 400, "invalid_request_error"),
            ({"speed": 1.0}, 400, "invalid_request_error"),
            ({"seed": 1}, 400, "invalid_request_error"),
            ({"ref_text": "Hello."}, 400, "invalid_request_error"),
            ({"ref_audio": "AAAA"}, 400, "invalid_request_error"),
            ({"ref_audio": "AAAA", "ref_text": "Hello."}, 400, "invalid_audio"),
            ({"ref_audio": "https://example.org/a.wav", "ref_text": "Hello."}, 400, "invalid_request_error"),
            ({"ref_audio": clip(), "ref_text": "Hello.", "voice": "jake"}, 400, "invalid_request_error"),
        ],
        ids=str,
    )
    def test_refuses(self, boson: Fake, change: dict[str, Any], status: int, kind: str) -> None:
        answer = speak(boson, {**V3, **change})
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
        assert set(answer.json()["error"]) == {"message", "type"}

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null"])
    def test_refuses_bodies_that_are_no_json_object(self, boson: Fake, body: bytes) -> None:
        with client(boson) as http:
            answer = http.post("/audio/speech", content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "fake-key"}])
    def test_requires_its_key_everywhere(self, boson: Fake, headers: dict[str, str]) -> None:
        for answer in (
            httpx.post(f"{boson.url}/audio/speech", json=V3, headers=headers, trust_env=False),
            httpx.get(f"{boson.url}/audio/voices", headers=headers, trust_env=False),
        ):
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")

    def test_requires_no_key_if_it_has_none(self) -> None:
        with serve(Options(key=None)) as fake:
            assert httpx.post(f"{fake.url}/audio/speech", json=V3, trust_env=False).status_code == 200

    @pytest.mark.parametrize("head", ["", "data:audio/wav;base64,"])
    def test_registers_a_voice_once(self, boson: Fake, head: str) -> None:
        body = {"ref_audio": head + clip(), "ref_text": "Hello.", "title": "Ann"}
        first, second = (speak(boson, body, "/audio/voices").json()["voice_id"] for _ in range(2))
        assert first == second
        assert first.startswith("voice_")
        assert len(first) == len("voice_") + 64
        with client(boson) as http:
            voices = http.get("/audio/voices").json()["voices"]
        assert {"voice_id": first, "title": "Ann"} in voices
        assert {"voice_id": "eleanor", "title": "Eleanor"} in voices
        assert speak(boson, {**V3, "voice": first}).status_code == 200
        assert speak(boson, {**V3, "ref_audio": clip(), "ref_text": "Hello."}).status_code == 200

    @pytest.mark.parametrize(
        ("change", "kind"),
        [
            ({"ref_audio": clip(2.9)}, "audio_too_short"),
            ({"ref_audio": base64.b64encode(bytes(10_000_001)).decode()}, "file_too_large"),
            ({"ref_audio": base64.b64encode(b"hello").decode()}, "invalid_audio"),
            ({"ref_audio": "not base64!"}, "invalid_request_error"),
            ({"ref_text": " "}, "invalid_request_error"),
            ({"ref_text": None}, "invalid_request_error"),
            ({"name": "Ann"}, "invalid_request_error"),
        ],
        ids=["short", "large", "no-sound", "no-base64", "blank", "no-text", "field"],
    )
    def test_refuses_voices(self, boson: Fake, change: dict[str, Any], kind: str) -> None:
        answer = speak(boson, {"ref_audio": clip(), "ref_text": "Hello.", **change}, "/audio/voices")
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, kind)

    def test_unknown_paths_and_methods(self, boson: Fake) -> None:
        with client(boson) as http:
            assert http.get("/nothing").status_code == 404
            assert http.get("/models").json()["error"]["type"] == "not_found_error"
            assert http.get("/audio/speech").status_code == 405


class TestChat:
    def test_speaks(self, hackathon: Fake) -> None:
        system = {"role": "system", "content": "Speak."}
        user = {"role": "user", "content": [{"type": "text", "text": "It is only today."}]}
        more = {"max_completion_tokens": 99, "temperature": 0.7, "top_p": 0.9, "top_k": 50, "stop": ["<|eot_id|>"], "seed": 1}
        body = chat(system, user, audio={"voice": "mabel", "format": "wav"}, stream=False, **more)
        answer = speak(hackathon, body, "/chat/completions").json()
        with wave.open(io.BytesIO(base64.b64decode(answer["choices"][0]["message"]["audio"]["data"]))) as file:
            assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (1, 24_000, 2)
            assert loudness(file.readframes(10**6)) > 3000

    def test_every_dialect_has_it(self, boson: Fake, vllm: Fake) -> None:
        for fake in (boson, vllm):
            assert speak(fake, chat(), "/chat/completions").status_code == 200

    def test_accepts_a_reference(self, hackathon: Fake) -> None:
        part = {"type": "input_audio", "input_audio": {"data": clip(), "format": "wav"}}
        with_reference = speak(hackathon, chat(*messages_with_reference(part)), "/chat/completions")
        without = speak(hackathon, chat({"role": "user", "content": "Hi."}), "/chat/completions")
        assert with_reference.status_code == without.status_code == 200
        assert with_reference.content != without.content

    @pytest.mark.parametrize(
        "change",
        [
            {"model": "gpt-4o"},
            {"modalities": ["audio"]},
            {"messages": []},
            {"messages": [{"role": "assistant", "content": "Hi."}]},
            {"messages": [{"role": "user", "content": ""}]},
            {"messages": [{"role": "user", "content": "<|audio_out_bos|>"}]},
            {"messages": [{"role": "user", "content": "<|prosody:pause|>Hi"}]},
            {"messages": [{"role": "user", "content": "<emph>Hi"}]},
            {"messages": [{"role": "user", "content": "Hi", "name": "Ann"}]},
            {"messages": messages_with_reference({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})},
            {"messages": messages_with_reference({"type": "input_audio", "input_audio": {"data": clip()}})},
            {"messages": messages_with_reference({"type": "text", "text": "Hi"})},
            {"audio": {"voice": "jake"}},
            {"audio": {"format": "pcm"}},
            {"max_completion_tokens": 0},
            {"seed": "1"},
            {"speed": 2},
            {"stream": True},
        ],
        ids=lambda change: json.dumps(change)[:60],
    )
    def test_refuses(self, hackathon: Fake, change: dict[str, Any]) -> None:
        answer = speak(hackathon, {**chat(), **change}, "/chat/completions")
        assert answer.status_code in (400, 404)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["code"] == answer.status_code

    def test_its_speech_route_gives_pcm_alone(self, hackathon: Fake) -> None:
        body = {"model": CHAT_MODEL, "input": "Hi.", "voice": "vex"}
        assert loudness(speak(hackathon, body).content) > 1000
        assert speak(hackathon, {**body, **WAV}).status_code == 400
        assert speak(hackathon, {**body, "voice": "jake"}).status_code == 400


class TestOpenAISpeech:
    @pytest.mark.parametrize("form", ["wav", "mp3", "flac", "opus"])
    def test_speaks_in_every_format(self, vllm: Fake, form: str) -> None:
        assert 0.8 < seconds(speak(vllm, {**V2, "response_format": form})) < 3

    def test_gives_the_rate_of_pcm(self) -> None:
        with served("openai-speech", rate=16_000) as (_, http):
            answer = http.post("/audio/speech", json={**V2, **STREAM})
            assert (answer.headers["x-sample-rate"], answer.headers["content-type"]) == ("16000", "audio/pcm")
            assert 0.8 < len(answer.content) / 2 / 16_000 < 3
        with served("openai-speech", rate_header=False) as (_, http):
            assert "x-sample-rate" not in http.post("/audio/speech", json={**V2, **STREAM}).headers

    def test_speed_changes_the_duration(self, vllm: Fake) -> None:
        slow, fast = (seconds(speak(vllm, {**V2, **WAV, "speed": speed})) for speed in (0.5, 2.0))
        assert slow > 2.5 * fast

    def test_streams_events_if_configured(self) -> None:
        with served("openai-speech", events=True) as (_, http):
            plain = http.post("/audio/speech", json={**V2, **STREAM, "stream_format": "audio"}).content
            answer = http.post("/audio/speech", json={**V2, **STREAM})
        events = [json.loads(block.split("data: ")[1]) for block in answer.text.split("\n\n")[:-1]]
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert events[-1]["type"] == "speech.audio.done"
        assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1]) == plain

    def test_lists_voices_and_models(self, vllm: Fake) -> None:
        with client(vllm) as http:
            assert http.get("/audio/voices").json()["voices"][0] == "default"
            assert V2["model"] in [model["id"] for model in http.get("/models").json()["data"]]

    def test_accepts_a_reference_and_tags_of_v3(self, vllm: Fake) -> None:
        assert speak(vllm, {**V2, "ref_audio": f"data:audio/wav;base64,{clip()}", "ref_text": "Hello."}).status_code == 200
        tagged = {**V2, "input": "<|prosody:pause|>Hello."}
        assert speak(vllm, tagged).status_code == 400
        assert speak(vllm, {**tagged, "model": "bosonai/higgs-tts-3-4b"}).status_code == 200

    @pytest.mark.parametrize(
        "change",
        [
            {"model": "higgs"},
            {"model": None},
            {"voice": None},
            {"voice": "jake"},
            {"input": " "},
            {"input": "a" * 4097},
            {"input": "<emph>Now"},
            {"speed": 4.1},
            {"speed": "1"},
            {"seed": -1},
            {"temperature": 1},
            {"response_format": "aac"},
            {"stream": True},
            {"ref_audio": f"data:audio/wav;base64,{clip()}"},
            {"ref_audio": clip(), "ref_text": "Hello."},
        ],
        ids=lambda change: json.dumps(change)[:60],
    )
    def test_refuses(self, vllm: Fake, change: dict[str, Any]) -> None:
        answer = speak(vllm, {**V2, **change})
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]["type"] in ("BadRequestError", "NotFoundError", "unknown_tag")

    def test_its_401_has_no_message(self, vllm: Fake) -> None:
        assert httpx.get(f"{vllm.url}/models", trust_env=False).json() == {"error": "Unauthorized"}


class TestRecord:
    def test_records_requests_with_times(self, boson: Fake) -> None:
        before = time.monotonic()
        speak(boson, V3)
        received = boson.requests[-1]
        assert (received.method, received.path, received.status) == ("POST", "/v1/audio/speech", 200)
        assert received.json == V3
        assert received.headers["authorization"] == "Bearer fake-key"
        assert received.answered is not None
        assert before <= received.arrived <= received.answered <= time.monotonic()
        assert received.disconnected is None

    def test_distinguishes_connections(self, boson: Fake) -> None:
        with client(boson) as http:
            for _ in range(2):
                http.post("/audio/speech", json=V3)
        speak(boson, V3)
        first, second, third = (received.client for received in boson.requests[-3:])
        assert first == second != third

    @pytest.mark.parametrize("fault", [Fault.NEVER_ANSWERS, Fault.STALLS, Fault.DRIPS])
    def test_records_that_the_client_disconnected(self, boson: Fake, fault: Fault) -> None:
        boson.misbehave(fault)
        with client(boson) as http, pytest.raises(httpx.ReadTimeout):
            http.post("/audio/speech", json={**V3, **STREAM}, timeout=0.05 if fault is not Fault.DRIPS else 0.01)
        received = boson.requests[-1]
        assert received.ended.wait(60)
        assert received.answered is None
        assert received.disconnected is not None

    def test_the_delay_includes_the_time_for_the_speech(self, monkeypatch: pytest.MonkeyPatch) -> None:
        waits = recorded_sleeps(monkeypatch)
        with served(delay_ms=80_000) as (fake, http):
            for _ in range(2):
                http.post("/audio/speech", json=V3)
            assert len(waits) == 2
            for received, wait in zip(fake.requests, waits, strict=True):
                assert received.arrived + 80 - received.sent[0] <= wait < 80

    def test_small_responses_do_not_wait_for_acknowledgements(self, monkeypatch: pytest.MonkeyPatch) -> None:
        no_delay: list[int] = []
        connection_made = server._Protocol.connection_made

        def record(self: Any, transport: asyncio.Transport) -> None:
            connection_made(self, transport)
            no_delay.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        monkeypatch.setattr(server._Protocol, "connection_made", record)
        with served() as (_, http):
            http.post("/audio/speech", json={**V3, "input": ""})
        assert no_delay == [1]

    def test_a_held_path_responds_after_the_block(self) -> None:
        with served() as (fake, http), ThreadPoolExecutor() as pool:
            with fake.hold("/v1/audio/voices"):
                held = pool.submit(http.get, "/audio/voices")
                assert http.post("/audio/speech", json=V3).status_code == 200  # other paths respond
                assert not held.done()
            assert held.result(60).status_code == 200


class TestPlan:
    def test_after_and_times(self, boson: Fake) -> None:
        boson.misbehave(Fault.ERROR_500, after=1, times=2)
        assert [speak(boson, V3).status_code for _ in range(4)] == [200, 500, 500, 200]

    def test_without_times_until_changed(self, boson: Fake) -> None:
        boson.misbehave(Fault.ERROR_503)
        assert [speak(boson, V3).status_code for _ in range(3)] == [503] * 3
        boson.misbehave(None)
        assert speak(boson, V3).status_code == 200

    def test_of_one_path(self, boson: Fake) -> None:
        boson.misbehave(Fault.ERROR_500, path="/v1/audio/voices", times=1)
        assert speak(boson, V3).status_code == 200
        assert speak(boson, {"ref_audio": clip(), "ref_text": "Hello."}, "/audio/voices").status_code == 500

    def test_from_the_start(self) -> None:
        with served(fault=Fault.ERROR_500, fault_times=1) as (_, http):
            assert [http.post("/audio/speech", json=V3).status_code for _ in range(2)] == [500, 200]

    def test_a_fault_that_does_not_apply_is_an_error(self) -> None:
        with pytest.raises(ExceptionGroup, match="itself failed"), served(fault=Fault.WAV_STEREO) as (_, http):
            assert http.post("/audio/speech", json={**V3, **PCM}).status_code == 500

    def test_breaking_connections_needs_a_server(self) -> None:
        app = create_app(Options(fault=Fault.RESETS))
        with pytest.raises(RuntimeError, match="only a fake that `serve` runs"):
            httpx.Client(transport=_InProcess(app), base_url="http://fake/v1", headers=KEY).post("/audio/speech", json=V3)

    def test_control_over_http(self, boson: Fake) -> None:
        root = boson.url.removesuffix("/v1")
        put = httpx.put(f"{root}/fake/fault", json={"fault": "error-500", "times": 1}, trust_env=False)
        assert put.status_code == 204
        assert [speak(boson, V3).status_code for _ in range(2)] == [500, 200]
        listed = httpx.get(f"{root}/fake/requests", trust_env=False).json()[-2:]
        assert [(each["fault"], each["status"]) for each in listed] == [("error-500", 500), (None, 200)]
        assert json.loads(listed[0]["body"]) == V3


class _InProcess(httpx.BaseTransport):
    """httpx.ASGITransport, which is for async clients, in a sync one."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        import asyncio

        return asyncio.run(self._inner.handle_async_request(request))


class TestFaults:
    def test_each_has_an_action(self) -> None:
        assert set(ACTIONS) == set(Fault)

    @pytest.mark.parametrize(
        ("fault", "status", "kind", "retry"),
        [
            (Fault.UNAUTHORIZED, 401, "authentication_error", None),
            (Fault.FORBIDDEN, 403, "permission_error", None),
            (Fault.TOO_LONG, 400, "input_too_long", None),
            (Fault.BUSY, 429, "rate_limit_error", None),
            (Fault.BUSY_SECONDS, 429, "rate_limit_error", "1"),
            (Fault.ERROR_500, 500, "server_error", None),
            (Fault.ERROR_503, 503, "server_error", None),
            (Fault.ERROR_503_SECONDS, 503, "server_error", "1"),
            (Fault.JSON_ERROR, 200, "server_error", None),
        ],
    )
    def test_errors(self, boson: Fake, fault: Fault, status: int, kind: str, retry: str | None) -> None:
        boson.misbehave(fault)
        answer = speak(boson, V3)
        assert (answer.status_code, answer.json()["error"]["type"], answer.headers.get("retry-after")) == (status, kind, retry)

    def test_a_date_to_retry_after(self, boson: Fake) -> None:
        boson.misbehave(Fault.BUSY_DATE)
        before = time.time()
        date = parsedate_to_datetime(speak(boson, V3).headers["retry-after"])
        assert int(before) + boson.options.retry_after_s <= date.timestamp() <= time.time() + boson.options.retry_after_s

    @pytest.mark.parametrize(("fault", "status"), [(Fault.ERROR_502, 502), (Fault.HTML, 200)])
    def test_pages(self, boson: Fake, fault: Fault, status: int) -> None:
        boson.misbehave(fault)
        answer = speak(boson, V3)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html")
        assert answer.text.startswith("<!doctype html>")

    @pytest.mark.parametrize(("fault", "status"), [(Fault.ECHO_400, 400), (Fault.ECHO_500, 500)])
    def test_echoes(self, boson: Fake, fault: Fault, status: int) -> None:
        boson.misbehave(fault)
        answer = speak(boson, V3)
        assert answer.status_code == status
        assert "fake-key" in answer.text
        assert "It is only today." in answer.text

    def test_redirect(self, boson: Fake) -> None:
        boson.misbehave(Fault.REDIRECT)
        assert speak(boson, V3).is_redirect

    def test_never_answers(self, boson: Fake) -> None:
        boson.misbehave(Fault.NEVER_ANSWERS)
        with client(boson) as http, pytest.raises(httpx.ReadTimeout):
            http.post("/audio/speech", json=V3, timeout=0.1)

    def test_slow_headers(self, boson: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
        waits = recorded_sleeps(monkeypatch)
        boson.misbehave(Fault.SLOW_HEADERS)
        assert speak(boson, V3).status_code == 200
        assert 0.15 in waits

    @pytest.mark.parametrize(("fault", "error"), [(Fault.HANGS_UP, httpx.RemoteProtocolError), (Fault.RESETS, httpx.ReadError)])
    def test_closes_without_a_response(self, boson: Fake, fault: Fault, error: type[Exception]) -> None:
        boson.misbehave(fault)
        with pytest.raises(error):
            speak(boson, V3)

    @pytest.mark.parametrize("form", [WAV, STREAM])
    @pytest.mark.parametrize(
        ("fault", "error", "message"),
        [
            (Fault.RESETS_MID_BODY, httpx.ReadError, "reset by peer"),
            (Fault.SHORT_BODY, httpx.RemoteProtocolError, "received .* bytes, expected"),
            (Fault.UNFINISHED_CHUNKS, httpx.RemoteProtocolError, "incomplete chunked read"),
            (Fault.STALLS, httpx.ReadTimeout, "timed out"),
        ],
    )
    def test_half_a_response(self, boson: Fake, fault: Fault, error: type[Exception], message: str, form: dict[str, Any]) -> None:
        whole = speak(boson, {**V3, **form}).content
        boson.misbehave(fault)
        received = bytearray()
        wait = 1.0 if fault is Fault.STALLS else 60.0
        with client(boson) as http, http.stream("POST", "/audio/speech", json={**V3, **form}, timeout=wait) as answer:
            assert answer.status_code == 200
            with pytest.raises(error, match=message):
                read_into(received, answer)
        assert received == whole[: len(whole) // 2]

    def test_drips(self, boson: Fake) -> None:
        boson.misbehave(Fault.DRIPS)
        with client(boson) as http, http.stream("POST", "/audio/speech", json={**V3, **STREAM}) as answer:
            pieces = answer.iter_raw()
            assert [len(next(pieces)) for _ in range(5)] == [2] * 5

    def test_odd_chunks_are_complete(self, boson: Fake) -> None:
        whole = speak(boson, {**V3, **STREAM}).content
        boson.misbehave(Fault.ODD_CHUNKS)
        with client(boson) as http, http.stream("POST", "/audio/speech", json={**V3, **STREAM}) as answer:
            pieces = list(answer.iter_raw())
        assert b"".join(pieces) == whole
        assert sum(len(piece) % 2 for piece in pieces) > 5

    @pytest.mark.parametrize("body", [STREAM, WAV])
    def test_empty_and_garbage(self, boson: Fake, body: dict[str, Any]) -> None:
        boson.misbehave(Fault.EMPTY)
        assert speak(boson, {**V3, **body}).content == b""
        boson.misbehave(Fault.GARBAGE)
        answer = speak(boson, {**V3, **body})
        assert len(answer.content) == 20_000
        assert answer.headers["content-type"] == ("audio/pcm" if body is STREAM else "audio/wav")
        with pytest.raises(soundfile.LibsndfileError):
            soundfile.read(io.BytesIO(answer.content))

    def test_gzip_bomb(self, boson: Fake) -> None:
        boson.misbehave(Fault.GZIP_BOMB)
        with client(boson) as http, http.stream("POST", "/audio/speech", json=V3) as answer:
            unpacked = 0
            for piece in answer.iter_bytes():
                unpacked += len(piece)
                if unpacked > 30_000_000:
                    break
            assert answer.num_bytes_downloaded < 300_000

    def test_content_types(self, boson: Fake) -> None:
        boson.misbehave(Fault.WRONG_TYPE)
        assert speak(boson, {**V3, **WAV}).headers["content-type"] == "audio/mpeg"
        assert speak(boson, V3).headers["content-type"] == "audio/wav"
        boson.misbehave(Fault.NO_TYPE)
        assert "content-type" not in speak(boson, {**V3, **WAV}).headers

    def test_odd_pcm(self, boson: Fake) -> None:
        whole = speak(boson, {**V3, **PCM}).content
        boson.misbehave(Fault.ODD_PCM)
        assert speak(boson, {**V3, **PCM}).content == whole[:-1]

    @pytest.mark.parametrize(
        ("fault", "header"),
        [(Fault.RATE_WRONG, "48000"), (Fault.RATE_ZERO, "0"), (Fault.RATE_UNREADABLE, "24 kHz or so"), (Fault.RATE_ABSENT, None)],
    )
    def test_rates(self, vllm: Fake, fault: Fault, header: str | None) -> None:
        vllm.misbehave(fault)
        answer = speak(vllm, {**V2, **STREAM})
        assert answer.headers.get("x-sample-rate") == header
        assert 0.8 < len(answer.content) / 48_000 < 3

    @pytest.mark.parametrize(("fault", "size"), [(Fault.WAV_SIZES_ZERO, bytes(4)), (Fault.WAV_SIZES_MAX, b"\xff" * 4)])
    def test_sizes(self, boson: Fake, fault: Fault, size: bytes) -> None:
        whole = speak(boson, {**V3, **WAV}).content
        boson.misbehave(fault)
        assert speak(boson, {**V3, **WAV}).content == whole[:4] + size + whole[8:40] + size + whole[44:]

    def test_truncated(self, boson: Fake) -> None:
        whole = speak(boson, {**V3, **WAV}).content
        boson.misbehave(Fault.WAV_TRUNCATED)
        half = speak(boson, {**V3, **WAV}).content
        assert half == whole[: len(half)]
        assert 0 <= len(whole) - 44 - 2 * (len(half) - 44) <= 3

    @pytest.mark.parametrize(("fault", "channels", "rate"), [(Fault.WAV_STEREO, 2, 24_000), (Fault.WAV_16K, 1, 16_000)])
    def test_other_wav_formats(self, boson: Fake, hackathon: Fake, fault: Fault, channels: int, rate: int) -> None:
        boson.misbehave(fault)
        hackathon.misbehave(fault)
        chatted = speak(hackathon, chat(), "/chat/completions").json()["choices"][0]["message"]["audio"]["data"]
        for file in (speak(boson, {**V3, **WAV}).content, base64.b64decode(chatted)):
            with wave.open(io.BytesIO(file)) as opened:
                assert (opened.getnchannels(), opened.getframerate()) == (channels, rate)
                assert 0.8 < opened.getnframes() / rate < 3
                assert loudness(opened.readframes(10**6)) > 3000

    @pytest.mark.parametrize("form", ["wav", "mp3", "opus"])
    def test_runs_on(self, boson: Fake, hackathon: Fake, form: str) -> None:
        body = {**V3, "response_format": form}
        before = seconds(speak(boson, body))
        boson.misbehave(Fault.RUNS_ON)
        assert 4.9 < seconds(speak(boson, body)) - before < 5.2

    def test_runs_on_in_pcm_and_chat(self, boson: Fake, hackathon: Fake) -> None:
        whole = speak(boson, {**V3, **STREAM}).content
        for fake in (boson, hackathon):
            fake.misbehave(Fault.RUNS_ON)
        longer = speak(boson, {**V3, **STREAM}).content
        assert longer.startswith(whole)
        assert len(longer) == len(whole) + 5 * 48_000
        chatted = speak(hackathon, chat(), "/chat/completions").json()["choices"][0]["message"]["audio"]["data"]
        assert len(base64.b64decode(chatted)) > 5 * 48_000

    def test_faults_of_chats(self, hackathon: Fake) -> None:
        def message() -> dict[str, Any]:
            answer: dict[str, Any] = speak(hackathon, chat(), "/chat/completions").json()["choices"][0]["message"]
            return answer

        hackathon.misbehave(Fault.BAD_BASE64)
        with pytest.raises(ValueError, match=r"base64|Non|Only"):
            base64.b64decode(message()["audio"]["data"], validate=True)
        hackathon.misbehave(Fault.NO_AUDIO)
        assert message()["audio"] is None
        hackathon.misbehave(Fault.CUT_SHORT)
        assert speak(hackathon, chat(), "/chat/completions").json()["choices"][0]["finish_reason"] == "length"
        hackathon.misbehave(Fault.WRONG_JSON)
        assert isinstance(speak(hackathon, chat(), "/chat/completions").json()["choices"], dict)

    def test_an_error_among_events(self) -> None:
        with served("openai-speech", events=True, fault=Fault.ERROR_EVENT) as (_, http):
            blocks = http.post("/audio/speech", json={**V2, **STREAM}).text.split("\n\n")[:-1]
        assert [block.split()[1] for block in blocks[-2:]] == ["speech.audio.delta", "speech.audio.error"]

    def test_error_responses_have_no_faults(self, boson: Fake) -> None:
        boson.misbehave(Fault.EMPTY)
        assert speak(boson, {**V3, "input": ""}).json()["error"]["type"] == "invalid_request_error"


class TestCommandLine:
    def test_prints_settings_that_work(self) -> None:
        options = ["--port", "0", "--dialect", "openai-speech", "--key", "k"]
        command = [sys.executable, "-W", "error", "-m", "tests.fake_higgs", *options]
        with subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A process in the background ignores SIGINT, and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(6)]
            settings = dict(line.removeprefix("export ").split("=") for line in lines if line.startswith("export "))
            answer = httpx.post(
                f"{settings['PROSODY_HIGGS__URL']}/audio/speech",
                json={**V2, **WAV},
                headers={"Authorization": f"Bearer {settings['PROSODY_HIGGS__API_KEY']}"},
                trust_env=False,
            )
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert answer.status_code == 200
        assert settings["PROSODY_BACKEND"] == "higgs-http"
        assert settings["PROSODY_HIGGS__DIALECT"] == "openai-speech"
        assert process.returncode == 0
        assert "POST /v1/audio/speech: 200" in errors
        assert "Traceback" not in errors
