"""Generation requests, and the handles by which the worker's thread answers them."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prosody_tagger.errors import ProsodyError, first_line
from prosody_tagger.markup import MarkedText
from synth.base import Audio, Reference
from synth.errors import BackendError
from synth.higgs_local.adapter import Adapter
from synth.higgs_local.prompt import Context

if TYPE_CHECKING:
    import torch

_ERROR_CHARS = 300


@dataclass(frozen=True, slots=True, eq=False)
class GenerationRequest:
    """A text to speak and how.

    Attributes:
        text: the text in the form that the model reads; the adapter was trained on every kind of mark in it.
        seconds: longest audio; generation is cut there.
        adapter: LoRA adapter; None for the base model.
        reference: recording of the voice to imitate.
        context: the sentence before.
        seed: of the sampling; None draws one.
    """

    text: MarkedText
    seconds: float
    adapter: Adapter | None = None
    reference: Reference | None = None
    context: Context | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class AudioChunk:
    """Part of the audio of a request.

    Attributes:
        audio: the samples of this chunk.
        codes: all codes of the request, int64 [frames, codebooks], in its last chunk; None in the others.
        cut: whether generation was stopped at the longest duration, in the last chunk.
    """

    audio: Audio
    codes: "torch.Tensor | None" = None
    cut: bool = False


@dataclass(slots=True, eq=False)
class RequestHandle:
    """A request in progress: the worker's thread puts chunks, and the caller's event loop takes them.

    Attributes:
        request: what to generate.
        loop: the caller's event loop.
        chunks: the audio so far that the caller has not taken; an exception ends it.
        cancelled: the caller has closed its generator.
        started: a chunk or an error was put.
        retried: it failed in a batch once and is decoded alone now.
    """

    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    chunks: "asyncio.Queue[AudioChunk | Exception]" = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    started: bool = False
    retried: bool = False

    def put(self, item: AudioChunk | Exception) -> None:
        """Add a chunk, or the error that ends the request, without waiting for the caller."""
        self.started = True
        with contextlib.suppress(RuntimeError):  # the caller's event loop is closed
            self.loop.call_soon_threadsafe(self.chunks.put_nowait, item)


def to_backend_error(error: Exception, failure: str) -> Exception:
    """Return the exception that a caller receives for ``error``.

    Args:
        error: what was raised. The project's own errors are returned unchanged.
        failure: what failed, as the start of the message.
    """
    if isinstance(error, ProsodyError):
        return error
    reason = first_line(error, _ERROR_CHARS)
    advice = "lower the setting max_batch, or free memory" if "out of memory" in reason.lower() else "try again"
    return BackendError(f"{failure}: {type(error).__name__}: {reason}; {advice}")
