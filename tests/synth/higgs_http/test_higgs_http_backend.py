"""The backend higgs-http with servers that work: settings, requests, streaming, connections, cancellation."""

import asyncio
import subprocess
import sys
import threading
from contextlib import aclosing

import numpy as np
import pytest
from fake_higgs import DIALECTS, Fault, Options, serve
from higgs_http_helpers import (  # noqa: F401 (a fixture)
    HANG_SECONDS,
    KEY,
    RATE,
    TEXT,
    backend_at,
    clean_environment,
    samples,
    speak,
    spoken,
    wait_until,
    warnings,
)
from pydantic import ValidationError

from prosody_tagger.markup import KINDS, plain
from synth.base import SpeechRequest
from synth.errors import BackendTimeout, BackendUnavailable, RefusedRequest
from synth.higgs_http import connections
from synth.higgs_http.backend import HiggsHttp, HiggsSettings
from synth.higgs_http.response import RATE as OUR_RATE
from synth.lowering import max_duration

STREAMING = ("boson", "openai-speech")


# Settings and capabilities


def test_every_setting_has_a_default():
    assert HiggsHttp().name == "higgs-http"
    assert HiggsHttp(HiggsSettings()).capabilities == HiggsHttp().capabilities


def test_importing_it_loads_no_heavy_modules():
    code = (
        "import sys; from synth.higgs_http.backend import HiggsHttp; HiggsHttp().capabilities; "
        "sys.exit(any(name in sys.modules for name in ('httpx', 'stamina', 'soundfile', 'soxr', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://user:secret@host/v1"},
        {"url": "https://host/v1?key=secret"},
        {"url": "https://host/v1/audio/speech"},
        {"url": "ftp://host/v1"},
        {"api_key": "with a space"},
        {"api_key": "sécret"},
        {"voice": "<|emph|>"},
        {"model": "a\nb"},
        {"dialect": "boson-chat", "response_format": "mp3"},
        {"dialect": "boson-chat", "pauses": "tags"},
        {"dialect": "openai-speech", "references": "register"},
        {"read_timeout": float("nan")},
        {"total_timeout": 0},
        {"retries": -1},
        {"unknown": 1},
    ],
)
def test_invalid_settings(wrong):
    with pytest.raises(ValidationError) as caught:
        HiggsSettings(**wrong)
    assert "secret" not in str(caught.value)


def test_settings_from_the_environment(monkeypatch):
    from ai_core.settings import Settings

    monkeypatch.setenv("PROSODY_HIGGS__API_KEY", KEY)
    monkeypatch.setenv("PROSODY_HIGGS__DIALECT", "openai-speech")
    monkeypatch.setenv("PROSODY_HIGGS__URL", "")
    monkeypatch.setenv("PROSODY_HIGGS__STREAM", "false")
    higgs = Settings().higgs
    assert (higgs.dialect, higgs.url, higgs.stream) == ("openai-speech", None, False)
    assert higgs.api_key.get_secret_value() == KEY
    assert KEY not in f"{higgs!r} {higgs!s} {HiggsHttp(higgs)!r} {higgs.model_dump_json()}"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_capabilities(dialect):
    capabilities = HiggsHttp(HiggsSettings(dialect=dialect)).capabilities
    assert capabilities.rate == OUR_RATE == RATE
    assert capabilities.references
    assert not capabilities.word_times
    assert capabilities.speed == (dialect == "openai-speech")
    assert capabilities.streaming == (dialect in STREAMING)
    assert capabilities.max_chars == (5000 if dialect == "boson" else 300)
    assert "en" in capabilities.languages
    assert capabilities.marks["pause_short"] == capabilities.marks["pause_long"] == "realised"
    assert capabilities.marks["pitch_high"] == ("rendered" if dialect == "boson" else capabilities.marks["emph"])
    assert set(capabilities.marks) == set(KINDS)


def test_settings_that_change_capabilities():
    assert HiggsHttp(HiggsSettings(pauses="tags")).capabilities.marks["pause_short"] == "rendered"
    assert not HiggsHttp(HiggsSettings(stream=False)).capabilities.streaming
    assert not HiggsHttp(HiggsSettings(response_format="mp3")).capabilities.streaming


def test_without_a_key_no_request_is_sent(monkeypatch):
    monkeypatch.delenv("BOSON_API_KEY", raising=False)
    backend = HiggsHttp()
    assert "PROSODY_HIGGS__API_KEY or BOSON_API_KEY" in backend.unready()
    with pytest.raises(BackendUnavailable, match=r"api.boson.ai requires an API key"):
        spoken(backend)
    monkeypatch.setenv("BOSON_API_KEY", KEY)
    assert backend.unready() is None
    monkeypatch.setenv("BOSON_API_KEY", f"{KEY}\nX-Evil: 1")
    assert "BOSON_API_KEY holds" in backend.unready()
    with pytest.raises(BackendUnavailable, match="BOSON_API_KEY holds") as caught:
        spoken(backend)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_which_key_is_sent(dialect, monkeypatch):
    monkeypatch.setenv("BOSON_API_KEY", "from-the-environment")
    with serve(Options(dialect=dialect, key=None)) as fake:
        spoken(backend_at(fake))
        spoken(backend_at(fake, api_key="from-the-settings"))
        first, second = (request.headers.get("authorization") for request in fake.requests)
    assert first == (None if dialect == "openai-speech" else "Bearer from-the-environment")
    assert second == "Bearer from-the-settings"


# Requests


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_request(dialect):
    with serve(Options(dialect=dialect)) as fake:
        spoken(backend_at(fake), "Hello <you>!")
        [request] = fake.requests
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    body = request.json
    if dialect == "boson-chat":
        assert request.path == "/v1/chat/completions"
        assert body["messages"][-1] == {"role": "user", "content": "Hello you !"}
        assert body["audio"] == {"voice": "belinda", "format": "wav"}
        assert body["max_completion_tokens"] == 25 * max_duration("Hello you !", 0.2)
    else:
        assert request.path == "/v1/audio/speech"
        expected = {"input": "Hello you !", "voice": "default", "response_format": "pcm", "stream": True}
        assert body == {**expected, "model": body["model"]}


def test_every_script_is_sent_unchanged():
    with serve(Options()) as fake:
        spoken(backend_at(fake), "免费退货，é 👍")
        assert "免费退货，é 👍".encode() in fake.requests[0].body


@pytest.mark.parametrize("audio_format", ["wav", "mp3", "opus", "flac", "pcm"])
@pytest.mark.parametrize("stream", [True, False])
def test_every_format(audio_format, stream):
    with serve(Options()) as fake:
        speeches = spoken(backend_at(fake, response_format=audio_format, stream=stream))
        reference = samples(spoken(backend_at(fake)))
        assert fake.requests[0].json["response_format"] == audio_format
    assert (len(speeches) > 1) == (audio_format == "pcm" and stream)
    sound = samples(speeches)
    assert abs(len(sound) - len(reference)) < 0.1 * RATE
    assert sound.dtype == np.float32
    assert np.abs(sound).max() <= 1.0
    if audio_format in ("wav", "flac", "pcm"):
        np.testing.assert_allclose(sound, reference, atol=1 / 32_000)


def test_a_response_in_another_format_than_requested_is_decoded():
    """A server that always sends mp3, with the content type of mp3."""
    from synth.audio.encoding import encode
    from synth.base import Audio
    from synth.higgs_http.dialects import SpeechPayload
    from synth.higgs_http.errors import Endpoint
    from synth.higgs_http.response import AudioResponse, BufferedBody

    async def read():
        import httpx

        async def body():
            yield file[:3000]
            yield file[3000:]

        response = httpx.Response(200, headers={"content-type": "audio/mpeg"})
        endpoint = Endpoint("host", "")
        deadline = asyncio.get_running_loop().time() + HANG_SECONDS
        encoded = BufferedBody(body(), 1_000_000, deadline, endpoint.invalid("is late"), endpoint)
        audio = AudioResponse(response, encoded, SpeechPayload("text", "pcm", False, 10.0), endpoint, [])
        await audio.begin(whole=True)
        await audio.close()
        return audio.first

    tone = np.sin(np.arange(RATE) * 0.1).astype(np.float32) / 2
    file = encode(Audio(tone, RATE), "mp3")
    assert file[:1] == b"\xff"  # no ID3 tag in front that would identify it
    assert abs(len(asyncio.run(read())) - RATE) < 3000


@pytest.mark.parametrize("events", [False, True])
def test_openai_streams_raw_samples_or_events(events):
    with serve(Options(dialect="openai-speech", events=events, chunk_delay_ms=2)) as fake:
        speeches = spoken(backend_at(fake))
        reference = samples(spoken(backend_at(fake, stream=False)))
    assert len(speeches) > 5
    np.testing.assert_array_equal(samples(speeches), reference)


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_audio_is_resampled(rate):
    with serve(Options(dialect="openai-speech", rate=rate)) as fake:
        speeches = spoken(backend_at(fake))
    with serve(Options(dialect="openai-speech")) as fake:
        reference = samples(spoken(backend_at(fake)))
    assert {speech.audio.rate for speech in speeches} == {RATE}
    assert abs(len(samples(speeches)) - len(reference)) < 10
    assert f"{rate} Hz" in warnings(speeches)[0]


def test_speed():
    with serve(Options(dialect="openai-speech")) as fake:
        backend = backend_at(fake)
        whole, slow = samples(spoken(backend)), samples(spoken(backend, speed=0.5))
        assert fake.requests[1].json["speed"] == 0.5
        assert "stream" not in fake.requests[1].json  # vLLM refuses both at once
        for speed in (0.2, 5.0, float("nan"), -1.0, 0.0, float("inf")):
            with pytest.raises(RefusedRequest, match="out of range"):
                spoken(backend, speed=speed)
        assert len(fake.requests) == 2
    assert 1.7 < len(slow) / len(whole) < 2.3


@pytest.mark.parametrize("dialect", ["boson", "boson-chat"])
def test_speed_in_dialects_without_it(dialect):
    with serve(Options(dialect=dialect)) as fake:
        with pytest.raises(RefusedRequest, match=f"dialect {dialect}; leave it at 1"):
            spoken(backend_at(fake), speed=1.5)
        assert not fake.requests


@pytest.mark.parametrize("dialect", DIALECTS)
def test_seed(dialect):
    with serve(Options(dialect=dialect)) as fake:
        said = warnings(spoken(backend_at(fake), seed=7))
        assert fake.requests[0].json.get("seed") == (None if dialect == "boson" else 7)
        assert bool(said) == (dialect == "boson")
        with pytest.raises(RefusedRequest, match="seed -1"):
            spoken(backend_at(fake), seed=-1)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_text_that_is_too_long_is_not_sent(dialect):
    with serve(Options(dialect=dialect)) as fake:
        backend = backend_at(fake)
        longest = backend.capabilities.max_chars
        with pytest.raises(RefusedRequest, match=f"{longest + 1} characters .* at most {longest}"):
            spoken(backend, "a" * (longest + 1))
        assert not fake.requests


# Streaming


@pytest.mark.parametrize("dialect", STREAMING)
def test_the_first_chunk_is_yielded_before_the_last_arrives(dialect):
    async def first_chunk():
        async with aclosing(backend.speak(SpeechRequest(plain(TEXT)))) as speeches:
            speech = await anext(speeches)
            assert fake.requests[-1].answered is None
            return speech

    with serve(Options(dialect=dialect, chunk_delay_ms=2)) as fake:
        backend = backend_at(fake)
        speeches = spoken(backend)
        assert len(speeches) > 5
        assert 1.0 < len(samples(speeches)) / RATE < 10.0
        fake.misbehave(Fault.STALLS)  # the last chunk never arrives
        assert len(asyncio.run(first_chunk()).audio.samples)


def test_speech_that_runs_on_is_faded_out_and_its_connection_closed():
    with serve(Options(fault=Fault.RUNS_ON, runaway_s=120, chunk_delay_ms=1)) as fake:
        speeches = spoken(backend_at(fake, max_seconds_per_char=0.05))
        sound = samples(speeches)
        limit = max_duration(TEXT, 0.05)
        assert abs(len(sound) / RATE - limit) < 0.01
        assert sound[-1] == 0.0
        assert np.abs(sound[-24:]).max() < np.abs(sound[-2400:]).max()
        assert fake.requests[0].ended.wait(HANG_SECONDS)
        assert fake.requests[0].disconnected is not None
    assert warnings(speeches) == (speeches[-1].warnings[0],)
    assert f"{limit:.1f} s" in warnings(speeches)[0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Hello there, how are you doing this fine morning?", 3.0),
        ("NASA, FBI, WWW, HTTP, XML", 8.0),
        ("$9,999,999.99", 8.0),
        ("今天天气很好我们一起去公园散步吧", 5.0),
        ("1234567890", 5.0),
        ("No.", 1.5),
    ],
)
def test_no_normal_speech_is_cut(text, seconds):
    assert seconds < max_duration(text, 0.2) < 15 + 3 * seconds


def test_slow_speech_may_take_longer():
    assert max_duration("a" * 100, 0.2, 0.5) - 5 == pytest.approx(2 * (max_duration("a" * 100, 0.2) - 5))
    assert max_duration("a" * 100, 0.2, 2.0) == max_duration("a" * 100, 0.2)


# Cancellation


async def _assert_disconnects(fake) -> None:
    """Check that the server sees the connection close. No time limit of the backend passes meanwhile."""
    request = fake.requests[-1]
    assert await asyncio.to_thread(request.ended.wait, HANG_SECONDS)
    assert request.disconnected is not None


PATIENT = {"read_timeout": 600.0, "total_timeout": 3600.0}  # only cancellation can end a request


@pytest.mark.parametrize("dialect", STREAMING)
def test_closing_the_generator_closes_the_connection(dialect):
    async def leave():
        speeches = backend.speak(SpeechRequest(plain(TEXT)))
        await anext(speeches)
        assert not fake.requests[0].ended.is_set()
        await speeches.aclose()
        await _assert_disconnects(fake)

    with serve(Options(dialect=dialect, fault=Fault.STALLS, fault_times=1)) as fake:
        backend = backend_at(fake, **PATIENT)
        asyncio.run(leave())
        assert len(samples(spoken(backend)))  # the next request succeeds


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", [Fault.NEVER_ANSWERS, Fault.STALLS])
def test_cancelling_closes_the_connection(dialect, fault):
    async def leave():
        task = asyncio.create_task(speak(backend))
        await asyncio.to_thread(wait_until, lambda: fake.requests and (fault is not Fault.STALLS or fake.requests[0].sent))
        await asyncio.sleep(0.02)
        assert not fake.requests[0].ended.is_set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await _assert_disconnects(fake)

    with serve(Options(dialect=dialect, fault=fault, fault_times=1)) as fake:
        backend = backend_at(fake, **PATIENT)
        asyncio.run(leave())
        assert len(samples(spoken(backend)))


def test_cancelling_between_attempts_ends_them():
    async def leave():
        task = asyncio.create_task(speak(backend))
        await asyncio.to_thread(wait_until, lambda: fake.requests and fake.requests[0].ended.is_set())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with serve(Options(fault=Fault.BUSY_SECONDS, retry_after_s=500)) as fake:
        backend = backend_at(fake, retries=3, **PATIENT)
        asyncio.run(leave())
        assert len(fake.requests) == 1


def test_a_generator_that_is_not_closed_leaves_no_connection_open():
    async def look():
        async for _ in backend.speak(SpeechRequest(plain(TEXT))):
            break

    with serve(Options(fault=Fault.STALLS)) as fake:
        backend = backend_at(fake, **PATIENT)
        asyncio.run(look())  # an open socket would cause a ResourceWarning, which is an error
        assert fake.requests[0].ended.wait(HANG_SECONDS)
        assert fake.requests[0].disconnected is not None


def listed(backend):
    return asyncio.run(backend.voices())


@pytest.mark.parametrize("use", [spoken, listed])
@pytest.mark.parametrize(("name", "value"), [("HTTP_PROXY", "gopher://127.0.0.1:1"), ("SSL_CERT_FILE", "/dev/null")])
def test_an_environment_with_a_wrong_proxy_or_certificates(use, name, value, monkeypatch):
    connections._ssl_context.cache_clear()
    monkeypatch.setenv(name, value)
    backend = HiggsHttp(HiggsSettings(dialect="openai-speech", url="http://192.0.2.1/v1", retries=0, connect_timeout=0.1))
    with pytest.raises(BackendUnavailable, match="HTTPS_PROXY") as caught:
        use(backend)
    assert "gopher" not in str(caught.value)


# Concurrency


def test_connections_are_limited_and_reused():
    async def talk():
        try:
            return await asyncio.gather(*(speak(backend, f"This is number {number}.") for number in range(24)))
        finally:
            await backend.close()

    with serve(Options(delay_ms=30)) as fake:
        backend = backend_at(fake, max_connections=4)
        results = asyncio.run(talk())
        assert all(len(samples(speeches)) for speeches in results)
        assert len({request.client for request in fake.requests}) <= 4
        spans = [(request.arrived, request.answered) for request in fake.requests]
        assert max(sum(begin <= at < end for begin, end in spans) for at, _ in spans) <= 4


def test_concurrent_requests_get_their_own_speech():
    async def talk():
        return await asyncio.gather(*(speak(backend, text) for text in texts * 3))

    texts = ["One.", "Two is a longer text than one.", "Three is the longest text of all that are spoken here together."]
    with serve(Options(chunk_delay_ms=1)) as fake:
        backend = backend_at(fake)
        alone = [samples(spoken(backend, text)) for text in texts]
        for sound, expected in zip(asyncio.run(talk()), alone * 3, strict=True):
            np.testing.assert_array_equal(samples(sound), expected)


def test_waiting_too_long_for_a_connection():
    async def talk():
        async with aclosing(backend.speak(SpeechRequest(plain(TEXT)))) as speeches:
            await anext(speeches)
            patient, backend._settings = backend._settings, backend._settings.model_copy(update={"total_timeout": 0.2})
            with pytest.raises(BackendTimeout, match=r"all 1 connections .* 0.2 s; .* PROSODY_HIGGS__MAX_CONNECTIONS"):
                await speak(backend)
            backend._settings = patient
        return await speak(backend)

    with serve(Options()) as fake:
        backend = backend_at(fake, max_connections=1)
        assert len(samples(asyncio.run(talk())))
        assert len(fake.requests) == 2


def test_a_connection_that_the_server_closed_is_reopened():
    async def talk():
        await speak(backend)
        return await speak(backend)

    with serve(Options()) as fake:
        fake.misbehave(Fault.HANGS_UP, times=1, after=1)
        backend = backend_at(fake, retries=1)
        assert len(samples(asyncio.run(talk())))


def test_several_event_loops_in_sequence_and_in_parallel():
    with serve(Options()) as fake:
        backend = backend_at(fake)
        expected = samples(spoken(backend))
        np.testing.assert_array_equal(samples(spoken(backend)), expected)
        found = []
        threads = [threading.Thread(target=lambda: found.append(samples(spoken(backend)))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        for sound in found:
            np.testing.assert_array_equal(sound, expected)


def test_closing_twice_and_speaking_again():
    async def talk():
        await backend.close()
        await speak(backend)
        await backend.close()
        await backend.close()
        speeches = await speak(backend)
        await backend.close()
        return speeches

    with serve(Options()) as fake:
        backend = backend_at(fake)
        assert len(samples(asyncio.run(talk())))
        assert len({request.client for request in fake.requests}) == 2
