"""What the way through is made of: settings, the tagger and the voices, each loaded once, when first needed."""

import asyncio
from typing import TYPE_CHECKING

from ai_core.pieces import at_slots
from ai_core.settings import Settings, load_settings
from prosody_tagger.markup import MarkedText
from synth import registry
from synth.base import Intensity, Synthesizer

if TYPE_CHECKING:
    from prosody_tagger.tagger import ProsodyTagger


class Parts:
    """The settings, the tagger and the voices of one process or one command. Shared by its jobs."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self._tagger: ProsodyTagger | None = None
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

    async def mark(
        self, text: str | MarkedText, intensity: Intensity, focus: tuple[tuple[int, int], ...] = ()
    ) -> tuple[MarkedText, tuple[float | None, ...]]:
        """The text with its marks at their slots, and the tagger's score of each; a text that has marks keeps them, unscored."""
        if isinstance(text, MarkedText):
            return at_slots(text), (None,) * len(text.marks)
        tagger = await self.tagger()
        tagged = await asyncio.to_thread(tagger.tag, text, intensity, focus)
        return tagged.marked, tagged.scores

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
