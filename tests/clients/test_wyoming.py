"""wyoming-openai, Home Assistant's bridge, as a separate process between a Wyoming client and the service.

It needs Python 3.12 or later.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import pytest
from own_service import LONG, TEXT, Server, clean_environment, free_port, running, serving

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("wyoming_openai") is None, reason="wyoming-openai is not installed"),
]


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("keyless") / "log.txt", PROSODY_API__KEYS="") as found:
        yield found


@pytest.fixture(scope="module", params=["voices are listed", "voices are named"])
def bridge(
    request: pytest.FixtureRequest, server: Server, keyless: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The bridge lists voices without its key, so with a key the voices must be configured."""
    listed = request.param == "voices are listed"
    uri = f"tcp://127.0.0.1:{free_port()}"
    to = ["--tts-openai-url", (keyless if listed else server).url, "--tts-openai-key", server.key]
    what = ["--tts-models", "prosody", "--tts-streaming-models", "prosody"]
    voices = ["--tts-backend", "KOKORO_FASTAPI"] if listed else ["--tts-voices", "en-us", "en-gb", "de"]
    command = [sys.executable, "-m", "wyoming_openai", "--uri", uri, *to, *what, *voices]

    def ready() -> bool:
        try:
            return asyncio.run(described(uri)) is not None
        except OSError:
            return False

    with running(command, clean_environment(), ready, tmp_path_factory.mktemp("bridge") / "log.txt"):
        yield uri


@asynccontextmanager
async def connected(uri: str) -> AsyncIterator[Any]:
    from wyoming.client import AsyncClient

    client = AsyncClient.from_uri(uri)
    await client.connect()
    try:
        yield client
    finally:
        await client.disconnect()


async def described(uri: str) -> Any:
    from wyoming.info import Describe, Info

    async with connected(uri) as client:
        await client.write_event(Describe().event())
        return Info.from_event(await client.read_event())


async def spoken(uri: str, text: str, voice: str) -> tuple[int, float, float, float]:
    """Return the sample rate, and the seconds of audio, to the first chunk and to the end."""
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.error import Error
    from wyoming.tts import Synthesize, SynthesizeVoice

    rate, samples, first, began = 0, 0, 0.0, time.perf_counter()
    async with connected(uri) as client, asyncio.timeout(60):
        await client.write_event(Synthesize(text=text, voice=SynthesizeVoice(name=voice)).event())
        while True:
            event = await client.read_event()
            assert event is not None
            assert not Error.is_type(event.type), event.data
            if AudioStart.is_type(event.type):
                rate = AudioStart.from_event(event).rate
            elif AudioChunk.is_type(event.type):
                first = first or time.perf_counter() - began
                samples += AudioChunk.from_event(event).samples
            elif AudioStop.is_type(event.type):
                return rate, samples / rate, first, time.perf_counter() - began


def test_it_finds_the_voices(bridge: str) -> None:
    names = [voice.name for program in asyncio.run(described(bridge)).tts for voice in program.voices]
    assert {"en-us", "en-gb", "de"} <= set(names)


def test_the_audio_is_complete(bridge: str, server: Server) -> None:
    rate, seconds, _, _ = asyncio.run(spoken(bridge, TEXT, "en-us"))
    assert rate == 24_000
    assert seconds == pytest.approx(server.wav_seconds(TEXT), abs=0.01)


def test_a_long_text_is_streamed(bridge: str) -> None:
    _, _, first, whole = asyncio.run(spoken(bridge, LONG, "en-us"))
    assert 0 < first < whole / 5
