"""Held-out losses and the leak test."""

from pathlib import Path
from typing import Any

import pytest
import torch
from higgs_finetune_examples import fit, means, random_speech, small_model, speech, writing

from prosody_tagger.errors import ProsodyError
from synth.higgs_finetune import loss as loss_module
from synth.higgs_finetune.data_loader import ExampleDataset
from synth.higgs_finetune.evaluation import HeldOutEvaluation, only_code_labels, order_entropy, shuffle_codes
from synth.higgs_finetune.examples import TrainingExample, collate
from synth.higgs_finetune.loss import HiggsLoss
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.trainer import make_accelerator

TOTAL = ["attention", "audio-ffn", "heads"]


def test_the_loss_of_random_codes_stays_at_their_entropy(tmp_path: Path) -> None:
    """A model that sees the labels would get below their entropy, ln 16."""
    model = small_model()
    config = model.config
    trained, _, recorder = fit(
        model,
        random_speech(48, config, codes=16),
        tmp_path,
        targets=TOTAL,
        learning_rate=1e-2,
        num_epochs=10,
        batch_size=12,
        grad_accum=1,
    )
    held_out = [only_code_labels(one, config) for one in random_speech(16, config, codes=16, seed=99)]
    with torch.no_grad():
        audio = means(HiggsLoss(trained)(collate(held_out, config)))[1:].mean().item()
    learnt = torch.tensor(16.0).log().item()
    assert recorder.losses[0] > 7  # ln 1026, the loss of an untrained model, is 6.9
    assert learnt - 0.05 <= audio < learnt + 0.5


def test_labels_that_are_not_shifted_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label_losses = loss_module._label_losses

    def unshifted(head: Any, hidden: torch.Tensor, labels: torch.Tensor) -> Any:
        return label_losses(head, hidden[:, [*range(1, hidden.shape[1]), 0]], labels)

    monkeypatch.setattr(loss_module, "_label_losses", unshifted)
    model = small_model(num_codebooks=2)
    accelerator = make_accelerator("cpu")
    held_out = ExampleDataset(random_speech(6, model.config, codes=4, seed=99, frames=(40, 50)))
    evaluation = HeldOutEvaluation(held_out, model.config, FinetuneSettings(), accelerator)
    with pytest.raises(ProsodyError, match="leak"):
        fit(
            model,
            random_speech(16, model.config, codes=4, frames=(20, 30)),
            tmp_path,
            evaluate=evaluation,
            accelerator=accelerator,
            targets=TOTAL,
            learning_rate=1e-2,
            num_epochs=30,
            batch_size=8,
            grad_accum=1,
            eval_every=10,
        )


def test_shuffling_moves_only_learnt_codes(model: Any, mixed: list[TrainingExample]) -> None:
    one, config = mixed[2], model.config
    other = shuffle_codes(one, config, seed=1)
    learnt = (one.audio_labels >= 0) & (one.audio_labels < 1024)
    assert torch.equal(other.audio_ids[~learnt], one.audio_ids[~learnt])
    assert torch.equal(other.audio_labels[learnt], other.audio_ids[learnt])
    assert torch.equal(other.audio_labels[~learnt], one.audio_labels[~learnt])
    assert not torch.equal(other.audio_ids, one.audio_ids)
    for book in range(8):
        assert torch.equal(other.audio_ids[:, book].sort().values, one.audio_ids[:, book].sort().values)
    assert torch.equal(shuffle_codes(one, config, seed=1).audio_ids, other.audio_ids)


def test_order_entropy_equals_unigram_entropy_for_long_rows(model: Any) -> None:
    config = model.config
    nats, codes = order_entropy(speech([1], torch.arange(4000 * 8).reshape(-1, 8) % 4, config), config)
    assert codes == 32000
    assert nats / codes <= 1e-9  # 8 is a multiple of 4: each codebook has one code alone
    nats, codes = order_entropy(speech([1], (torch.arange(4000)[:, None] % 4).expand(-1, 8), config), config)
    assert nats / codes == pytest.approx(torch.tensor(4.0).log().item(), abs=0.01)
    assert order_entropy(writing([1], [2], config), config) == (0.0, 0)
