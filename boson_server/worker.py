"""Run one job at a time on one engine in one thread, with a bounded queue."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from .request import RequestRefused, SpeechJob

_LOG = logging.getLogger("boson_server")


class SpeechEngine(Protocol):
    """Generates speech. Only one thread uses it.

    Attributes:
        rate: sample rate, Hz.
    """

    rate: int

    def speak(self, job: SpeechJob, cancelled: Callable[[], bool], put: Callable[[np.ndarray], None]) -> None:
        """Generate the audio of ``job`` and pass it to ``put`` in order, float32 [samples].

        Return within one step after ``cancelled()`` has become true.
        """


class EngineWorker:
    """The engine's thread and its queue.

    Args:
        load: makes the engine; called once, in the engine's thread.
        waiting: most jobs that wait while one is running.
    """

    def __init__(self, load: Callable[[], SpeechEngine], waiting: int) -> None:
        self._load = load
        self._max_jobs = waiting + 1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="boson")
        self._engine: SpeechEngine | None = None
        self._failure: str | None = None
        self._jobs = 0  # waiting or running
        self._seconds = 5.0  # moving average of a job's duration
        self._loaded: Future[None] | None = None

    @property
    def unready(self) -> str | None:
        """Why jobs cannot run yet; None if they can."""
        return None if self._engine is not None else self._failure or "the model is being loaded"

    @property
    def rate(self) -> int:
        """Sample rate of the engine, Hz."""
        assert self._engine is not None
        return self._engine.rate

    def start(self) -> None:
        """Begin to load the engine."""
        self._loaded = self._thread.submit(self._start)

    def close(self) -> None:
        """Drop waiting jobs; the running one ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def speak(self, job: SpeechJob) -> AsyncGenerator[np.ndarray, None]:
        """Yield the audio of a job as it is generated. Closing the generator stops the engine within one step.

        Raises:
            RequestRefused: the engine is not ready, the queue is full, or generation failed.
        """
        if self.unready is not None:
            raise RequestRefused(503, "server_error", self.unready, retry_after=10)
        if self._jobs >= self._max_jobs:
            wait = math.ceil(self._jobs * self._seconds)
            raise RequestRefused(
                503, "server_error", f"{self._jobs} requests are waiting already; try again later", retry_after=max(1, wait)
            )
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[np.ndarray | Exception | None] = asyncio.Queue()
        cancelled = threading.Event()

        def put(item: np.ndarray | Exception | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(chunks.put_nowait, item)

        self._jobs += 1
        future = self._thread.submit(self._speak, job, cancelled, put)
        # A cancelled job counts until the thread has finished it.
        future.add_done_callback(lambda _: None if loop.is_closed() else loop.call_soon_threadsafe(self._done))
        try:
            while (item := await chunks.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            cancelled.set()
            future.cancel()

    def _done(self) -> None:
        self._jobs -= 1

    def _start(self) -> None:
        try:
            self._engine = self._load()
        except Exception as error:
            _LOG.exception("the model cannot be loaded")
            self._failure = f"the model cannot be loaded ({type(error).__name__}); the server's log says why"

    def _speak(self, job: SpeechJob, cancelled: threading.Event, put: Callable[[np.ndarray | Exception | None], None]) -> None:
        assert self._engine is not None
        began = time.monotonic()
        try:
            if not cancelled.is_set():
                self._engine.speak(job, cancelled.is_set, put)
        except RequestRefused as error:
            put(error)
        except Exception as error:
            _LOG.exception("a request failed")
            put(RequestRefused(500, "server_error", f"the engine failed ({type(error).__name__}); the server's log says why"))
        else:
            if not cancelled.is_set():
                self._seconds += 0.3 * (time.monotonic() - began - self._seconds)
        put(None)
