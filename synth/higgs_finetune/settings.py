"""How a training run goes."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from synth.higgs_finetune.targets import DEFAULT_TARGETS


class FinetuneSettings(BaseModel):
    """What a run is told.

    Attributes:
        batch_size: rows of a batch, on each process.
        grad_accum: batches whose gradients make one step: as if they were one batch.
        learning_rate: the highest; it rises over the first ``warmup`` of all steps and then falls to 0 along a cosine.
        lora_r, lora_alpha, lora_dropout: rank, scale (alpha / r) and dropout of the adapter.
        targets: what of the model it changes, `synth.higgs_finetune.targets.TARGETS`.
        num_epochs: how often each row is seen.
        max_steps: stop after so many steps, whatever is left; the learning rate falls as it would have without.
        text_loss_weight, audio_loss_weight: of the two losses; the audio loss is the mean over codebooks.
        weight_decay: of AdamW, on the adapter's factors.
        max_grad_norm: gradients together longer than this are shortened to it.
        precision: auto is bf16 on a GPU and fp32 elsewhere. Trained weights are always fp32.
        gradient_checkpointing: forget what is inside a layer and compute it again: a third more time for much less memory.
        save_every: steps from checkpoint to checkpoint.
        keep_checkpoints: how many of the latest stay.
        eval_every: steps from evaluation to evaluation; 0 is once an epoch.
        sample_rows: held-out rows that are spoken at every evaluation.
        loader_workers: processes that prepare batches; 0 prepares them in between.
        seed: of the order of rows, of the adapter's first weights and of dropout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(default=4, ge=1, le=4096)
    grad_accum: int = Field(default=4, ge=1, le=4096)
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    warmup: float = Field(default=0.03, ge=0, le=1)
    lora_r: int = Field(default=16, ge=1, le=1024)
    lora_alpha: int = Field(default=32, ge=1, le=4096)
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: tuple[str, ...] = DEFAULT_TARGETS
    num_epochs: int = Field(default=3, ge=1, le=100_000)
    max_steps: int | None = Field(default=None, ge=1)
    text_loss_weight: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    audio_loss_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    gradient_checkpointing: bool = True
    save_every: int = Field(default=200, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    eval_every: int = Field(default=0, ge=0)
    sample_rows: int = Field(default=3, ge=0, le=64)
    loader_workers: int = Field(default=0, ge=0, le=64)
    seed: int = Field(default=0, ge=0, lt=1 << 32)

    def course(self) -> dict[str, object]:
        """What must stay the same for a run to go on as it would have gone: all but what only watches and keeps."""
        watches = {"save_every", "keep_checkpoints", "eval_every", "sample_rows", "loader_workers", "max_steps"}
        return self.model_dump(mode="json", exclude=watches)


CHECKPOINTS = "checkpoints"
"""Folder within a run's that holds its checkpoints, each named for its step."""

JOURNAL = "log.jsonl"
"""File within a run's folder with a line for each step and evaluation."""


def checkpoints(output: Path) -> Path:
    return output / CHECKPOINTS
