"""Higgs Audio v2 on this machine: one model, many callers, and adapters that teach it marks."""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prosody_tagger.markup import KINDS, PAUSE_MS, Mark, MarkedText, closest
from synth.base import Audio, Capabilities, Speech, SpeechRequest, Synthesizer, Voice
from synth.errors import RefusedRequest
from synth.higgs_local.adapter import Adapter, AdapterCatalogue, AdapterError
from synth.higgs_local.prompt import Context
from synth.higgs_local.settings import HiggsLocalSettings
from synth.higgs_local.spoken_form import spoken_form
from synth.higgs_local.worker import GenerationRequest, ModelWorker
from synth.lowering import max_duration

if TYPE_CHECKING:
    from synth.higgs_local.engine import HiggsEngine

__all__ = ["HiggsLocal", "HiggsLocalSettings"]

DEFAULT = "default"
"""The voice where none is asked for: the model as it is, or the adapter in a folder of this name."""

RATE = 24_000
LANGUAGES = ("de", "en", "es", "ko", "zh")
MAX_CHARS = 300  # longer texts run on; and the most that they may take is what the model was trained to remember

_MAX_SEED = 2**63
_SHORTEST_BREAK_MS = PAUSE_MS["pause_short"]  # that of a comma


class HiggsLocal(Synthesizer):
    """Higgs Audio v2 in this process. Making one costs nothing: the model is loaded with the first piece.

    Its voices are the model itself and the adapters of the settings' folder, which are looked for each time. Marks that the
    adapter was trained on go to the model as its tokens; any others come back as left. A pause comes back in any case: the model
    makes one as long as it likes, and whoever realises it makes it exact.

    One object may be used from several event loops. Pieces that are asked for at the same time are decoded together.
    """

    name = "higgs-local"

    def __init__(self, settings: HiggsLocalSettings | None = None) -> None:
        self._settings = settings or HiggsLocalSettings()
        self._catalogue = AdapterCatalogue(Path(self._settings.adapters) if self._settings.adapters else None)
        self._worker = ModelWorker(self._engine, self._settings)

    @property
    def capabilities(self) -> Capabilities:
        """A mark is native if an adapter was trained on it; with a voice that was not, `speak` leaves it."""
        return self._able({kind for found in self._catalogue.all().values() if isinstance(found, Adapter) for kind in found.marks})

    def capabilities_of(self, voice: str | None) -> Capabilities:
        """A mark is native if the adapter was trained on it that the voice stands for."""
        found = self._catalogue.all().get(DEFAULT if voice is None else voice)
        return self._able(found.marks if isinstance(found, Adapter) else ())

    def _able(self, trained: Collection[str]) -> Capabilities:
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
        """The model's own, and one for each adapter."""
        found = self._catalogue.all()
        own = Voice(DEFAULT, "und", "the model as it is; the voice is that of a recording, or any")
        listed = [Voice(name, "und", _about(adapter)) for name, adapter in found.items()]
        first = [voice for voice in listed if voice.name == DEFAULT] or [own]
        return (*first, *(voice for voice in listed if voice.name != DEFAULT))

    def unready(self) -> str | None:
        folder = self._catalogue.folder
        if folder is not None and not folder.is_dir():
            return f"there is no folder {str(folder)!r} to look for adapters in; set PROSODY_HIGGS_LOCAL__ADAPTERS to another"
        from synth.higgs_local.checkpoint import is_local

        model = self._settings.model
        if not is_local(model, self._settings.revision):
            return f"the model {model!r} is not here; the first text will fetch it, or set PROSODY_HIGGS_LOCAL__MODEL to a folder"
        return None

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        """Speak one piece, a chunk at a time; the last has the context for the next piece.

        A piece without words is silence of no length, and the model is not asked.

        Raises:
            RefusedRequest: unknown voice, text too long, a speed other than 1, a seed out of range.
            AdapterError: the adapter is broken, or not for this model.
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
                after = None if chunk.codes is None else Context(text, chunk.codes)
                cut = f"the voice had not come to its end after {seconds:.0f} s and was cut; try another seed"
                yield Speech(chunk.audio, unrealised=unrealised, context=after, warnings=(cut,) if chunk.cut else ())
                unrealised = ()

    async def close(self) -> None:
        """Let go of the model. A later request loads it again."""
        await self._worker.close()

    def _engine(self) -> "HiggsEngine":
        from synth.higgs_local.engine import HiggsEngine

        engine = HiggsEngine.load(self._settings)
        if engine.model.device.type == "cuda":
            engine.warm_up()
        return engine

    def _adapter(self, voice: str | None) -> Adapter | None:
        """The adapter that a voice stands for; None for the model itself."""
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


def _about(adapter: Adapter | AdapterError) -> str:
    if isinstance(adapter, AdapterError):
        return f"cannot be used: {adapter}"
    marks = ", ".join(adapter.marks)
    return f"adapter of rank {adapter.rank}, trained on {marks}" if marks else f"adapter of rank {adapter.rank}, without marks"


def _check(request: SpeechRequest) -> None:
    length = len(request.text.text) + sum(len(alias.spoken) for alias in request.text.aliases)
    if length > MAX_CHARS:
        raise RefusedRequest(f"a text of {length} characters is too long for one request; give at most {MAX_CHARS} at a time")
    if request.speed != 1.0:
        raise RefusedRequest(f"speed {request.speed:g} cannot be asked of the model; leave it at 1")
    if request.seed is not None and not 0 <= request.seed < _MAX_SEED:
        raise RefusedRequest(f"seed {request.seed} is out of range; give 0 to {_MAX_SEED - 1}")


def to_model_text(request: SpeechRequest, trained: Collection[str]) -> tuple[MarkedText, tuple[Mark, ...]]:
    """What the model is given, with the marks that it knows, and the marks that are left.

    A pause that it does not know is a break: whoever makes it cuts in there.
    """
    runs = request.text.words
    first = runs[0].core_start if runs else 0
    last = runs[-1].core_end if runs else 0
    given, unrealised, breaks = [], [], set(request.breaks)
    for mark in request.text.marks:
        inside = not mark.is_pause or first < mark.offset < last
        if mark.kind in trained and mark.ms is None and inside:
            given.append(mark)
        elif mark.is_pause and mark.silence_ms >= _SHORTEST_BREAK_MS:
            breaks.add(mark.offset)
        if mark not in given or mark.is_pause:
            unrealised.append(mark)
    asked = MarkedText(request.text.text, tuple(given), request.text.aliases)
    return spoken_form(asked, unfinished=request.unfinished, breaks=breaks), tuple(unrealised)


def _context(context: object, adapter: Adapter | None) -> Context | None:
    """The sentence before, with those of its marks that the adapter knows.

    Raises:
        RefusedRequest: it is not of this backend.
    """
    if context is None:
        return None
    if not isinstance(context, Context):
        raise RefusedRequest(
            f"a context of the type {type(context).__name__} is not of this backend; hand back what its Speech had"
        )
    if isinstance(context.text, str):
        return context
    known = adapter.marks if adapter else {}
    kept = tuple(mark for mark in context.text.marks if mark.kind in known)
    return Context(MarkedText(context.text.text, kept), context.codes)
