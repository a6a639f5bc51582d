"""The worker: batching, queueing, cancellation, and isolation of one caller's errors from the others."""

import asyncio
import gc
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_higgs import HOP, ScriptedBatch, ScriptedEngine

from prosody_tagger.markup import plain
from synth.errors import BackendBusy, BackendError, BackendUnavailable, RefusedRequest
from synth.higgs_local.adapter import Adapter, AdapterError
from synth.higgs_local.requests import RequestHandle, to_backend_error
from synth.higgs_local.scheduler import BatchScheduler
from synth.higgs_local.settings import HiggsLocalSettings
from synth.higgs_local.worker import AudioChunk, GenerationRequest, ModelWorker

SETTINGS = HiggsLocalSettings(max_batch=3, first_frames=5, chunk_frames=20)


def request_for(text: str, **rest: Any) -> GenerationRequest:
    return GenerationRequest(plain(text), **({"seconds": 1000.0} | rest))


class WorkerBench:
    """A worker with a scripted engine."""

    def __init__(self, settings: HiggsLocalSettings = SETTINGS, **rest: Any) -> None:
        self.engine = ScriptedEngine(settings)
        self.loads = 0
        self.worker = ModelWorker(self._load, settings, **rest)

    def _load(self) -> Any:
        self.loads += 1
        return self.engine

    async def say(self, text: str, **rest: Any) -> list[AudioChunk]:
        return [chunk async for chunk in self.worker.speak(request_for(text, **rest))]

    async def begin(self, text: str, **rest: Any) -> tuple[AsyncGenerator[AudioChunk, None], AudioChunk]:
        """Start a request and return it with its first chunk."""
        speaking = self.worker.speak(request_for(text, **rest))
        return speaking, await anext(speaking)


def run(work: Callable[[WorkerBench], Any], settings: HiggsLocalSettings = SETTINGS, **rest: Any) -> WorkerBench:
    """Run ``work`` with a bench, and close the bench."""
    bench = WorkerBench(settings, **rest)

    async def main() -> None:
        try:
            async with asyncio.timeout(60):
                await work(bench)
        finally:
            await bench.worker.close()

    asyncio.run(main())
    return bench


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 (what is waited for happens in another thread)
        await asyncio.sleep(0.001)


def samples(chunks: list[AudioChunk]) -> np.ndarray[Any, Any]:
    return np.concatenate([chunk.audio.samples for chunk in chunks])


def test_every_frame_is_heard_once_and_in_order() -> None:
    async def work(bench: WorkerBench) -> None:
        chunks = await bench.say("one two three four five six seven")
        frames = samples(chunks)[::HOP] * 1024
        assert frames.tolist() == list(range(70))
        assert [len(chunk.audio.samples) // HOP for chunk in chunks] == [5, 20, 20, 20, 5]
        assert [chunk.codes is None for chunk in chunks] == [True] * 4 + [False]
        assert chunks[-1].codes is not None
        assert chunks[-1].codes.shape == (70, 8)
        assert not chunks[-1].cut

    run(work)


def test_the_first_chunk_is_heard_before_the_end() -> None:
    async def work(bench: WorkerBench) -> None:
        speaking, chunk = await bench.begin("forever")
        assert len(chunk.audio.samples) == 5 * HOP
        await speaking.aclose()

    run(work)


def test_what_goes_on_for_too_long_is_cut() -> None:
    async def work(bench: WorkerBench) -> None:
        chunks = await bench.say("forever", seconds=2.01)
        assert chunks[-1].cut
        assert len(samples(chunks)) == 51 * HOP

    run(work)


def test_callers_are_decoded_together_as_many_as_may() -> None:
    async def work(bench: WorkerBench) -> None:
        heard = await asyncio.gather(*(bench.say(f"{number} two three") for number in range(10)))
        assert all(len(samples(chunks)) == 30 * HOP for chunks in heard)

    bench = run(work)
    assert bench.engine.widest == 3
    assert bench.engine.steps < 10 * 38 / 2
    assert bench.loads == 1


def test_a_late_caller_joins_those_who_speak() -> None:
    async def work(bench: WorkerBench) -> None:
        speaking, _ = await bench.begin("forever")
        assert len(samples(await bench.say("late one"))) == 20 * HOP
        await speaking.aclose()

    bench = run(work)
    assert ("forever", "late one") in bench.engine.log


def test_a_cancelled_caller_frees_its_place_within_one_step() -> None:
    """Decoding is paused while the caller leaves, so that the next step is known."""
    gate, stopped = threading.Event(), threading.Event()
    gate.set()

    def wait(_: ScriptedBatch) -> None:
        if not gate.is_set():
            stopped.set()
            assert gate.wait(60)

    async def work(bench: WorkerBench) -> None:
        bench.engine.at_step = wait
        first, _ = await bench.begin("forever a")
        second, _ = await bench.begin("forever b")
        third, _ = await bench.begin("forever c")
        waiting = asyncio.create_task(bench.say("waiting"))
        await asyncio.sleep(0.01)
        gate.clear()
        await until(stopped.is_set)  # within a step
        before = bench.engine.steps
        await second.aclose()
        gate.set()
        await waiting
        assert bench.engine.log[before] == ("forever a", "forever b", "forever c")
        assert bench.engine.log[before + 1] == ("forever a", "forever c", "waiting")
        await first.aclose()
        await third.aclose()

    run(work)


def test_a_caller_who_leaves_while_waiting_is_never_decoded() -> None:
    async def work(bench: WorkerBench) -> None:
        speaking = [(await bench.begin(f"forever {number}"))[0] for number in range(3)]
        task = asyncio.create_task(bench.say("leaver"))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for generator in speaking:
            await generator.aclose()
        await bench.say("last")

    bench = run(work)
    assert not any("leaver" in said for step in bench.engine.log for said in step)


def test_the_last_caller_to_leave_stops_the_decoding() -> None:
    async def work(bench: WorkerBench) -> None:
        speaking, _ = await bench.begin("forever")
        await speaking.aclose()
        await until(lambda: bench.engine.closed > 0)
        steps = bench.engine.steps
        await asyncio.sleep(0.02)
        assert bench.engine.steps == steps

    run(work)


def test_a_full_queue_refuses_and_has_room_again() -> None:
    async def work(bench: WorkerBench) -> None:
        speaking = [(await bench.begin(f"forever {number}"))[0] for number in range(3)]
        waiting = asyncio.create_task(bench.say("waiting"))
        await asyncio.sleep(0)
        with pytest.raises(BackendBusy, match="4 requests are open") as refused:
            await bench.say("too many")
        assert isinstance(refused.value, BackendError)
        for generator in speaking:
            await generator.aclose()
        await waiting
        assert await bench.say("again")

    run(work, max_open=4)


def test_a_slow_listener_keeps_nobody_waiting() -> None:
    async def work(bench: WorkerBench) -> None:
        slow, _ = await bench.begin("a slow listener hears it late")
        await asyncio.gather(*(bench.say(f"{number} quick") for number in range(5)))
        rest = [chunk async for chunk in slow]
        assert len(samples(rest)) == (60 - 5) * HOP

    run(work)


def test_a_listener_who_never_listens_holds_one_place_of_the_queue() -> None:
    """So the audio kept for such listeners is bounded too."""

    async def work(bench: WorkerBench) -> None:
        asleep = [(await bench.begin("one two three"))[0] for _ in range(2)]
        with pytest.raises(BackendBusy):
            await bench.say("no room")
        for generator in asleep:
            await generator.aclose()
        await bench.say("room")

    run(work, max_open=2)


def test_a_failure_before_the_first_frame_is_the_callers_own() -> None:
    async def work(bench: WorkerBench) -> None:
        def fail(said: str) -> None:
            if "bad" in said:
                raise ValueError("no such token")
            if "long" in said:
                raise RefusedRequest("too long for the model")

        bench.engine.at_prompt = fail
        good, bad, long = await asyncio.gather(bench.say("good"), bench.say("bad"), bench.say("long"), return_exceptions=True)
        assert isinstance(good, list)
        assert isinstance(bad, BackendError)
        assert "ValueError: no such token" in str(bad)
        assert isinstance(long, RefusedRequest)

    run(work)


def test_a_failure_at_a_chunk_is_the_callers_own() -> None:
    async def work(bench: WorkerBench) -> None:
        def fail(said: str) -> None:
            if "bad" in said:
                raise RuntimeError("the codec broke")

        bench.engine.at_codes = fail
        good, bad = await asyncio.gather(bench.say("good one here"), bench.say("bad one here"), return_exceptions=True)
        assert isinstance(good, list)
        assert len(samples(good)) == 30 * HOP
        assert isinstance(bad, BackendError)

    bench = run(work)
    assert all(not batch.kept for batch in bench.engine.batches)


def test_one_text_that_breaks_every_step_fails_alone() -> None:
    """The requests that were decoded together with it are decoded again."""

    async def work(bench: WorkerBench) -> None:
        def fail(batch: ScriptedBatch) -> None:
            if any("bad" in row.said and row.ran > 2 for row in batch.rows.values()):
                raise RuntimeError("device-side assert")

        bench.engine.at_step = fail
        heard = await asyncio.gather(*map(bench.say, ("good", "bad", "fine", "well")), return_exceptions=True)
        assert [isinstance(item, list) for item in heard] == [True, False, True, True]
        assert isinstance(heard[1], BackendError)
        assert "device-side assert" in str(heard[1])
        assert await bench.say("and on")

    run(work)


def test_a_step_that_fails_in_mid_speech_ends_that_speech() -> None:
    async def work(bench: WorkerBench) -> None:
        speaking, _ = await bench.begin("forever")

        def fail(_: ScriptedBatch) -> None:
            raise RuntimeError("CUDA out of memory")

        bench.engine.at_step = fail
        with pytest.raises(BackendError, match=r"out of memory; lower the setting max_batch"):
            async for _ in speaking:
                pass
        bench.engine.at_step = lambda _: None
        assert await bench.say("and on")

    run(work)


def test_a_model_that_cannot_be_loaded_is_told_to_all_and_tried_again() -> None:
    class Absent(WorkerBench):
        def _load(self) -> Any:
            self.loads += 1
            if self.loads == 1:
                while self.worker._open < 2:
                    time.sleep(0.001)
                raise BackendUnavailable("no model here; download it")
            return self.engine

    async def main() -> None:
        bench = Absent()
        first = await asyncio.gather(bench.say("one"), bench.say("two"), return_exceptions=True)
        assert [type(error) for error in first] == [BackendUnavailable, BackendUnavailable]
        await until(lambda: bench.worker._thread is None)
        assert await bench.say("three")
        await bench.worker.close()

    asyncio.run(main())


def test_closing_fails_those_who_speak_and_those_who_wait() -> None:
    async def work(bench: WorkerBench) -> None:
        speaking, _ = await bench.begin("forever")
        tasks = [asyncio.create_task(bench.say(f"forever {number}")) for number in range(4)]
        await asyncio.sleep(0.01)
        await asyncio.gather(bench.worker.close(), bench.worker.close())
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, BackendError)
        with pytest.raises(BackendError, match="closed"):
            async for _ in speaking:
                pass
        assert not [thread for thread in threading.enumerate() if thread.name == "higgs-local"]
        assert await bench.say("again")
        assert bench.loads == 2

    bench = run(work)
    assert all(batch.closed for batch in bench.engine.batches)


def test_closing_what_never_spoke_does_nothing() -> None:
    async def work(bench: WorkerBench) -> None:
        await bench.worker.close()

    assert run(work).loads == 0


def test_several_event_loops_share_one_worker() -> None:
    bench = WorkerBench()
    heard: list[int] = []

    def caller(number: int) -> None:
        heard.append(len(samples(asyncio.run(bench.say(f"{number} two three")))))

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    asyncio.run(bench.worker.close())
    assert heard == [30 * HOP] * 4
    assert bench.loads == 1


def test_a_loop_that_ended_in_mid_speech_is_left_alone() -> None:
    bench = WorkerBench()

    async def abandon() -> None:
        bench.worker.speak(request_for("forever"))
        await bench.begin("forever")  # the end of the loop closes the generators

    asyncio.run(abandon())
    assert len(samples(asyncio.run(bench.say("next")))) == 10 * HOP
    asyncio.run(bench.worker.close())


def test_memory_does_not_grow_over_200_requests() -> None:
    async def work(bench: WorkerBench) -> None:
        async def some(count: int) -> None:
            for number in range(count):
                if number % 4 == 3:
                    async with aclosing(bench.worker.speak(request_for("forever"))) as speaking:
                        await anext(speaking)
                else:
                    await bench.say("one two")
            bench.engine.log.clear()
            bench.engine.prompts.clear()
            bench.engine.batches.clear()

        await some(20)
        gc.collect()
        before = len(gc.get_objects())
        await some(200)
        gc.collect()
        assert len(gc.get_objects()) - before < 200

    run(work)


# Scheduling, without a thread


def adapter(name: str) -> Adapter:
    return Adapter(name, Path(name), 4, {}, (), {}, None)


A, B = adapter("a"), adapter("b")


class Line:
    """A queue of requests and a `BatchScheduler`; switching adapters is replaced by a no-op."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = ScriptedEngine(SETTINGS)
        self.scheduler = BatchScheduler(self.engine, SETTINGS)  # type: ignore[arg-type]
        self.waiting: deque[RequestHandle] = deque()
        self.loop = asyncio.new_event_loop()
        monkeypatch.setattr(self.scheduler, "_activate", lambda _: None)

    def ask(self, name: str, adapter: Adapter | None = None) -> RequestHandle:
        handle = RequestHandle(request_for(name, adapter=adapter), self.loop)
        self.waiting.append(handle)
        return handle

    def turn(self) -> list[str]:
        """Run one step; return the texts of the requests that started."""
        self.scheduler.drop_cancelled()
        chosen = self.scheduler.choose(self.waiting)
        for handle in chosen:
            self.scheduler.start(handle)
        self.scheduler.step()
        return [handle.request.text.text for handle in chosen]


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Line(monkeypatch)
    yield made
    made.loop.close()


def test_those_who_share_an_adapter_speak_together(line: Line) -> None:
    for name, which in (("a1", A), ("b1", B), ("a2", A), ("plain", None), ("a3", A), ("a4", A)):
        line.ask(name, which)
    assert line.turn() == ["a1", "a2", "a3"]
    assert [handle.request.text.text for handle in line.waiting] == ["b1", "plain", "a4"]


def test_nobody_is_passed_over_for_ever(line: Line) -> None:
    """While the first request waits for another adapter, no more requests with the active adapter start."""
    speaker = line.ask("forever", A)
    assert line.turn() == ["forever"]
    line.ask("b1", B)
    line.ask("a2", A)
    assert line.turn() == []
    speaker.cancelled = True
    assert line.turn() == ["b1"]
    assert line.turn() == []


def test_the_same_adapter_joins_at_any_time(line: Line) -> None:
    line.ask("forever a", A)
    line.turn()
    line.ask("a2", A)
    assert line.turn() == ["a2"]


def test_cancelled_requests_are_not_chosen(line: Line) -> None:
    line.ask("first").cancelled = True
    line.ask("second")
    assert line.turn() == ["second"]
    assert not line.waiting


def test_one_that_failed_is_tried_alone(line: Line) -> None:
    line.ask("forever").retried = True
    line.ask("other")
    assert line.turn() == ["forever"]
    assert line.turn() == []


def test_errors_are_told_in_one_line() -> None:
    assert isinstance(to_backend_error(AdapterError("x"), "y"), AdapterError)
    assert str(to_backend_error(ValueError("first\nsecond"), "it failed")) == "it failed: ValueError: first; try again"
    assert "MemoryError" in str(to_backend_error(MemoryError(), "it failed"))
