"""Training in a process of its own, for torchrun or to be killed: python FILE ranks|killed FOLDER."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from higgs_finetune_examples import Recorder, fit, random_speech, small_model, trained_weights, writing
from safetensors.torch import save_file

from synth.higgs_finetune.data_loader import ExampleDataset
from synth.higgs_finetune.evaluation import HeldOutEvaluation
from synth.higgs_finetune.examples import TrainingExample
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.trainer import StepMetrics, make_accelerator

KILLED_AFTER = 5
RESUMED: dict[str, Any] = {
    "lora_dropout": 0.1,
    "gradient_checkpointing": True,
    "save_every": 2,
    "batch_size": 2,
    "grad_accum": 2,
    "num_epochs": 3,
    "learning_rate": 1e-2,
    "targets": ["attention", "audio-ffn", "heads"],
}
"""Settings under which everything that a checkpoint saves affects the result."""


def rows_with_and_without_audio(config: Any) -> list[TrainingExample]:
    """Return pairs of examples of equal length, one with audio and one without, so that one of two processes gets text alone."""
    spoken = random_speech(4, config, seed=3)
    return [*spoken, *(writing(list(range(len(one) - 4)), [1, 2, 3], config) for one in spoken)]


def train_on_ranks(folder: Path, ranks: int) -> None:
    """Train a few steps of 4 rows on ``ranks`` processes; write the trained weights and losses to ``weights.safetensors``."""
    model = small_model()
    config = model.config
    accelerator = make_accelerator("cpu")
    held_out = ExampleDataset(random_speech(3, config, seed=8))
    evaluate = HeldOutEvaluation(held_out, config, FinetuneSettings(batch_size=2), accelerator)
    trained, result, recorder = fit(
        model,
        rows_with_and_without_audio(config),
        folder,
        accelerator=accelerator,
        evaluate=evaluate,
        targets=["attention", "text-ffn", "audio-ffn", "heads"],
        batch_size=4 // ranks,
        grad_accum=1,
        num_epochs=3,
        learning_rate=1e-3,
    )
    if accelerator.is_main_process:
        weights = trained_weights(trained)
        weights["losses"] = torch.tensor(recorder.losses)
        weights["held_out"] = torch.tensor([result.held_out["audio"], result.held_out["shuffled"]])
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "weights.safetensors")


class _Killer(Recorder):
    """Kills its own process after a number of steps."""

    def on_step(self, step: int, metrics: StepMetrics) -> None:
        super().on_step(step, metrics)
        if step == KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(folder: Path) -> None:
    model = small_model()
    fit(model, random_speech(9, model.config), folder, observer=_Killer(), **RESUMED)


if __name__ == "__main__":
    torch.set_num_threads(1)
    mode, folder = sys.argv[1], Path(sys.argv[2])
    if mode == "ranks":
        train_on_ranks(folder, int(os.environ["WORLD_SIZE"]))
    else:
        train_until_killed(folder)
