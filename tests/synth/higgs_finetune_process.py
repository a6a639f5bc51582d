"""Training in a process of its own, to be started with torchrun or killed: python FILE ranks|killed FOLDER."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from higgs_finetune_examples import Quiet, fit, random_speech, small_model, writing
from safetensors.torch import save_file

from synth.higgs_finetune.data_loader import Examples
from synth.higgs_finetune.evaluation import Evaluation
from synth.higgs_finetune.examples import Example
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.trainer import Figures, make_accelerator

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
"""A run in which everything that can be forgotten plays a part."""


def rows_with_and_without_audio(config: Any) -> list[Example]:
    """Of like length by twos, so that one of two processes gets text alone."""
    spoken = random_speech(4, config, seed=3)
    return [*spoken, *(writing(list(range(len(one) - 4)), [1, 2, 3], config) for one in spoken)]


def train_on_ranks(folder: Path, ranks: int) -> None:
    """A few steps on ``ranks`` processes, of which each batch has 4 rows; what is trained goes into ``weights.safetensors``."""
    model = small_model()
    config = model.config
    accelerator = make_accelerator("cpu")
    held_out = Evaluation(Examples(random_speech(3, config, seed=8)), config, FinetuneSettings(batch_size=2), accelerator)
    trained, outcome, told = fit(
        model,
        rows_with_and_without_audio(config),
        folder,
        accelerator=accelerator,
        evaluate=held_out,
        targets=["attention", "text-ffn", "audio-ffn", "heads"],
        batch_size=4 // ranks,
        grad_accum=1,
        num_epochs=3,
        learning_rate=1e-2,
    )
    if accelerator.is_main_process:
        weights = {name: weight.detach() for name, weight in trained.named_parameters() if weight.requires_grad}
        weights["losses"] = torch.tensor(told.losses)
        weights["held_out"] = torch.tensor([outcome.held_out["audio"], outcome.held_out["shuffled"]])
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "weights.safetensors")


class _Killer(Quiet):
    def stepped(self, step: int, figures: Figures) -> None:
        super().stepped(step, figures)
        if step == KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(folder: Path) -> None:
    model = small_model()
    fit(model, random_speech(9, model.config), folder, watcher=_Killer(), **RESUMED)


if __name__ == "__main__":
    torch.set_num_threads(1)
    mode, folder = sys.argv[1], Path(sys.argv[2])
    if mode == "ranks":
        train_on_ranks(folder, int(os.environ["WORLD_SIZE"]))
    else:
        train_until_killed(folder)
