"""The server for boson_multimodal, with an engine that hums in place of the model, called by higgs-http and by plain HTTP."""

import asyncio
import base64
import io
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from prosody_tagger.markup import plain
from synth.base import Reference, SpeechRequest
from synth.errors import BackendError, BackendUnavailable, RefusedRequest
from synth.higgs_http.backend import HiggsHttp, HiggsSettings

sys.path.insert(0, str(Path(__file__).parents[1]))  # boson_server is not an installed package

from boson_server.__main__ import read_voices
from boson_server.app import ServerOptions, create_app
from boson_server.encoding import encode
from boson_server.request import MAX_CHARS, RequestRefused, SpeechBody, SpeechJob, VoiceRecording, plain_text, speech_job
from boson_server.worker import EngineWorker

RATE = 24_000
HANG_SECONDS = 60.0  # a test that waits longer hangs
STEP = 2_400
TEXT = "The quick zebra whispers a number to nobody in particular."
NAME = ServerOptions().name


@dataclass
class Humming:
    """An engine that hums ``steps`` chunks of 100 ms, each after ``pause`` seconds, and only while ``gate`` is set."""

    steps: int = 5
    pause: float = 0.0
    error: Exception | None = None
    rate: int = RATE
    jobs: list[SpeechJob] = field(default_factory=list)
    stopped_at: list[int] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def speak(self, job: SpeechJob, cancelled: Callable[[], bool], put: Callable[[np.ndarray], None]) -> None:
        self.jobs.append(job)
        assert self.gate.wait(HANG_SECONDS)
        if self.error is not None:
            raise self.error
        for step in range(self.steps):
            if cancelled():
                self.stopped_at.append(step)
                return
            time.sleep(self.pause)
            phase = np.arange(step * STEP, (step + 1) * STEP) / RATE
            put((0.5 * np.sin(2 * np.pi * 220 * phase)).astype(np.float32))


@contextmanager
def serving(engine: Humming | Callable[[], Humming], **options: Any) -> Iterator[str]:
    """Run the server on a free local port; yield its address."""
    load = engine if callable(engine) else lambda: engine
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(create_app(load, ServerOptions(**options)), log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            wait_until(lambda: server.started)
            if not options.get("unready"):
                wait_until(
                    lambda: httpx.get(f"{address}/ready").status_code == 200 or "cannot" in httpx.get(f"{address}/ready").text
                )
            yield address
        finally:
            server.should_exit = True
            thread.join()


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ask(address: str, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if (key := body.pop("key", None)) else {}
    return httpx.post(
        f"{address}/v1/audio/speech", json={"model": NAME, "input": TEXT, **body}, headers=headers, timeout=HANG_SECONDS
    )


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    assert error["code"] == response.status_code
    return response.status_code, error["type"], error["message"]


def samples_of(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return soundfile.read(io.BytesIO(response.content), dtype="float32")[0]


def recording(seconds: float = 0.5) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full((round(seconds * RATE), 2), 0.1), RATE, format="WAV")
    return file.getvalue()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# --- called by higgs-http


def voice_at(address: str, **settings: Any) -> HiggsHttp:
    return HiggsHttp(HiggsSettings(dialect="openai-speech", url=f"{address}/v1", retries=0, total_timeout=5.0, **settings))


def spoken(at: HiggsHttp, **request: Any) -> tuple[np.ndarray, int]:
    """Return all samples, and the number of chunks."""

    async def speak() -> list[np.ndarray]:
        try:
            async with aclosing(at.speak(SpeechRequest(plain(TEXT), **request))) as speeches:
                return [speech.audio.samples async for speech in speeches]
        finally:
            await at.close()

    chunks = asyncio.run(speak())
    return np.concatenate(chunks), len(chunks)


@pytest.mark.parametrize("settings", [{}, {"stream": False}, {"response_format": "wav"}, {"response_format": "flac"}])
def test_higgs_http_speaks_through_it(settings: dict[str, Any]) -> None:
    engine = Humming()
    with serving(engine) as address:
        samples, _ = spoken(voice_at(address, **settings), seed=7)
    wanted = 0.5 * np.sin(2 * np.pi * 220 * np.arange(5 * STEP) / RATE)
    assert len(samples) == len(wanted)
    assert np.abs(samples - wanted).max() < 1e-4
    assert (engine.jobs[0].text, engine.jobs[0].seed, engine.jobs[0].recording) == (TEXT, 7, None)


@pytest.mark.parametrize("form", ["mp3", "opus"])
def test_higgs_http_reads_its_compressed_forms(form: Any) -> None:
    with serving(Humming(steps=10)) as address:
        samples, _ = spoken(voice_at(address, response_format=form))
    assert abs(len(samples) / RATE - 1.0) < 0.1
    assert 0.2 < np.sqrt(np.mean(samples[RATE // 4 : RATE // 2] ** 2)) < 0.5


def test_higgs_http_hears_the_sound_while_it_is_made() -> None:
    with serving(Humming(steps=8, pause=0.05)) as address:
        _, chunks = spoken(voice_at(address))
    assert chunks >= 4


def test_higgs_http_sends_a_recording_along() -> None:
    engine = Humming()
    with serving(engine) as address:
        spoken(voice_at(address), reference=Reference(recording(), "wav", "A hum <|eot_id|>."))
    sent = engine.jobs[0].recording
    assert sent is not None
    assert "<|" not in sent.text
    assert soundfile.info(io.BytesIO(sent.audio)).channels == 1


def test_higgs_http_understands_its_refusals() -> None:
    with serving(Humming(), key="k1") as address:
        with pytest.raises(BackendUnavailable, match="API key"):
            spoken(voice_at(address))
        with pytest.raises(RefusedRequest, match="no voice 'nobody'"):
            spoken(voice_at(address, api_key="k1"), voice="nobody")
        with pytest.raises(BackendUnavailable, match="no model"):
            spoken(voice_at(address, api_key="k1", model="other"))
        with pytest.raises(RefusedRequest, match="speed"):
            spoken(voice_at(address, api_key="k1"), speed=1.5)
    with serving(Humming(error=ValueError("secret text"))) as address, pytest.raises(BackendError, match="ValueError") as failed:
        spoken(voice_at(address))
    assert "secret" not in str(failed.value)


def test_higgs_http_lists_its_voices() -> None:
    with serving(Humming(), voices={"mabel": VoiceRecording(b"", "x"), "belinda": VoiceRecording(b"", "x")}) as address:
        assert [voice.name for voice in asyncio.run(voice_at(address).voices())] == ["default", "belinda", "mabel"]


# --- plain HTTP


def test_a_voice_is_its_recording() -> None:
    mabel = VoiceRecording(b"sound", "words")
    engine = Humming()
    with serving(engine, voices={"mabel": mabel}) as address:
        assert ask(address, voice="mabel").status_code == 200
        assert ask(address, voice="default").status_code == 200
    assert [job.recording for job in engine.jobs] == [mabel, None]


def test_pcm_says_its_rate() -> None:
    with serving(Humming(steps=2)) as address:
        answer = ask(address, response_format="pcm")
    assert (answer.headers["content-type"], answer.headers["x-sample-rate"]) == ("audio/pcm", "24000")
    assert len(answer.content) == 2 * STEP * 2


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"input": ""}, 400, "no words"),
        ({"input": " <|eot_id|>... \x00"}, 200, ""),
        ({"input": "... !"}, 400, "no words"),
        ({"input": "a" * (MAX_CHARS + 1)}, 400, "2001 characters"),
        ({"input": 3}, 400, "input"),
        ({"model": "gpt"}, 404, "'gpt'"),
        ({"voice": "nobody"}, 400, "'nobody'"),
        ({"response_format": "aac"}, 400, "response_format"),
        ({"stream": True}, 400, "pcm"),
        ({"speed": 2.0}, 400, "speed"),
        ({"speed": float("inf")}, 400, ""),
        ({"seed": -1}, 400, "seed"),
        ({"seed": 2**63}, 400, "seed"),
        ({"temperature": 9}, 400, "temperature"),
        ({"instructions": "be loud"}, 400, "instructions"),
        ({"ref_audio": "AAAA"}, 400, "ref_text"),
        ({"ref_text": "hello"}, 400, "ref_audio"),
        ({"ref_audio": "http://127.0.0.1/x.wav", "ref_text": "hello"}, 400, "address"),
        ({"ref_audio": "file:///etc/passwd", "ref_text": "hello"}, 400, "address"),
        ({"ref_audio": "data:audio/wav;base64,%%%", "ref_text": "hello"}, 400, "base64"),
        ({"ref_audio": base64.b64encode(b"no sound").decode(), "ref_text": "hello"}, 400, "cannot be read"),
        ({"ref_audio": base64.b64encode(recording(61)).decode(), "ref_text": "hello"}, 400, "61.0 s"),
    ],
)
def test_what_is_refused(body: dict[str, Any], status: int, words: str, shared: str) -> None:
    content = httpx.Request("POST", shared, content=_json({"model": NAME, "input": TEXT, **body})).read()
    answer = httpx.post(f"{shared}/v1/audio/speech", content=content, headers={"content-type": "application/json"}, timeout=60)
    assert answer.status_code == status
    if status != 200:
        assert words in error_of(answer)[2]


def _json(body: dict[str, Any]) -> bytes:
    import json

    return json.dumps(body).encode()  # httpx would refuse infinity, which is not JSON


@pytest.fixture(scope="module")
def shared() -> Iterator[str]:
    with serving(Humming(steps=1)) as address:
        yield address


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 50_000, b'{"input": "\\ud800 x", "model": 1}'])
def test_a_body_that_is_no_request(content: bytes, shared: str) -> None:
    answer = httpx.post(f"{shared}/v1/audio/speech", content=content, headers={"content-type": "application/json"})
    assert error_of(answer)[:2] == (400, "invalid_request_error")


def test_other_paths(shared: str) -> None:
    assert error_of(httpx.get(f"{shared}/v1/nothing"))[0] == 404
    assert error_of(httpx.get(f"{shared}/v1/audio/speech"))[0] == 405
    assert httpx.get(f"{shared}/live").json() == {"live": True}
    assert httpx.get(f"{shared}/v1/models").json()["data"][0]["id"] == NAME


def test_the_key_is_wanted_but_for_its_state() -> None:
    with serving(Humming(steps=1), key="k1") as address:
        assert error_of(ask(address))[:2] == (401, "authentication_error")
        assert ask(address, key="k2").status_code == 401
        assert ask(address, key="k1").status_code == 200
        assert httpx.get(f"{address}/v1/models").status_code == 401
        assert httpx.get(f"{address}/ready").status_code == 200


def test_a_long_body_is_refused_however_it_comes() -> None:
    engine = Humming()
    with serving(engine, max_body=1_000) as address:
        assert error_of(ask(address, input="x" * 1_000))[0] == 413

        def endless() -> Iterator[bytes]:
            for _ in range(100):
                yield b" " * 100

        try:
            answer = httpx.post(f"{address}/v1/audio/speech", content=endless())
        except httpx.WriteError:  # the server may close the connection before all is sent
            return
        assert answer.status_code == 413
    assert engine.jobs == []


def test_a_few_wait_and_more_are_refused() -> None:
    engine = Humming(steps=4)
    engine.gate.clear()
    with serving(engine, waiting=2) as address:

        async def crowd() -> list[httpx.Response]:
            async with httpx.AsyncClient(timeout=HANG_SECONDS) as client:
                body = {"model": NAME, "input": TEXT}
                answers = [asyncio.ensure_future(client.post(f"{address}/v1/audio/speech", json=body)) for _ in range(6)]
                while sum(answer.done() for answer in answers) < 3:
                    await asyncio.wait([answer for answer in answers if not answer.done()], return_when=asyncio.FIRST_COMPLETED)
                engine.gate.set()
                return await asyncio.gather(*answers)

        answers = asyncio.run(crowd())
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(refused) == 3
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert all(len(samples_of(answer)) == 4 * STEP for answer in answers if answer not in refused)
        wait_until(lambda: ask(address).status_code == 200)  # the queue has room again
    assert len(engine.jobs) == 4


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_engine(stream: bool) -> None:
    engine = Humming(steps=5_000, pause=0.01)
    with serving(engine, waiting=0) as address:

        async def leave() -> None:
            async with httpx.AsyncClient(timeout=HANG_SECONDS) as client:
                body = {"model": NAME, "input": TEXT, "response_format": "pcm", "stream": stream}
                answer = asyncio.ensure_future(client.post(f"{address}/v1/audio/speech", json=body))
                await asyncio.to_thread(wait_until, lambda: engine.jobs)
                answer.cancel()
                await asyncio.wait([answer])
                assert answer.cancelled()

        asyncio.run(leave())
        wait_until(lambda: engine.stopped_at)
        assert engine.stopped_at[0] < engine.steps / 2
        engine.steps = 1
        wait_until(lambda: ask(address).status_code == 200)


def test_a_client_that_leaves_while_it_waits_is_never_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Humming(steps=2)
    engine.gate.clear()
    dropped = threading.Event()
    job_done = EngineWorker._done

    def note_drop(worker: EngineWorker) -> None:
        job_done(worker)
        dropped.set()

    monkeypatch.setattr(EngineWorker, "_done", note_drop)
    with serving(engine) as address:

        async def leave() -> httpx.Response:
            async with httpx.AsyncClient(timeout=HANG_SECONDS) as client:
                body = {"model": NAME, "input": TEXT}
                first = asyncio.ensure_future(client.post(f"{address}/v1/audio/speech", json=body))
                await asyncio.to_thread(wait_until, lambda: engine.jobs)
                limits = httpx.Timeout(HANG_SECONDS, read=0.5)
                with pytest.raises(httpx.ReadTimeout):
                    await client.post(f"{address}/v1/audio/speech", json={**body, "input": "Never."}, timeout=limits)
                await asyncio.to_thread(wait_until, dropped.is_set)
                engine.gate.set()
                return await first

        assert asyncio.run(leave()).status_code == 200
        assert ask(address, input="And then.").status_code == 200
    assert [job.text for job in engine.jobs] == [TEXT, "And then."]


def test_a_failure_says_so_and_the_next_is_served() -> None:
    engine = Humming(error=RuntimeError("CUDA: out of memory"))
    with serving(engine) as address:
        assert error_of(ask(address))[0] == 500
        assert error_of(ask(address, response_format="pcm", stream=True))[0] == 500
        engine.error = None
        assert ask(address).status_code == 200
        engine.steps = 0
        assert "nothing" in error_of(ask(address))[2]
        assert "nothing" in error_of(ask(address, response_format="pcm", stream=True))[2]


def test_it_is_not_ready_before_the_model_is_there() -> None:
    go = threading.Event()

    def load() -> Humming:
        assert go.wait(HANG_SECONDS)
        return Humming(steps=1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(load, ServerOptions()), log_config=None))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert httpx.get(f"{address}/live").status_code == 200
        assert httpx.get(f"{address}/ready").status_code == 503
        answer = ask(address)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        go.set()
        wait_until(lambda: httpx.get(f"{address}/ready").status_code == 200)
        assert ask(address).status_code == 200
        server.should_exit = True
        thread.join()


def test_a_model_that_cannot_be_loaded_is_told_of() -> None:
    def load() -> Humming:
        raise OSError("no such folder")

    with serving(load) as address:
        answer = httpx.get(f"{address}/ready")
        assert answer.status_code == 503
        assert "OSError" in answer.json()["why"]
        assert error_of(ask(address))[0] == 503


# --- jobs


@given(st.text(alphabet=st.sampled_from("<|>_ aeot\x00\ud800\n")), st.sampled_from(["<|eot_id|>", "<|AUDIO_OUT|>", "<|a|>", ""]))
def test_no_text_holds_a_control_token(around: str, token: str) -> None:
    import re

    safe = plain_text(f"{around}{token}{around}")
    assert not re.search(r"<\|[^<>|\s]{1,64}\|>", safe)
    assert "\x00" not in safe
    safe.encode()


def test_text_without_tokens_stays() -> None:
    assert plain_text("a <b> | c || d <| e |> f\ng") == "a <b> | c || d <| e |> f\ng"
    assert plain_text("x" * 2_000_000).endswith("x")
    assert plain_text("<|" * 200_000) == "<|" * 200_000


def test_frames_follow_the_length_of_the_text() -> None:
    def frames(text: str, **body: Any) -> int:
        return speech_job(SpeechBody(model="m", input=text, **body), None).frames

    assert frames("Yes.") == 75
    assert frames("x" * 100) == 1_500
    assert frames("x" * MAX_CHARS) == 2_048
    assert frames("x" * 100, max_new_tokens=200) == 200
    assert frames("Yes.", max_new_tokens=2_000) == 75


def test_sound_that_is_no_number_is_silence() -> None:
    data = encode(np.array([np.nan, np.inf, -np.inf, 0.5], dtype=np.float32), RATE, "pcm")
    assert np.frombuffer(data, "<i2").tolist() == [0, 32767, -32767, 16383]


def test_voices_are_read_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mabel.wav").write_bytes(recording())
    (tmp_path / "mabel.txt").write_text("So it goes.")
    (tmp_path / "wordless.wav").write_bytes(recording())
    assert {name: voice.text for name, voice in read_voices(tmp_path).items()} == {"mabel": "So it goes."}
    (tmp_path / "wordless.txt").write_text("x")
    (tmp_path / "wordless.wav").write_bytes(b"no sound")
    with pytest.raises(RequestRefused, match="cannot be read"):
        read_voices(tmp_path)
