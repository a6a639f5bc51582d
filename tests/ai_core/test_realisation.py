"""Realisation in the pipeline: with any backend, words are aligned, pauses are exact and marks are realised."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ai_core.pipeline import Job, Result, collect
from ai_core.runtime import Runtime
from ai_core.settings import Settings
from prosody_tagger.markup import KINDS, MarkedText, parse
from prosody_tagger.segment import segment_words
from synth import registry
from synth.audio.signal import silence_level
from synth.base import Audio, Capabilities, Speech, SpeechRequest, Synthesizer, Voice
from synth.embedded.backend import EmbeddedSettings, EmbeddedVoice
from synth.errors import BackendError

TEXT = "I never said she stole my money. Nobody told us that the shop had moved."
MARKED = "I never <pause_short:400ms>said <emph>she stole my money. Nobody told us that the shop <pause_short>had <emph>moved."


class OtherVoice(Synthesizer):
    """A backend without support for marks or word times: another speaker of espeak-ng."""

    name = "other"

    def __init__(self, settings: object = None) -> None:
        self.requests: list[SpeechRequest] = []
        self.says: str | None = None
        self._voice = EmbeddedVoice(EmbeddedSettings(voice="en-gb-scotland", pitch=70, words_per_minute=150))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(dict.fromkeys(KINDS, "realised"), self._voice.capabilities.rate, ("en",), 500)

    async def voices(self) -> tuple[Voice, ...]:
        return (Voice("a", "en"),)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        self.requests.append(request)
        text = request.text if self.says is None else replace(request.text, text=self.says)
        async for speech in self._voice.speak(SpeechRequest(text, speed=request.speed)):
            yield Speech(speech.audio)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setitem(registry.BACKENDS, "other", registry.Backend("other", "", f"{__name__}:OtherVoice", "embedded"))
    return Runtime(Settings(backend="other"))


def say(runtime: Runtime, text: MarkedText, **options: Any) -> Result:
    return asyncio.run(collect(Job(text, **options), runtime))


def test_a_sentence_is_one_request_and_its_words_are_aligned(runtime: Runtime) -> None:
    result = say(runtime, parse(MARKED))
    assert [request.text.text for request in runtime.backend("other").requests] == [  # type: ignore[attr-defined]
        "I never said she stole my money. ",
        "Nobody told us that the shop had moved.",
    ]
    assert [word.offset for word in result.words] == [word.core_start for word in segment_words(TEXT)]
    starts = [word.start for word in result.words]
    assert starts == sorted(starts)
    assert result.warnings == ()


def test_pauses_and_emphasis_are_realised_and_measured(runtime: Runtime) -> None:
    result = say(runtime, parse(MARKED), report=True)
    assert result.report is not None
    assert (result.report.asked, result.report.realised) == (4, 4), result.report.as_dict()["marks"]
    pauses = [mark.silence_ms for mark in result.report.marks if mark.silence_ms is not None]
    assert pauses == pytest.approx([400, 250], abs=20)
    assert result.timings["measure"] > 0


def test_the_request_has_the_positions_of_later_pauses(runtime: Runtime) -> None:
    marked = parse("One <pause_short>two <pause_short:90ms>three <pause_long>four.")
    say(runtime, marked)
    say(runtime, marked, realise=False)
    whole, *cut = runtime.backend("other").requests  # type: ignore[attr-defined]
    assert [whole.text.text[at:].split()[0] for at in whole.breaks] == ["two", "four."]
    assert {request.breaks for request in cut} == {()}


def test_without_realisation_marks_are_reported_as_warnings(runtime: Runtime) -> None:
    result = say(runtime, parse("One <pause_short:400ms>two <emph>three."), realise=False)
    assert len(runtime.backend("other").requests) == 2  # type: ignore[attr-defined]
    assert result.words == ()
    assert result.warnings == (
        "<emph> before 'three' was not realised: "
        "backend other does not support it there, and realisation in the audio is turned off",
    )
    no_report = say(runtime, parse("One <emph>two."), realise=False, report=True)
    assert no_report.report is None
    assert "no mark was measured" in no_report.warnings[-1]


def test_audio_without_marks_is_unchanged(runtime: Runtime) -> None:
    plain = MarkedText(TEXT)
    assert np.array_equal(say(runtime, plain).audio.samples, say(runtime, plain, realise=False).audio.samples)


def test_audio_that_does_not_match_the_text_is_unchanged(runtime: Runtime) -> None:
    runtime.backend("other").says = "Green bottles hang quietly over there, and whatever."  # type: ignore[attr-defined]
    sentence = parse("I never said <emph>she stole my money.")
    result = say(runtime, sentence, report=True)
    assert result.words == ()
    assert result.report is None
    assert "could not be aligned with the audio" in result.warnings[0]
    assert np.array_equal(result.audio.samples, say(runtime, MarkedText(sentence.text)).audio.samples)


def test_a_failing_alignment_backend_loses_marks_but_not_speech(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(EmbeddedVoice):
        async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
            raise BackendError("the guide broke")
            yield

    monkeypatch.setitem(runtime._backends, "embedded", Broken())
    result = say(runtime, parse("One <emph>two."))
    assert result.audio.seconds > 0.3
    assert result.warnings == ("the words could not be aligned with the audio, so no mark was realised in it: the guide broke",)


def test_audio_without_samples(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    async def mute(self: object, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        yield Speech(Audio(np.zeros(0, dtype=np.float32), 22_050))

    monkeypatch.setattr(OtherVoice, "speak", mute)
    assert say(runtime, parse("One <emph>two.")).words == ()


def test_pauses_are_exact_at_the_edges_and_between_sentences(runtime: Runtime) -> None:
    result = say(runtime, parse("<pause_short:300ms>One two. <pause_long>Three four.<pause_short:900ms>"))
    loud = np.abs(result.audio.samples) > 4 * silence_level(result.audio)
    assert np.flatnonzero(loud)[0] / 24_000 == pytest.approx(0.3, abs=0.03)
    assert (len(loud) - np.flatnonzero(loud)[-1]) / 24_000 == pytest.approx(0.9, abs=0.03)
    gap = result.words[2].start - result.words[1].end
    assert gap == pytest.approx(0.7, abs=0.1)
