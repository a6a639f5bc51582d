"""Backends in the pipeline: fallback, references, speed, concurrency and streaming."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ai_core.pipeline import Job, Result, collect, join_results, stream
from ai_core.runtime import Runtime
from ai_core.settings import Settings, load_settings
from prosody_tagger.extras import install_command
from prosody_tagger.markup import KINDS, MarkedText, parse
from synth import registry
from synth.base import Audio, Capabilities, Reference, Speech, SpeechRequest, Support, Synthesizer, Voice
from synth.errors import BackendError, BackendUnavailable, RefusedRequest

RATE = 24_000
RECORDING = Reference(b"RIFF", "wav", "hello")


class NoiseVoice(Synthesizer):
    """Speaks half a second of noise for each request; fails from request ``fail_from`` on."""

    name = "noise"

    def __init__(self, settings: object = None) -> None:
        self.requests: list[SpeechRequest] = []
        self.fail_from = 10**9
        self.pauses: Support = "realised"
        self.error: Exception = BackendUnavailable("no server at localhost; start it")
        self.able = {"speed": False, "references": False}

    @property
    def capabilities(self) -> Capabilities:
        marks: dict[str, Support] = {kind: self.pauses if kind.startswith("pause") else "dropped" for kind in KINDS}
        return Capabilities(marks, RATE, ("en",), 500, **self.able)

    async def voices(self) -> tuple[Voice, ...]:
        return (Voice("a", "en"),)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        self.requests.append(request)
        sound = np.random.default_rng(0).uniform(-0.5, 0.5, RATE // 2).astype(np.float32)
        failing = len(self.requests) >= self.fail_from
        yield Speech(Audio(sound[: len(sound) // 2] if failing else sound, RATE), context="mine", warnings=("a bit noisy",))
        if failing:
            raise self.error


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setitem(registry.BACKENDS, "noise", registry.Backend("noise", "", f"{__name__}:NoiseVoice", "embedded"))
    return Runtime(Settings(backend="noise", fallback="embedded", realise=False))


def voice_of(runtime: Runtime) -> NoiseVoice:
    voice = runtime.backend("noise")
    assert type(voice).__name__ == "NoiseVoice"
    return voice  # type: ignore[return-value]


def say(runtime: Runtime, text: MarkedText, **options: Any) -> Result:
    return asyncio.run(collect(Job(text, **options), runtime))


def test_the_fallback_speaks_the_rest_of_the_text(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    voice = voice_of(runtime)
    voice.fail_from = 2

    async def run() -> list[Result]:
        return [result async for result in stream(Job(parse("One two. Three four. Five."), voice="a"), runtime)]

    with caplog.at_level(logging.WARNING):
        first, second, third = asyncio.run(run())
    assert [(r.backend, r.fallback) for r in (first, second, third)] == [
        ("noise", None),
        ("embedded", "noise"),
        ("embedded", "noise"),
    ]
    assert first.audio.seconds == pytest.approx(0.5)
    assert [word.word for word in second.words] == ["Three", "four"]
    assert second.warnings == (
        "backend noise failed: no server at localhost; start it. "
        "Backend embedded speaks the rest of the text, with its default voice instead of 'a'",
    )
    assert third.warnings == ()
    assert len(voice.requests) == 2  # the failed backend is not called again
    assert "noise failed" in caplog.text


def test_the_whole_result_names_both_backends(runtime: Runtime) -> None:
    voice_of(runtime).fail_from = 1
    result = say(runtime, parse("One two. Three."))
    assert (result.backend, result.fallback) == ("embedded", "noise")
    assert result.marked.text == "One two. Three."


def test_a_backend_that_cannot_be_created_is_replaced(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.Backend("noise", "", f"{__name__}:NoiseVoice", "embedded", modules=("no_such_module",), extra="noise")
    monkeypatch.setitem(registry.BACKENDS, "noise", entry)
    result = say(runtime, parse("One."))
    assert (result.backend, result.fallback) == ("embedded", "noise")
    assert install_command("noise") in result.warnings[0]


@pytest.mark.parametrize("fallback", ["none", None])
def test_without_a_fallback_the_error_is_raised(runtime: Runtime, fallback: Any) -> None:
    runtime.settings.fallback = fallback
    voice_of(runtime).fail_from = 2
    with pytest.raises(BackendUnavailable, match="no server at localhost"):
        say(runtime, parse("One. Two."))


def test_a_fallback_that_fails_too_is_an_error(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    voice_of(runtime).fail_from = 1
    other = NoiseVoice()
    other.fail_from, other.error = 1, BackendError("this one broke as well")
    monkeypatch.setitem(runtime._backends, "embedded", other)
    with pytest.raises(BackendError, match="this one broke as well"):
        say(runtime, parse("One."))
    assert len(other.requests) == 1


def test_a_refused_request_does_not_use_the_fallback(runtime: Runtime) -> None:
    voice_of(runtime).fail_from, voice_of(runtime).error = 1, RefusedRequest("no voice 'x'")
    with pytest.raises(RefusedRequest, match="no voice 'x'"):
        say(runtime, parse("One."), voice="x")


def test_the_default_fallback_depends_on_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROSODY_FALLBACK", raising=False)
    assert load_settings().fallback == "none"
    assert load_settings(fallback="embedded").fallback == "embedded"
    monkeypatch.setenv("PROSODY_FALLBACK", "none")
    assert load_settings(fallback="embedded").fallback == "none"


def test_warnings_of_the_voice_are_passed_on_once(runtime: Runtime) -> None:
    assert say(runtime, parse("One <pause_short>two. Three.")).warnings == ("a bit noisy",)


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_the_audio_of_a_voice_with_one_rate_is_stretched(runtime: Runtime, speed: float) -> None:
    result = say(runtime, parse("One."), speed=speed)
    assert result.audio.seconds == pytest.approx(0.5 / speed, rel=0.02)
    assert voice_of(runtime).requests[0].speed == 1.0
    voice_of(runtime).able["speed"] = True
    assert say(runtime, parse("One."), speed=speed).audio.seconds == pytest.approx(0.5)
    assert voice_of(runtime).requests[-1].speed == speed


@pytest.mark.parametrize("speed", [0.1, 5.0, float("nan"), -1.0])
def test_speeds_out_of_range_are_refused(runtime: Runtime, speed: float) -> None:
    with pytest.raises(RefusedRequest, match=r"speed .* out of range; give 0\.25 to 4"):
        say(runtime, parse("One."), speed=speed)


def test_a_reference_reaches_a_backend_that_supports_it(runtime: Runtime) -> None:
    with pytest.raises(RefusedRequest, match="noise does not support reference recordings"):
        say(runtime, parse("One."), reference=RECORDING)
    voice_of(runtime).able["references"] = True
    with pytest.raises(RefusedRequest, match="a voice and a reference recording exclude each other"):
        say(runtime, parse("One."), reference=RECORDING, voice="a")
    assert not voice_of(runtime).requests
    say(runtime, parse("One. Two."), reference=RECORDING)
    assert [request.reference for request in voice_of(runtime).requests] == [RECORDING, RECORDING]
    voice_of(runtime).fail_from = 1
    assert "instead of that of the recording" in say(runtime, parse("One."), reference=RECORDING).warnings[0]


def test_a_sentence_is_not_split_at_pauses_of_the_engine(runtime: Runtime) -> None:
    voice_of(runtime).pauses = "rendered"
    say(runtime, parse("One <pause_short>two <pause_long:900ms>three.<pause_long>"))
    asked = voice_of(runtime).requests
    assert [request.text.text for request in asked] == ["One two ", "three."]
    assert [[mark.kind for mark in request.text.marks] for request in asked] == [["pause_short"], ["pause_long"]]
    assert len(say(runtime, parse("<pause_short>")).audio.samples) == RATE // 4


class SlowVoice(NoiseVoice):
    """Speaks requests concurrently, the first ones slowest; the audio is as long as the text."""

    name = "slow"

    def __init__(self, settings: object = None) -> None:
        super().__init__(settings)
        self.running = self.most = 0
        self.fail_on = "nothing"

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, at_once=3)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        self.requests.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.03 / len(self.requests))
            if self.fail_on in request.text.text:
                raise self.error
            yield Speech(Audio(np.full(len(request.text.text) * 100, 0.5, np.float32), RATE))
        finally:
            self.running -= 1


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> tuple[Runtime, SlowVoice]:
    monkeypatch.setitem(registry.BACKENDS, "slow", registry.Backend("slow", "", f"{__name__}:SlowVoice", "embedded"))
    runtime = Runtime(Settings(backend="slow", fallback="embedded", realise=False))
    voice: Any = runtime.backend("slow")
    return runtime, voice


TEN = "".join(f"This is {'very ' * index}good. " for index in range(10))


def test_sentences_are_spoken_concurrently_and_stay_in_order(slow: tuple[Runtime, SlowVoice]) -> None:
    runtime, voice = slow

    async def spoken() -> list[Result]:
        return [result async for result in stream(Job(parse(TEN)), runtime)]

    results = asyncio.run(spoken())
    assert voice.most == 3
    assert "".join(result.marked.text for result in results) == TEN
    lengths = [len(result.audio.samples) for result in results]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) == 10


def test_the_fallback_starts_at_the_sentence_that_failed(slow: tuple[Runtime, SlowVoice]) -> None:
    runtime, voice = slow
    voice.fail_on = "very very very very good."

    async def spoken() -> list[Result]:
        return [result async for result in stream(Job(parse(TEN)), runtime)]

    results = asyncio.run(spoken())
    assert [result.backend for result in results] == ["slow"] * 4 + ["embedded"] * 6
    assert [bool(result.warnings) for result in results] == [False] * 4 + [True] + [False] * 5
    assert len(voice.requests) < 10


def test_closing_the_stream_stops_all_requests(slow: tuple[Runtime, SlowVoice]) -> None:
    runtime, voice = slow

    async def unrealised() -> None:
        async with aclosing(stream(Job(parse(TEN)), runtime)) as results:
            await anext(results)
        assert voice.running == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(unrealised())
    assert len(voice.requests) < 10


def test_a_mark_without_effect_is_unrealised(runtime: Runtime) -> None:
    result = asyncio.run(collect(Job(parse("One. It's <emph>only <pause_short>today.")), runtime))
    assert [(mark.kind, mark.offset) for mark in result.unrealised] == [("emph", 10)]


class DrippingVoice(NoiseVoice):
    """Yields a sentence in ten chunks with silence at its end, and counts them in ``sent``."""

    name = "dripping"
    sent = 0

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, streaming=True, speed=True)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        self.requests.append(request)
        sound = np.random.default_rng(len(self.requests)).uniform(-0.5, 0.5, 2 * RATE).astype(np.float32)
        sound[-RATE // 4 :] = 0
        for number, part in enumerate(np.split(sound, 10)):
            if len(self.requests) >= self.fail_from and number == 5:
                raise self.error
            self.sent = number + 1
            yield Speech(Audio(part, RATE), warnings=("dripping",))


@pytest.fixture
def dripping(monkeypatch: pytest.MonkeyPatch) -> tuple[Runtime, DrippingVoice]:
    monkeypatch.setitem(registry.BACKENDS, "drip", registry.Backend("drip", "", f"{__name__}:DrippingVoice", "embedded"))
    runtime = Runtime(Settings(backend="drip", fallback="none", realise=False))
    voice: Any = runtime.backend("drip")
    return runtime, voice


TWO = "This comes first. That comes <emph>then."


def test_the_first_sentence_is_streamed(dripping: tuple[Runtime, DrippingVoice]) -> None:
    runtime, voice = dripping

    async def spoken() -> list[Result]:
        found = []
        async with aclosing(stream(Job(parse(TWO), times=False), runtime)) as results:
            async for result in results:
                if not found:
                    assert voice.sent < 6  # including the chunk that is held back
                found.append(result)
        return found

    results = asyncio.run(spoken())
    assert len(results) > 4
    assert "".join(result.marked.text for result in results) == parse(TWO).text
    assert [result.complete for result in results[-2:]] == [True, True]
    assert not any(result.complete for result in results[:-2])
    in_parts = join_results(results)
    voice.requests.clear()
    whole = asyncio.run(collect(Job(parse(TWO)), runtime))
    assert np.array_equal(in_parts.audio.samples, whole.audio.samples)
    assert in_parts.marked == whole.marked
    assert in_parts.unrealised == whole.unrealised
    assert set(in_parts.warnings) == set(whole.warnings)


@pytest.mark.parametrize("text", ["<pause_long>This is said. And more.", "Wait, <pause_short>please. And more."])
def test_a_sentence_with_realised_pauses_is_not_streamed(dripping: tuple[Runtime, DrippingVoice], text: str) -> None:
    runtime, _ = dripping

    async def first() -> Result:
        async with aclosing(stream(Job(parse(text), times=False), runtime)) as results:
            return await anext(results)

    assert asyncio.run(first()).complete


def test_a_failure_after_the_first_streamed_audio_is_an_error(dripping: tuple[Runtime, DrippingVoice]) -> None:
    runtime, voice = dripping
    voice.fail_from = 1

    heard: list[Result] = []

    async def spoken(times: bool) -> None:
        async for result in stream(Job(parse(TWO), times=times), runtime):
            heard.append(result)

    with pytest.raises(BackendUnavailable):
        asyncio.run(spoken(True))
    assert not heard
    with pytest.raises(BackendUnavailable):
        asyncio.run(spoken(False))
    assert heard
    runtime.settings.fallback = "embedded"
    result = asyncio.run(collect(Job(parse(TWO), times=False), runtime))
    assert (result.backend, result.fallback) == ("embedded", "drip")
