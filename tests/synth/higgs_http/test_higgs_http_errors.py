"""Failing servers, in every dialect: each fault leads to one clear error without secrets, or to the speech nevertheless."""

import asyncio
import logging
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from fake_higgs import DIALECTS, Fault, Options, serve
from higgs_http_helpers import (  # noqa: F401 (a fixture)
    HANG_SECONDS,
    KEY,
    RATE,
    TEXT,
    assert_no_secrets,
    backend_at,
    clean_environment,
    raw_server,
    samples,
    speak,
    spoken,
    warnings,
)
from hypothesis import given
from hypothesis import strategies as st

from prosody_tagger.markup import plain
from synth.base import SpeechRequest
from synth.errors import BackendError, BackendTimeout, BackendUnavailable, RefusedRequest
from synth.higgs_http import connections, retries
from synth.higgs_http.backend import HiggsHttp, HiggsSettings
from synth.higgs_http.errors import quotable, seconds_to_wait

STREAMING = ("boson", "openai-speech")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(retries, "_WAIT_SECONDS", (0.01, 0.02))


OPTIONS = {"slow_ms": 50, "drip_ms": 5, "cut_ms": 5, "runaway_s": 60}


@dataclass(frozen=True)
class Case:
    """A fault and its outcome: an error with these words, or speech with such a warning (``error`` None)."""

    fault: Fault
    error: type[Exception] | None = None
    words: str = ""
    dialects: tuple[str, ...] = DIALECTS
    settings: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)


WAV = {"response_format": "wav"}
CASES = [
    Case(Fault.NEVER_ANSWERS, BackendTimeout, "READ_TIMEOUT", settings={"read_timeout": 0.1}),
    Case(Fault.SLOW_HEADERS),
    Case(Fault.HANGS_UP, BackendError, "broke off"),
    Case(Fault.RESETS, BackendError, "broke off"),
    Case(Fault.UNAUTHORIZED, BackendUnavailable, "PROSODY_HIGGS__API_KEY"),
    Case(Fault.FORBIDDEN, BackendUnavailable, "PROSODY_HIGGS__API_KEY"),
    Case(Fault.REDIRECT, BackendError, "redirects are not followed"),
    Case(Fault.TOO_LONG, RefusedRequest, "too long"),
    Case(Fault.BUSY_SECONDS, BackendUnavailable, "429"),
    Case(Fault.BUSY_DATE, BackendUnavailable, "429"),
    Case(Fault.BUSY, BackendUnavailable, "try again later"),
    Case(Fault.ERROR_500, BackendError, "500: internal error"),
    Case(Fault.ERROR_502, BackendError, "502"),
    Case(Fault.ERROR_503, BackendError, "the model is loading"),
    Case(Fault.ERROR_503_SECONDS, BackendError, "503"),
    Case(Fault.ECHO_400, RefusedRequest, "400"),
    Case(Fault.ECHO_500, BackendError, "500"),
    Case(Fault.HTML, BackendError, "text/html in place of speech; check PROSODY_HIGGS__URL"),
    Case(Fault.JSON_ERROR, BackendError, "the model is overloaded"),
    Case(Fault.EMPTY, BackendError, "without any audio", STREAMING),
    Case(Fault.EMPTY, BackendError, "in place of speech", ("boson-chat",)),
    Case(Fault.GARBAGE, BackendError, "in place of speech", ("boson-chat",)),
    Case(Fault.GARBAGE, BackendError, "wav", STREAMING, WAV),
    Case(Fault.GARBAGE, BackendError, "mp3", ("boson",), {"response_format": "mp3"}),
    Case(Fault.GZIP_BOMB, BackendError, "compressed ('gzip')"),
    Case(Fault.RESETS_MID_BODY, BackendError, "broke off"),
    Case(Fault.SHORT_BODY, BackendError, "broke off"),
    Case(Fault.UNFINISHED_CHUNKS, BackendError, "broke off"),
    Case(Fault.STALLS, BackendTimeout, "READ_TIMEOUT", settings={"read_timeout": 0.3}),
    Case(Fault.DRIPS, BackendTimeout, "did not finish within 0.4 s", settings={"total_timeout": 0.4}),
    Case(Fault.ODD_CHUNKS),
    Case(Fault.WRONG_TYPE, dialects=STREAMING),
    Case(Fault.NO_TYPE),
    Case(Fault.ODD_PCM, dialects=STREAMING),
    Case(Fault.RATE_WRONG, words="reports a sample rate of 48000 Hz", dialects=STREAMING),
    Case(Fault.RATE_ZERO, words="24000 Hz was assumed", dialects=STREAMING),
    Case(Fault.RATE_UNREADABLE, words="24000 Hz was assumed", dialects=STREAMING),
    Case(Fault.RATE_ABSENT, dialects=STREAMING),
    *(Case(fault, settings=WAV) for fault in (Fault.WAV_SIZES_ZERO, Fault.WAV_SIZES_MAX, Fault.WAV_STEREO, Fault.WAV_16K)),
    Case(Fault.WAV_TRUNCATED, BackendError, "ended after", settings=WAV),
    Case(Fault.RUNS_ON, words="the speech exceeded"),
    Case(
        Fault.RUNS_ON,
        words="the speech exceeded",
        dialects=("boson",),
        settings={"response_format": "mp3", "read_timeout": 5.0},
        options={"runaway_s": 20},
    ),
    Case(Fault.BAD_BASE64, BackendError, "not base64", ("boson-chat",)),
    Case(Fault.CUT_SHORT, words="cut the speech", dialects=("boson-chat",)),
    Case(Fault.NO_AUDIO, BackendError, "in place of speech", ("boson-chat",)),
    Case(Fault.WRONG_JSON, BackendError, "in place of speech", ("boson-chat",)),
    Case(Fault.ERROR_EVENT, BackendError, "", ("openai-speech",), options={"events": True}),
]


def test_every_fault_has_a_case():
    assert {case.fault for case in CASES} == set(Fault)


@pytest.mark.parametrize(
    ("case", "dialect"), [pytest.param(case, each, id=f"{case.fault}-{each}") for case in CASES for each in case.dialects]
)
def test_fault(case, dialect, caplog):
    caplog.set_level(logging.DEBUG)
    with serve(Options(dialect=dialect, key=KEY, fault=case.fault, **{**OPTIONS, **case.options})) as fake:
        backend = backend_at(fake, **case.settings)
        if case.error is None:
            speeches = spoken(backend)
            assert 1.0 < len(samples(speeches)) / RATE < 25.0
            message = " ".join(warnings(speeches))
            assert case.words in message
            assert bool(message) == bool(case.words)
        else:
            with pytest.raises(case.error) as caught:
                spoken(backend)
            assert type(caught.value) is case.error or case.error is BackendError
            assert case.words in str(caught.value)
            message = f"{caught.value!s} {caught.value!r}"
            assert "\n" not in message
        assert len(fake.requests) == 1
    assert_no_secrets(message)
    assert_no_secrets(caplog.text)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "fault",
    [
        Fault.NEVER_ANSWERS,
        Fault.HANGS_UP,
        Fault.RESETS,
        Fault.BUSY_SECONDS,
        Fault.BUSY_DATE,
        Fault.BUSY,
        Fault.ERROR_500,
        Fault.ERROR_503_SECONDS,
        Fault.JSON_ERROR,
    ],
)
def test_failures_that_may_pass_are_retried(fault, dialect, caplog):
    caplog.set_level(logging.DEBUG)
    with serve(Options(dialect=dialect, key=KEY, fault=fault, fault_times=1, retry_after_s=0)) as fake:
        # On a busy machine, the second attempt may run into a short time limit too.
        settings = {"retries": 10, "read_timeout": 0.5} if fault is Fault.NEVER_ANSWERS else {"retries": 1}
        speeches = spoken(backend_at(fake, **settings))
        assert len(samples(speeches)) > RATE
        assert len(fake.requests) == 2 or fault is Fault.NEVER_ANSWERS
        assert len(fake.requests) >= 2
        assert len({request.body for request in fake.requests}) == 1
    assert_no_secrets(caplog.text)


@pytest.fixture
def waits():
    """The waits before retries, in seconds."""
    import stamina.instrumentation as instrumentation

    scheduled = []
    instrumentation.set_on_retry_hooks([lambda details: scheduled.append(details.wait_for)])
    yield scheduled
    instrumentation.set_on_retry_hooks(None)


def test_a_wait_that_the_server_asks_for_is_kept(waits):
    with serve(Options(fault=Fault.ERROR_503_SECONDS, fault_times=1, retry_after_s=1)) as fake:
        spoken(backend_at(fake, retries=1))
        assert len(fake.requests) == 2
    [wait] = waits
    assert 1.0 <= wait <= 1.1  # with jitter


def test_waits_without_a_request_of_the_server_are_short(waits):
    with serve(Options(fault=Fault.ERROR_503, fault_times=1)) as fake:
        spoken(backend_at(fake, retries=1))
    [wait] = waits
    assert wait <= 0.02


@pytest.mark.parametrize("fault", [Fault.UNAUTHORIZED, Fault.TOO_LONG, Fault.ECHO_400, Fault.HTML, Fault.GZIP_BOMB])
def test_failures_that_will_not_pass_are_not_retried(fault):
    with serve(Options(fault=fault)) as fake:
        with pytest.raises((BackendError, RefusedRequest)):
            spoken(backend_at(fake, retries=5))
        assert len(fake.requests) == 1


def test_attempts_are_limited():
    with serve(Options(fault=Fault.ERROR_500)) as fake:
        with pytest.raises(BackendError, match="500"):
            spoken(backend_at(fake, retries=2))
        assert len(fake.requests) == 3


@pytest.mark.parametrize("fault", [Fault.RESETS_MID_BODY, Fault.SHORT_BODY, Fault.UNFINISHED_CHUNKS, Fault.STALLS])
@pytest.mark.parametrize("rate", [24_000, 16_000])
def test_audio_before_a_failure_is_yielded_once(fault, rate):
    async def listen():
        received = []
        try:
            async for speech in backend.speak(_request()):
                received.append(speech)
        except BackendError:
            return received
        pytest.fail("no failure")

    with serve(Options(dialect="openai-speech", rate=rate, chunk_bytes=960, cut_ms=50)) as fake:
        backend = backend_at(fake, retries=3, read_timeout=2.0)
        whole = samples(spoken(backend))
        fake.misbehave(fault)
        received = samples(asyncio.run(listen()))
        assert len(fake.requests) == 2
    assert len(whole) // 2 - 480 <= len(received) <= len(whole) // 2 + 480
    np.testing.assert_allclose(received[:-600], whole[: len(received) - 600], atol=1e-4)


@pytest.mark.parametrize("fault", [Fault.RESETS_MID_BODY, Fault.UNFINISHED_CHUNKS])
@pytest.mark.parametrize(("dialect", "settings"), [("boson-chat", {}), ("boson", {"stream": False})])
def test_a_response_that_is_not_streamed_is_requested_again(fault, dialect, settings):
    with serve(Options(dialect=dialect, fault=fault, fault_times=1, cut_ms=5)) as fake:
        [speech] = spoken(backend_at(fake, retries=1, **settings))
        assert speech.audio.seconds > 1.0
        assert len(fake.requests) == 2


def test_a_wait_past_the_deadline_is_not_begun(waits):
    with serve(Options(fault=Fault.BUSY_SECONDS, retry_after_s=3600)) as fake:
        with pytest.raises(BackendUnavailable, match="asks to wait for 3600 s"):
            spoken(backend_at(fake, retries=3))
        assert len(fake.requests) == 1
    assert waits == []


def test_the_time_for_all_attempts_is_limited():
    with serve(Options(fault=Fault.NEVER_ANSWERS)) as fake:
        with pytest.raises(BackendTimeout, match=r"within 1.5 s \(before that: .*sent nothing"):
            spoken(backend_at(fake, retries=10, read_timeout=0.2, total_timeout=1.5))
        assert 2 <= len(fake.requests) <= 8  # an eighth attempt would begin after 1.5 s


def test_a_slow_consumer_does_not_run_into_the_time_limits():
    async def listen():
        received = 0
        async for speech in backend.speak(_request()):
            if not received:
                await asyncio.to_thread(fake.requests[-1].ended.wait, 30)
                await asyncio.sleep(2.5)
            received += len(speech.audio.samples)
        return received

    with serve(Options(chunk_bytes=48_000)) as fake:
        whole = len(samples(spoken(backend_at(fake))))
        backend = backend_at(fake, total_timeout=2.0, read_timeout=2.0)
        assert asyncio.run(listen()) == whole > RATE


def test_no_server():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    backend = HiggsHttp(HiggsSettings(url=f"http://127.0.0.1:{port}/v1", retries=1))
    with pytest.raises(BackendUnavailable, match=rf"cannot connect to 127.0.0.1:{port}; .*PROSODY_HIGGS__URL"):
        spoken(backend)


def test_a_server_that_does_not_accept():
    with ExitStack() as sockets:
        unresponsive = sockets.enter_context(socket.socket())
        unresponsive.bind(("127.0.0.1", 0))
        unresponsive.listen(0)
        for _ in range(4):  # more than its backlog holds
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(unresponsive.getsockname())
        url = f"http://127.0.0.1:{unresponsive.getsockname()[1]}/v1"
        with pytest.raises(BackendTimeout, match="cannot connect to"):
            spoken(HiggsHttp(HiggsSettings(url=url, retries=0, connect_timeout=0.3)))


def test_another_protocol():
    with raw_server(b"SSH-2.0-OpenSSH_9.6\r\n") as url, pytest.raises(BackendError, match="broke off"):
        spoken(HiggsHttp(HiggsSettings(url=url, retries=0)))


def _http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (_http("404 X", b'{"error":{"message":"no such","code":"model_not_found"}}'), BackendUnavailable, "PROSODY_HIGGS__MODEL"),
        (_http("404 X", b"not json"), BackendUnavailable, "PROSODY_HIGGS__URL"),
        (_http("404 X", b'{"error":{"message":"no voice x","type":"voice_not_found"}}'), RefusedRequest, "no voice x"),
        (_http("403 X", b""), BackendUnavailable, "PROSODY_HIGGS__API_KEY"),
        (_http("422 X", b'{"detail":[{"loc":["body"],"msg":"Field required"}]}'), RefusedRequest, "Field required"),
        (_http("400 X", b'{"detail":"wrong"}'), RefusedRequest, "wrong"),
        (_http("413 X", b""), RefusedRequest, "too long"),
        (_http("307 X", b"", "Location: http://127.0.0.1:9/"), BackendError, "redirects are not followed"),
        (_http("500 X", b"[" * 60_000), BackendError, "500"),
        (_http("500 X", b"[]"), BackendError, "500"),
        (_http("500 X", b'{"error": null}'), BackendError, "500"),
        (_http("204 X", b""), BackendError, "without any audio"),
        (_http("200 X", b"\0" * 9600, "Content-Type: audio/pcm; rate=24000; channels=2"), BackendError, "more than one channel"),
        (_http("200 X", b"\0" * 9600, "Content-Type: audio/pcm", "x-bit-depth: 32"), BackendError, "16 bits"),
        (_http("200 X", b'{"error": {"message": "bad key", "type": "authentication_error"}}', "Content-Type: application/json"),
         BackendUnavailable, "API_KEY"),
        (_http("200 X", b'{"error": "out of money"}', "Content-Type: application/json"), BackendError, "out of money"),
        (_http("200 X", b"<!doctype html><html>" + b"x" * 99, "Content-Type: audio/pcm"), BackendError, "HTML"),
        (_http("200 X", b"\0", "Content-Type: audio/pcm"), BackendError, "without any audio"),
    ],
)  # fmt: skip
def test_unusual_responses(answer, error, words):
    with raw_server(answer) as url, pytest.raises(error) as caught:
        spoken(HiggsHttp(HiggsSettings(url=url, retries=0, api_key=KEY, read_timeout=1.0)))
    assert words in str(caught.value)
    assert_no_secrets(str(caught.value))


@pytest.mark.parametrize("header", ["rate=16000", 'rate="16000"', "codecs=1;RATE=16000"])
def test_the_sample_rate_in_the_content_type_is_used(header):
    pcm = np.zeros(16_000, dtype="<i2").tobytes()
    with raw_server(_http("200 X", pcm, f"Content-Type: audio/pcm;{header}")) as url:
        speeches = spoken(HiggsHttp(HiggsSettings(url=url)))
    assert abs(len(samples(speeches)) - RATE) <= 2
    assert "16000 Hz" in " ".join(warnings(speeches))


def _speak_patiently(url):
    """Speak with time limits that never pass in a test."""
    backend = HiggsHttp(HiggsSettings(url=url, retries=0, read_timeout=600, total_timeout=3600))
    return asyncio.run(asyncio.wait_for(speak(backend), HANG_SECONDS))


def test_a_slow_error_body_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(connections, "_ERROR_SECONDS", 0.2)
    with (
        raw_server(b"HTTP/1.1 400 X\r\nContent-Length: 1000\r\n\r\n{", then_hold=True) as url,
        pytest.raises(RefusedRequest, match="400"),
    ):
        _speak_patiently(url)


def test_a_long_error_body_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(connections, "_ERROR_SECONDS", 600.0)  # its length ends the reading, not the time
    with (
        raw_server(b"HTTP/1.1 400 X\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 1_000_000, then_hold=True) as url,
        pytest.raises(RefusedRequest, match="400"),
    ):
        _speak_patiently(url)


def _request():
    return SpeechRequest(plain(TEXT))


# Retry-After


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        (" 2.5 ", 2.5),
        ("0", 0.0),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("1e9", None),
        ("9" * 400, None),
        ("", None),
        ("soon", None),
        ("٣", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 +999999", None),
    ],
)
def test_retry_after(header, seconds):
    assert seconds_to_wait(header) == seconds


def test_retry_after_a_date():
    date = datetime.now(UTC) + timedelta(seconds=60)
    assert 57 < seconds_to_wait(format_datetime(date, usegmt=True)) <= 60


@given(st.text(max_size=60))
def test_retry_after_anything(header):
    wait = seconds_to_wait(header)
    assert wait is None or wait >= 0


# Quoting of a server's messages


def test_a_message_is_quoted_on_one_line():
    assert quotable("no such\n model\x00 here", (KEY, TEXT)) == "no such model here"


@pytest.mark.parametrize(
    "message",
    [
        f"bad key {KEY}",
        f"bad key {KEY.upper()}",
        f"cannot say: {TEXT[10:36]}",
        f"cannot say: {TEXT[10:30]}\n{TEXT[30:40]}",
        f"cannot say: {' '.join(TEXT[10:40])}",
        TEXT,
        "x" * 201,
        "a " * 5000,
        "",
    ],
)
def test_a_message_with_secrets_or_of_great_length_is_not_quoted(message):
    assert quotable(message, (KEY, TEXT)) == ""


def test_a_short_text_is_a_secret_too():
    assert quotable("cannot say 'Fire him'", ("Fire him",)) == ""
    assert quotable("cannot say 'Hi'", ("Hi",)) == ""
    assert quotable("this is machinery", ("Hi",)) == "this is machinery"


def test_long_words_are_not_quoted():
    assert quotable("no voice voice_0123456789abcdef0123456789abcdef here", ()) == "no voice … here"


@given(st.text(max_size=300), st.text(min_size=1, max_size=80))
def test_no_message_repeats_a_secret(message, secret):
    said = quotable(f"{message} {secret}", (secret,)).casefold()
    assert len(secret.split()) != 1 or len(secret) < 4 or secret.casefold() not in said
