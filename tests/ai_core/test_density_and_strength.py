"""Density (how many words are stressed) and strength (how much a voice stresses one) are two settings; intensity sets both."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from ai_core.job import Job
from ai_core.pipeline import collect, tag_whole
from ai_core.runtime import Runtime
from ai_core.settings import Settings, load_settings
from prosody_tagger import markup
from prosody_tagger.errors import BadInput
from prosody_tagger.markup import Mark, MarkedText, parse
from prosody_tagger.segment import segment_words
from prosody_tagger.tagger import ProsodyTagger
from synth.base import SpeechRequest
from synth.embedded import espeak
from synth.embedded.backend import EmbeddedVoice

TEXT = "It costs only nine dollars today, and nobody has ever sent one back to us."


def stressed(job: Job, settings: Settings | None = None) -> int:
    async def run() -> int:
        async with Runtime(settings or Settings()) as runtime:
            return sum(mark.kind == "emph" for mark in (await tag_whole(job, runtime)).marked.marks)

    return asyncio.run(run())


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[SpeechRequest]:
    """Record the requests to the embedded voice."""
    asked: list[SpeechRequest] = []
    speak = EmbeddedVoice.speak

    async def recorded(self: EmbeddedVoice, request: SpeechRequest) -> AsyncGenerator[Any, None]:
        asked.append(request)
        async for speech in speak(self, request):
            yield speech

    monkeypatch.setattr(EmbeddedVoice, "speak", recorded)
    return asked


def test_density_overrides_intensity_even_if_zero() -> None:
    words = len(segment_words(TEXT))
    assert stressed(Job(TEXT, density=0)) == 0
    assert stressed(Job(TEXT, intensity=0)) == 0
    assert stressed(Job(TEXT, intensity=0, density=1)) == words
    assert stressed(Job(TEXT), Settings(density=1.0)) == words
    assert stressed(Job(TEXT, intensity="high"), Settings(density=0.0)) > 0
    assert stressed(Job(TEXT), Settings(intensity=0.0)) == 0


def test_strength_overrides_intensity(requests: list[SpeechRequest]) -> None:
    marked = parse("It costs <emph>nine dollars.")
    jobs = [
        Job(marked),
        Job(marked, intensity="high"),
        Job(marked, intensity="high", strength="low"),
        Job(marked, intensity=0.3),
        Job(marked, density=1),
    ]

    async def run() -> None:
        async with Runtime(Settings(strength="low")) as runtime:
            for job in jobs:
                await collect(job, runtime)

    asyncio.run(run())
    assert [request.strength for request in requests] == ["low", "high", "low", "high", "low"]


def test_the_environment_sets_density_and_strength_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSODY_DENSITY", "0")
    monkeypatch.setenv("PROSODY_STRENGTH", "high")
    settings = load_settings()
    assert (settings.density, settings.strength, settings.intensity) == (0.0, "high", "medium")
    monkeypatch.setenv("PROSODY_STRENGTH", "0.5")
    with pytest.raises(BadInput, match="PROSODY_STRENGTH"):
        load_settings()


def test_at_density_one_every_word_is_listed_with_its_score() -> None:
    (tagged,) = ProsodyTagger.load().tag_batch([TEXT], 1)
    emph = [(mark, score) for mark, score in zip(tagged.marked.marks, tagged.scores, strict=True) if mark.kind == "emph"]
    assert [mark.offset for mark, _ in emph] == [word.start for word in segment_words(TEXT)]
    assert all(score is not None and 0 <= score <= 1 for _, score in emph)


def test_tag_controls_whether_a_text_is_tagged() -> None:
    own = MarkedText(TEXT, (Mark("emph", 3), Mark("pause_long", 3)))

    async def run(job: Job) -> MarkedText:
        async with Runtime(Settings()) as runtime:
            return (await tag_whole(job, runtime)).marked

    assert asyncio.run(run(Job(TEXT, tag=False))) == MarkedText(TEXT)
    assert asyncio.run(run(Job(own))) == own
    both = asyncio.run(run(Job(own, tag=True, density="high")))
    assert set(own.marks) < set(both.marks)
    assert [mark.kind for mark in both.marks if mark.offset == 3] == ["emph", "pause_long"]


def test_a_sentence_is_segmented_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tagger segments the text; later stages reuse the words."""
    asked: list[str] = []

    def counted(text: str) -> Any:
        asked.append(text)
        return segment_words(text)

    async def run() -> None:
        async with Runtime(Settings()) as runtime:
            await collect(Job("Is everything ready?"), runtime)  # warm up
            monkeypatch.setattr(markup, "segment_words", counted)
            await collect(Job(TEXT), runtime)

    asyncio.run(run())
    assert [text for text in asked if text.strip() == TEXT] == [TEXT]


def test_a_job_with_a_report_leaves_no_process() -> None:
    asyncio.run(collect(Job(parse("It costs <emph>nine dollars."), report=True)))
    assert espeak.WORKER._process is None
