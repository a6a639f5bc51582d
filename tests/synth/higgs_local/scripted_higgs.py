"""A fake of `synth.higgs_local.engine.HiggsEngine` without a model, which a test can make fail."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from prosody_tagger.markup import MarkedText, render
from synth.base import Audio
from synth.higgs_local.prompt import Prompt
from synth.higgs_local.sampling import Sampling
from synth.higgs_local.settings import HiggsLocalSettings

HOP, BOOKS = 960, 8


@dataclass
class ScriptedRow:
    said: str
    length: int
    most: int
    ran: int = 0

    @property
    def complete(self) -> int:
        return max(0, min(self.ran - BOOKS, self.length, self.most))

    @property
    def ended(self) -> bool:
        return self.complete == min(self.length, self.most)


class ScriptedBatch:
    def __init__(self, engine: "ScriptedEngine") -> None:
        self.engine = engine
        self.rows: dict[int, ScriptedRow] = {}
        self.kept: dict[int, ScriptedRow] = {}
        self.count = 0
        self.closed = False

    def add(self, prompt: Any, sampling: Sampling, frames: int) -> int:
        if not self.free:
            raise RuntimeError("no slot is free")
        said = prompt.said
        length = 10**9 if "forever" in said else self.engine.frames_per_word * len(said.split())
        self.rows[self.count] = self.kept[self.count] = ScriptedRow(said, length, frames)
        self.count += 1
        return self.count - 1

    def step(self) -> list[int]:
        assert not self.closed
        assert self.rows, "a step without rows"
        self.engine.at_step(self)
        self.engine.steps += 1
        self.engine.widest = max(self.engine.widest, len(self.rows))
        self.engine.log.append(tuple(row.said for row in self.rows.values()))
        for row in self.rows.values():
            row.ran += 1
        ended = [number for number, row in self.rows.items() if row.ended]
        for number in ended:
            del self.rows[number]
        return ended

    def cancel(self, row: int) -> None:
        self.rows.pop(row, None)

    def codes(self, row: int, start: int = 0) -> torch.Tensor:
        self.engine.at_codes(self.kept[row].said)
        return torch.arange(start, self.kept[row].complete)[:, None].repeat(1, BOOKS) % 1024

    def cut(self, row: int) -> bool:
        return self.kept[row].length > self.kept[row].most

    def forget(self, row: int) -> None:
        assert row not in self.rows
        self.kept.pop(row, None)

    @property
    def running(self) -> list[int]:
        return list(self.rows)

    @property
    def free(self) -> int:
        return self.engine.settings.max_batch - len(self.rows)

    def close(self) -> None:
        self.closed = True
        self.engine.closed += 1


class ScriptedStream:
    """Audio whose samples are the frame's number over 1024, so that a lost or repeated frame is detected."""

    def push(self, codes: torch.Tensor) -> Audio:
        return Audio(np.repeat(codes[:, 0].numpy().astype(np.float32) / 1024, HOP), 24_000)

    def finish(self) -> Audio:
        return Audio(np.zeros(0, np.float32), 24_000)


@dataclass
class ScriptedEngine:
    """The callbacks ``at_step``, ``at_codes`` and ``at_prompt`` may raise."""

    settings: HiggsLocalSettings
    model: Any = field(default_factory=lambda: SimpleNamespace(config=SimpleNamespace(num_codebooks=BOOKS)))
    codec: Any = field(default_factory=lambda: SimpleNamespace(reach=0))
    rate: int = 24_000
    frames_per_second: float = 25.0
    frames_per_word: int = 10
    steps: int = 0
    widest: int = 0
    closed: int = 0
    log: list[tuple[str, ...]] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    batches: list[ScriptedBatch] = field(default_factory=list)
    at_step: Callable[[ScriptedBatch], object] = lambda _: None
    at_codes: Callable[[str], object] = lambda _: None
    at_prompt: Callable[[str], object] = lambda _: None

    def prompt(self, text: MarkedText, **rest: Any) -> Any:
        said = render(text)
        self.at_prompt(said)
        self.prompts.append({"said": said, **rest})
        return SimpleNamespace(said=said)

    def sampling(self, seed: int | None = None) -> Sampling:
        return Sampling(seed=seed)

    def start(self, prompts: Sequence[Prompt], samplings: Sequence[Sampling], frames: Sequence[int]) -> ScriptedBatch:
        batch = ScriptedBatch(self)
        for prompt, sampling, most in zip(prompts, samplings, frames, strict=True):
            batch.add(prompt, sampling, most)
        self.batches.append(batch)
        return batch

    def stream(self) -> ScriptedStream:
        return ScriptedStream()
