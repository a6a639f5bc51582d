"""Voices of higgs-http: those of the dialect, and those that the server lists."""

import asyncio
import json

import pytest
from fake_higgs import DIALECTS, Fault, Options, serve
from higgs_http_helpers import (  # noqa: F401 (a fixture)
    HANG_SECONDS,
    KEY,
    assert_no_secrets,
    backend_at,
    clean_environment,
    raw_server,
    speak,
    spoken,
    wait_until,
)

from synth.errors import BackendUnavailable, RefusedRequest
from synth.higgs_http.backend import HiggsHttp, HiggsSettings
from synth.higgs_http.voices import MAX_LIST_BYTES, voice_names

VOICES = "/v1/audio/voices"


@pytest.mark.parametrize(("dialect", "first"), [("boson", "default"), ("boson-chat", "belinda")])
def test_voices_of_a_dialect(dialect, first):
    voices = asyncio.run(HiggsHttp(HiggsSettings(dialect=dialect)).voices())
    assert voices[0].name == first
    assert len(voices) == len({voice.name for voice in voices}) >= 7
    chosen = asyncio.run(HiggsHttp(HiggsSettings(dialect=dialect, voice=voices[3].name)).voices())
    assert chosen[0] == voices[3]
    assert set(chosen) == set(voices)
    own = asyncio.run(HiggsHttp(HiggsSettings(dialect=dialect, voice="voice_abc")).voices())
    assert [voice.name for voice in own] == ["voice_abc", *(voice.name for voice in voices)]


def test_voices_that_the_server_lists():
    with serve(Options(dialect="openai-speech")) as fake:
        assert asyncio.run(backend_at(fake).voices())[0].name == "default"
        assert asyncio.run(backend_at(fake, voice="en_man").voices())[0].name == "en_man"
    with pytest.raises(BackendUnavailable, match="cannot connect"):
        asyncio.run(backend_at(fake).voices())


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
def test_formats_of_a_list(listing, names):
    assert voice_names(json.dumps(listing).encode()) == names


@pytest.mark.parametrize("listing", [b"", b"{}", b"7", b"null", b'{"voices": {}}', b"<html>", b"\xff", b"[" * 100_000])
def test_invalid_lists(listing):
    with pytest.raises((ValueError, RecursionError)):
        voice_names(listing)


# A server that is slow to list


async def _requested(fake, count: int = 1) -> None:
    await asyncio.to_thread(wait_until, lambda: len(fake.requests) >= count)


def test_a_slow_list_does_not_block_the_event_loop():
    async def list_and_count() -> int:
        turns = 0
        with fake.hold(VOICES):
            listing = asyncio.create_task(backend.voices())
            while not fake.requests or turns < 1000:
                await asyncio.sleep(0)
                turns += 1
            assert not listing.done()
        assert (await listing)[0].name == "default"
        return turns

    with serve(Options(dialect="openai-speech")) as fake:
        backend = backend_at(fake)
        assert asyncio.run(list_and_count()) >= 1000


def test_overlapping_calls_share_one_request():
    async def list_twice():
        with fake.hold(VOICES):
            calls = [asyncio.create_task(backend.voices()) for _ in range(50)]
            await _requested(fake)
        shared = await asyncio.gather(*calls)
        assert len(fake.requests) == 1
        return [*shared, await backend.voices()]

    with serve(Options(dialect="openai-speech")) as fake:
        backend = backend_at(fake, max_connections=1)
        lists = asyncio.run(list_twice())
        assert len(set(lists)) == 1
        assert len(fake.requests) == 2  # a later call asks again, so that no old list is returned


def test_a_shared_failure_reaches_every_caller():
    async def list_in_vain():
        return await asyncio.gather(*(backend.voices() for _ in range(5)), return_exceptions=True)

    with serve(Options(dialect="openai-speech")) as fake:
        fake.misbehave(Fault.ERROR_500, path=VOICES)
        backend = backend_at(fake)
        failures = asyncio.run(list_in_vain())
        assert len(fake.requests) == 1
    assert [type(failure) for failure in failures] == [BackendUnavailable] * 5


def test_a_cancelled_caller_does_not_disturb_the_others():
    async def leave_and_stay():
        with fake.hold(VOICES):
            leaving, staying = (asyncio.create_task(backend.voices()) for _ in range(2))
            await _requested(fake)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert not fake.requests[0].ended.is_set()
        return await staying

    with serve(Options(dialect="openai-speech")) as fake:
        backend = backend_at(fake)
        assert asyncio.run(leave_and_stay())[0].name == "default"
        assert len(fake.requests) == 1


def test_when_the_last_caller_is_cancelled_the_connection_is_closed():
    async def leave_and_ask_again():
        with fake.hold(VOICES):
            calls = [asyncio.create_task(backend.voices()) for _ in range(2)]
            await _requested(fake)
            for call in calls:
                call.cancel()
            again = asyncio.create_task(backend.voices())  # does not join the request that is being cancelled
            assert all(isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*calls, return_exceptions=True))
            assert await asyncio.to_thread(fake.requests[0].ended.wait, HANG_SECONDS)
            assert fake.requests[0].disconnected is not None
            await _requested(fake, 2)
        return await again

    with serve(Options(dialect="openai-speech")) as fake:
        backend = backend_at(fake, read_timeout=600.0, connect_timeout=600.0, total_timeout=3600.0)
        assert asyncio.run(leave_and_ask_again())[0].name == "default"


def test_speech_does_not_wait_for_a_list():
    async def speak_while_listing():
        with fake.hold(VOICES):
            listing = asyncio.create_task(backend.voices())
            await _requested(fake)
            speeches = await speak(backend)
            assert not listing.done()
        await listing
        return speeches

    with serve(Options(dialect="openai-speech")) as fake:
        backend = backend_at(fake, max_connections=1)
        assert asyncio.run(speak_while_listing())


# Failures


@pytest.mark.parametrize(
    ("fault", "settings", "words"),
    [
        (Fault.NEVER_ANSWERS, {"read_timeout": 0.3}, "READ_TIMEOUT"),
        (Fault.DRIPS, {"read_timeout": 1.0}, "too long, or too slowly"),
        (Fault.STALLS, {"read_timeout": 1.0}, "too long, or too slowly"),
        (Fault.RESETS, {}, "broke off"),
        (Fault.UNAUTHORIZED, {}, "PROSODY_HIGGS__API_KEY"),
        (Fault.REDIRECT, {}, "redirects are not followed"),
        (Fault.ERROR_503, {}, "503"),
        (Fault.ECHO_500, {}, "500"),
        (Fault.HTML, {}, "sent no list of them"),
        (Fault.GZIP_BOMB, {}, "compressed"),
        (Fault.WRONG_JSON, {}, "sent no list of them"),
    ],
)
def test_faults_of_listing(fault, settings, words):
    with serve(Options(dialect="openai-speech", key=KEY, drip_ms=5)) as fake:
        fake.misbehave(fault, path=VOICES)
        with pytest.raises(BackendUnavailable, match="cannot be listed: ") as caught:
            asyncio.run(backend_at(fake, **settings).voices())
        assert len(fake.requests) == (2 if fault is Fault.RESETS else 1)
    assert words in str(caught.value)
    assert "PROSODY_HIGGS__VOICE" in str(caught.value)
    assert_no_secrets(str(caught.value))


def test_a_connection_that_the_server_closed_meanwhile_is_reopened():
    async def list_twice():
        return [await backend.voices() for _ in range(2)]

    with serve(Options(dialect="openai-speech")) as fake:
        fake.misbehave(Fault.HANGS_UP, times=1, after=1, path=VOICES)
        backend = backend_at(fake)
        first, second = asyncio.run(list_twice())
        assert first == second
        assert len(fake.requests) == 3


def test_a_list_that_is_too_long_is_not_read_to_its_end():
    start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n"
    with raw_server(start + b"[" * (MAX_LIST_BYTES + 1), then_hold=True) as url:
        settings = HiggsSettings(dialect="openai-speech", url=url, connect_timeout=600, read_timeout=600, total_timeout=3600)
        with pytest.raises(BackendUnavailable, match="too long"):
            asyncio.run(asyncio.wait_for(HiggsHttp(settings).voices(), HANG_SECONDS))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_unknown_voice(dialect):
    with serve(Options(dialect=dialect)) as fake:
        with pytest.raises(RefusedRequest, match="voice 'nobody'"):
            spoken(backend_at(fake), voice="nobody")
        for name in ("", "a\nb", "<|x|>", "x" * 300, "\ud800"):
            with pytest.raises(RefusedRequest, match="is not a valid name"):
                spoken(backend_at(fake), voice=name)
        assert len(fake.requests) == 1
