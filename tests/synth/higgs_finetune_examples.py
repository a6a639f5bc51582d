"""Examples to train on, made of random codes or of given ones, and a model of a few thousand weights to train."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tiny_higgs import tiny_model, tiny_tokenizer

from synth.higgs_finetune.data_loader import Examples
from synth.higgs_finetune.examples import IGNORED, Example
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.targets import add_adapter, mark_tokens
from synth.higgs_finetune.trainer import Figures, Outcome, make_accelerator, train
from synth.higgs_local.prompt import delayed

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


def small_model(seed: int = 0, **changes: Any) -> Any:
    return tiny_model(seed, text_head=True, **(SMALL | changes))


def speech(text: Sequence[int], codes: torch.Tensor, config: Any, *, reference: torch.Tensor | None = None) -> Example:
    """Text, and the codes [n, codebooks] that answer it; before them maybe those of a recording, which are not learnt."""
    turns = [] if reference is None else [delayed(reference, config)]
    turns.append(delayed(codes, config))
    ids: list[int] = []
    for frames in turns:
        held = config.num_codebooks - 1
        placeholders = [config.audio_token_id] * (len(frames) - held) + [config.audio_delay_token_id] * held
        ids += [*text, config.audio_bos_token_id, *placeholders, config.eos_token_id]
    answer = turns[-1]
    ends = answer == config.audio_stream_eos_id
    labels = answer.masked_fill((answer == config.audio_stream_bos_id) | (ends & (ends.cumsum(0) > 1)), IGNORED)
    ids_tensor = torch.tensor(ids)
    text_labels = torch.full_like(ids_tensor, IGNORED)
    text_labels[-1] = ids[-1]
    text_labels[-len(answer) - 2] = config.audio_bos_token_id
    unlearnt = [torch.full_like(frames, IGNORED) for frames in turns[:-1]]
    return Example(ids_tensor, torch.cat(turns), text_labels, torch.cat([*unlearnt, labels]))


def writing(text: Sequence[int], answer: Sequence[int], config: Any) -> Example:
    """Text answered by text."""
    ids = torch.tensor([*text, *answer, config.eos_token_id])
    labels = ids.clone()
    labels[: len(text)] = IGNORED
    none = torch.zeros(0, config.num_codebooks, dtype=torch.int64)
    return Example(ids, none, labels, none)


def random_speech(count: int, config: Any, *, seed: int = 0, codes: int = 1024, frames: tuple[int, int] = (6, 14)) -> list[Example]:
    """Rows of text and of codes below ``codes`` that have nothing to do with each other."""
    chance = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=chance))

    return [
        speech(
            [number(0, 200) for _ in range(number(3, 9))],
            torch.randint(codes, (number(*frames), config.num_codebooks), generator=chance),
            config,
        )
        for _ in range(count)
    ]


class Quiet:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[Figures] = []
        self.warnings: list[str] = []

    def started(self, step: int, steps: int) -> None: ...

    def stepped(self, step: int, figures: Figures) -> None:
        self.steps.append(figures)

    def evaluated(self, step: int, figures: Figures) -> None: ...

    def warned(self, text: str) -> None:
        self.warnings.append(text)

    @property
    def losses(self) -> list[float]:
        return [figures["loss"] for figures in self.steps]


def fit(
    model: Any,
    examples: Sequence[Example],
    folder: Path,
    *,
    marks: Sequence[int] = (),
    evaluate: Any = None,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    watcher: Any = None,
    **changes: Any,
) -> tuple[Any, Outcome, Quiet]:
    """Train an adapter of ``model``; the model with it, how it ended, and what was told."""
    settings = FinetuneSettings(**({"lora_dropout": 0.0, "gradient_checkpointing": False, "save_every": 1000} | changes))
    torch.manual_seed(settings.seed)
    adapted = add_adapter(
        model,
        settings.targets,
        r=settings.lora_r,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        mark_ids=marks,
    )
    seen = watcher or Quiet()
    chosen = accelerator or make_accelerator("cpu")
    outcome = train(
        settings, adapted, Examples(examples), folder, watcher=seen, evaluate=evaluate, resume=resume, accelerator=chosen
    )
    return adapted, outcome, seen


def tokens_of_marks(config: Any) -> dict[str, int]:
    return {kind: mark.id for kind, mark in mark_tokens(tiny_tokenizer(), config).items()}
