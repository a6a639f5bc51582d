"""pipecat's OpenAI service in a pipecat pipeline."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from own_service import LONG, TEXT, Server

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

VOICES = ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")


def service(server: Server, **settings: Any) -> Any:
    from pipecat.services.openai.tts import OpenAITTSService, OpenAITTSSettings

    key = settings.pop("key", server.key)
    chosen = OpenAITTSSettings(**{"model": "gpt-4o-mini-tts", "voice": "alloy", **settings})
    return OpenAITTSService(api_key=key, base_url=server.url, sample_rate=24_000, settings=chosen)


def spoken(server: Server, text: str, **settings: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the frames that were pushed downstream and upstream."""
    from pipecat.frames.frames import TTSSpeakFrame
    from pipecat.tests.utils import run_test

    async def through_a_pipeline() -> tuple[Sequence[Any], Sequence[Any]]:
        speaking = service(server, **settings)
        async with speaking._client:  # pipecat does not close it
            return await run_test(speaking, frames_to_send=[TTSSpeakFrame(text)], start_timeout=10)

    return asyncio.run(through_a_pipeline())


def sound(frames: Sequence[Any]) -> list[Any]:
    from pipecat.frames.frames import TTSAudioRawFrame

    return [frame for frame in frames if isinstance(frame, TTSAudioRawFrame)]


def seconds(frames: Sequence[Any]) -> float:
    return sum(len(frame.audio) for frame in sound(frames)) / 2 / 24_000


def test_the_audio_is_complete(server: Server) -> None:
    down, up = spoken(server, TEXT)
    assert {(frame.sample_rate, frame.num_channels) for frame in sound(down)} == {(24_000, 1)}
    assert seconds(down) == pytest.approx(server.wav_seconds(TEXT), abs=0.001)
    assert up == []


def test_every_voice_that_it_knows_is_spoken(server: Server) -> None:
    from pipecat.services.openai.tts import VALID_VOICES

    assert set(VALID_VOICES) <= set(VOICES)
    for voice in VALID_VOICES:
        assert seconds(spoken(server, "All yours.", voice=voice)[0]) > 0.3, voice


def test_speed_and_instructions_are_accepted(server: Server) -> None:
    plain = seconds(spoken(server, TEXT)[0])
    assert seconds(spoken(server, TEXT, speed=2.0, instructions="Be brief.")[0]) == pytest.approx(plain / 2, rel=0.15)


def test_a_long_text_is_streamed(server: Server) -> None:
    async def first_and_all() -> tuple[float, float]:
        from pipecat.frames.frames import TTSAudioRawFrame

        speaking = service(server)
        speaking._sample_rate = 24_000  # its pipeline says so otherwise
        began, first = time.perf_counter(), 0.0
        async with speaking._client:
            async for frame in speaking.run_tts(LONG, "context"):
                if isinstance(frame, TTSAudioRawFrame) and not first:
                    first = time.perf_counter() - began
        return first, time.perf_counter() - began

    first, whole = asyncio.run(first_and_all())
    assert 0 < first < whole / 5


@pytest.mark.parametrize(
    ("settings", "said"), [({"key": "wrong"}, "API key"), ({"model": "hugs-http"}, "did you mean higgs-http?")]
)
def test_an_error_is_reported(settings: dict[str, Any], said: str, server: Server) -> None:
    from pipecat.frames.frames import ErrorFrame

    down, up = spoken(server, TEXT, **settings)
    assert sound(down) == []
    assert any(isinstance(frame, ErrorFrame) and said in frame.error for frame in up)


def test_truncated_audio_is_an_error(hurried: Server) -> None:
    from pipecat.frames.frames import ErrorFrame

    down, up = spoken(hurried, LONG)
    assert seconds(down) > 0
    assert any(isinstance(frame, ErrorFrame) for frame in up)
