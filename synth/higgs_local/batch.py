"""Autoregressive decoding of a batch: prompts in, audio codes out, one frame of every row per step."""

import inspect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synth.errors import RefusedRequest
from synth.higgs_local.kv_cache import CUT, RUNNING, KVCache
from synth.higgs_local.prompt import Prompt, undelayed
from synth.higgs_local.sampling import Sampling
from synth.higgs_local.step_runner import StepRunner

if TYPE_CHECKING:
    import torch


@dataclass(slots=True, eq=False)
class _BatchRow:
    """The host's state of a row.

    Attributes:
        number: the row's number in its batch.
        slot: its slot in the KV cache; None once it has ended.
        prompt: tokens before its first frame.
        candidates: see `Sampling.candidates`.
        frames: its delayed frames, int64 [frame limit, codebooks]; the first ``known`` have been read from the device.
        launched: number of the last frame whose step was launched; frame 0 is the stream's BOS.
        known: how many frames have been read.
        status: `RUNNING` or how it ended.
    """

    number: int
    slot: int | None
    prompt: int
    candidates: int
    frames: NDArray[np.int64]
    launched: int = 0
    known: int = 1
    status: int = RUNNING

    @property
    def last(self) -> int:
        """Number of the last frame that it may have."""
        return len(self.frames) - 1

    @property
    def length(self) -> int:
        """Positions that its next step attends to."""
        return self.prompt + self.launched + 1


@dataclass(slots=True, eq=False)
class _PendingStep:
    """A launched step.

    Attributes:
        rows: the rows that it decodes.
        slots: the slot of each when it was launched.
        out: a copy of `KVCache.out` on the host, valid once ``done`` has occurred.
        done: a CUDA event; None on a CPU.
    """

    rows: list[_BatchRow]
    slots: list[int]
    out: "torch.Tensor"
    done: Any

    def is_done(self) -> bool:
        return self.done is None or bool(self.done.query())

    def results(self) -> list[list[int]]:
        """Return codes and status of every slot; waits for the device."""
        if self.done is not None:
            self.done.synchronize()
        results: list[list[int]] = self.out.tolist()
        return results


class DecodingBatch:
    """Rows that are decoded together, one frame per step. Rows may join and leave at any step.

    Row numbers start at 0 and are never reused. Every prompt is prefilled by itself, and every row has a slot, positions and random
    numbers of its own, so its codes do not depend on the other rows. The KV cache is taken when the first row joins and given back
    when the last has ended.

    Args:
        model: ``HiggsAudioV2ForConditionalGeneration``.
        runner: runs the model's steps.
        max_rows: most rows at once.
        take_cache: returns a free KV cache of ``max_rows`` slots.
        give_back: receives the cache that is free again.
    """

    def __init__(
        self,
        model: Any,
        runner: StepRunner,
        max_rows: int,
        take_cache: Callable[[], KVCache],
        give_back: Callable[[KVCache], None],
    ) -> None:
        self._model, self._runner, self._max_rows = model, runner, max_rows
        self._take_cache, self._give_back = take_cache, give_back
        self._cache: KVCache | None = None
        self._rows: dict[int, _BatchRow] = {}
        self._pending: deque[_PendingStep] = deque()
        self._next = 0

    def add(self, prompt: Prompt, sampling: Sampling, frames: int) -> int:
        """Add a row that continues ``prompt`` and return its number. Its codes are kept until `forget`.

        Args:
            prompt: what the model continues.
            sampling: how codes are drawn.
            frames: most frames of audio; the model's longest sequence may allow fewer.

        Raises:
            RefusedRequest: the prompt fills the model's longest sequence.
            RuntimeError: no slot is free.
            ValueError: ``frames`` is less than 1.
        """
        import torch

        if frames < 1:
            raise ValueError(f"a row of {frames} frames is empty; give at least 1")
        if not self.free:
            raise RuntimeError(f"all {self._max_rows} slots are taken")
        config = self._model.config
        room = room_after(len(prompt), config)
        if room < 1:
            raise RefusedRequest(
                f"a prompt of {len(prompt)} tokens leaves no room in the {config.max_position_embeddings} that the model can take; "
                "give a shorter text or a shorter recording"
            )
        last = min(frames, room) + config.num_codebooks - 1
        with torch.inference_mode():
            prefill = self._prefill(prompt)
            if self._cache is None:
                self._cache = self._take_cache()
            slot = self._lowest_free_slot()
            self._cache.fill(slot, prefill, len(prompt), sampling, last, config.audio_stream_bos_id)
        known = np.full((last + 1, config.num_codebooks), config.audio_stream_bos_id, dtype=np.int64)
        row = _BatchRow(self._next, slot, len(prompt), sampling.candidates(config.codebook_size), known)
        self._rows[row.number] = row
        self._next += 1
        return row.number

    def step(self) -> list[int]:
        """Decode one frame of every running row. Return the numbers of rows now known to have ended.

        On a GPU the end of a row becomes known some steps later, because steps are launched ahead of their results.
        """
        import torch

        rows = [row for row in self._running() if row.launched < row.last]
        if rows:
            with torch.inference_mode():
                self._launch(rows)
        ended: list[int] = []
        pending = self._pending
        while pending and (not rows or len(pending) > self._runner.in_flight or pending[0].is_done()):
            ended += self._collect(pending.popleft())
        self._release_if_idle()
        return ended

    def cancel(self, row: int) -> None:
        """End a row, which frees its slot. Does nothing for a row that has ended or is unknown."""
        found = self._rows.get(row)
        if found is not None and found.slot is not None:
            found.slot, found.status = None, CUT
        self._release_if_idle()

    def codes(self, row: int, start: int = 0) -> "torch.Tensor":
        """Return the complete frames of a row from ``start`` on, without delay: int64 [frames, codebooks] on the CPU."""
        import torch

        found = self._rows[row]
        end = max(start, self._complete(found))
        codes = undelayed(torch.from_numpy(found.frames), start, end)
        return codes.clamp(0, min(self._stream_ids) - 1)

    def delayed(self, row: int) -> "torch.Tensor":
        """Return the model's frames of a row in the delay pattern, BOS included: int64 [frames, codebooks]."""
        import torch

        found = self._rows[row]
        return torch.from_numpy(found.frames[: found.known].copy())

    def cut(self, row: int) -> bool:
        """Whether a row ended at its frame limit or was cancelled, and not at the model's EOS."""
        return self._rows[row].status == CUT

    def forget(self, row: int) -> None:
        """Delete the codes of a row; a running row is cancelled."""
        self.cancel(row)
        self._rows.pop(row, None)

    @property
    def running(self) -> list[int]:
        """Numbers of the rows that have not ended, ascending."""
        return sorted(row.number for row in self._running())

    @property
    def free(self) -> int:
        """How many rows may join now."""
        return self._max_rows - len(self._running())

    def close(self) -> None:
        """Cancel all rows. Safe to call twice."""
        for row in self.running:
            self.cancel(row)

    @property
    def _stream_ids(self) -> tuple[int, int]:
        return self._model.config.audio_stream_bos_id, self._model.config.audio_stream_eos_id

    def _running(self) -> list[_BatchRow]:
        return [row for row in self._rows.values() if row.slot is not None]

    def _lowest_free_slot(self) -> int:
        return min(set(range(self._max_rows)) - {row.slot for row in self._running()})

    def _prefill(self, prompt: Prompt) -> Any:
        """Return the transformers cache with the keys and values of a prompt."""
        import torch
        from transformers import DynamicCache

        device = self._model.device
        inputs: dict[str, Any] = {"input_ids": prompt.ids[None].to(device), "use_cache": True}
        if len(prompt.audio):
            inputs["audio_input_ids"] = prompt.audio[None].to(device)
            inputs["audio_input_ids_mask"] = torch.ones(1, len(prompt.audio), dtype=torch.bool, device=device)
        prefill = DynamicCache(config=self._model.config)
        self._model.model(**inputs, **{_cache_keyword(self._model.model): prefill})
        return prefill

    def _launch(self, rows: list[_BatchRow]) -> None:
        """Launch a step that decodes ``rows``."""
        import torch

        cache = self._cache
        assert cache is not None
        self._compact()
        running = self._running()
        width = self._runner.width(1 + max(row.slot or 0 for row in running), self._max_rows)
        lengths = [row.length for row in rows]
        # Unused slots are computed as padding; their outputs are ignored. Their lengths are unknown, so the step needs a mask.
        shortest = min(lengths) if len(rows) == width else 0
        self._runner.run(cache, width, max(lengths), shortest, max(row.candidates for row in running))
        for row in rows:
            row.launched += 1
        out, done = cache.out[:width].clone(), None
        if out.is_cuda:
            pinned = torch.empty(out.shape, dtype=out.dtype, pin_memory=True)
            pinned.copy_(out, non_blocking=True)
            out, done = pinned, torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        self._pending.append(_PendingStep(rows, [row.slot or 0 for row in rows], out, done))

    def _compact(self) -> None:
        """Move rows to lower slots where that makes the step narrower."""
        cache = self._cache
        assert cache is not None
        running = sorted(self._running(), key=lambda row: row.slot or 0)
        width = self._runner.width
        while running and width(len(self._running()), self._max_rows) < width(1 + (running[-1].slot or 0), self._max_rows):
            row = running.pop()
            assert row.slot is not None
            target = self._lowest_free_slot()
            cache.move(row.slot, target, row.length)
            row.slot = target
            running = sorted(self._running(), key=lambda other: other.slot or 0)

    def _collect(self, step: _PendingStep) -> list[int]:
        """Store the results of a step. Return the numbers of rows that ended in it."""
        results = step.results()
        ended = []
        for row, slot in zip(step.rows, step.slots, strict=True):
            if row.slot is None:
                continue
            *codes, status = results[slot]
            row.frames[row.known] = codes
            row.known += 1
            if status != RUNNING:
                row.status, row.slot = status, None
                ended.append(row.number)
        return ended

    def _complete(self, row: _BatchRow) -> int:
        """Return how many frames have all their codes, up to the first codebook's EOS and without a final frame of EOS alone."""
        end = self._stream_ids[1]
        frames = row.frames[: row.known]
        if row.status != RUNNING and (frames[-1] == end).all():
            frames = frames[:-1]
        first_ends = np.flatnonzero(frames[:, 0] == end)
        before_end = int(first_ends[0]) - 1 if len(first_ends) else len(frames)
        books: int = frames.shape[1]
        return max(0, min(len(frames) - books, before_end))

    def _release_if_idle(self) -> None:
        """Give the KV cache back when no row is running."""
        if self._cache is not None and not self._running():
            self._pending.clear()
            self._give_back(self._cache)
            self._cache = None


def _cache_keyword(model: Any) -> str:
    """Return the name by which the model's forward pass takes its KV cache.

    transformers calls it ``cache`` from 5.24 on and ``past_key_values`` before.
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def room_after(tokens: int, config: Any) -> int:
    """Return how many frames of audio fit after a prompt of ``tokens``; the delay pattern needs ``num_codebooks - 1`` more."""
    room: int = config.max_position_embeddings - tokens - (config.num_codebooks - 1)
    return room
