"""The backend higgs-http when all is well: settings, voices, streaming, connections, cancellation."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from contextlib import aclosing

import numpy as np
import pytest
from fake_higgs import DIALECTS, Fault, Options, serve
from higgs_http_talk import KEY, RATE, TEXT, clean_environment, samples, speak, spoken, voice_at, wait_until, warnings  # noqa: F401 (a fixture)
from pydantic import ValidationError

from prosody_tagger.markup import KINDS, plain
from synth.base import SpeechRequest
from synth.errors import BackendTimeout, BackendUnavailable, RefusedRequest
from synth.higgs_http import backend
from synth.higgs_http.backend import HiggsHttp, HiggsSettings
from synth.higgs_http.response import RATE as OUR_RATE
from synth.lowering import max_duration

STREAMING = ("boson", "openai-speech")


# Settings and what the backend says of itself


def test_every_setting_has_a_default():
    assert HiggsHttp().name == "higgs-http"
    assert HiggsHttp(HiggsSettings()).capabilities == HiggsHttp().capabilities


def test_it_is_cheap_to_import_and_to_make():
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
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValidationError) as caught:
        HiggsSettings(**wrong)
    assert "secret" not in str(caught.value)


def test_the_environment_sets_it(monkeypatch):
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
    able = HiggsHttp(HiggsSettings(dialect=dialect)).capabilities
    assert able.rate == OUR_RATE == RATE
    assert able.references
    assert not able.word_times
    assert able.speed == (dialect == "openai-speech")
    assert able.streaming == (dialect in STREAMING)
    assert able.max_chars == (5000 if dialect == "boson" else 300)
    assert "en" in able.languages
    assert able.marks["pause_short"] == able.marks["pause_long"] == "realised"
    assert able.marks["pitch_high"] == ("rendered" if dialect == "boson" else able.marks["emph"])
    assert set(able.marks) == set(KINDS)


def test_what_settings_change_of_capabilities():
    assert HiggsHttp(HiggsSettings(pauses="tags")).capabilities.marks["pause_short"] == "rendered"
    assert not HiggsHttp(HiggsSettings(stream=False)).capabilities.streaming
    assert not HiggsHttp(HiggsSettings(response_format="mp3")).capabilities.streaming


def test_without_a_key_the_cloud_is_not_asked(monkeypatch):
    monkeypatch.delenv("BOSON_API_KEY", raising=False)
    voice = HiggsHttp()
    assert "PROSODY_HIGGS__API_KEY or BOSON_API_KEY" in voice.unready()
    with pytest.raises(BackendUnavailable, match=r"api.boson.ai wants an API key"):
        spoken(voice)
    monkeypatch.setenv("BOSON_API_KEY", KEY)
    assert voice.unready() is None
    monkeypatch.setenv("BOSON_API_KEY", f"{KEY}\nX-Evil: 1")
    assert "BOSON_API_KEY holds" in voice.unready()
    with pytest.raises(BackendUnavailable, match="BOSON_API_KEY holds") as caught:
        spoken(voice)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_which_key_is_sent(dialect, monkeypatch):
    monkeypatch.setenv("BOSON_API_KEY", "from-the-environment")
    with serve(Options(dialect=dialect, key=None)) as fake:
        spoken(voice_at(fake))
        spoken(voice_at(fake, api_key="from-the-settings"))
        first, second = (request.headers.get("authorization") for request in fake.requests)
    assert first == (None if dialect == "openai-speech" else "Bearer from-the-environment")
    assert second == "Bearer from-the-settings"


# Requests


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_request(dialect):
    with serve(Options(dialect=dialect)) as fake:
        spoken(voice_at(fake), "Hello <you>!")
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


def test_any_script_is_sent_as_it_is():
    with serve(Options()) as fake:
        spoken(voice_at(fake), "免费退货，é 👍")
        assert "免费退货，é 👍".encode() in fake.requests[0].body


@pytest.mark.parametrize("form", ["wav", "mp3", "opus", "flac", "pcm"])
@pytest.mark.parametrize("stream", [True, False])
def test_every_format(form, stream):
    with serve(Options()) as fake:
        speeches = spoken(voice_at(fake, response_format=form, stream=stream))
        reference = samples(spoken(voice_at(fake)))
        assert fake.requests[0].json["response_format"] == form
    assert (len(speeches) > 1) == (form == "pcm" and stream)
    sound = samples(speeches)
    assert abs(len(sound) - len(reference)) < 0.1 * RATE
    assert sound.dtype == np.float32
    assert np.abs(sound).max() <= 1.0
    if form in ("wav", "flac", "pcm"):
        np.testing.assert_allclose(sound, reference, atol=1 / 32_000)


def test_a_form_that_was_not_asked_for_is_read_all_the_same():
    """A server that sends mp3 whatever it is asked, and says so."""
    from synth.audio.encoding import encode
    from synth.base import Audio
    from synth.higgs_http.body import Body
    from synth.higgs_http.dialects import Order
    from synth.higgs_http.errors import Peer
    from synth.higgs_http.response import Answer

    async def read():
        import httpx

        async def body():
            yield file[:3000]
            yield file[3000:]

        response = httpx.Response(200, headers={"content-type": "audio/mpeg"})
        peer = Peer("host", "", False)
        coded = Body(body(), 1_000_000, (asyncio.get_running_loop().time() + 5, peer.broken("is late")), peer)
        answer = Answer(response, coded, Order("text", "pcm", False, 10.0), peer, [])
        await answer.begin(whole=True)
        await answer.close()
        return answer.first

    tone = np.sin(np.arange(RATE) * 0.1).astype(np.float32) / 2
    file = encode(Audio(tone, RATE), "mp3")
    assert file[:1] == b"\xff"  # no tag in front that would say what it is
    assert abs(len(asyncio.run(read())) - RATE) < 3000


@pytest.mark.parametrize("events", [False, True])
def test_openai_streams_bare_or_in_events(events):
    with serve(Options(dialect="openai-speech", events=events, chunk_delay_ms=2)) as fake:
        speeches = spoken(voice_at(fake))
        reference = samples(spoken(voice_at(fake, stream=False)))
    assert len(speeches) > 5
    np.testing.assert_array_equal(samples(speeches), reference)


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_sound_is_brought_to_our_rate(rate):
    with serve(Options(dialect="openai-speech", rate=rate)) as fake:
        speeches = spoken(voice_at(fake))
    with serve(Options(dialect="openai-speech")) as fake:
        reference = samples(spoken(voice_at(fake)))
    assert {speech.audio.rate for speech in speeches} == {RATE}
    assert abs(len(samples(speeches)) - len(reference)) < 10
    assert f"{rate} Hz" in warnings(speeches)[0]


def test_speed():
    with serve(Options(dialect="openai-speech")) as fake:
        voice = voice_at(fake)
        whole, slow = samples(spoken(voice)), samples(spoken(voice, speed=0.5))
        assert fake.requests[1].json["speed"] == 0.5
        assert "stream" not in fake.requests[1].json  # vLLM refuses both at once
        for speed in (0.2, 5.0, float("nan"), -1.0, 0.0, float("inf")):
            with pytest.raises(RefusedRequest, match="out of range"):
                spoken(voice, speed=speed)
        assert len(fake.requests) == 2
    assert 1.7 < len(slow) / len(whole) < 2.3


@pytest.mark.parametrize("dialect", ["boson", "boson-chat"])
def test_speed_where_there_is_none(dialect):
    with serve(Options(dialect=dialect)) as fake:
        with pytest.raises(RefusedRequest, match=f"dialect {dialect}; leave it at 1"):
            spoken(voice_at(fake), speed=1.5)
        assert not fake.requests


@pytest.mark.parametrize("dialect", DIALECTS)
def test_seed(dialect):
    with serve(Options(dialect=dialect)) as fake:
        said = warnings(spoken(voice_at(fake), seed=7))
        assert fake.requests[0].json.get("seed") == (None if dialect == "boson" else 7)
        assert bool(said) == (dialect == "boson")
        with pytest.raises(RefusedRequest, match="seed -1"):
            spoken(voice_at(fake), seed=-1)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_text_that_is_too_long_is_refused_here(dialect):
    with serve(Options(dialect=dialect)) as fake:
        voice = voice_at(fake)
        longest = voice.capabilities.max_chars
        with pytest.raises(RefusedRequest, match=f"{longest + 1} characters .* at most {longest}"):
            spoken(voice, "a" * (longest + 1))
        assert not fake.requests


# Voices


@pytest.mark.parametrize(("dialect", "first"), [("boson", "default"), ("boson-chat", "belinda")])
def test_voices(dialect, first):
    voices = asyncio.run(HiggsHttp(HiggsSettings(dialect=dialect)).voices())
    assert voices[0].name == first
    assert len(voices) == len({voice.name for voice in voices}) >= 7
    chosen = asyncio.run(HiggsHttp(HiggsSettings(dialect=dialect, voice=voices[3].name)).voices())
    assert chosen[0] == voices[3]
    assert set(chosen) == set(voices)
    own = asyncio.run(HiggsHttp(HiggsSettings(dialect=dialect, voice="voice_abc")).voices())
    assert [voice.name for voice in own] == ["voice_abc", *(voice.name for voice in voices)]


def test_a_server_lists_its_voices():
    with serve(Options(dialect="openai-speech")) as fake:
        assert asyncio.run(voice_at(fake).voices())[0].name == "default"
        assert asyncio.run(voice_at(fake, voice="en_man").voices())[0].name == "en_man"
    with pytest.raises(BackendUnavailable, match="cannot connect"):
        asyncio.run(voice_at(fake).voices())


@pytest.mark.parametrize(
    ("listing", "names"),
    [
        ({"voices": ["a", "b", "a"]}, ("a", "b")),
        ({"voices": [{"voice_id": "a", "title": "A"}, {"id": "b"}, {"name": "c"}]}, ("a", "b", "c")),
        ({"data": [{"id": "a", "object": "voice"}]}, ("a",)),
        (["a"], ("a",)),
        ({"voices": [None, 7, {}, {"id": 7}, "<|a|>", "", "a\n"]}, ()),
    ],
)
def test_lists_of_voices(listing, names):
    from synth.higgs_http.voices import voice_names

    assert voice_names(json.dumps(listing).encode()) == names


@pytest.mark.parametrize("listing", [b"", b"{}", b"7", b"null", b'{"voices": {}}', b"<html>", b"\xff", b"[" * 100_000])
def test_what_is_no_list_of_voices(listing):
    from synth.higgs_http.voices import voice_names

    with pytest.raises((ValueError, RecursionError)):
        voice_names(listing)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_unknown_voice(dialect):
    with serve(Options(dialect=dialect)) as fake:
        with pytest.raises(RefusedRequest, match="voice 'nobody'"):
            spoken(voice_at(fake), voice="nobody")
        for name in ("", "a\nb", "<|x|>", "x" * 300, "\ud800"):
            with pytest.raises(RefusedRequest, match="is no name"):
                spoken(voice_at(fake), voice=name)
        assert len(fake.requests) == 1


# Streaming


@pytest.mark.parametrize("dialect", STREAMING)
def test_the_first_chunk_leaves_before_the_last_has_come(dialect):
    async def listen():
        async with aclosing(voice.speak(SpeechRequest(plain(TEXT)))) as speeches:
            first = await anext(speeches)
            came = time.monotonic()
            [request] = fake.requests
            assert request.answered is None
            return [first, *[speech async for speech in speeches]], came - request.sent[0]

    with serve(Options(dialect=dialect, chunk_delay_ms=20)) as fake:
        voice = voice_at(fake)
        speeches, late = asyncio.run(listen())
    assert late < 0.1
    assert 1.0 < len(samples(speeches)) / RATE < 10.0


def test_speech_that_runs_on_is_cut_softly_and_its_connection_closed():
    with serve(Options(fault=Fault.RUNS_ON, runaway_s=120, chunk_delay_ms=1)) as fake:
        speeches = spoken(voice_at(fake, max_seconds_per_char=0.05))
        sound = samples(speeches)
        limit = max_duration(TEXT, 0.05)
        assert abs(len(sound) / RATE - limit) < 0.01
        assert sound[-1] == 0.0
        assert np.abs(sound[-24:]).max() < np.abs(sound[-2400:]).max()
        assert fake.requests[0].ended.wait(2)
        assert fake.requests[0].left is not None
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
def test_no_honest_speech_is_cut(text, seconds):
    assert seconds < max_duration(text, 0.2) < 15 + 3 * seconds


def test_slow_speech_may_take_longer():
    assert max_duration("a" * 100, 0.2, 0.5) - 5 == pytest.approx(2 * (max_duration("a" * 100, 0.2) - 5))
    assert max_duration("a" * 100, 0.2, 2.0) == max_duration("a" * 100, 0.2)


# Leaving early


async def _left_after(fake, moment) -> float:
    """Seconds from ``moment`` until the server sees us gone."""
    request = fake.requests[-1]
    assert await asyncio.to_thread(request.ended.wait, 2)
    assert request.left is not None
    return request.left - moment


@pytest.mark.parametrize("dialect", STREAMING)
def test_closing_the_generator_closes_the_connection(dialect):
    async def leave():
        speeches = voice.speak(SpeechRequest(plain(TEXT)))
        await anext(speeches)
        moment = time.monotonic()
        await speeches.aclose()
        return await _left_after(fake, moment)

    with serve(Options(dialect=dialect, chunk_delay_ms=50)) as fake:
        voice = voice_at(fake)
        assert asyncio.run(leave()) < 0.1
        assert len(samples(spoken(voice)))  # and the next one is served


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", [Fault.NEVER_ANSWERS, Fault.STALLS])
def test_cancelling_closes_the_connection(dialect, fault):
    async def leave():
        task = asyncio.create_task(speak(voice))
        await asyncio.to_thread(wait_until, lambda: fake.requests and (fault is not Fault.STALLS or fake.requests[0].sent))
        await asyncio.sleep(0.02)
        moment = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - moment < 0.1
        return await _left_after(fake, moment)

    with serve(Options(dialect=dialect, fault=fault, fault_times=1)) as fake:
        voice = voice_at(fake)
        assert asyncio.run(leave()) < 0.1
        assert len(samples(spoken(voice)))


def test_cancelling_between_tries_ends_them():
    async def leave():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await speak(voice)

    with serve(Options(fault=Fault.BUSY_SECONDS, retry_after_s=2)) as fake:
        voice = voice_at(fake, retries=3)
        asyncio.run(leave())
        assert len(fake.requests) == 1


def test_a_generator_that_nobody_closes_leaves_nothing_open():
    async def look():
        async for _ in voice.speak(SpeechRequest(plain(TEXT))):
            break

    with serve(Options(chunk_delay_ms=20)) as fake:
        voice = voice_at(fake)
        asyncio.run(look())  # an open socket would be a warning, and with that an error
        assert fake.requests[0].ended.wait(2)
        assert fake.requests[0].left is not None


@pytest.mark.parametrize("use", [spoken, HiggsHttp.voices])
@pytest.mark.parametrize(("name", "value"), [("HTTP_PROXY", "gopher://127.0.0.1:1"), ("SSL_CERT_FILE", "/dev/null")])
def test_an_environment_that_does_not_work(use, name, value, monkeypatch):
    backend._trusted.cache_clear()
    monkeypatch.setenv(name, value)
    voice = HiggsHttp(HiggsSettings(dialect="openai-speech", url="http://192.0.2.1/v1", retries=0, connect_timeout=0.1))
    with pytest.raises(BackendUnavailable, match="HTTPS_PROXY") as caught:
        use(voice)
    assert "gopher" not in str(caught.value)


# Many at once


def test_connections_are_bounded_and_used_again():
    async def talk():
        try:
            return await asyncio.gather(*(speak(voice, f"This is number {number}.") for number in range(24)))
        finally:
            await voice.close()

    with serve(Options(delay_ms=30)) as fake:
        voice = voice_at(fake, max_connections=4)
        results = asyncio.run(talk())
        assert all(len(samples(speeches)) for speeches in results)
        assert len({request.client for request in fake.requests}) <= 4
        spans = [(request.arrived, request.answered) for request in fake.requests]
        assert max(sum(begin <= at < end for begin, end in spans) for at, _ in spans) <= 4


def test_each_gets_its_own_speech():
    async def talk():
        return await asyncio.gather(*(speak(voice, text) for text in texts * 3))

    texts = ["One.", "Two is a longer text than one.", "Three is the longest text of all that are spoken here together."]
    with serve(Options(chunk_delay_ms=1)) as fake:
        voice = voice_at(fake)
        alone = [samples(spoken(voice, text)) for text in texts]
        for sound, expected in zip(asyncio.run(talk()), alone * 3, strict=True):
            np.testing.assert_array_equal(samples(sound), expected)


def test_who_waits_too_long_for_a_connection_is_told():
    async def talk():
        async with aclosing(voice.speak(SpeechRequest(plain(TEXT)))) as speeches:
            await anext(speeches)
            with pytest.raises(BackendTimeout, match=r"all 1 connections .* PROSODY_HIGGS__MAX_CONNECTIONS"):
                await speak(voice)
        return await speak(voice)

    with serve(Options()) as fake:
        voice = voice_at(fake, max_connections=1, total_timeout=0.5)
        assert len(samples(asyncio.run(talk())))


def test_a_connection_that_the_server_closed_meanwhile_is_made_anew():
    async def talk():
        await speak(voice)
        return await speak(voice)

    with serve(Options()) as fake:
        fake.misbehave(Fault.HANGS_UP, times=1, after=1)
        voice = voice_at(fake, retries=1)
        assert len(samples(asyncio.run(talk())))


def test_event_loops_one_after_another_and_at_once():
    with serve(Options()) as fake:
        voice = voice_at(fake)
        expected = samples(spoken(voice))
        np.testing.assert_array_equal(samples(spoken(voice)), expected)
        found = []
        threads = [threading.Thread(target=lambda: found.append(samples(spoken(voice)))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        for sound in found:
            np.testing.assert_array_equal(sound, expected)


def test_closing_twice_and_speaking_again():
    async def talk():
        await voice.close()
        await speak(voice)
        await voice.close()
        await voice.close()
        speeches = await speak(voice)
        await voice.close()
        return speeches

    with serve(Options()) as fake:
        voice = voice_at(fake)
        assert len(samples(asyncio.run(talk())))
        assert len({request.client for request in fake.requests}) == 2
