"""Texts on their way to the tagger: those that wait together are tagged together, a long one portion by portion."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, NamedTuple

from prosody_tagger.density import Level
from prosody_tagger.markup import plain

if TYPE_CHECKING:
    from prosody_tagger.tagger import ProsodyTagger, Tagged

Density = Level | float
"""How many words are stressed: low, medium or high, or a number of emphases a word, from 0 to 1."""

Focus = tuple[tuple[int, int], ...]
"""Spans of a text that it is said for."""

_SHORT_CHARS = 1000
"""A longer text is not tagged with others, so that none of them has to wait for it."""

_MOST_TOGETHER = 64


class _Waiting(NamedTuple):
    text: str
    intensity: Density
    focus: Focus
    tagged: "asyncio.Future[Tagged]"


class Marker:
    """A tagger that many callers share. While it works, others gather, and are tagged together in its next pass."""

    def __init__(self, tagger: "ProsodyTagger") -> None:
        self._tagger = tagger
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None

    async def portions(self, text: str, intensity: Density, focus: Focus = ()) -> "AsyncGenerator[Tagged, None]":
        """``text`` tagged, in portions of whole sentences; the first of them does not wait for the rest.

        Raises:
            MarkupError: the text holds a lone surrogate.
        """
        if len(text) <= _SHORT_CHARS:
            yield await self._tag(text, intensity, focus)
            return
        portions = self._tagger.tag_in_portions(text, intensity, focus)
        while (portion := await asyncio.to_thread(next, portions, None)) is not None:
            yield portion

    async def _tag(self, text: str, intensity: Density, focus: Focus) -> "Tagged":
        plain(text)  # what cannot be tagged must not fail the others
        waiting = _Waiting(text, intensity, focus, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await waiting.tagged

    async def _work(self) -> None:
        while self._waiting:
            batch = [item for item in self._waiting[:_MOST_TOGETHER] if not item.tagged.done()]
            del self._waiting[:_MOST_TOGETHER]
            columns = [list(column) for column in zip(*batch, strict=True)]
            if not columns:
                continue
            texts, intensities, focuses, _ = columns
            try:
                results = await asyncio.to_thread(self._tagger.tag_batch, texts, intensities, focuses)
            except Exception as error:
                _settle(batch, error)
            else:
                for item, tagged in zip(batch, results, strict=True):
                    if not item.tagged.done():
                        item.tagged.set_result(tagged)


def _settle(batch: list[_Waiting], error: Exception) -> None:
    for item in batch:
        if not item.tagged.done():
            item.tagged.set_exception(error)
