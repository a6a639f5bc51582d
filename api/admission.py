"""Bounds on what is done at once, and one synthesis for all who ask for the same.

A place is taken before work begins and given back when it ends, whatever ends it. Who finds every place taken waits in a queue of
bounded length; who finds the queue full is told at once when to come back.
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
from synth.errors import BackendError, BackendTimeout

_KEPT = 16  # results of one synthesis that are ready and not yet taken by everybody
_LONGEST_WAIT = 60


class LoadSettings(BaseModel):
    """How much is done at once.

    Attributes:
        running: most texts that one backend speaks at once; None is the number of processors for the embedded voice, 8 for others.
        waiting: most texts that wait for one backend; whoever comes then is sent away, told when to come back.
        deadline: seconds that a text may take in all, its wait included.
        connections: most connections at once; whoever comes then gets 503.
        keep_alive: seconds that a connection without a request is kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    running: int | None = Field(default=None, ge=1, le=10_000)
    waiting: int = Field(default=64, ge=0, le=100_000)
    deadline: float = Field(default=300.0, gt=0, le=86_400)
    connections: int = Field(default=2000, ge=1, le=100_000)
    keep_alive: int = Field(default=20, ge=1, le=3600)

    def places(self, backend: str) -> int:
        """How many texts that backend speaks at once."""
        return self.running or ((os.cpu_count() or 2) if backend == "embedded" else 8)


class Busy(BackendError):
    """Every place is taken, and so is every place in the queue. ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Gate:
    """Places for one kind of work, and a queue before them, first come, first served."""

    def __init__(self, name: str, places: int, waiting: int) -> None:
        self.name = name
        self.places = places
        self.running = 0
        self.most_waiting = waiting
        self._queue: deque[asyncio.Future[None]] = deque()
        self._seconds = 1.0  # that a piece of work takes, smoothed

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @asynccontextmanager
    async def place(self) -> "AsyncIterator[Place]":
        """Hold a place.

        Raises:
            Busy: none is free, and the queue is full.
        """
        self.check()
        place = Place(self)
        await place.take()
        began = time.monotonic()
        try:
            yield place
        finally:
            self._seconds += 0.2 * (time.monotonic() - began - self._seconds)
            place.give_back()

    def check(self) -> None:
        """Find out at little cost whether there is room.

        Raises:
            Busy: every place is taken, and the queue is full.
        """
        if self.running >= self.places and len(self._queue) >= self.most_waiting:
            raise Busy(
                f"{self.name} is busy: {self.running} texts are being spoken and {len(self._queue)} wait; try again later",
                self.retry_after(),
            )

    async def enter(self) -> None:
        """Take a place, or wait for one however long the queue is. `Place` keeps account."""
        if self.running < self.places:
            self.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn  # the place is handed over: `running` stays as it is
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            else:
                with suppress(ValueError):  # whoever left may have seen already that nobody waits here
                    self._queue.remove(turn)
            raise

    def leave(self) -> None:
        """Hand a place on to whoever waits for one."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def retry_after(self) -> int:
        """Seconds after which the queue will most likely have moved on by as many as there are places."""
        return min(_LONGEST_WAIT, max(1, math.ceil(self._seconds * (len(self._queue) + 1) / self.places)))


class Place:
    """A place that is held, or given back for a while."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._held = False

    async def take(self) -> None:
        """Hold it. Whoever held it before goes to the end of the queue, which is never too long for that."""
        if not self._held:
            await self._gate.enter()
            self._held = True

    def give_back(self) -> None:
        """Let others have it."""
        if self._held:
            self._held = False
            self._gate.leave()


class Synthesis:
    """One job being spoken, for all who asked for it while it was. It ends when the last of them leaves.

    Results are kept until everybody has taken them. Where somebody is slow, as one who listens while it is played, the synthesis
    gives its place back and waits; where nobody takes anything for as long as the deadline, it ends.
    """

    def __init__(
        self,
        results: AsyncGenerator[Result, None],
        on_end: Callable[[], None],
        seconds: float = math.inf,
        gate: Gate | None = None,
    ) -> None:
        """``seconds`` is the deadline, for the wait for a place and the work; ``gate`` is where the place is."""
        self._gate = gate or Gate("", 1, 0)
        self._on_end: Callable[[], None] | None = on_end
        self._seconds = seconds
        self._results: deque[Result] = deque()
        self._first = 0  # index of the first result that is kept
        self._next_of: dict[object, int] = {}
        self._changed = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None
        self._task = asyncio.create_task(self._run(results))

    @property
    def joinable(self) -> bool:
        """Whether all of it can still be had."""
        return self._first == 0 and not self._task.done()

    async def listen(self) -> AsyncGenerator[Result, None]:
        """Every result from the first. Raises what ended the synthesis."""
        me = object()
        self._next_of[me] = 0
        try:
            while True:
                index = self._next_of[me]
                if index < self._first + len(self._results):
                    yield self._results[index - self._first]
                    self._next_of[me] = index + 1
                    self._forget()
                elif self._error is not None:
                    raise self._error
                elif self._ended:
                    return
                else:
                    await self._changed.wait()
        finally:
            del self._next_of[me]
            if self._next_of:
                self._forget()
            else:
                await self._stop()

    async def _run(self, results: AsyncGenerator[Result, None]) -> None:
        try:
            async with asyncio.timeout(self._seconds) as limit, self._gate.place() as place, aclosing(results):
                async for result in results:
                    self._results.append(result)
                    self._tell()
                    if len(self._results) >= _KEPT:
                        await self._wait(limit, place)
        except TimeoutError:
            self._error = BackendTimeout(f"the text was not spoken within {self._seconds:g} s; send a shorter one, or try later")
        except Exception as error:
            self._error = error
        finally:
            self._ended = True
            self._end()
            self._tell()

    async def _wait(self, limit: asyncio.Timeout, place: Place) -> None:
        """Wait for the listeners: that is no work, so it needs no place, and does not count towards the deadline."""
        clock = asyncio.get_running_loop().time
        ends = limit.when()
        left = math.inf if ends is None else ends - clock()
        place.give_back()
        while len(self._results) >= _KEPT:
            limit.reschedule(None if math.isinf(self._seconds) else clock() + self._seconds)
            await self._changed.wait()
        limit.reschedule(None if math.isinf(left) else clock() + left)
        await place.take()

    def _forget(self) -> None:
        """Drop what everybody has taken, once there is much of it: until then others may join."""
        taken = min(self._next_of.values())
        if len(self._results) >= _KEPT and taken > self._first:
            for _ in range(taken - self._first):
                self._results.popleft()
            self._first = taken
            self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _end(self) -> None:
        # Who is told may hold on to this synthesis. In a cycle its sound would stay in memory until it is found.
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    async def _stop(self) -> None:
        self._task.cancel()
        self._end()
        await asyncio.gather(self._task, return_exceptions=True)


class Stage:
    """Where the syntheses of one service run: each in a place of its backend, identical ones together, none beyond its deadline."""

    def __init__(self, settings: LoadSettings, on_gate: Callable[[Gate], None] = lambda gate: None) -> None:
        """``on_gate`` is told of every gate that is made."""
        self._settings = settings
        self._on_gate = on_gate
        self._gates: dict[str, Gate] = {}
        self._under_way: dict[Hashable, Synthesis] = {}

    def gate(self, name: str) -> Gate:
        """The places of a backend, or of another kind of work."""
        if name not in self._gates:
            self._gates[name] = Gate(name, self._settings.places(name), self._settings.waiting)
            self._on_gate(self._gates[name])
        return self._gates[name]

    async def perform(
        self, key: Hashable, backend: str, results: Callable[[], AsyncGenerator[Result, None]]
    ) -> AsyncGenerator[Result, None]:
        """The results of a job, once there is a place for it; ``key`` is what identical ones share.

        Raises:
            Busy: there is no place, and none to wait in.
            BackendTimeout: the deadline has passed.
        """
        synthesis = self._under_way.get(key)
        if synthesis is None or not synthesis.joinable:
            self.gate(backend).check()  # most are refused here, before anything is made for them

            def forget() -> None:
                if self._under_way.get(key) is synthesis:
                    del self._under_way[key]

            synthesis = Synthesis(results(), forget, self._settings.deadline, self.gate(backend))
            self._under_way[key] = synthesis
        async with aclosing(synthesis.listen()) as heard:
            async for result in heard:
                yield result
