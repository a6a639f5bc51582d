"""The loss: equal to the native loss up to its weights, and independent of how a step is divided into batches."""

from typing import Any

import pytest
import torch
from higgs_finetune_examples import means, small_model, tokens_of_marks

from prosody_tagger.errors import BadInput
from synth.higgs_finetune import loss as loss_module
from synth.higgs_finetune.data_loader import without_labels
from synth.higgs_finetune.examples import TrainingExample, collate
from synth.higgs_finetune.loss import HiggsLoss, label_counts
from synth.higgs_finetune.targets import add_adapter


def test_audio_loss_is_the_native_loss_over_8_and_text_loss_equals_it(model: Any, mixed: list[TrainingExample]) -> None:
    batch = collate(mixed, model.config)
    found = HiggsLoss(model, text_weight=0.3, audio_weight=2.0)(batch)
    text, *books = means(found).tolist()
    native_audio = model(**{name: value for name, value in batch.items() if name != "labels"}).loss.item()
    native_text = model(**{name: value for name, value in batch.items() if name != "audio_labels"}).loss.item()
    assert sum(books) / 8 == pytest.approx(native_audio / 8, abs=1e-5)
    assert text == pytest.approx(native_text, abs=1e-5)
    assert found.loss.item() == pytest.approx(0.3 * native_text + 2.0 * native_audio / 8, abs=1e-5)


def test_gradients_equal_those_of_the_native_loss(mixed: list[TrainingExample]) -> None:
    ours, native = small_model(), small_model()
    batch = collate(mixed, ours.config)
    HiggsLoss(ours, text_weight=1.0, audio_weight=8.0)(batch).loss.backward()
    native(**batch).loss.backward()
    for (name, one), other in zip(ours.named_parameters(), native.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_gradient_checkpointing_gives_identical_gradients(mixed: list[TrainingExample]) -> None:
    model = add_adapter(small_model(), ["attention", "audio-ffn"], dropout=0.2)
    batch = collate(mixed, model.get_base_model().config)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        loss = HiggsLoss(model, checkpointing=checkpointing).train()
        loss.zero_grad()
        loss(batch).loss.backward()
        gradients.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
    assert len(gradients[0]) > 20
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_attention_is_causal_in_a_model_set_to_eager(mixed: list[TrainingExample]) -> None:
    model = small_model()
    model.set_attn_implementation("eager")
    batch = collate(mixed, model.config)
    native = model(**batch).loss.item()
    assert HiggsLoss(model, text_weight=1.0, audio_weight=8.0)(batch).loss.item() == pytest.approx(native, abs=1e-4)


def test_heads_compute_only_labelled_positions(model: Any, mixed: list[TrainingExample]) -> None:
    seen: dict[str, int] = {}
    hooks = [
        getattr(model, name).register_forward_pre_hook(lambda _, given, name=name: seen.update({name: len(given[0])}))
        for name in ("text_lm_head", "audio_lm_head")
    ]
    batch = collate(mixed, model.config)
    HiggsLoss(model)(batch)
    for hook in hooks:
        hook.remove()
    assert seen["text_lm_head"] == (batch["labels"] != -100).sum()
    assert seen["audio_lm_head"] == (batch["audio_labels"] != -100).any(-1).sum()
    assert seen["audio_lm_head"] < batch["input_ids"].numel() / 2


def test_chunked_scoring_gives_the_same_loss_and_gradient(mixed: list[TrainingExample], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = small_model(), small_model()
    batch = collate(mixed, whole.config)
    wanted = HiggsLoss(whole)(batch)
    wanted.loss.backward()
    monkeypatch.setattr(loss_module, "MAX_LOGITS", 5 * 8 * 1026)
    found = HiggsLoss(parts)(batch)
    found.loss.backward()
    torch.testing.assert_close(found.sums, wanted.sums)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("which", ["text", "nothing"])
def test_loss_is_finite_without_audio_and_without_labels(which: str, mixed: list[TrainingExample]) -> None:
    model = add_adapter(small_model(), ["attention", "text-ffn", "audio-ffn", "heads"])
    batch = collate([mixed[3] if which == "text" else without_labels(mixed[0])], model.get_base_model().config)
    found = HiggsLoss(model)(batch)
    found.loss.backward()
    assert found.loss.isfinite()
    assert (found.loss.item() == 0) == (which == "nothing")
    trained = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in trained.values())
    assert not any(gradient.any() for name, gradient in trained.items() if "audio_mlp" in name)


def test_padding_does_not_change_the_loss(model: Any, mixed: list[TrainingExample]) -> None:
    loss = HiggsLoss(model)
    alone = sum(loss(collate([one], model.config)).sums for one in mixed)
    torch.testing.assert_close(loss(collate(mixed, model.config)).sums, alone, atol=1e-4, rtol=1e-5)


def test_micro_batches_add_up_to_the_whole_batch(mixed: list[TrainingExample]) -> None:
    whole, parts = small_model(), small_model()
    config = whole.config
    together = HiggsLoss(whole)(collate(mixed, config))
    together.loss.backward()
    batches = [collate([one], config) for one in mixed]
    totals = sum(label_counts(batch, 8) for batch in batches)
    torch.testing.assert_close(totals, together.counts)
    losses = [HiggsLoss(parts)(batch, totals).loss for batch in batches]
    assert sum(losses).item() == pytest.approx(together.loss.item(), abs=1e-5)  # type: ignore[union-attr]
    for one in losses:
        one.backward()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_label_counts_equal_the_counts_of_the_loss(model: Any, mixed: list[TrainingExample]) -> None:
    for rows in ([mixed[0]], [mixed[3]], mixed):
        batch = collate(rows, model.config)
        assert torch.equal(label_counts(batch, 8), HiggsLoss(model)(batch).counts)
        assert torch.equal(label_counts(batch, 8, text=False), HiggsLoss(model, text_weight=0.0)(batch).counts)


def test_the_loss_of_a_batch_is_reproducible(model: Any, mixed: list[TrainingExample]) -> None:
    first, second = (collate(mixed, model.config) for _ in "12")
    assert all(torch.equal(first[name], second[name]) for name in first)
    loss = HiggsLoss(model)
    assert torch.equal(loss(first).loss, loss(first).loss)
    assert all(torch.equal(first[name], second[name]) for name in first)  # scoring does not change the batch


def test_half_precision_is_close_and_sums_losses_in_float32(mixed: list[TrainingExample]) -> None:
    exact = HiggsLoss(small_model())(collate(mixed, small_model().config))
    model = small_model().to(torch.bfloat16)
    found = HiggsLoss(model, half=True)(collate(mixed, model.config))
    assert found.sums.dtype == torch.float32
    torch.testing.assert_close(means(found), means(exact), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(("text", "audio"), [(-0.1, 1.0), (float("nan"), 1.0), (0.1, float("inf")), (0.0, 0.0)])
def test_invalid_loss_weights_are_refused(model: Any, text: float, audio: float) -> None:
    with pytest.raises(BadInput, match="weight"):
        HiggsLoss(model, text_weight=text, audio_weight=audio)


def test_only_the_text_loss_needs_a_text_head(mixed: list[TrainingExample]) -> None:
    from tiny_higgs import tiny_model

    model = tiny_model()
    with pytest.raises(BadInput, match="--text-loss-weight 0"):
        HiggsLoss(model)
    found = HiggsLoss(model, text_weight=0.0)(collate(mixed, model.config))
    assert found.counts[0] == 0
    assert found.loss > 0


def test_trained_rows_are_looked_up_as_in_peft(mixed: list[TrainingExample]) -> None:
    marks = list(tokens_of_marks(small_model().config).values())
    layer = add_adapter(small_model(), ["attention"], mark_ids=marks).get_base_model().model.embed_tokens.token_adapter
    with torch.no_grad():
        layer.trainable_tokens_delta["default"].normal_()
    ids = torch.tensor([[1, marks[2], 3, marks[0], marks[0]]])
    gradients = []
    for look_up in (layer.forward, lambda ids: type(layer).forward(layer, ids)):
        found = look_up(ids)
        (found * torch.arange(5.0)[None, :, None]).sum().backward()
        gradients.append((found.detach(), layer.trainable_tokens_delta["default"].grad.clone()))
        layer.trainable_tokens_delta["default"].grad = None
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)
