"""Decoding: prompts to audio codes, many rows at once."""

import inspect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synth.errors import RefusedRequest
from synth.higgs_local.kv_cache import CUT, RUNNING, Places
from synth.higgs_local.prompt import Prompt, undelayed
from synth.higgs_local.sampling import Sampling
from synth.higgs_local.step_runner import Runner

if TYPE_CHECKING:
    import torch


@dataclass(slots=True, eq=False)
class _Row:
    """A row as the host knows it.

    Attributes:
        place: where it is decoded; None once it has ended.
        prompt: tokens before its first frame.
        candidates: how many of the likeliest codes it draws from.
        launched: its latest frame that is on its way; frame 0 is the stream's BOS.
        frames: its delayed frames [most, codebooks], of which ``known`` have come.
        status: `RUNNING` or how it ended.
    """

    number: int
    place: int | None
    prompt: int
    candidates: int
    frames: NDArray[np.int64]
    launched: int = 0
    known: int = 1
    status: int = RUNNING

    @property
    def last(self) -> int:
        return len(self.frames) - 1

    @property
    def length(self) -> int:
        """Positions that its next step looks at."""
        return self.prompt + self.launched + 1


@dataclass(slots=True, eq=False)
class _Step:
    """A step that was launched: whose rows it decodes, what it found, and when that has come."""

    rows: list[_Row]
    places: list[int]
    found: "torch.Tensor"
    done: Any

    def has_come(self) -> bool:
        return self.done is None or bool(self.done.query())

    def results(self) -> list[list[int]]:
        if self.done is not None:
            self.done.synchronize()
        found: list[list[int]] = self.found.tolist()
        return found


class Batch:
    """Rows that are decoded together, a frame a step. Rows may join and leave at any step.

    A row's number is given once and never again: 0 to n-1 for those that it was started with, then upwards. Each row is read by
    itself and then has a place, a position and chance of its own, so its codes do not depend on who else is there. Memory is taken
    when the first row joins and given back when the last has ended.

    Args:
        model: ``HiggsAudioV2ForConditionalGeneration``.
        runner: runs its steps.
        most: rows at once.
        take, give: memory from the engine, and back to it.
    """

    def __init__(self, model: Any, runner: Runner, most: int, take: Callable[[], Places], give: Callable[[Places], None]) -> None:
        self._model, self._runner, self._most = model, runner, most
        self._take, self._give = take, give
        self._places: Places | None = None
        self._rows: dict[int, _Row] = {}
        self._on_the_way: deque[_Step] = deque()
        self._next = 0

    def add(self, prompt: Prompt, sampling: Sampling, frames: int) -> int:
        """Let a prompt join; returns its row. It has ``frames`` frames at most, and fewer if the model cannot take so many.

        Its codes are kept until `forget`.

        Raises:
            RefusedRequest: the prompt fills all that the model can take.
            RuntimeError: no place is free.
            ValueError: ``frames`` is less than 1.
        """
        import torch

        if frames < 1:
            raise ValueError(f"a row of {frames} frames has nothing to say")
        if not self.free:
            raise RuntimeError(f"all {self._most} places are taken")
        config = self._model.config
        room = room_after(len(prompt), config)
        if room < 1:
            raise RefusedRequest(
                f"a prompt of {len(prompt)} tokens leaves no room in the {config.max_position_embeddings} that the model can take; "
                "give a shorter text or a shorter recording"
            )
        last = min(frames, room) + config.num_codebooks - 1
        with torch.inference_mode():
            cache = self._read(prompt)
            if self._places is None:
                self._places = self._take()
            place = min(set(range(self._most)) - {row.place for row in self._running()})
            self._places.begin(place, cache, len(prompt), sampling, last, config.audio_stream_bos_id)
        known = np.full((last + 1, config.num_codebooks), config.audio_stream_bos_id, dtype=np.int64)
        row = _Row(self._next, place, len(prompt), sampling.candidates(config.codebook_size), known)
        self._rows[row.number] = row
        self._next += 1
        return row.number

    def step(self) -> list[int]:
        """Decode one frame of every running row; returns the rows that are found to have ended.

        On a GPU a row is found some steps after it ended, as nobody waits for a frame to be finished.
        """
        import torch

        rows = [row for row in self._running() if row.launched < row.last]
        if rows:
            with torch.inference_mode():
                self._launch(rows)
        ended: list[int] = []
        steps = self._on_the_way
        while steps and (not rows or len(steps) > self._runner.in_flight or steps[0].has_come()):
            ended += self._look_at(steps.popleft())
        self._tidy()
        return ended

    def cancel(self, row: int) -> None:
        """End a row; its place is free for the next `add`. Rows that have ended or are unknown are left alone."""
        found = self._rows.get(row)
        if found is not None and found.place is not None:
            found.place, found.status = None, CUT
        self._tidy()

    def codes(self, row: int, start: int = 0) -> "torch.Tensor":
        """Complete frames of a row so far, from ``start`` on: int64 on the CPU, shape [n, codebooks], undelayed, each a code."""
        import torch

        found = self._rows[row]
        end = max(start, self._complete(found))
        codes = undelayed(torch.from_numpy(found.frames), start, end)
        return codes.clamp(0, min(self._stream_ids) - 1)

    def delayed(self, row: int) -> "torch.Tensor":
        """All that the model gave for a row so far, as it gave it: int64 [frames, codebooks] in the delay pattern, from BOS on."""
        import torch

        found = self._rows[row]
        return torch.from_numpy(found.frames[: found.known].copy())

    def cut(self, row: int) -> bool:
        """Whether a row ended because it had all the frames that it may have, or was cancelled, and not by itself."""
        return self._rows[row].status == CUT

    def forget(self, row: int) -> None:
        """Drop the codes of a row; one that runs is cancelled."""
        self.cancel(row)
        self._rows.pop(row, None)

    @property
    def running(self) -> list[int]:
        """The rows that have not ended, in order."""
        return sorted(row.number for row in self._running())

    @property
    def free(self) -> int:
        """How many rows may join now."""
        return self._most - len(self._running())

    def close(self) -> None:
        """Cancel all rows. Safe to call twice."""
        for row in self.running:
            self.cancel(row)

    @property
    def _stream_ids(self) -> tuple[int, int]:
        return self._model.config.audio_stream_bos_id, self._model.config.audio_stream_eos_id

    def _running(self) -> list[_Row]:
        return [row for row in self._rows.values() if row.place is not None]

    def _read(self, prompt: Prompt) -> Any:
        """The keys and values of a prompt."""
        import torch
        from transformers import DynamicCache

        device = self._model.device
        audio: dict[str, Any] = {}
        if len(prompt.audio):
            audio["audio_input_ids"] = prompt.audio[None].to(device)
            audio["audio_input_ids_mask"] = torch.ones(1, len(prompt.audio), dtype=torch.bool, device=device)
        cache = DynamicCache(config=self._model.config)
        audio[_cache_keyword(self._model.model)] = cache
        self._model.model(input_ids=prompt.ids[None].to(device), use_cache=True, **audio)
        return cache

    def _launch(self, rows: list[_Row]) -> None:
        """Start a step of ``rows``."""
        import torch

        places = self._places
        assert places is not None
        self._close_ranks()
        running = self._running()
        width = self._runner.width(1 + max(row.place or 0 for row in running), self._most)
        lengths = [row.length for row in rows]
        # Places that nobody has are computed too; what they hold is shorter or longer than any row, and means nothing.
        shortest = min(lengths) if len(rows) == width else 0
        self._runner.run(places, width, max(lengths), shortest, max(row.candidates for row in running))
        for row in rows:
            row.launched += 1
        found, done = places.out[:width].clone(), None
        if found.is_cuda:
            here = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            here.copy_(found, non_blocking=True)
            found, done = here, torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        self._on_the_way.append(_Step(rows, [row.place or 0 for row in rows], found, done))

    def _close_ranks(self) -> None:
        """Move rows to lower places where that makes a step smaller."""
        places = self._places
        assert places is not None
        running = sorted(self._running(), key=lambda row: row.place or 0)
        width = self._runner.width
        while running and width(len(self._running()), self._most) < width(1 + (running[-1].place or 0), self._most):
            row = running.pop()
            assert row.place is not None
            to = min(set(range(self._most)) - {other.place for other in self._running()})
            places.move(row.place, to, row.length)
            row.place = to
            running = sorted(self._running(), key=lambda other: other.place or 0)

    def _look_at(self, step: _Step) -> list[int]:
        """Take in what a step found; returns the rows that ended in it."""
        results = step.results()
        ended = []
        for row, place in zip(step.rows, step.places, strict=True):
            if row.place is None:
                continue
            *codes, status = results[place]
            row.frames[row.known] = codes
            row.known += 1
            if status != RUNNING:
                row.status, row.place = status, None
                ended.append(row.number)
        return ended

    def _complete(self, row: _Row) -> int:
        """How many frames have all their codes. Nothing from the first codebook's EOS on counts, and no frame that is EOS alone."""
        end = self._stream_ids[1]
        frames = row.frames[: row.known]
        if row.status != RUNNING and (frames[-1] == end).all():
            frames = frames[:-1]
        first_ends = np.flatnonzero(frames[:, 0] == end)
        before_end = int(first_ends[0]) - 1 if len(first_ends) else len(frames)
        books: int = frames.shape[1]
        return max(0, min(len(frames) - books, before_end))

    def _tidy(self) -> None:
        """Give the memory back once nobody runs."""
        if self._places is not None and not self._running():
            self._on_the_way.clear()
            self._give(self._places)
            self._places = None


def _cache_keyword(model: Any) -> str:
    """Return the name by which the model's forward pass takes its KV cache.

    transformers calls it ``cache`` from 5.24 on and ``past_key_values`` before.
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def room_after(tokens: int, config: Any) -> int:
    """How many frames of sound the model can take after a prompt of so many tokens: the delay pattern takes some more positions."""
    room: int = config.max_position_embeddings - tokens - (config.num_codebooks - 1)
    return room
