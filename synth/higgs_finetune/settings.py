"""Hyperparameters of a training run, and the names of the files in its output folder."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from synth.higgs_finetune.targets import DEFAULT_TARGETS


class FinetuneSettings(BaseModel):
    """Hyperparameters of a training run.

    Attributes:
        batch_size: rows in a batch, on each process.
        grad_accum: batches whose gradients are added up for one optimizer step, as if they were one batch.
        learning_rate: peak of the learning rate: linear warm-up, then half a cosine down to 0.
        warmup: share of all steps that the warm-up takes.
        lora_r, lora_alpha, lora_dropout: rank, scale (alpha / r) and dropout of the adapter.
        targets: parts of the model that get LoRA, keys of `synth.higgs_finetune.targets.TARGETS`.
        num_epochs: number of times that each row is used.
        max_steps: stop after this many steps; the learning rate schedule still has its full length.
        text_loss_weight, audio_loss_weight: weights of the two losses; the audio loss is the mean over the codebooks.
        weight_decay: weight decay of AdamW, on the adapter's weights.
        max_grad_norm: the gradient is clipped to this norm.
        precision: precision of the base model; auto is bf16 on a GPU and fp32 elsewhere. Trained weights are always fp32.
        gradient_checkpointing: recompute each layer's activations in the backward pass: about a third more time, much less memory.
        save_every: steps between checkpoints.
        keep_checkpoints: number of newest checkpoints to keep.
        eval_every: steps between evaluations; 0 evaluates after every epoch.
        sample_rows: held-out rows to generate speech for at every evaluation.
        loader_workers: processes that prepare batches; 0 prepares them in the training process.
        seed: seed of the order of rows, of the adapter's initial weights and of dropout.
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

    def resume_key(self) -> dict[str, object]:
        """Return the settings that must match on resume. Options of logging and checkpoints, and ``max_steps``, may differ."""
        may_differ = {"save_every", "keep_checkpoints", "eval_every", "sample_rows", "loader_workers", "max_steps"}
        return self.model_dump(mode="json", exclude=may_differ)


CHECKPOINTS_FOLDER = "checkpoints"
"""Folder within the output folder with a folder for each checkpoint, named for its step."""

METRICS_FILE = "log.jsonl"
"""Metrics log within the output folder: a line for each step, evaluation and sample."""


def checkpoints_folder(output: Path) -> Path:
    """Return the folder of checkpoints within an output folder."""
    return output / CHECKPOINTS_FOLDER
