"""What the way through is made of: settings, the tagger, the aligner and the voices, each loaded once, when first needed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from ai_core.chunking import at_slots
from ai_core.settings import Settings, load_settings
from ai_core.tagging import Density, Focus, Marker
from prosody_tagger.errors import ModelError
from prosody_tagger.markup import MarkedText, concatenate
from synth import registry
from synth.base import Synthesizer

if TYPE_CHECKING:
    from prosody_tagger.tagger import ProsodyTagger
    from synth.acoustics.ctc import CtcAligner

Scores = tuple[float | None, ...]
"""The tagger's score of each mark; None where the user or a rule set it."""


class Portion(NamedTuple):
    """Whole sentences with their marks at their slots, the score of each, and what the tagger did not do, in words."""

    marked: MarkedText
    scores: Scores
    warnings: tuple[str, ...] = ()


class Parts:
    """The settings, the tagger, the aligner and the voices of one process or one command. Shared by its jobs."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self._tagger: ProsodyTagger | None = None
        self._marker: Marker | None = None
        self._aligner: CtcAligner | None = None
        self._voices: dict[str, Synthesizer] = {}
        self._loading = asyncio.Lock()

    async def tagger(self) -> "ProsodyTagger":
        """The tagger.

        Raises:
            ModelError: it cannot be loaded.
        """
        async with self._loading:
            if self._tagger is None:
                self._tagger = await asyncio.to_thread(self._load_tagger)
            return self._tagger

    async def aligner(self) -> "CtcAligner | None":
        """The neural aligner of ``PROSODY_ALIGNER``; None where that is not set, or empty.

        Raises:
            ModelError: it cannot be loaded.
        """
        source = self.settings.aligner
        if not source:
            return None
        async with self._loading:
            if self._aligner is None:
                self._aligner = await asyncio.to_thread(_load_aligner, source)
            return self._aligner

    async def portions(self, text: str | MarkedText, intensity: Density, focus: Focus = ()) -> AsyncGenerator[Portion, None]:
        """The text with its marks, in portions of whole sentences.

        A text that has marks keeps them, unscored. The first portion of a long text does not wait for the rest.
        """
        if isinstance(text, MarkedText):
            yield Portion(at_slots(text), (None,) * len(text.marks))
            return
        tagger = await self.tagger()
        self._marker = self._marker or Marker(tagger)
        async with aclosing(self._marker.portions(text, intensity, focus)) as portions:
            async for tagged in portions:
                yield Portion(tagged.marked, tagged.scores, tagged.warnings)

    async def mark(self, text: str | MarkedText, intensity: Density, focus: Focus = ()) -> Portion:
        """The whole of what `portions` gives."""
        async with aclosing(self.portions(text, intensity, focus)) as portions:
            found = [portion async for portion in portions]
        warnings = dict.fromkeys(warning for portion in found for warning in portion.warnings)
        scores = tuple(score for portion in found for score in portion.scores)
        return Portion(concatenate([portion.marked for portion in found]), scores, tuple(warnings))

    def voice(self, name: str) -> Synthesizer:
        """The backend of that name.

        Raises:
            BadInput: there is none.
            BackendUnavailable: it lacks something.
        """
        if name not in self._voices:
            group = registry.find(name).settings
            self._voices[name] = registry.create(name, getattr(self.settings, group))
        return self._voices[name]

    async def close(self) -> None:
        """Close every voice that was opened."""
        while self._voices:
            await self._voices.popitem()[1].close()

    def _load_tagger(self) -> "ProsodyTagger":
        from prosody_tagger.tagger import ProsodyTagger

        return ProsodyTagger.load(self.settings.tagger.adapter, base=self.settings.tagger.base)


def _load_aligner(source: str) -> "CtcAligner":
    from synth.acoustics.ctc import CtcAligner

    try:
        return CtcAligner.load(source)
    except ModelError as error:
        raise ModelError(f"PROSODY_ALIGNER: {error}") from None
