"""What the worker is handed, and what it hands back."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prosody_tagger.errors import ProsodyError
from prosody_tagger.markup import MarkedText
from synth.base import Audio, Reference
from synth.errors import BackendError
from synth.higgs_local.adapter import Adapter
from synth.higgs_local.prompt import Context

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """What is to be spoken.

    Attributes:
        text: fit for the model; its marks are of kinds that the adapter was trained on.
        seconds: the most that it may take to say.
        adapter: None is the base.
        reference: the voice to speak in.
        context: the sentence before.
        seed: None draws one.
    """

    text: MarkedText
    seconds: float
    adapter: Adapter | None = None
    reference: Reference | None = None
    context: Context | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some of the sound. The last of an order has all its codes [n, codebooks], and says whether it was cut for its length."""

    audio: Audio
    codes: "torch.Tensor | None" = None
    cut: bool = False


@dataclass(slots=True, eq=False)
class Request:
    """An order under way. The worker's thread hands on what it has, and the caller's event loop takes it."""

    order: Order
    loop: asyncio.AbstractEventLoop
    heard: "asyncio.Queue[Chunk | Exception]" = field(default_factory=asyncio.Queue)
    given_up: bool = False
    begun: bool = False  # some of its sound was handed on
    tried: bool = False  # and failed, together with others

    def hand(self, what: Chunk | Exception) -> None:
        """Hand on sound, or why there is none. Returns at once: a caller that is slow keeps nobody waiting."""
        self.begun = True
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
            self.loop.call_soon_threadsafe(self.heard.put_nowait, what)


def told(error: Exception, what: str) -> Exception:
    """What a caller is told of a failure: the project's own errors as they are, others as what failed and why."""
    if isinstance(error, ProsodyError):
        return error
    why = (str(error) or type(error).__name__).splitlines()[0][:300]
    advice = "lower the setting max_batch, or free some" if "out of memory" in why.lower() else "try again"
    return BackendError(f"{what}: {type(error).__name__}: {why}; {advice}")
