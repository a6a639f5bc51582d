"""`map_ordered`: order, bounded concurrency, and no task left running."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_core.pipeline import map_ordered


async def numbers(count: int) -> AsyncGenerator[int, None]:
    for number in range(count):
        yield number


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 5))
def test_results_are_in_order_and_concurrency_is_bounded(waits: list[int], at_once: int) -> None:
    running = most = 0

    async def work(index: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(waits[index]):
            await asyncio.sleep(0)
        running -= 1
        return index

    async def collect() -> list[int]:
        return [result async for result in map_ordered(numbers(len(waits)), work, at_once)]

    assert asyncio.run(collect()) == list(range(len(waits)))
    assert most <= at_once


def test_later_items_run_while_the_first_result_is_used() -> None:
    done: list[int] = []

    async def work(index: int) -> int:
        done.append(index)
        return index

    async def first() -> None:
        async with aclosing(map_ordered(numbers(9), work, 1)) as results:
            assert await anext(results) == 0
            for _ in range(20):
                await asyncio.sleep(0)
            assert 1 in done
            assert len(done) <= 4  # one taken, one running, one buffered, one being started

    asyncio.run(first())


def test_closing_cancels_running_tasks() -> None:
    cancelled: list[int] = []

    async def work(index: int) -> int:
        try:
            await asyncio.sleep(0 if index == 0 else 60)
        except asyncio.CancelledError:
            cancelled.append(index)
            raise
        return index

    async def leave() -> None:
        async with aclosing(map_ordered(numbers(5), work, 2)) as results:
            assert await anext(results) == 0
            await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(leave())
    assert sorted(cancelled) == [1, 2]


@pytest.mark.parametrize("where", ["work", "items"])
def test_an_error_is_raised_in_order(where: str) -> None:
    async def items() -> AsyncGenerator[int, None]:
        yield 0
        yield 1
        if where == "items":
            raise ValueError("items")
        yield 2

    async def work(index: int) -> int:
        if index == 2:
            raise ValueError("work")
        return index

    seen: list[int] = []

    async def collect() -> None:
        try:
            async for result in map_ordered(items(), work, 3):
                seen.append(result)
        finally:
            assert len(asyncio.all_tasks()) == 1

    with pytest.raises(ValueError, match=where):
        asyncio.run(collect())
    assert seen == [0, 1]
