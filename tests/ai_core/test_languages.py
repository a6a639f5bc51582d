"""Text in unsupported languages is spoken with a warning."""

import asyncio

from ai_core.pipeline import Job, collect, stream
from ai_core.runtime import Runtime
from ai_core.settings import Settings

ENGLISH = "We looked at the house on Monday. "
GERMAN = "Alle Kinder dürfen spielen, lernen und ruhen. Niemand soll Hunger leiden müssen. "


async def spoken(job: Job) -> tuple[list[tuple[str, ...]], tuple[str, ...], list[str], list[float | None]]:
    """Return the warnings of each result and of the whole, the marks, and their scores."""
    runtime = Runtime(Settings())
    try:
        each = [result.warnings async for result in stream(job, runtime)]
        whole = await collect(job, runtime)
    finally:
        await runtime.close()
    return each, whole.warnings, [mark.kind for mark in whole.marked.marks], list(whole.scores)


def test_text_in_another_language_is_spoken_with_a_warning() -> None:
    each, warnings, kinds, scores = asyncio.run(spoken(Job(GERMAN, realise=False)))
    assert kinds == ["pause_short", "pause_long"]
    assert scores == [None, None]
    assert [warning for warning in warnings if "no emphasis" in warning] == [warnings[0]]
    assert warnings[0] in each[0]
    assert len(each) == 2


def test_english_gets_no_warning() -> None:
    each, warnings, kinds, _ = asyncio.run(spoken(Job(ENGLISH, intensity=0.5, realise=False)))
    assert "emph" in kinds
    assert not [warning for warning in (*warnings, *each[0]) if "no emphasis" in warning]
    _, _, none, _ = asyncio.run(spoken(Job(ENGLISH, intensity=0.0, realise=False)))
    assert "emph" not in none
