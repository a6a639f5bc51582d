"""One thread owns the model; everybody else hands it orders and hears what it says.

Orders wait in a queue of bounded length and are decoded together, as many as the engine takes. One that is given up leaves its
place before the next frame, whether it was waiting or speaking. One that fails takes no other along.
"""

import asyncio
import gc
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from synth.errors import BackendBusy, BackendError
from synth.higgs_local.requests import Chunk, Order, Request, told
from synth.higgs_local.scheduler import Together
from synth.higgs_local.settings import HiggsLocalSettings

if TYPE_CHECKING:
    from synth.higgs_local.engine import Engine

__all__ = ["Chunk", "Order", "Worker"]

MOST_OPEN = 64
"""Orders that may be open at once, those that speak among them. Each keeps at most one piece of speech in memory."""

_CLOSED = "the voice was closed while it spoke; ask again"


class Worker:
    """The thread and its queue. It starts with the first order, loads the engine there, and may be closed and used again."""

    def __init__(self, load: "Callable[[], Engine]", settings: HiggsLocalSettings, *, most_open: int = MOST_OPEN) -> None:
        """``load`` makes the engine of ``settings``, in the worker's thread."""
        self._load, self._settings = load, settings
        self._most = most_open
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._open = 0
        self._thread: threading.Thread | None = None
        self._closing = False

    async def speak(self, order: Order) -> AsyncGenerator[Chunk, None]:
        """The sound of an order as it is made, the last chunk with its codes. Closing the generator gives the order up.

        Raises:
            BackendBusy: too many orders are open.
            RefusedRequest: it is too long for the model.
            AdapterError: the adapter does not fit the model.
            BackendUnavailable: the model cannot be loaded.
            BackendError: it failed, or was closed meanwhile.
        """
        request = Request(order, asyncio.get_running_loop())
        self._enter(request)
        try:
            while True:
                heard = await request.heard.get()
                if isinstance(heard, Exception):
                    raise heard
                yield heard
                if heard.codes is not None:
                    return
        finally:
            with self._changed:
                request.given_up = True
                self._open -= 1
                self._changed.notify_all()

    async def close(self) -> None:
        """End the thread and let go of the model; open orders fail. Safe to call twice."""
        with self._changed:
            thread = self._thread
            self._closing = thread is not None
            self._changed.notify_all()
        if thread is not None:
            await asyncio.to_thread(thread.join)

    def _enter(self, request: Request) -> None:
        with self._changed:
            if self._open >= self._most:
                raise BackendBusy(f"{self._open} requests are open, and no more are taken; try again when one has ended")
            if self._closing:
                raise BackendBusy("the voice is being closed; try again when it is")
            self._open += 1
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="higgs-local", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        why: Exception = BackendError(_CLOSED)
        try:
            self._serve()
        except Exception as error:
            why = told(error, "the model cannot be loaded")
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
            self._thread, self._closing = None, False
        for request in left:
            request.hand(why)
        gc.collect()  # a model is full of cycles, and its memory is wanted

    def _serve(self) -> None:
        together = Together(self._load(), self._settings)
        try:
            while self._wait(together):
                together.drop_given_up()
                with self._changed:
                    chosen = together.choose(self._waiting)
                for request in chosen:
                    together.begin(request)
                again = together.step()
                with self._changed:
                    self._waiting.extendleft(reversed(again))
        finally:
            together.close(BackendError(_CLOSED))

    def _wait(self, together: Together) -> bool:
        """Wait for something to do; False when it is to end."""
        with self._changed:
            while not self._closing and not self._waiting and not together.speaking:
                self._changed.wait()
            return not self._closing
