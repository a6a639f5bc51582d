"""Permits, queues and shared syntheses: limits hold, the queue is fair, and nothing is left, however the work ends."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import virtual_time
from fake_voice import FakeVoice
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from served import SENTENCE, Server, error_of, serving, until, wait_until

from ai_core.pipeline import Result
from api.admission import AdmissionSettings, Limiter, SharedSynthesis, SynthesisScheduler
from api.settings import ApiSettings
from prosody_tagger.markup import plain
from synth.base import Audio
from synth.errors import BackendBusy, BackendError, BackendTimeout

pytest_plugins = ["one_server"]


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test in virtual time; it must leave no task."""

    async def whole() -> None:
        async with asyncio.timeout(20):
            await test
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    virtual_time.run(whole())


async def settle() -> None:
    """Let every task run that can run now."""
    for _ in range(20):
        await asyncio.sleep(0)


async def steps_until(holds: Callable[[], bool]) -> None:
    """Run the loop one step at a time until the condition holds, so that nothing happens after it."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0)


def result(number: int) -> Result:
    return Result(Audio(np.zeros(10, np.float32), 1000), plain(f"{number}. "), (), (), "scripted")


def number(found: Result) -> int:
    return int(found.marked.text.partition(".")[0])


class Script:
    """A controlled source of ``count`` results: it waits for ``go`` before each, and counts its starts, results and ends."""

    def __init__(self, count: int = 3, *, error: Exception | None = None, free: bool = True) -> None:
        self.count, self.error = count, error
        self.begun = self.closed = self.made = 0
        self.go = asyncio.Event()
        if free:
            self.go.set()

    async def results(self) -> AsyncGenerator[Result, None]:
        self.begun += 1
        try:
            for index in range(self.count):
                await self.go.wait()
                await asyncio.sleep(0)
                self.made += 1
                yield result(index)
            if self.error:
                raise self.error
        finally:
            self.closed += 1


async def collect(results: AsyncIterator[Result], got: list[int]) -> None:
    async for found in results:
        got.append(number(found))


async def numbers(results: AsyncIterator[Result]) -> list[int]:
    return [number(found) async for found in results]


# Limiter


def test_concurrency_is_bounded_by_permits_first_come_first_served():
    async def test() -> None:
        limiter, order, most = Limiter("voice", 3, 100), [], 0

        async def work(index: int) -> None:
            nonlocal most
            async with limiter.permit():
                order.append(index)
                most = max(most, limiter.running)
                await asyncio.sleep(0.001 * (index % 3))

        await asyncio.gather(*(work(index) for index in range(50)))
        assert most == 3
        assert order == list(range(50))
        assert (limiter.running, limiter.waiting) == (0, 0)

    run(test())


def test_a_late_request_does_not_overtake_the_queue():
    async def test() -> None:
        limiter, order = Limiter("voice", 1, 10), []

        async def work(name: str) -> None:
            async with limiter.permit():
                order.append(name)

        first = limiter.permit()
        await first.__aenter__()
        waiting = asyncio.create_task(work("waited"))
        await settle()
        await first.__aexit__(None, None, None)
        await work("came later")
        await waiting
        assert order == ["waited", "came later"]

    run(test())


def test_a_full_queue_refuses_at_once():
    async def test() -> None:
        limiter = Limiter("voice", 1, 2)
        async with limiter.permit():
            waiting = [asyncio.create_task(hold(limiter)) for _ in range(2)]
            await settle()
            assert (limiter.running, limiter.waiting) == (1, 2)
            with pytest.raises(BackendBusy, match="1 texts are being spoken and 2 wait") as caught:
                async with limiter.permit():
                    pytest.fail("no permit should be free")
            assert 1 <= caught.value.retry_after <= 60
        await asyncio.gather(*waiting)
        assert (limiter.running, limiter.waiting) == (0, 0)

    run(test())


async def hold(limiter: Limiter, until_set: asyncio.Event | None = None) -> None:
    async with limiter.permit():
        if until_set is not None:
            await until_set.wait()


def test_without_a_queue_only_permits_count():
    async def test() -> None:
        limiter = Limiter("voice", 1, 0)
        async with limiter.permit():
            with pytest.raises(BackendBusy):
                await hold(limiter)
        await hold(limiter)

    run(test())


def test_retry_after_grows_with_the_queue_and_the_work():
    async def test() -> None:
        limiter, stop = Limiter("voice", 2, 100), asyncio.Event()
        asked = [limiter.retry_after()]
        holders = []
        for _ in range(4):
            holders += [asyncio.create_task(hold(limiter, stop)) for _ in range(10)]
            await settle()
            asked.append(limiter.retry_after())
        assert asked == sorted(asked)
        assert asked[0] < asked[-1] <= 60
        stop.set()
        await asyncio.gather(*holders)

    run(test())


@pytest.mark.parametrize("when", ["waiting", "just called", "inside"])
def test_a_cancelled_request_leaves_no_trace(when):
    async def test() -> None:
        limiter, stop = Limiter("voice", 1, 10), asyncio.Event()
        holder = asyncio.create_task(hold(limiter, stop))
        await settle()
        leaver, next_one = asyncio.create_task(hold(limiter, asyncio.Event())), asyncio.create_task(hold(limiter))
        await settle()
        assert limiter.waiting == 2
        if when == "waiting":
            leaver.cancel()
            await settle()
            assert limiter.waiting == 1
            stop.set()
        elif when == "just called":
            stop.set()
            await steps_until(lambda: limiter.waiting < 2)  # the permit has been passed on, and its new holder has not run yet
            leaver.cancel()
        else:
            stop.set()
            await settle()
            leaver.cancel()
        await asyncio.gather(holder, next_one)
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert (limiter.running, limiter.waiting) == (0, 0)

    run(test())


@settings(max_examples=60, deadline=None)
@given(
    permits=st.integers(1, 4),
    queue=st.integers(0, 5),
    steps=st.lists(st.tuples(st.sampled_from(["come", "finish", "cancel", "let run"]), st.integers(0, 30)), max_size=60),
)
def test_the_count_is_right_in_any_order_of_events(permits, queue, steps):
    async def test() -> None:
        limiter = Limiter("voice", permits, queue)
        inside: set[int] = set()
        tasks: dict[int, asyncio.Task[None]] = {}
        doors: dict[int, asyncio.Event] = {}

        async def work(me: int) -> None:
            async with limiter.permit():
                inside.add(me)
                try:
                    await doors[me].wait()
                finally:
                    inside.remove(me)

        for step, which in steps:
            alive = [me for me, task in tasks.items() if not task.done()]
            if step == "come":
                me = len(tasks)
                doors[me] = asyncio.Event()
                tasks[me] = asyncio.create_task(work(me))
            elif step == "finish" and alive:
                doors[alive[which % len(alive)]].set()
            elif step == "cancel" and alive:
                tasks[alive[which % len(alive)]].cancel()
            else:
                await settle()
            assert len(inside) <= limiter.running <= permits
            assert limiter.waiting <= queue
        for door in doors.values():
            door.set()
        ended = await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert all(end is None or isinstance(end, BackendBusy | asyncio.CancelledError) for end in ended)
        assert (limiter.running, limiter.waiting, inside) == (0, 0, set())

    run(test())


# SharedSynthesis


def test_every_listener_gets_all_results():
    async def test() -> None:
        script, ended = Script(5), []
        synthesis = SharedSynthesis(script.results(), lambda: ended.append(True))
        first = asyncio.create_task(numbers(synthesis.listen()))
        await steps_until(lambda: script.made >= 3)
        assert synthesis.joinable
        second = asyncio.create_task(numbers(synthesis.listen()))
        assert await first == await second == [0, 1, 2, 3, 4]
        assert (script.begun, script.closed) == (1, 1)
        assert ended
        assert not synthesis.joinable

    run(test())


def test_a_slow_listener_pauses_it_and_bounds_the_buffer():
    async def test() -> None:
        script = Script(1000)
        synthesis = SharedSynthesis(script.results(), lambda: None)
        slow, fast = synthesis.listen(), synthesis.listen()
        assert number(await anext(slow)) == 0
        hurried = asyncio.create_task(numbers(fast))
        await settle()
        await settle()
        assert script.made < 40
        assert len(synthesis._buffer) <= 16
        assert await numbers(slow) == list(range(1, 1000))
        assert await hurried == list(range(1000))

    run(test())


def test_no_listener_joins_once_the_first_result_is_dropped():
    async def test() -> None:
        script = Script(100)
        synthesis = SharedSynthesis(script.results(), lambda: None)
        listener = synthesis.listen()
        for _ in range(40):
            await anext(listener)
        assert not synthesis.joinable
        await listener.aclose()
        assert script.closed == 1

    run(test())


def test_it_ends_when_the_last_listener_leaves():
    async def test() -> None:
        script, ended = Script(free=False), []
        synthesis = SharedSynthesis(script.results(), lambda: ended.append(True))
        listeners = [asyncio.create_task(numbers(synthesis.listen())) for _ in range(2)]
        await settle()
        listeners[0].cancel()
        await settle()
        assert not script.closed
        listeners[1].cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        assert script.closed == 1
        assert ended

    run(test())


def test_a_listener_that_leaves_does_not_keep_results_from_the_others():
    async def test() -> None:
        script = Script(200)
        synthesis = SharedSynthesis(script.results(), lambda: None)
        sleeper = synthesis.listen()
        await anext(sleeper)
        other = asyncio.create_task(numbers(synthesis.listen()))
        await settle()
        assert not other.done()
        await sleeper.aclose()
        assert await other == list(range(200))

    run(test())


def test_every_listener_gets_the_results_and_then_the_error():
    async def test() -> None:
        script = Script(2, error=BackendError("it broke"))
        synthesis = SharedSynthesis(script.results(), lambda: None)

        async def listen() -> list[int]:
            got: list[int] = []
            with pytest.raises(BackendError, match="it broke"):
                await collect(synthesis.listen(), got)
            return got

        assert await asyncio.gather(listen(), listen()) == [[0, 1], [0, 1]]
        assert script.closed == 1

    run(test())


# SynthesisScheduler


def make_scheduler(**load: Any) -> SynthesisScheduler:
    return SynthesisScheduler(AdmissionSettings(**{"running": 1, "waiting": 10} | load))


def test_identical_concurrent_jobs_share_one_synthesis():
    async def test() -> None:
        scheduler, script = make_scheduler(), Script(4, free=False)
        listeners = [asyncio.create_task(numbers(scheduler.run("key", "voice", script.results))) for _ in range(20)]
        await settle()
        assert (scheduler.limiter("voice").running, scheduler.limiter("voice").waiting) == (1, 0)
        script.go.set()
        assert await asyncio.gather(*listeners) == [[0, 1, 2, 3]] * 20
        assert script.begun == 1
        assert await numbers(scheduler.run("key", "voice", script.results)) == [0, 1, 2, 3]
        assert script.begun == 2
        assert not scheduler._active

    run(test())


def test_different_jobs_wait_for_each_other_and_other_backends_do_not():
    async def test() -> None:
        scheduler, slow, quick = make_scheduler(), Script(free=False), Script()
        first = asyncio.create_task(numbers(scheduler.run("a", "voice", slow.results)))
        await settle()
        second = asyncio.create_task(numbers(scheduler.run("b", "voice", quick.results)))
        await settle()
        assert quick.begun == 0
        assert await numbers(scheduler.run("c", "other", quick.results)) == [0, 1, 2]
        slow.go.set()
        await asyncio.gather(first, second)
        assert scheduler.limiter("voice").running == scheduler.limiter("other").running == 0

    run(test())


def test_jobs_beyond_the_queue_are_refused_and_the_others_served():
    async def test() -> None:
        scheduler, script = make_scheduler(running=2, waiting=3), Script(free=False)
        asked = [asyncio.create_task(numbers(scheduler.run(key, "voice", script.results))) for key in range(50)]
        await settle()
        assert sum(task.done() for task in asked) == 45
        script.go.set()
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert ends[:5] == [[0, 1, 2]] * 5
        assert all(isinstance(end, BackendBusy) for end in ends[5:])
        assert scheduler.limiter("voice").running == scheduler.limiter("voice").waiting == 0
        assert not scheduler._active

    run(test())


@pytest.mark.parametrize("free", [False, True])
def test_the_deadline_counts_while_it_waits_and_while_it_runs(free):
    async def test() -> None:
        scheduler, stuck = make_scheduler(deadline=0.05), Script(free=False)
        other = None
        if not free:
            other = asyncio.create_task(numbers(make_scheduler(running=1).run("x", "voice", stuck.results)))
            holder = scheduler.limiter("voice").permit()
            await holder.__aenter__()
        with pytest.raises(BackendTimeout, match=r"0\.05 s"):
            await numbers(scheduler.run("key", "voice", stuck.results))
        if other:
            await holder.__aexit__(None, None, None)
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)
        assert scheduler.limiter("voice").running == scheduler.limiter("voice").waiting == 0
        assert not scheduler._active

    run(test())


def test_the_deadline_counts_all_sentences_together():
    async def test() -> None:
        async def drip() -> AsyncGenerator[Result, None]:
            for index in range(100):
                await asyncio.sleep(0.01)
                yield result(index)

        scheduler, got = make_scheduler(deadline=0.1), []
        with pytest.raises(BackendTimeout):
            await collect(scheduler.run("key", "voice", drip), got)
        assert 1 <= len(got) <= 11
        assert scheduler.limiter("voice").running == 0

    run(test())


def test_an_idle_listener_holds_no_permit_and_times_out():
    async def test() -> None:
        scheduler, script = make_scheduler(deadline=0.1), Script(1000)
        idle = scheduler.run("key", "voice", script.results)
        await anext(idle)
        await until(lambda: scheduler.limiter("voice").running == 0, 2)
        assert script.closed == 0
        assert await numbers(scheduler.run("other", "voice", Script(3).results)) == [0, 1, 2]
        await until(lambda: script.closed == 1, 2)
        with pytest.raises(BackendTimeout):
            await numbers(idle)

    run(test())


def test_a_slow_listener_gets_everything():
    async def test() -> None:
        scheduler, got = make_scheduler(deadline=0.15), []
        async for result in scheduler.run("key", "voice", Script(40).results):
            await asyncio.sleep(0.01)
            got.append(result)
        assert len(got) == 40
        assert scheduler.limiter("voice").running == 0

    run(test())


def test_a_timeout_of_the_work_itself_frees_the_permit():
    async def test() -> None:
        scheduler, script = make_scheduler(), Script(1, error=BackendTimeout("the server took too long"))
        with pytest.raises(BackendTimeout, match="the server took too long"):
            await numbers(scheduler.run("key", "voice", script.results))
        assert scheduler.limiter("voice").running == 0

    run(test())


Leave = Callable[[SynthesisScheduler, Script], Awaitable[None]]


async def leaves_the_queue(scheduler: SynthesisScheduler, script: Script) -> None:
    async with scheduler.limiter("voice").permit():
        task = asyncio.create_task(numbers(scheduler.run("key", "voice", script.results)))
        await settle()
        assert scheduler.limiter("voice").waiting == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert script.begun == 0


async def leaves_before_it_ran(scheduler: SynthesisScheduler, script: Script) -> None:
    task = asyncio.create_task(numbers(scheduler.run("key", "voice", script.results)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def leaves_before_the_first_result(scheduler: SynthesisScheduler, script: Script) -> None:
    script.go.clear()
    task = asyncio.create_task(numbers(scheduler.run("key", "voice", script.results)))
    await settle()
    assert script.begun == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert script.closed == 1


async def closes_between_results(scheduler: SynthesisScheduler, script: Script) -> None:
    async with aclosing(scheduler.run("key", "voice", script.results)) as results:
        await anext(results)
    assert script.closed == 1


async def fails_between_results(scheduler: SynthesisScheduler, script: Script) -> None:
    async def fail() -> None:
        async with aclosing(scheduler.run("key", "voice", script.results)) as results:
            async for _ in results:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert script.closed == 1


async def never_listens(scheduler: SynthesisScheduler, script: Script) -> None:
    await scheduler.run("key", "voice", script.results).aclose()
    assert script.begun == 0


async def one_of_two_leaves(scheduler: SynthesisScheduler, script: Script) -> None:
    script.go.clear()
    tasks = [asyncio.create_task(numbers(scheduler.run("key", "voice", script.results))) for _ in range(2)]
    await settle()
    tasks[0].cancel()
    await settle()
    assert script.closed == 0
    script.go.set()
    assert await tasks[1] == list(range(script.count))
    await asyncio.gather(*tasks, return_exceptions=True)


async def one_comes_as_the_other_leaves(scheduler: SynthesisScheduler, script: Script) -> None:
    script.go.clear()
    first = asyncio.create_task(numbers(scheduler.run("key", "voice", script.results)))
    await settle()
    first.cancel()
    second = asyncio.create_task(numbers(scheduler.run("key", "voice", script.results)))
    await settle()
    script.go.set()
    assert await second == list(range(script.count))
    await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize(
    "leave",
    [
        leaves_the_queue,
        leaves_before_it_ran,
        leaves_before_the_first_result,
        closes_between_results,
        fails_between_results,
        never_listens,
        one_of_two_leaves,
        one_comes_as_the_other_leaves,
    ],
)
def test_no_task_is_left_after_any_disconnect(leave: Leave):
    async def test() -> None:
        scheduler, script = make_scheduler(), Script(30)
        await leave(scheduler, script)
        limiter = scheduler.limiter("voice")
        assert (limiter.running, limiter.waiting) == (0, 0)
        assert not scheduler._active
        assert script.begun == script.closed
        assert await numbers(scheduler.run("key", "voice", Script(2).results)) == [0, 1]

    run(test())


@settings(max_examples=40, deadline=None)
@given(
    people=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 3), st.sampled_from(["stay", "leave", "close"]), st.integers(0, 12)),
        max_size=25,
    ),
    permits=st.integers(1, 3),
    queue=st.integers(0, 6),
)
def test_many_clients_get_their_own_results_and_leave_no_task(people, permits, queue):
    """Each client arrives after some steps, asks for one of four texts, and stays, or leaves after some steps."""

    async def test() -> None:
        scheduler = make_scheduler(running=permits, waiting=queue)

        def source(key: int) -> Callable[[], AsyncGenerator[Result, None]]:
            async def results() -> AsyncGenerator[Result, None]:
                for index in range(key, key + 20):
                    await asyncio.sleep(0)
                    yield result(index)

            return results

        async def person(wait: int, key: int, behaviour: str, steps: int) -> list[int] | None:
            for _ in range(wait):
                await asyncio.sleep(0)
            if behaviour == "stay":
                return await numbers(scheduler.run(key, "voice", source(key)))
            if behaviour == "close":
                async with aclosing(scheduler.run(key, "voice", source(key))) as results:
                    for _ in range(steps):
                        await anext(results)
                return None
            task = asyncio.create_task(numbers(scheduler.run(key, "voice", source(key))))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None

        ends = await asyncio.gather(*(person(*each) for each in people), return_exceptions=True)
        for (_, key, behaviour, _), end in zip(people, ends, strict=True):
            if behaviour == "stay":
                assert isinstance(end, BackendBusy) or end == list(range(key, key + 20))
            else:
                assert end is None or isinstance(end, BackendBusy)
        limiter = scheduler.limiter("voice")
        assert (limiter.running, limiter.waiting, scheduler._active) == (0, 0, {})

    run(test())


# Settings


def test_permits_by_backend():
    assert AdmissionSettings(running=5).permits("embedded") == AdmissionSettings(running=5).permits("higgs-http") == 5
    assert AdmissionSettings().permits("embedded") >= 1
    assert AdmissionSettings().permits("higgs-http") == 8


@pytest.mark.parametrize(
    "wrong", [{"running": 0}, {"waiting": -1}, {"deadline": 0}, {"deadline": float("nan")}, {"connections": 0}, {"permits": 1}]
)
def test_invalid_settings(wrong):
    with pytest.raises(ValidationError):
        AdmissionSettings(**wrong)


# The service


@asynccontextmanager
async def at(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def held(tiny_tagger):
    """A service that speaks one text at a time, with two more in the queue, and its voice, which is silent until released."""
    voice = FakeVoice()
    voice.released.clear()
    with serving(tiny_tagger, ApiSettings(running=1, waiting=2), voice=voice, realise=False) as server:
        yield server, voice


def test_requests_beyond_the_queue_are_refused_at_once(held):
    server, voice = held

    async def test() -> None:
        async with at(server) as client:
            bodies = [{"text": f"Number {index}.", "marked": True} for index in range(12)]
            asked = [asyncio.create_task(client.post("/speak", json=body)) for body in bodies]
            await until(lambda: sum(task.done() for task in asked) == 9)  # while the voice has said nothing
            for answer in [task.result() for task in asked if task.done()]:
                assert answer.status_code == 503
                assert error_of(answer)["code"] == "busy"
                assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert voice.completed == 0
            voice.released.set()
            assert sorted([answer.status_code for answer in await asyncio.gather(*asked)]) == [200] * 3 + [503] * 9

    asyncio.run(test())
    assert len(voice.requests) == voice.completed == 3
    assert voice.most_running == 1
    assert (server.running("fake"), server.waiting("fake")) == (0, 0)


def test_the_same_text_asked_for_at_once_is_spoken_once(held):
    server, voice = held

    def listeners() -> int:
        return sum(len(synthesis._next_of) for synthesis in list(server.service.scheduler._active.values()))

    async def test() -> list[httpx.Response]:
        async with at(server) as client:
            body = {"text": SENTENCE, "marked": True}
            asked = [asyncio.create_task(client.post("/speak", json=body)) for _ in range(20)]
            await until(lambda: listeners() == 20)
            voice.released.set()
            return await asyncio.gather(*asked)

    answers = asyncio.run(test())
    assert [answer.status_code for answer in answers] == [200] * 20
    assert len({answer.content for answer in answers}) == 1
    assert len(voice.requests) == 1


def test_a_text_that_takes_too_long(tiny_tagger):
    voice = FakeVoice()
    voice.released.clear()
    with serving(tiny_tagger, ApiSettings(deadline=0.2), voice=voice) as server:
        answer = httpx.post(f"{server.url}/speak", json={"text": SENTENCE, "marked": True}, trust_env=False, timeout=30)
        assert answer.status_code == 504
        assert error_of(answer)["code"] == "backend_timeout"
        assert (voice.cancelled, voice.running) == (1, 0)
        assert server.running("fake") == 0


def test_speaking_does_not_block_other_requests(client, served):
    """A request answered by the event loop alone takes a small part of the time in which a long text is spoken beside it."""
    body = {"text": f"{SENTENCE} " * 150, "marked": True, "format": "mp3", "stream": True}
    start = time.perf_counter()
    with client.stream("POST", "/speak", json=body) as answer:
        chunks = answer.iter_raw()
        next(chunks)
        delays = sorted(client.get("/live").elapsed.total_seconds() for _ in range(20))
        assert served.running("embedded") == 1
        for _ in chunks:
            pass
    assert delays[10] < (time.perf_counter() - start) / 10
    wait_until(lambda: served.running("embedded") == 0)
