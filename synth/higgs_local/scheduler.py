"""Continuous batching: requests join and leave a running batch, which decodes one frame of each per step.

Only the worker's thread uses it.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synth.audio.signal import concatenate
from synth.higgs_local.adapter import Adapter, check_fit
from synth.higgs_local.base_model import BaseDescription, describe_model
from synth.higgs_local.lora import AdapterSwitch, AdapterWeights, load_weights
from synth.higgs_local.requests import AudioChunk, RequestHandle, to_backend_error
from synth.higgs_local.settings import HiggsLocalSettings

if TYPE_CHECKING:
    from synth.higgs_local.batch import DecodingBatch
    from synth.higgs_local.codec_stream import CodecStream
    from synth.higgs_local.engine import HiggsEngine

_MAX_LOADED = 4  # adapters whose weights stay in host memory, about 50 MB each
_FAILED = "the model failed on this text"


@dataclass(slots=True, eq=False)
class _ActiveRequest:
    """A request that is being decoded.

    Attributes:
        handle: where its audio goes.
        stream: decodes its codes to audio.
        steps_to_check: steps until its codes are read next; each read waits for the device.
        frames_taken: frames already passed to ``stream``.
    """

    handle: RequestHandle
    stream: "CodecStream"
    steps_to_check: int
    frames_taken: int = 0


class BatchScheduler:
    """Decodes requests on one engine. All active requests share one adapter, which is merged into the model's weights.

    Args:
        engine: the loaded model.
        settings: the engine's settings.
    """

    def __init__(self, engine: "HiggsEngine", settings: HiggsLocalSettings) -> None:
        self._engine, self._settings = engine, settings
        self._delay = int(engine.model.config.num_codebooks) - 1  # extra steps of the first frame, by the delay pattern
        self._first = settings.first_frames + engine.codec.reach  # the codec needs `reach` frames after those that it decodes
        self._switch = AdapterSwitch(engine.model)
        self._batch: DecodingBatch | None = None
        self._active: dict[int, _ActiveRequest] = {}
        self._base: BaseDescription | None = None
        self._loaded: list[AdapterWeights] = []

    @property
    def is_busy(self) -> bool:
        """Whether any request is active."""
        return bool(self._active)

    def choose(self, waiting: deque[RequestHandle]) -> list[RequestHandle]:
        """Remove from ``waiting`` the requests that can start now, and return them. Cancelled ones are removed too.

        Minimises adapter switches without starving any request. Requests join in order while their adapter is the active one. A
        first request with another adapter waits until the batch is empty; then all waiting requests with its adapter may start. A
        request that failed in a batch is decoded alone.
        """
        for handle in [handle for handle in waiting if handle.cancelled]:
            waiting.remove(handle)
        retrying = any(active.handle.retried for active in self._active.values())
        if not waiting or retrying or (waiting[0].retried and self._active):
            return []
        if waiting[0].retried:
            return [waiting.popleft()]
        free = self._free()
        if self._active:
            adapter = next(iter(self._active.values())).handle.request.adapter
            chosen: list[RequestHandle] = []
            while waiting and len(chosen) < free and waiting[0].request.adapter is adapter and not waiting[0].retried:
                chosen.append(waiting.popleft())
            return chosen
        adapter = waiting[0].request.adapter
        chosen = [handle for handle in waiting if handle.request.adapter is adapter and not handle.retried][:free]
        for handle in chosen:
            waiting.remove(handle)
        return chosen

    def start(self, handle: RequestHandle) -> None:
        """Add a request to the batch. If that fails, only this request ends with the error."""
        request, engine = handle.request, self._engine
        try:
            self._activate(request.adapter)
            ids = {kind: mark.id for kind, mark in request.adapter.marks.items()} if request.adapter else {}
            prompt = engine.prompt(request.text, reference=request.reference, context=request.context, mark_ids=ids)
            frames = math.ceil(request.seconds * engine.frames_per_second)
            stream = engine.stream()
            if self._batch is None:
                self._batch = engine.start([prompt], [engine.sampling(request.seed)], [frames])
                (number,) = self._batch.running
            else:
                number = self._batch.add(prompt, engine.sampling(request.seed), frames)
        except Exception as error:
            handle.put(to_backend_error(error, _FAILED))
            return
        self._active[number] = _ActiveRequest(handle, stream, self._first + self._delay)

    def drop_cancelled(self) -> None:
        """Remove cancelled requests from the batch, which frees their slots."""
        for number in [number for number, active in self._active.items() if active.handle.cancelled]:
            self._remove(number)
        self._release_if_idle()

    def step(self) -> list[RequestHandle]:
        """Decode one frame of every active request, and put the audio that is complete.

        Returns:
            Requests that failed in one step before any of them had audio. Each should be tried once more, alone.
        """
        if self._batch is None or not self._active:
            return []
        try:
            ended = self._batch.step()
        except Exception as error:
            return self._fail_batch(error)
        for number in ended:
            if number in self._active:
                self._isolated(number, self._finish)
        for number, active in list(self._active.items()):
            active.steps_to_check -= 1
            if active.steps_to_check <= 0:
                self._isolated(number, self._put_next_chunk)
        self._release_if_idle()
        return []

    def close(self, reason: Exception) -> None:
        """End every active request with ``reason`` and release the memory."""
        for active in self._active.values():
            active.handle.put(reason)
        self._drop_batch()

    def _free(self) -> int:
        return self._settings.max_batch if self._batch is None else self._batch.free

    def _activate(self, adapter: Adapter | None) -> None:
        """Merge ``adapter`` into the model's weights, or restore the base for None. No other request is active meanwhile.

        The weights keep their addresses, so CUDA graphs stay valid.

        Raises:
            AdapterError: the adapter cannot be read, or does not fit this model.
        """
        active = self._switch.active
        if adapter is (active.adapter if active else None):
            return
        weights = None if adapter is None else self._weights(adapter)
        self._drop_batch()
        self._switch.activate(weights)

    def _weights(self, adapter: Adapter) -> AdapterWeights:
        """Return the weights of ``adapter``, read from disk unless they are among the last `_MAX_LOADED`."""
        for loaded in self._loaded:
            if loaded.adapter is adapter:
                return loaded
        self._base = self._base or describe_model(self._engine.model, self._settings.model, self._settings.revision)
        check_fit(adapter, self._base)
        self._loaded = [load_weights(adapter), *self._loaded][:_MAX_LOADED]
        return self._loaded[0]

    def _isolated(self, number: int, work: Callable[[int], None]) -> None:
        """Do ``work`` for one request; an error ends this request alone."""
        try:
            work(number)
        except Exception as error:
            self._active[number].handle.put(to_backend_error(error, _FAILED))
            self._remove(number)

    def _put_next_chunk(self, number: int) -> None:
        """Put the next chunk of a request if all its frames are complete; else set when to check again."""
        active, batch = self._active[number], self._open_batch()
        wanted = self._settings.chunk_frames if active.frames_taken else self._first
        codes = batch.codes(number, active.frames_taken)
        if len(codes) < wanted:
            active.steps_to_check = wanted - len(codes)
            return
        active.frames_taken += len(codes)
        active.steps_to_check = self._settings.chunk_frames
        audio = active.stream.push(codes)
        if len(audio.samples):
            active.handle.put(AudioChunk(audio))

    def _finish(self, number: int) -> None:
        """Put the last chunk of a request that has ended, with all its codes."""
        active, batch = self._active[number], self._open_batch()
        codes = batch.codes(number)
        parts = [active.stream.push(codes[active.frames_taken :])] if len(codes) > active.frames_taken else []
        parts.append(active.stream.finish())
        active.handle.put(AudioChunk(concatenate(parts, self._engine.rate), codes, batch.cut(number)))
        self._remove(number)

    def _remove(self, number: int) -> None:
        del self._active[number]
        if self._batch is not None:
            self._batch.cancel(number)
            self._batch.forget(number)

    def _fail_batch(self, error: Exception) -> list[RequestHandle]:
        """End the batch after a failed step. Return the requests that may be tried again; the others end with ``error``."""
        handles = [active.handle for active in self._active.values()]
        self._drop_batch()
        to_retry = [handle for handle in handles if not (handle.started or handle.retried)]
        for handle in handles:
            if handle in to_retry:
                handle.retried = True
            else:
                handle.put(to_backend_error(error, _FAILED))
        return to_retry

    def _release_if_idle(self) -> None:
        """Give the KV cache back to the engine when no request is active."""
        if not self._active:
            self._drop_batch()

    def _drop_batch(self) -> None:
        batch, self._batch = self._batch, None
        self._active.clear()
        if batch is not None:
            batch.close()

    def _open_batch(self) -> "DecodingBatch":
        if self._batch is None:
            raise RuntimeError("no batch is open")
        return self._batch
