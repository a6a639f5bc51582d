"""The backend `higgs-local`: Higgs Audio v2 in this process, with LoRA adapters as voices."""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prosody_tagger.markup import KINDS, MarkedText, closest
from synth.base import Audio, Capabilities, Speech, SpeechRequest, Synthesizer, Voice
from synth.errors import RefusedRequest
from synth.higgs_local.adapter import Adapter, AdapterCatalogue, AdapterError
from synth.higgs_local.model_text import to_model_text
from synth.higgs_local.prompt import Context
from synth.higgs_local.settings import HiggsLocalSettings
from synth.higgs_local.worker import GenerationRequest, ModelWorker
from synth.lowering import max_duration

if TYPE_CHECKING:
    from synth.higgs_local.engine import HiggsEngine

__all__ = ["HiggsLocal", "HiggsLocalSettings"]

DEFAULT = "default"
"""Name of the default voice: the adapter of this name if there is one, else the model without an adapter."""

RATE = 24_000
LANGUAGES = ("de", "en", "es", "ko", "zh")
MAX_CHARS = 300  # code points per request; the pipeline splits longer texts

_MAX_SEED = 2**63


class HiggsLocal(Synthesizer):
    """Higgs Audio v2 in this process. The model is loaded with the first request, not by the constructor.

    Its voices are the model itself and the adapters in the settings' folder, which is searched at every request. The model receives
    the marks that its adapter was trained on as tokens; the others are returned as unrealised. Pauses are always returned, because
    the model does not control their length.

    An instance may be used from several event loops. Concurrent requests are decoded in one batch.

    Args:
        settings: which model, and how it is run.
    """

    name = "higgs-local"

    def __init__(self, settings: HiggsLocalSettings | None = None) -> None:
        self._settings = settings or HiggsLocalSettings()
        self._catalogue = AdapterCatalogue(Path(self._settings.adapters) if self._settings.adapters else None)
        self._worker = ModelWorker(self._engine, self._settings)

    @property
    def capabilities(self) -> Capabilities:
        """Capabilities of all voices together: a mark is native if any adapter was trained on it."""
        return self._capabilities(
            {kind for found in self._catalogue.all().values() if isinstance(found, Adapter) for kind in found.marks}
        )

    def capabilities_of(self, voice: str | None) -> Capabilities:
        """Return the capabilities of one voice: a mark is native if its adapter was trained on it."""
        found = self._catalogue.all().get(DEFAULT if voice is None else voice)
        return self._capabilities(found.marks if isinstance(found, Adapter) else ())

    def _capabilities(self, trained: Collection[str]) -> Capabilities:
        return Capabilities(
            marks={kind: "native" if kind in trained else "realised" for kind in KINDS},
            rate=RATE,
            languages=LANGUAGES,
            max_chars=MAX_CHARS,
            streaming=True,
            references=True,
            speed=False,
        )

    async def voices(self) -> tuple[Voice, ...]:
        """Return the default voice, then one voice for each adapter."""
        found = self._catalogue.all()
        base = Voice(DEFAULT, "und", "the model without an adapter; the speaker is that of a reference recording, or random")
        listed = [Voice(name, "und", _description(adapter)) for name, adapter in found.items()]
        first = [voice for voice in listed if voice.name == DEFAULT] or [base]
        return (*first, *(voice for voice in listed if voice.name != DEFAULT))

    def unready(self) -> str | None:
        folder = self._catalogue.folder
        if folder is not None and not folder.is_dir():
            return f"the adapters folder {str(folder)!r} does not exist; set PROSODY_HIGGS_LOCAL__ADAPTERS to another"
        from synth.higgs_local.checkpoint import is_local

        model = self._settings.model
        if not is_local(model, self._settings.revision):
            hint = "the first request downloads it, or set PROSODY_HIGGS_LOCAL__MODEL to a folder"
            return f"the model {model!r} is not on this machine; {hint}"
        return None

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        """Yield the audio of one request in chunks; the last one has the context for the next request.

        A text without words gives one chunk without samples, and the model is not used.

        Raises:
            RefusedRequest: unknown voice, text too long, a speed other than 1, a seed out of range.
            AdapterError: the adapter is broken, or does not fit this model.
            BackendUnavailable: the model cannot be loaded.
            BackendBusy: too many requests are open.
            BackendError: the model failed.
        """
        adapter = self._adapter(request.voice)
        _check(request)
        text, unrealised = to_model_text(request, adapter.marks if adapter else ())
        if not text.words:
            yield Speech(Audio(np.zeros(0, dtype=np.float32), RATE), unrealised=request.text.marks, context=request.context)
            return
        generation = GenerationRequest(
            text,
            seconds=max_duration(text.text, self._settings.max_seconds_per_char),
            adapter=adapter,
            reference=request.reference,
            context=_context(request.context, adapter),
            seed=request.seed,
        )
        seconds = 0.0
        async with aclosing(self._worker.speak(generation)) as chunks:
            async for chunk in chunks:
                seconds += chunk.audio.seconds
                context = None if chunk.codes is None else Context(text, chunk.codes)
                cut = f"the speech did not end within {seconds:.0f} s and was cut; try another seed"
                yield Speech(chunk.audio, unrealised=unrealised, context=context, warnings=(cut,) if chunk.cut else ())
                unrealised = ()

    async def close(self) -> None:
        """Release the model. A later request loads it again."""
        await self._worker.close()

    def _engine(self) -> "HiggsEngine":
        from synth.higgs_local.engine import HiggsEngine

        engine = HiggsEngine.load(self._settings)
        if engine.model.device.type == "cuda":
            engine.warm_up()
        return engine

    def _adapter(self, voice: str | None) -> Adapter | None:
        """Return the adapter of a voice; None for the model itself.

        Raises:
            RefusedRequest: there is no such voice.
            AdapterError: its adapter cannot be used.
        """
        found = self._catalogue.all()
        name = DEFAULT if voice is None else voice
        if name not in found:
            if name == DEFAULT:
                return None
            nearest = closest(name, [DEFAULT, *found])
            hint = f"did you mean {nearest!r}? " if nearest else ""
            raise RefusedRequest(
                f"there is no voice {name[:40]!r}; {hint}`prosody voices --backend {self.name}` lists all; each adapter in the "
                "folder of PROSODY_HIGGS_LOCAL__ADAPTERS is one"
            )
        adapter = found[name]
        if isinstance(adapter, AdapterError):
            raise adapter
        return adapter


def _description(adapter: Adapter | AdapterError) -> str:
    if isinstance(adapter, AdapterError):
        return f"cannot be used: {adapter}"
    marks = ", ".join(adapter.marks)
    return f"adapter of rank {adapter.rank}, trained on {marks}" if marks else f"adapter of rank {adapter.rank}, without marks"


def _check(request: SpeechRequest) -> None:
    length = len(request.text.text) + sum(len(alias.spoken) for alias in request.text.aliases)
    if length > MAX_CHARS:
        raise RefusedRequest(f"a text of {length} characters is too long for one request; give at most {MAX_CHARS} at a time")
    if request.speed != 1.0:
        raise RefusedRequest(f"the model cannot speak at speed {request.speed:g}; leave it at 1")
    if request.seed is not None and not 0 <= request.seed < _MAX_SEED:
        raise RefusedRequest(f"seed {request.seed} is out of range; give 0 to {_MAX_SEED - 1}")


def _context(context: object, adapter: Adapter | None) -> Context | None:
    """Return the sentence before, without marks that the adapter was not trained on.

    Raises:
        RefusedRequest: the context was made by another backend.
    """
    if context is None:
        return None
    if not isinstance(context, Context):
        raise RefusedRequest(
            f"a context of the type {type(context).__name__} is not of this backend; pass the context of this backend's last Speech"
        )
    if isinstance(context.text, str):
        return context
    trained = adapter.marks if adapter else {}
    kept = tuple(mark for mark in context.text.marks if mark.kind in trained)
    return Context(MarkedText(context.text.text, kept), context.codes)
