"""The pipeline with a fake backend of known timing: each word is 0.2 s of tone, with silence at the edges."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from ai_core.pipeline import Job, Result, collect, stream
from ai_core.runtime import Runtime
from ai_core.settings import Settings
from prosody_tagger.errors import BadInput, MarkupError
from prosody_tagger.markup import KINDS, MarkedText, parse
from prosody_tagger.segment import segment_words
from synth import registry
from synth.base import Audio, Capabilities, Speech, SpeechRequest, Support, Synthesizer, Voice, WordTime
from synth.errors import BackendError

RATE = 16_000
EDGE, WORD, TAIL = 0.05, 0.2, 0.3


class ToneVoice(Synthesizer):
    """Speaks a tone for each word, and records its requests."""

    name = "tone"
    marks: ClassVar[dict[str, Support]] = {kind: "realised" if kind.startswith("pause") else "rendered" for kind in KINDS}
    max_chars = 60
    fail_at: int | None = None

    def __init__(self, settings: object) -> None:
        self.requests: list[SpeechRequest] = []
        self.closed = 0
        self.abandoned = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(self.marks, RATE, ("en",), self.max_chars, word_times=True)

    async def voices(self) -> tuple[Voice, ...]:
        return (Voice("a", "en"),)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        self.requests.append(request)
        if self.fail_at == len(self.requests):
            raise BackendError("the tone broke; try again")
        runs = segment_words(request.text.text)
        silence = np.zeros(int(EDGE * RATE))
        tone = 0.5 * np.sin(2 * np.pi * 200 * np.arange(int(WORD * len(runs) * RATE)) / RATE)
        sound = np.concatenate([silence, tone, np.zeros(int(TAIL * RATE))]).astype(np.float32)
        times = [
            WordTime(word.core(request.text.text), word.core_start, EDGE + WORD * i, EDGE + WORD * (i + 1))
            for i, word in enumerate(runs)
        ]
        half = len(sound) // 2
        cut = half / RATE
        try:
            yield Speech(Audio(sound[:half], RATE), tuple(t for t in times if t.start < cut), context="half")
            await asyncio.sleep(0)
            rest = tuple(WordTime(t.word, t.offset, t.start - cut, t.end - cut) for t in times if t.start >= cut)
            yield Speech(Audio(sound[half:], RATE), rest, context=len(self.requests))
        except (GeneratorExit, asyncio.CancelledError):
            self.abandoned += 1
            raise

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def tone(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    entry = registry.Backend("tone", "a tone a word", f"{__name__}:ToneVoice", "embedded")
    monkeypatch.setitem(registry.BACKENDS, "tone", entry)
    return Runtime(Settings(backend="tone", realise=False))


def voice_of(runtime: Runtime) -> ToneVoice:
    voice = runtime.backend("tone")
    assert type(voice).__name__ == "ToneVoice"
    return voice  # type: ignore[return-value]


def say(runtime: Runtime, text: str | MarkedText, **options: Any) -> Result:
    return asyncio.run(collect(Job(text, **options), runtime))


def seconds_of(runtime: Runtime, source: str) -> float:
    return say(runtime, parse(source)).audio.seconds


def test_audio_has_the_pipelines_rate_and_word_times_match_it(tone: Runtime) -> None:
    result = say(tone, parse("One two. Three <pause_short:500ms>four!"))
    assert result.audio.rate == 24_000
    assert [word.word for word in result.words] == ["One", "two", "Three", "four"]
    assert [result.marked.text[word.offset :][: len(word.word)] for word in result.words] == ["One", "two", "Three", "four"]
    gap = TAIL + EDGE
    starts = [EDGE, EDGE + WORD, EDGE + 2 * WORD + gap, EDGE + 3 * WORD + gap + 0.5]
    assert [word.start for word in result.words] == pytest.approx(starts, abs=0.004)
    for word in result.words:
        inside = result.audio.samples[int((word.start + 0.02) * 24_000) : int((word.end - 0.02) * 24_000)]
        assert np.sqrt(np.mean(inside**2)) > 0.3


@pytest.mark.parametrize(
    ("source", "extra"),
    [
        ("One <pause_short>two.", 0.25),
        ("One <pause_long>two.", 0.7),
        ("One <pause_short:90ms>two.", 0.09),
        ("One <pause_short><pause_short>two.", 0.5),
        ("One two.<pause_short:400ms>", 0.4 - 0.1),
        ("<pause_short:400ms>One two.", 0.4 - EDGE),
    ],
)
def test_pauses_are_exact(tone: Runtime, source: str, extra: float) -> None:
    assert seconds_of(tone, source) - seconds_of(tone, "One two.") == pytest.approx(extra, abs=0.012)


def test_only_a_pause(tone: Runtime) -> None:
    result = say(tone, parse("<pause_short>"))
    assert len(result.audio.samples) == 6000
    assert not result.audio.samples.any()


def test_streamed_sentences_add_up_to_the_whole(tone: Runtime) -> None:
    text = parse("One <emph>two. Three <pause_long>four. <pause_long>Five.")

    async def run() -> list[Result]:
        return [result async for result in stream(Job(text), tone)]

    parts = asyncio.run(run())
    whole = say(tone, text)
    assert [part.marked.text for part in parts] == ["One two. ", "Three four. ", "Five."]
    assert np.array_equal(np.concatenate([part.audio.samples for part in parts]), whole.audio.samples)
    assert whole.marked == text


def test_the_backend_gets_only_marks_that_it_renders_and_the_context(tone: Runtime) -> None:
    say(tone, parse("One <pause_short><emph>two <pause_long>three. Four."), voice="a", speed=1.5, seed=7, intensity="high")
    asked = voice_of(tone).requests
    assert [request.text.text for request in asked] == ["One ", "two ", "three. ", "Four."]
    assert [[mark.kind for mark in request.text.marks] for request in asked] == [[], ["emph"], [], []]
    assert [request.unfinished for request in asked] == [True, True, False, False]
    assert [request.context for request in asked] == [None, 1, 2, 3]
    assert {(r.voice, r.speed, r.seed, r.strength) for r in asked} == {("a", 1.5, 7, "high")}


def test_long_sentences_are_split_by_the_backends_limit(tone: Runtime) -> None:
    text = "one two three four five, six seven eight nine ten eleven twelve " * 5
    result = say(tone, MarkedText(text))
    assert max(len(request.text.text) for request in voice_of(tone).requests) <= 60
    assert [word.offset for word in result.words] == [word.core_start for word in segment_words(text)]


def test_unsupported_marks_are_reported(tone: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToneVoice, "marks", {**ToneVoice.marks, "emph": "dropped"})
    result = say(tone, parse("One <emph>two <emph>three."))
    assert result.warnings == tuple(
        f"<emph> before {word!r} was dropped: backend tone does not support it there" for word in ("two", "three")
    )
    assert all(not request.text.marks for request in voice_of(tone).requests)


def test_a_plain_text_is_a_job(tone: Runtime) -> None:
    assert asyncio.run(collect(parse("One <emph>two."), tone)).marked == parse("One <emph>two.")


def test_every_focus_gets_a_stress(tone: Runtime) -> None:
    text = "It is the one of the two, and it was of the other as it is."
    focus = ((6, 9), (text.index("of the other"), text.index("of the other") + 12))
    for intensity in ("low", "medium", "high"):
        result = say(tone, text, focus=focus, intensity=intensity)
        stressed = [mark.offset for mark in result.marked.marks if mark.kind == "emph"]
        assert all(any(start <= offset < end for offset in stressed) for start, end in focus)


def test_plain_text_is_tagged_and_scored(tone: Runtime) -> None:
    result = say(tone, "He opened the door very slowly, and nobody was there. A literal <emph> stays.")
    assert result.marked.text.endswith("A literal <emph> stays.")
    assert result.marked.marks
    assert all(score is not None and 0 < score < 1 for score in result.scores)
    assert set(result.timings) == {"load", "tag", "speak", "total"}


def test_a_marked_text_is_not_tagged(tone: Runtime) -> None:
    result = say(tone, parse("He opened <emph>the door very slowly."))
    assert [mark.kind for mark in result.marked.marks] == ["emph"]
    assert result.scores == (None,)


def test_closing_the_stream_closes_the_backends_generator(tone: Runtime) -> None:
    async def run() -> None:
        speaking = stream(Job(parse("One. Two. Three.")), tone)
        await anext(speaking)
        await speaking.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())
    assert len(voice_of(tone).requests) == 1


def test_cancelling_reaches_the_backend(tone: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(_: float) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.create_task(collect(Job(parse("One two three.")), tone))
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    voice = voice_of(tone)
    monkeypatch.setattr(f"{__name__}.asyncio.sleep", forever)
    asyncio.run(run())
    assert voice.abandoned == 1


def test_a_backend_that_fails_midway_fails_the_job(tone: Runtime) -> None:
    voice_of(tone).fail_at = 2
    with pytest.raises(BackendError, match="the tone broke"):
        say(tone, parse("One. Two. Three."))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", BadInput, "no text"),
        ("  \n", BadInput, "no text"),
        ("... —", BadInput, "contains no word"),
        ("x" * 20_001, BadInput, r"20,001 characters; at most 20,000.*PROSODY_MAX_CHARS"),
        (parse("go <emph>"), MarkupError, r"<emph> at line 1, column 4 .* no word after it"),
        (parse("<pause_long:60000ms>" * 11), BadInput, r"add up to 660 s; at most 600 s"),
        ("a\ud800", MarkupError, "lone surrogate"),
    ],
)
def test_texts_that_cannot_be_spoken(tone: Runtime, text: str | MarkedText, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        say(tone, text)
    assert not voice_of(tone).requests


def test_an_unknown_backend(tone: Runtime) -> None:
    with pytest.raises(BadInput, match=r"unknown backend 'embeded'; did you mean embedded\?"):
        say(tone, "Go.", backend="embeded")


def test_close_closes_all_backends(tone: Runtime) -> None:
    voice = voice_of(tone)
    asyncio.run(tone.close())
    asyncio.run(tone.close())
    assert voice.closed == 1


def test_concurrent_jobs_do_not_mix(tone: Runtime) -> None:
    sources: Sequence[str] = [f"{'one ' * n}<pause_short:{100 * n}ms>two." for n in range(1, 8)]

    async def run() -> list[Result]:
        return await asyncio.gather(*(collect(Job(parse(source)), tone) for source in sources))

    together = asyncio.run(run())
    for source, result in zip(sources, together, strict=True):
        assert np.array_equal(result.audio.samples, say(tone, parse(source)).audio.samples)
