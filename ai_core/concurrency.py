"""Work on several things at once whose results are wanted in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


async def in_order(items: AsyncIterable[T], work: Callable[[T], Awaitable[U]], at_once: int) -> AsyncGenerator[U, None]:
    """The results of ``work`` on each of ``items``, in their order.

    At most ``at_once`` are worked on at a time, and begun in order; as many more may be done and waiting to be taken. What goes
    wrong with one is raised in its turn. Closing the generator cancels all that is under way.
    """
    tasks: asyncio.Queue[asyncio.Task[U] | None] = asyncio.Queue(at_once)
    places = asyncio.Semaphore(at_once)
    begun: set[asyncio.Task[U]] = set()

    async def run(item: T) -> U:
        try:
            return await work(item)
        finally:
            places.release()

    async def feed() -> None:
        try:
            async for item in items:
                await places.acquire()
                task = asyncio.create_task(run(item))
                begun.add(task)
                await tasks.put(task)
        except Exception:
            await tasks.put(None)
            raise
        await tasks.put(None)

    feeder = asyncio.create_task(feed())
    try:
        while (task := await tasks.get()) is not None:
            yield await task
            begun.discard(task)
        await feeder
    finally:
        feeder.cancel()
        for task in begun:
            task.cancel()
        await asyncio.gather(feeder, *begun, return_exceptions=True)
