"""One engine, one thread, one request at a time; a few may wait."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from .request import Order, Refusal

_LOG = logging.getLogger("boson_server")


class Engine(Protocol):
    """What speaks. It is used by one thread alone."""

    rate: int

    def speak(self, order: Order, stopped: Callable[[], bool], hand: Callable[[np.ndarray], None]) -> None:
        """Hand over the sound of an order, float32 of shape [n] at ``rate``, in order; end soon once ``stopped`` says so."""


class Worker:
    """Args:
    load: makes the engine; called once, in the thread that uses it.
    waiting: most requests that wait while one is spoken.
    """

    def __init__(self, load: Callable[[], Engine], waiting: int) -> None:
        self._load = load
        self._most = waiting + 1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="boson")
        self._engine: Engine | None = None
        self._failure: str | None = None
        self._jobs = 0  # waiting or being spoken
        self._seconds = 5.0  # what one takes, as of late
        self._loaded: Future[None] | None = None

    @property
    def unready(self) -> str | None:
        """Why it cannot speak; None if it can."""
        return None if self._engine is not None else self._failure or "the model is being loaded"

    @property
    def rate(self) -> int:
        assert self._engine is not None
        return self._engine.rate

    def start(self) -> None:
        self._loaded = self._thread.submit(self._start)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def speak(self, order: Order) -> AsyncGenerator[np.ndarray, None]:
        """The sound of an order, as it is made. Closing the generator stops the engine within a step.

        Raises:
            Refusal: it cannot speak now, or failed.
        """
        if self.unready is not None:
            raise Refusal(503, "server_error", self.unready, retry_after=10)
        if self._jobs >= self._most:
            wait = math.ceil(self._jobs * self._seconds)
            raise Refusal(
                503, "server_error", f"{self._jobs} requests are waiting already; try again later", retry_after=max(1, wait)
            )
        loop = asyncio.get_running_loop()
        sound: asyncio.Queue[np.ndarray | Exception | None] = asyncio.Queue()
        stopped = threading.Event()

        def hand(piece: np.ndarray | Exception | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(sound.put_nowait, piece)

        self._jobs += 1
        job = self._thread.submit(self._speak, order, stopped, hand)
        # Not when the caller leaves, but when the thread is free of it.
        job.add_done_callback(lambda _: None if loop.is_closed() else loop.call_soon_threadsafe(self._done))
        try:
            while (piece := await sound.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            stopped.set()
            job.cancel()

    def _done(self) -> None:
        self._jobs -= 1

    def _start(self) -> None:
        try:
            self._engine = self._load()
        except Exception as error:
            _LOG.exception("the model cannot be loaded")
            self._failure = f"the model cannot be loaded ({type(error).__name__}); the server's log says why"

    def _speak(self, order: Order, stopped: threading.Event, hand: Callable[[np.ndarray | Exception | None], None]) -> None:
        assert self._engine is not None
        began = time.monotonic()
        try:
            if not stopped.is_set():
                self._engine.speak(order, stopped.is_set, hand)
        except Refusal as error:
            hand(error)
        except Exception as error:
            _LOG.exception("a request failed")
            hand(Refusal(500, "server_error", f"the engine failed ({type(error).__name__}); the server's log says why"))
        else:
            if not stopped.is_set():
                self._seconds += 0.3 * (time.monotonic() - began - self._seconds)
        hand(None)
