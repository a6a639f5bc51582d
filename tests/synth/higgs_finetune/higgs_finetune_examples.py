"""Training examples of random or given codes, a model of a few thousand weights, and a function that trains it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tiny_higgs import tiny_model, tiny_tokenizer

from synth.higgs_finetune.data_loader import ExampleDataset
from synth.higgs_finetune.examples import IGNORED, TrainingExample
from synth.higgs_finetune.loss import BatchLoss
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.targets import add_adapter, mark_tokens
from synth.higgs_finetune.trainer import StepMetrics, TrainingResult, make_accelerator, train
from synth.higgs_local.prompt import delayed

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


def small_model(seed: int = 0, **changes: Any) -> Any:
    return tiny_model(seed, text_head=True, **(SMALL | changes))


def speech(text: Sequence[int], codes: torch.Tensor, config: Any, *, reference: torch.Tensor | None = None) -> TrainingExample:
    """Return text tokens answered by codes [n, codebooks], after the codes of a reference recording if one is given."""
    turns = [] if reference is None else [delayed(reference, config)]
    turns.append(delayed(codes, config))
    ids: list[int] = []
    for frames in turns:
        delay = config.num_codebooks - 1
        placeholders = [config.audio_token_id] * (len(frames) - delay) + [config.audio_delay_token_id] * delay
        ids += [*text, config.audio_bos_token_id, *placeholders, config.eos_token_id]
    answer = turns[-1]
    ends = answer == config.audio_stream_eos_id
    labels = answer.masked_fill((answer == config.audio_stream_bos_id) | (ends & (ends.cumsum(0) > 1)), IGNORED)
    ids_tensor = torch.tensor(ids)
    text_labels = torch.full_like(ids_tensor, IGNORED)
    text_labels[-1] = ids[-1]
    text_labels[-len(answer) - 2] = config.audio_bos_token_id
    unlearnt = [torch.full_like(frames, IGNORED) for frames in turns[:-1]]
    return TrainingExample(ids_tensor, torch.cat(turns), text_labels, torch.cat([*unlearnt, labels]))


def writing(text: Sequence[int], answer: Sequence[int], config: Any) -> TrainingExample:
    """Return text tokens answered by text tokens."""
    ids = torch.tensor([*text, *answer, config.eos_token_id])
    labels = ids.clone()
    labels[: len(text)] = IGNORED
    none = torch.zeros(0, config.num_codebooks, dtype=torch.int64)
    return TrainingExample(ids, none, labels, none)


def random_speech(
    count: int, config: Any, *, seed: int = 0, codes: int = 1024, frames: tuple[int, int] = (6, 14)
) -> list[TrainingExample]:
    """Return examples of random text and of random codes below ``codes``, independent of each other."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    return [
        speech(
            [number(0, 200) for _ in range(number(3, 9))],
            torch.randint(codes, (number(*frames), config.num_codebooks), generator=generator),
            config,
        )
        for _ in range(count)
    ]


class Recorder:
    """A `TrainingObserver` that records metrics and warnings."""

    def __init__(self) -> None:
        self.steps: list[StepMetrics] = []
        self.warnings: list[str] = []

    def on_start(self, step: int, steps: int) -> None: ...

    def on_step(self, step: int, metrics: StepMetrics) -> None:
        self.steps.append(metrics)

    def on_evaluation(self, step: int, metrics: StepMetrics) -> None: ...

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)

    @property
    def losses(self) -> list[float]:
        return [metrics["loss"] for metrics in self.steps]


def fit(
    model: Any,
    examples: Sequence[TrainingExample],
    folder: Path,
    *,
    marks: Sequence[int] = (),
    evaluate: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    accelerator: Accelerator | None = None,
    observer: Any = None,
    **changes: Any,
) -> tuple[Any, TrainingResult, Recorder]:
    """Train an adapter of ``model``; return the adapted model, the result and the observer."""
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
    recorder = observer or Recorder()
    result = train(
        settings,
        adapted,
        ExampleDataset(examples),
        folder,
        observer=recorder,
        evaluate=evaluate,
        resume=resume,
        overwrite=overwrite,
        accelerator=accelerator or make_accelerator("cpu"),
    )
    return adapted, result, recorder


def means(losses: BatchLoss) -> torch.Tensor:
    """Return the mean cross-entropies: [1 + codebooks]."""
    return losses.sums / losses.counts.clamp(min=1)


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def tokens_of_marks(config: Any) -> dict[str, int]:
    return {kind: mark.id for kind, mark in mark_tokens(tiny_tokenizer(), config).items()}
