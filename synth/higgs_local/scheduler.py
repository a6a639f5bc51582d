"""The requests that are decoded together, a frame a step. It runs in the worker's thread, and only there."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synth.audio.signal import concatenate
from synth.higgs_local.adapter import Adapter, check_fit
from synth.higgs_local.base_model import Opened, of_model
from synth.higgs_local.lora import Loaded, Switch, load
from synth.higgs_local.requests import Chunk, Request, told
from synth.higgs_local.settings import HiggsLocalSettings

if TYPE_CHECKING:
    from synth.higgs_local.batch import Batch
    from synth.higgs_local.codec_stream import CodecStream
    from synth.higgs_local.engine import Engine

_MOST_LOADED = 4  # adapters whose weights are kept in the host's memory; some 50 MB each
_FAILED = "the model failed on this text"


@dataclass(slots=True, eq=False)
class _Row:
    """A request that is being decoded.

    Attributes:
        taken: frames that went into its sound.
        wait: steps until it is looked at again: to look is to wait for the device.
    """

    request: Request
    stream: "CodecStream"
    wait: int
    taken: int = 0


class Together:
    """An engine and the rows that it decodes. All have the same adapter: its weights are the model's own while they speak."""

    def __init__(self, engine: "Engine", settings: HiggsLocalSettings) -> None:
        self._engine, self._settings = engine, settings
        self._delay = int(engine.model.config.num_codebooks) - 1  # steps that the first frame takes longer than any other
        self._first = settings.first_frames + engine.codec.reach  # a frame is heard when so many after it are known
        self._switch = Switch(engine.model)
        self._batch: Batch | None = None
        self._rows: dict[int, _Row] = {}
        self._opened: Opened | None = None
        self._loaded: list[Loaded] = []

    @property
    def speaking(self) -> bool:
        return bool(self._rows)

    def choose(self, waiting: deque[Request]) -> list[Request]:
        """Take from ``waiting`` those that can begin now.

        In order, as far as they have the adapter that speaks. Where the first has another, it waits until all have ended; then
        those that share its adapter come along. So the adapter changes as seldom as it can while nobody is passed over for long.
        """
        for request in [request for request in waiting if request.given_up]:
            waiting.remove(request)
        alone = any(row.request.tried for row in self._rows.values())
        if not waiting or alone or (waiting[0].tried and self._rows):
            return []
        if waiting[0].tried:
            return [waiting.popleft()]
        free = self._free()
        if self._rows:
            adapter = next(iter(self._rows.values())).request.order.adapter
            chosen: list[Request] = []
            while waiting and len(chosen) < free and waiting[0].order.adapter is adapter and not waiting[0].tried:
                chosen.append(waiting.popleft())
            return chosen
        adapter = waiting[0].order.adapter
        chosen = [request for request in waiting if request.order.adapter is adapter and not request.tried][:free]
        for request in chosen:
            waiting.remove(request)
        return chosen

    def begin(self, request: Request) -> None:
        """Let a request join. Its failure is its own."""
        order, engine = request.order, self._engine
        try:
            self._speak_with(order.adapter)
            ids = {kind: mark.id for kind, mark in order.adapter.marks.items()} if order.adapter else {}
            prompt = engine.prompt(order.text, reference=order.reference, context=order.context, mark_ids=ids)
            frames = math.ceil(order.seconds * engine.frames_per_second)
            stream = engine.stream()
            if self._batch is None:
                self._batch = engine.start([prompt], [engine.sampling(order.seed)], [frames])
                (number,) = self._batch.running
            else:
                number = self._batch.add(prompt, engine.sampling(order.seed), frames)
        except Exception as error:
            request.hand(told(error, _FAILED))
            return
        self._rows[number] = _Row(request, stream, self._first + self._delay)

    def drop_given_up(self) -> None:
        """Free the places of those that nobody listens to any more."""
        for number in [number for number, row in self._rows.items() if row.request.given_up]:
            self._end(number)
        self._rest()

    def step(self) -> list[Request]:
        """Decode a frame of every row, and hand on what has become sound.

        Returns:
            Requests that failed together before any of them sounded: each is to be tried once more, alone.
        """
        if self._batch is None or not self._rows:
            return []
        try:
            ended = self._batch.step()
        except Exception as error:
            return self._fail_together(error)
        for number in ended:
            if number in self._rows:
                self._own(number, self._finish)
        for number, row in list(self._rows.items()):
            row.wait -= 1
            if row.wait <= 0:
                self._own(number, self._advance)
        self._rest()
        return []

    def close(self, why: Exception) -> None:
        """Fail every row and give the memory back."""
        for row in self._rows.values():
            row.request.hand(why)
        self._drop_batch()

    def _free(self) -> int:
        return self._settings.max_batch if self._batch is None else self._batch.free

    def _speak_with(self, adapter: Adapter | None) -> None:
        """Have the model speak with an adapter, or without. Nobody else speaks while that changes.

        Weights change where they are, so what the engine has recorded for the base serves every adapter: its variant stays.

        Raises:
            AdapterError: it cannot be read, or is not for this model.
        """
        active = self._switch.active
        if adapter is (active.adapter if active else None):
            return
        wanted = None if adapter is None else self._weights(adapter)
        self._drop_batch()
        self._switch.to(wanted)

    def _weights(self, adapter: Adapter) -> Loaded:
        for loaded in self._loaded:
            if loaded.adapter is adapter:
                return loaded
        self._opened = self._opened or of_model(self._engine.model, self._settings.model, self._settings.revision)
        check_fit(adapter, self._opened)
        self._loaded = [load(adapter), *self._loaded][:_MOST_LOADED]
        return self._loaded[0]

    def _own(self, number: int, work: Callable[[int], None]) -> None:
        """Do what concerns one row alone; if that fails, nobody else is told."""
        try:
            work(number)
        except Exception as error:
            self._rows[number].request.hand(told(error, _FAILED))
            self._end(number)

    def _advance(self, number: int) -> None:
        """Hand on the next chunk of a row, if all its frames are there; else see how long that will take."""
        row, batch = self._rows[number], self._the_batch()
        wanted = self._settings.chunk_frames if row.taken else self._first
        codes = batch.codes(number, row.taken)
        if len(codes) < wanted:
            row.wait = wanted - len(codes)
            return
        row.taken += len(codes)
        row.wait = self._settings.chunk_frames
        audio = row.stream.push(codes)
        if len(audio.samples):
            row.request.hand(Chunk(audio))

    def _finish(self, number: int) -> None:
        """Hand on the rest of a row that has ended, with all its codes."""
        row, batch = self._rows[number], self._the_batch()
        codes = batch.codes(number)
        sounds = [row.stream.push(codes[row.taken :])] if len(codes) > row.taken else []
        sounds.append(row.stream.finish())
        row.request.hand(Chunk(concatenate(sounds, self._engine.rate), codes, batch.cut(number)))
        self._end(number)

    def _end(self, number: int) -> None:
        del self._rows[number]
        if self._batch is not None:
            self._batch.cancel(number)
            self._batch.forget(number)

    def _fail_together(self, error: Exception) -> list[Request]:
        """A step failed, and with it every row. Those of which nothing was heard yet may be tried again."""
        requests = [row.request for row in self._rows.values()]
        self._drop_batch()
        again = [request for request in requests if not (request.begun or request.tried)]
        for request in requests:
            if request in again:
                request.tried = True
            else:
                request.hand(told(error, _FAILED))
        return again

    def _rest(self) -> None:
        """Give the memory of the cache back when nobody speaks."""
        if not self._rows:
            self._drop_batch()

    def _drop_batch(self) -> None:
        batch, self._batch = self._batch, None
        self._rows.clear()
        if batch is not None:
            batch.close()

    def _the_batch(self) -> "Batch":
        if self._batch is None:
            raise RuntimeError("no batch is open")
        return self._batch
