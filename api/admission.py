"""Admission control: limits on concurrent work, and one synthesis shared by all requests for the same thing.

Work starts only with a permit of its `Limiter`, and returns the permit when it ends, fails or is cancelled. Without a free permit a
request waits in a queue of bounded length; when the queue is full it is refused immediately, with the time after which to retry.
"""

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable
from contextlib import aclosing, asynccontextmanager, suppress

from pydantic import BaseModel, ConfigDict, Field

from ai_core.pipeline import Result
from synth.errors import BackendBusy, BackendTimeout

_MAX_BUFFERED = 16
"""Maximum number of results that are buffered until every listener has taken them; then the synthesis pauses."""

_MAX_RETRY_AFTER = 60
"""Longest time after which a refused client is told to retry, in seconds."""

_SMOOTHING = 0.2
"""Weight of the last piece of work in the running mean of how long one takes."""


class AdmissionSettings(BaseModel):
    """Limits on concurrent work.

    Attributes:
        running: texts that one backend speaks at the same time; not set: the number of processors for the embedded voice, 8 for
            other backends.
        waiting: texts that may wait for one backend; further ones get 503 with `Retry-After`.
        deadline: seconds that one text may take, including its time in the queue.
        connections: open connections; further ones get 503.
        keep_alive: seconds that an idle connection is kept open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    running: int | None = Field(default=None, ge=1, le=10_000)
    waiting: int = Field(default=64, ge=0, le=100_000)
    deadline: float = Field(default=300.0, gt=0, le=86_400)
    connections: int = Field(default=2000, ge=1, le=100_000)
    keep_alive: int = Field(default=20, ge=1, le=3600)

    def permits(self, backend: str) -> int:
        """Return how many texts that backend may speak at the same time."""
        return self.running or ((os.cpu_count() or 2) if backend == "embedded" else 8)


class Limiter:
    """A fixed number of permits for one kind of work, with a first-come, first-served queue of bounded length."""

    def __init__(self, name: str, permits: int, max_waiting: int) -> None:
        self.name = name
        self.permits = permits
        self.running = 0
        self.max_waiting = max_waiting
        self._queue: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = 1.0  # of one piece of work; a guess until some are done

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @asynccontextmanager
    async def permit(self) -> "AsyncIterator[Permit]":
        """Hold a permit within the block.

        Raises:
            BackendBusy: no permit is free, and the queue is full.
        """
        self.check()
        permit = Permit(self)
        await permit.acquire()
        start = time.monotonic()
        try:
            yield permit
        finally:
            self._mean_seconds += _SMOOTHING * (time.monotonic() - start - self._mean_seconds)
            permit.release()

    def check(self) -> None:
        """Check that a request would be admitted, without waiting.

        Raises:
            BackendBusy: no permit is free, and the queue is full.
        """
        if self.running >= self.permits and len(self._queue) >= self.max_waiting:
            raise BackendBusy(
                f"{self.name} is busy: {self.running} texts are being spoken and {len(self._queue)} wait; try again later",
                self.retry_after(),
            )

    async def acquire(self) -> None:
        """Take a permit, or wait for one, whatever the length of the queue. Use a `Permit`, which pairs this with `release`."""
        if self.running < self.permits:
            self.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn  # `release` passes its permit on, so `running` stays the same
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            else:
                with suppress(ValueError):  # `release` may have removed the cancelled waiter already
                    self._queue.remove(turn)
            raise

    def release(self) -> None:
        """Pass a permit on to the first in the queue, or return it."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def retry_after(self) -> int:
        """Estimate the seconds until everything that now waits has started."""
        return min(_MAX_RETRY_AFTER, max(1, math.ceil(self._mean_seconds * (len(self._queue) + 1) / self.permits)))


class Permit:
    """A permit that can be returned and acquired again while its work is paused."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._held = False

    async def acquire(self) -> None:
        """Hold the permit. Paused work joins the end of the queue, and is not refused when the queue is full."""
        if not self._held:
            await self._limiter.acquire()
            self._held = True

    def release(self) -> None:
        """Return the permit if it is held."""
        if self._held:
            self._held = False
            self._limiter.release()


class SharedSynthesis:
    """One synthesis with any number of listeners. It is cancelled when the last listener leaves.

    Results are buffered until every listener has taken them. When the slowest listener is `_MAX_BUFFERED` results behind, the
    synthesis returns its permit and pauses; when no listener takes anything for as long as the deadline, it fails.
    """

    def __init__(
        self,
        results: AsyncGenerator[Result, None],
        on_end: Callable[[], None],
        deadline: float = math.inf,
        limiter: Limiter | None = None,
    ) -> None:
        """
        Args:
            results: the generator of results; started with a permit, and closed at the end.
            on_end: called once, when no further listener may join.
            deadline: seconds for the wait in the queue and the work.
            limiter: gives the permit; None runs the synthesis at once.
        """
        self._limiter = limiter or Limiter("", 1, 0)
        self._on_end: Callable[[], None] | None = on_end
        self._deadline = deadline
        self._buffer: deque[Result] = deque()
        self._first = 0  # index of the first buffered result
        self._next_of: dict[object, int] = {}  # index of the result that each listener takes next
        self._changed = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None
        self._task = asyncio.create_task(self._run(results))

    @property
    def joinable(self) -> bool:
        """Whether a new listener would still get every result."""
        return self._first == 0 and not self._task.done()

    async def listen(self) -> AsyncGenerator[Result, None]:
        """Yield every result from the first. Raises the error that ended the synthesis, if any."""
        listener = object()
        self._next_of[listener] = 0
        try:
            while True:
                index = self._next_of[listener]
                if index < self._first + len(self._buffer):
                    yield self._buffer[index - self._first]
                    self._next_of[listener] = index + 1
                    self._trim()
                elif self._error is not None:
                    raise self._error
                elif self._ended:
                    return
                else:
                    await self._changed.wait()
        finally:
            del self._next_of[listener]
            if self._next_of:
                self._trim()
            else:
                await self._cancel()

    async def _run(self, results: AsyncGenerator[Result, None]) -> None:
        try:
            async with asyncio.timeout(self._deadline) as limit, self._limiter.permit() as permit, aclosing(results):
                async for result in results:
                    self._buffer.append(result)
                    self._notify()
                    if len(self._buffer) >= _MAX_BUFFERED:
                        await self._pause(limit, permit)
        except TimeoutError:
            self._error = BackendTimeout(f"the text was not spoken within {self._deadline:g} s; send a shorter one, or try later")
        except Exception as error:
            self._error = error
        finally:
            self._ended = True
            self._call_on_end()
            self._notify()

    async def _pause(self, limit: asyncio.Timeout, permit: Permit) -> None:
        """Wait for the listeners, without the permit; this time does not count towards the deadline."""
        clock = asyncio.get_running_loop().time
        ends = limit.when()
        remaining = math.inf if ends is None else ends - clock()
        permit.release()
        while len(self._buffer) >= _MAX_BUFFERED:
            limit.reschedule(None if math.isinf(self._deadline) else clock() + self._deadline)
            await self._changed.wait()
        limit.reschedule(None if math.isinf(remaining) else clock() + remaining)
        await permit.acquire()

    def _trim(self) -> None:
        """Drop the results that every listener has taken once the buffer is full; until then others may still join."""
        taken = min(self._next_of.values())
        if len(self._buffer) >= _MAX_BUFFERED and taken > self._first:
            for _ in range(taken - self._first):
                self._buffer.popleft()
            self._first = taken
            self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _call_on_end(self) -> None:
        # The callback may refer to this object. Dropping it avoids a reference cycle that keeps audio alive until the next GC.
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    async def _cancel(self) -> None:
        self._task.cancel()
        self._call_on_end()
        await asyncio.gather(self._task, return_exceptions=True)


class SynthesisScheduler:
    """Runs the syntheses of a service: within the limits of each backend and the deadline, and identical ones only once."""

    def __init__(self, settings: AdmissionSettings, on_limiter: Callable[[Limiter], None] = lambda limiter: None) -> None:
        """``on_limiter`` is called with every limiter that is created."""
        self._settings = settings
        self._on_limiter = on_limiter
        self._limiters: dict[str, Limiter] = {}
        self._active: dict[Hashable, SharedSynthesis] = {}

    def limiter(self, name: str) -> Limiter:
        """Return the limiter of a backend or of another kind of work."""
        if name not in self._limiters:
            self._limiters[name] = Limiter(name, self._settings.permits(name), self._settings.waiting)
            self._on_limiter(self._limiters[name])
        return self._limiters[name]

    async def run(
        self, key: Hashable, backend: str, results: Callable[[], AsyncGenerator[Result, None]]
    ) -> AsyncGenerator[Result, None]:
        """Yield the results of a job as soon as it has a permit. Concurrent calls with an equal ``key`` share one synthesis.

        Raises:
            BackendBusy: no permit is free, and the queue is full.
            BackendTimeout: the deadline has passed.
        """
        synthesis = self._active.get(key)
        if synthesis is None or not synthesis.joinable:
            self.limiter(backend).check()  # refuse most requests here, before creating a task

            def forget() -> None:
                if self._active.get(key) is synthesis:
                    del self._active[key]

            synthesis = SharedSynthesis(results(), forget, self._settings.deadline, self.limiter(backend))
            self._active[key] = synthesis
        async with aclosing(synthesis.listen()) as shared:
            async for result in shared:
                yield result
