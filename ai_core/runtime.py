"""Resources shared by all jobs of a process: settings, tagger, aligner and backends; each is loaded lazily, once."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ai_core.settings import Settings, load_settings
from prosody_tagger.errors import ModelError
from synth import registry
from synth.base import Synthesizer

if TYPE_CHECKING:
    from prosody_tagger.tagger import TaggingBatcher
    from synth.acoustics.ctc import CtcAligner


class Runtime:
    """The settings, the tagger, the aligner and the backends. Used as a context manager, it closes the backends at the end."""

    def __init__(self, settings: Settings | None = None, backends: Mapping[str, Synthesizer] | None = None) -> None:
        """``backends``: existing backends by name; others are created at first use."""
        self.settings = settings or load_settings()
        self._tagger: TaggingBatcher | None = None
        self._aligner: CtcAligner | None = None
        self._backends: dict[str, Synthesizer] = dict(backends or {})
        self._loading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def tagger(self) -> "TaggingBatcher":
        """The tagger, shared by all jobs.

        Raises:
            ModelError: it cannot be loaded.
        """
        async with self._loading:
            if self._tagger is None:
                self._tagger = await asyncio.to_thread(self._load_tagger)
            return self._tagger

    async def aligner(self) -> "CtcAligner | None":
        """The neural aligner of ``PROSODY_ALIGNER``; None if that is not set or empty.

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

    def backend(self, name: str) -> Synthesizer:
        """The backend of that name.

        Raises:
                        BadInput: there is no such backend.
            BackendUnavailable: a module that it needs is not installed.
        """
        if name not in self._backends:
            group = registry.find(name).settings
            self._backends[name] = registry.create(name, getattr(self.settings, group))
        return self._backends[name]

    async def close(self) -> None:
        """Close all backends. Safe to call twice."""
        while self._backends:
            await self._backends.popitem()[1].close()

    def _load_tagger(self) -> "TaggingBatcher":
        from prosody_tagger.tagger import ProsodyTagger, TaggingBatcher

        return TaggingBatcher(ProsodyTagger.load(self.settings.tagger.adapter, base=self.settings.tagger.base))


def _load_aligner(source: str) -> "CtcAligner":
    from synth.acoustics.ctc import CtcAligner

    try:
        return CtcAligner.load(source)
    except ModelError as error:
        raise ModelError(f"PROSODY_ALIGNER: {error}") from None
