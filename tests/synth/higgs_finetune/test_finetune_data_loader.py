"""Micro-batches of a step on any number of processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from higgs_finetune_examples import fit, random_speech, small_model

from synth.higgs_finetune.data_loader import ExampleDataset, StepLoader
from synth.higgs_finetune.examples import collate
from synth.higgs_finetune.loss import label_counts


@pytest.mark.parametrize("count", [1, 5, 12, 13])
def test_an_epoch_scores_every_row_once_on_any_number_of_processes(model: Any, count: int) -> None:
    examples = ExampleDataset(random_speech(count, model.config))
    wanted = sum(label_counts(collate([examples[index]], model.config), 8) for index in range(count))
    for parts, ranks in ((1, 1), (2, 1), (2, 2), (1, 4)):
        loaders = [
            StepLoader(examples, model.config, batch_size=2, micro_batches=parts, rank=rank, ranks=ranks) for rank in range(ranks)
        ]
        found = torch.zeros(9)
        lengths = set()
        for loader in loaders:
            done = list(loader.remaining_steps())
            lengths.add(len(done))
            assert all(len(step) == parts for step in done)
            found += sum(label_counts(batch, 8) for step in done for batch in step)
        assert len(lengths) == 1
        torch.testing.assert_close(found, wanted)


def test_batches_of_loader_processes_are_the_same(tmp_path: Path) -> None:
    losses = []
    for workers in (0, 2):
        model = small_model()
        rows = random_speech(5, model.config)
        _, _, recorder = fit(model, rows, tmp_path / str(workers), loader_workers=workers, batch_size=2, lora_dropout=0.1)
        losses.append(recorder.losses)
    assert losses[0] == losses[1]
