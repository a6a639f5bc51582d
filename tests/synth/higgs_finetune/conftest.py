"""Fixtures of the tests of fine-tuning."""

from typing import Any

import pytest
import torch
from higgs_finetune_examples import random_speech, small_model, speech, writing

from synth.higgs_finetune.examples import TrainingExample


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Any:
    """Return a model that tests do not change."""
    return small_model()


@pytest.fixture(scope="module")
def mixed(model: Any) -> list[TrainingExample]:
    """Return rows of different lengths: two with audio, one with a reference recording too, and one with text alone."""
    config = model.config
    codes = torch.randint(1024, (9, 8), generator=torch.Generator().manual_seed(5))
    voice = torch.randint(1024, (4, 8), generator=torch.Generator().manual_seed(6))
    return [*random_speech(2, config), speech([7, 8], codes, config, reference=voice), writing([1, 2, 3], [4, 5, 6], config)]
