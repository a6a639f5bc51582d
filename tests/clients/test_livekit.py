"""LiveKit's OpenAI plugin, which requests events or audio."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from own_service import LONG, TEXT, Server, wait_until

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]


def run(server: Server, work: Callable[[Any], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Run ``work`` with the plugin's TTS."""
    from livekit.plugins import openai

    async def with_tts() -> Any:
        chosen = {"model": "prosody", "voice": "alloy", "response_format": "pcm", "api_key": server.key, **options}
        tts = openai.TTS(base_url=server.url, **chosen)
        try:
            return await work(tts)
        finally:
            await tts.aclose()

    return asyncio.run(with_tts())


def collected(text: str) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    from livekit.agents import APIConnectOptions

    async def collect(tts: Any) -> Any:
        async with tts.synthesize(text, conn_options=APIConnectOptions(max_retry=0)) as stream:
            return await stream.collect()

    return collect


# For tts-1 it requests audio, for every other model events.
@pytest.mark.parametrize("model", ["prosody", "tts-1", "embedded", "gpt-4o-mini-tts"])
@pytest.mark.parametrize("form", ["pcm", "wav"])
def test_the_audio_is_complete(form: str, model: str, server: Server) -> None:
    frame = run(server, collected(TEXT), model=model, response_format=form)
    assert (frame.sample_rate, frame.num_channels) == (24_000, 1)
    assert frame.duration == pytest.approx(server.wav_seconds(TEXT), abs=0.011)  # the plugin splits audio into frames of 10 ms


@pytest.mark.parametrize("model", ["prosody", "tts-1"])
@pytest.mark.parametrize("form", ["mp3", "opus", "aac", "flac"])
def test_the_audio_is_complete_in_compressed_formats(form: str, model: str, server: Server) -> None:
    frame = run(server, collected(TEXT), model=model, response_format=form)
    assert frame.sample_rate == 24_000
    assert frame.duration == pytest.approx(server.wav_seconds(TEXT), abs=0.15)  # encoder delay and padding


@pytest.mark.parametrize("voice", ["alloy", "verse", "en-gb"])
def test_voices_and_speed_are_accepted(voice: str, server: Server) -> None:
    assert run(server, collected("All yours."), voice=voice, speed=1.5, instructions="Be brief.").duration > 0.2


@pytest.mark.parametrize("model", ["prosody", "tts-1"])
def test_a_long_text_is_streamed(model: str, server: Server) -> None:
    async def first_and_all(tts: Any) -> tuple[float, float]:
        began, first = time.perf_counter(), 0.0
        async with tts.synthesize(LONG) as stream:
            async for _ in stream:
                first = first or time.perf_counter() - began
        return first, time.perf_counter() - began

    first, whole = run(server, first_and_all, model=model)
    assert 0 < first < whole / 5


@pytest.mark.parametrize("model", ["prosody", "tts-1"])
def test_a_disconnect_frees_the_permit(model: str, server: Server) -> None:
    async def leave(tts: Any) -> None:
        async with tts.synthesize(LONG) as stream:
            await anext(stream)

    run(server, leave, model=model)
    wait_until(lambda: server.speaking() == 0, 1.0)


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ({"api_key": "wrong"}, 401, "API key"),
        ({"model": "hugs-http"}, 404, "did you mean higgs-http?"),
        ({"speed": 99.0}, 422, "speed"),
    ],
)
def test_an_error_is_reported(options: dict[str, Any], status: int, said: str, server: Server) -> None:
    from livekit.agents import APIStatusError

    with pytest.raises(APIStatusError) as caught:
        run(server, collected(TEXT), **options)
    assert caught.value.status_code == status
    assert said in str(caught.value)
    assert caught.value.request_id


@pytest.mark.parametrize("model", ["prosody", "tts-1"])
def test_truncated_audio_is_an_error(model: str, hurried: Server) -> None:
    from livekit.agents import APIConnectOptions, APIError

    heard = 0.0

    async def listen(tts: Any) -> None:
        nonlocal heard
        async with tts.synthesize(LONG, conn_options=APIConnectOptions(max_retry=0)) as stream:
            async for spoken in stream:
                heard += spoken.frame.duration

    with pytest.raises(APIError):
        run(hurried, listen, model=model)
    assert heard > 0
