"""Estimate of memory and time."""

from typing import Any

import torch
from higgs_finetune_examples import random_speech, small_model

from synth.higgs_finetune.data_loader import ExampleDataset
from synth.higgs_finetune.resource_estimate import estimate_resources
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.targets import add_adapter


def test_the_memory_estimate_grows_with_the_batch_and_shrinks_with_checkpointing() -> None:
    rows = ExampleDataset(random_speech(8, small_model().config))
    model = add_adapter(small_model(), ["attention"])
    torch.manual_seed(5)
    state = torch.get_rng_state()

    def activations(**changes: Any) -> int:
        return estimate_resources(model, rows, FinetuneSettings(**changes)).activations

    small, large = activations(batch_size=1), activations(batch_size=4)
    assert 3 * small < large <= 4 * small
    assert activations(batch_size=4, gradient_checkpointing=False) > large
    assert torch.equal(torch.get_rng_state(), state)  # the estimate does not change the result of the run
    estimate = estimate_resources(model, rows, FinetuneSettings(num_epochs=2, batch_size=2, grad_accum=2))
    assert estimate.steps == 4
    assert estimate.tokens == sum(rows.lengths)
    assert estimate.weights == sum(weight.nbytes for weight in small_model().parameters())
    assert estimate.seconds > 0
    assert not estimate.exceeds_memory
    assert "4 steps" in estimate.summary()
