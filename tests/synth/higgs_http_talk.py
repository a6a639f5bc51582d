"""What the tests of higgs-http share: a voice at a fake server, and what must not come out of it."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from fake_higgs import Fake

from prosody_tagger.markup import MarkedText, plain
from synth.base import Speech, SpeechRequest
from synth.higgs_http.backend import HiggsHttp, HiggsSettings

KEY = "bai-very-secret-0123456789-abcdef"
TEXT = "The quick zebra whispers a number to nobody in particular."
RATE = 24_000


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a proxy between us and the fake, nor a key of the developer's."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("BOSON_API_KEY", raising=False)


def voice_at(fake: Fake, **settings: Any) -> HiggsHttp:
    """A voice with the fake's dialect and short time-outs."""
    quick = {"connect_timeout": 1.0, "read_timeout": 2.0, "total_timeout": 4.0, "retries": 0, "api_key": fake.options.key}
    return HiggsHttp(HiggsSettings(**{"dialect": fake.options.dialect, "url": fake.url, **quick, **settings}))


async def speak(voice: HiggsHttp, text: str | MarkedText = TEXT, /, **request: Any) -> list[Speech]:
    marked = plain(text) if isinstance(text, str) else text
    async with aclosing(voice.speak(SpeechRequest(marked, **request))) as speeches:
        return [speech async for speech in speeches]


def spoken(voice: HiggsHttp, text: str | MarkedText = TEXT, /, **request: Any) -> list[Speech]:
    """All of one piece, in an event loop of its own."""
    return asyncio.run(speak(voice, text, **request))


def samples(speeches: list[Speech]) -> np.ndarray:
    return np.concatenate([speech.audio.samples for speech in speeches])


def warnings(speeches: list[Speech]) -> tuple[str, ...]:
    return tuple(warning for speech in speeches for warning in speech.warnings)


def assert_discreet(said: str, text: str = TEXT) -> None:
    """Neither the key nor 24 characters of the text."""
    assert KEY not in said
    for start in range(len(text) - 23):
        assert text[start : start + 24] not in said


def wait_until(holds: Callable[[], object], seconds: float = 2.0) -> None:
    """For threads; fails if it does not come about."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
