"""A single worker thread owns the model; callers submit requests and receive audio chunks.

Requests wait in a bounded queue and are decoded in batches of at most ``max_batch``. A cancelled request leaves the queue or the
batch before the next frame. A request that fails does not affect the others.
"""

import asyncio
import gc
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from synth.errors import BackendBusy, BackendError
from synth.higgs_local.requests import AudioChunk, GenerationRequest, RequestHandle, to_backend_error
from synth.higgs_local.scheduler import BatchScheduler
from synth.higgs_local.settings import HiggsLocalSettings

if TYPE_CHECKING:
    from synth.higgs_local.engine import HiggsEngine

__all__ = ["AudioChunk", "GenerationRequest", "ModelWorker"]

MAX_OPEN = 64
"""Most requests that are open at once, waiting or being decoded. Each holds the audio of at most one text in memory."""

_CLOSED = "the voice was closed during the request; try again"


class ModelWorker:
    """The worker thread and its queue.

    The thread starts with the first request and loads the engine. A closed worker starts again with the next request.

    Args:
        load: makes the engine; called in the worker's thread.
        settings: the engine's settings.
        max_open: most requests that are open at once.
    """

    def __init__(self, load: "Callable[[], HiggsEngine]", settings: HiggsLocalSettings, *, max_open: int = MAX_OPEN) -> None:
        self._load, self._settings = load, settings
        self._max_open = max_open
        self._changed = threading.Condition()
        self._waiting: deque[RequestHandle] = deque()
        self._open = 0
        self._thread: threading.Thread | None = None
        self._closing = False

    async def speak(self, request: GenerationRequest) -> AsyncGenerator[AudioChunk, None]:
        """Yield the audio of a request as it is generated; the last chunk has the codes. Closing the generator cancels the request.

        Raises:
            BackendBusy: too many requests are open, or the worker is being closed.
            RefusedRequest: the text is too long for the model.
            AdapterError: the adapter does not fit the model.
            BackendUnavailable: the model cannot be loaded.
            BackendError: generation failed, or the worker was closed meanwhile.
        """
        handle = RequestHandle(request, asyncio.get_running_loop())
        self._enqueue(handle)
        try:
            while True:
                item = await handle.chunks.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.codes is not None:
                    return
        finally:
            with self._changed:
                handle.cancelled = True
                self._open -= 1
                self._changed.notify_all()

    async def close(self) -> None:
        """End the thread and release the model; open requests fail. Safe to call twice."""
        with self._changed:
            thread = self._thread
            self._closing = thread is not None
            self._changed.notify_all()
        if thread is not None:
            await asyncio.to_thread(thread.join)

    def _enqueue(self, handle: RequestHandle) -> None:
        with self._changed:
            if self._open >= self._max_open:
                raise BackendBusy(f"{self._open} requests are open, which is the maximum; try again when one has ended")
            if self._closing:
                raise BackendBusy("the voice is being closed; try again later")
            self._open += 1
            self._waiting.append(handle)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="higgs-local", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        reason: Exception = BackendError(_CLOSED)
        try:
            self._serve()
        except Exception as error:
            reason = to_backend_error(error, "the model cannot be loaded")
        with self._changed:
            unanswered = list(self._waiting)
            self._waiting.clear()
            self._thread, self._closing = None, False
        for handle in unanswered:
            handle.put(reason)
        gc.collect()  # a model holds reference cycles; free its memory now

    def _serve(self) -> None:
        scheduler = BatchScheduler(self._load(), self._settings)
        try:
            while self._wait(scheduler):
                scheduler.drop_cancelled()
                with self._changed:
                    chosen = scheduler.choose(self._waiting)
                for handle in chosen:
                    scheduler.start(handle)
                to_retry = scheduler.step()
                with self._changed:
                    self._waiting.extendleft(reversed(to_retry))
        finally:
            scheduler.close(BackendError(_CLOSED))

    def _wait(self, scheduler: BatchScheduler) -> bool:
        """Block until there is a request to decode; return False once the worker is being closed."""
        with self._changed:
            while not self._closing and not self._waiting and not scheduler.is_busy:
                self._changed.wait()
            return not self._closing
