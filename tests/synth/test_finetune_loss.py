"""The loss: that of the native model over 8, scored once shifted, cut up in any way, and a leak found out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from higgs_finetune_examples import fit, random_speech, small_model, speech, tokens_of_marks, writing

from prosody_tagger.errors import BadInput, ProsodyError
from synth.higgs_finetune import loss as loss_module
from synth.higgs_finetune.balance import Balance
from synth.higgs_finetune.data_loader import Examples, Steps, unscored
from synth.higgs_finetune.evaluation import Evaluation, only_codes, order_entropy, shuffled
from synth.higgs_finetune.examples import Example, collate
from synth.higgs_finetune.loss import HiggsLoss, label_counts
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.targets import add_adapter
from synth.higgs_finetune.trainer import losses_of, make_accelerator

TOTAL = ["attention", "audio-ffn", "heads"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.fixture(scope="module")
def mixed(model: Any) -> list[Example]:
    """Rows with audio, with a recording before it, and with text alone, of different lengths."""
    config = model.config
    codes = torch.randint(1024, (9, 8), generator=torch.Generator().manual_seed(5))
    voice = torch.randint(1024, (4, 8), generator=torch.Generator().manual_seed(6))
    return [*random_speech(2, config), speech([7, 8], codes, config, reference=voice), writing([1, 2, 3], [4, 5, 6], config)]


def means(losses: loss_module.Losses) -> torch.Tensor:
    return losses.sums / losses.counts.clamp(min=1)


def test_audio_loss_is_the_native_one_over_8_and_text_loss_the_native_one(model: Any, mixed: list[Example]) -> None:
    batch = collate(mixed, model.config)
    found = HiggsLoss(model, text_weight=0.3, audio_weight=2.0)(batch)
    text, *books = means(found).tolist()
    native_audio = model(**{name: value for name, value in batch.items() if name != "labels"}).loss.item()
    native_text = model(**{name: value for name, value in batch.items() if name != "audio_labels"}).loss.item()
    assert sum(books) / 8 == pytest.approx(native_audio / 8, abs=1e-5)
    assert text == pytest.approx(native_text, abs=1e-5)
    assert found.loss.item() == pytest.approx(0.3 * native_text + 2.0 * native_audio / 8, abs=1e-5)


def test_gradients_are_those_of_the_native_loss(mixed: list[Example]) -> None:
    ours, native = small_model(), small_model()
    batch = collate(mixed, ours.config)
    HiggsLoss(ours, text_weight=1.0, audio_weight=8.0)(batch).loss.backward()
    native(**batch).loss.backward()
    for (name, one), other in zip(ours.named_parameters(), native.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_layers_computed_again_give_the_same_gradients_to_the_bit(mixed: list[Example]) -> None:
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


def test_attention_is_causal_whatever_computes_it(mixed: list[Example]) -> None:
    model = small_model()
    model.set_attn_implementation("eager")
    batch = collate(mixed, model.config)
    native = model(**batch).loss.item()
    assert HiggsLoss(model, text_weight=1.0, audio_weight=8.0)(batch).loss.item() == pytest.approx(native, abs=1e-4)


def test_heads_see_only_places_with_a_label(model: Any, mixed: list[Example]) -> None:
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


def test_scored_in_parts_gives_the_same_loss_and_gradient(mixed: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = small_model(), small_model()
    batch = collate(mixed, whole.config)
    wanted = HiggsLoss(whole)(batch)
    wanted.loss.backward()
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 5 * 8 * 1026)
    found = HiggsLoss(parts)(batch)
    found.loss.backward()
    torch.testing.assert_close(found.sums, wanted.sums)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("which", ["text", "nothing"])
def test_a_batch_without_audio_or_without_any_label_is_finite(which: str, mixed: list[Example]) -> None:
    model = add_adapter(small_model(), ["attention", "text-ffn", "audio-ffn", "heads"])
    batch = collate([mixed[3] if which == "text" else unscored(mixed[0])], model.get_base_model().config)
    found = HiggsLoss(model)(batch)
    found.loss.backward()
    assert found.loss.isfinite()
    assert (found.loss.item() == 0) == (which == "nothing")
    trained = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in trained.values())
    assert not any(gradient.any() for name, gradient in trained.items() if "audio_mlp" in name)


def test_padding_makes_no_difference(model: Any, mixed: list[Example]) -> None:
    loss = HiggsLoss(model)
    alone = sum(loss(collate([one], model.config)).sums for one in mixed)
    torch.testing.assert_close(loss(collate(mixed, model.config)).sums, alone, atol=1e-4, rtol=1e-5)


def test_parts_of_a_step_add_up_to_the_whole(mixed: list[Example]) -> None:
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


def test_what_is_counted_before_is_what_is_scored(model: Any, mixed: list[Example]) -> None:
    for rows in ([mixed[0]], [mixed[3]], mixed):
        batch = collate(rows, model.config)
        assert torch.equal(label_counts(batch, 8), HiggsLoss(model)(batch).counts)
        assert torch.equal(label_counts(batch, 8, text=False), HiggsLoss(model, text_weight=0.0)(batch).counts)


def test_a_sample_collated_twice_is_the_same(model: Any, mixed: list[Example]) -> None:
    first, second = (collate(mixed, model.config) for _ in "12")
    assert all(torch.equal(first[name], second[name]) for name in first)
    loss = HiggsLoss(model)
    assert torch.equal(loss(first).loss, loss(first).loss)
    assert all(torch.equal(first[name], second[name]) for name in first)  # scoring changes nothing in it


def test_half_precision_is_near_and_keeps_losses_whole(mixed: list[Example]) -> None:
    exact = HiggsLoss(small_model())(collate(mixed, small_model().config))
    model = small_model().to(torch.bfloat16)
    found = HiggsLoss(model, half=True)(collate(mixed, model.config))
    assert found.sums.dtype == torch.float32
    torch.testing.assert_close(means(found), means(exact), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(("text", "audio"), [(-0.1, 1.0), (float("nan"), 1.0), (0.1, float("inf")), (0.0, 0.0)])
def test_weights_that_cannot_be_are_refused(model: Any, text: float, audio: float) -> None:
    with pytest.raises(BadInput, match="weight"):
        HiggsLoss(model, text_weight=text, audio_weight=audio)


def test_text_without_a_text_head_is_refused_and_audio_alone_is_not(mixed: list[Example]) -> None:
    from tiny_higgs import tiny_model

    model = tiny_model()
    with pytest.raises(BadInput, match="--text-loss-weight 0"):
        HiggsLoss(model)
    found = HiggsLoss(model, text_weight=0.0)(collate(mixed, model.config))
    assert found.counts[0] == 0
    assert found.loss > 0


def test_trained_rows_are_looked_up_as_peft_does(mixed: list[Example]) -> None:
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


def test_random_codes_stay_unpredictable(tmp_path: Path) -> None:
    """Leak: whoever sees what it predicts would get below ln 16."""
    model = small_model()
    config = model.config
    trained, _, told = fit(
        model,
        random_speech(48, config, codes=16),
        tmp_path,
        targets=TOTAL,
        learning_rate=1e-2,
        num_epochs=10,
        batch_size=12,
        grad_accum=1,
    )
    held_out = [only_codes(one, config) for one in random_speech(16, config, codes=16, seed=99)]
    with torch.no_grad():
        audio = means(HiggsLoss(trained)(collate(held_out, config)))[1:].mean().item()
    learnt = torch.tensor(16.0).log().item()
    assert told.losses[0] > 7  # it began by knowing nothing
    assert learnt - 0.05 <= audio < learnt + 0.5


def test_labels_that_are_not_shifted_stop_the_run_as_a_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = loss_module._scored

    def unshifted(head: Any, hidden: torch.Tensor, labels: torch.Tensor) -> Any:
        return scored(head, hidden[:, [*range(1, hidden.shape[1]), 0]], labels)

    monkeypatch.setattr(loss_module, "_scored", unshifted)
    model = small_model(num_codebooks=2)
    accelerator = make_accelerator("cpu")
    held_out = Examples(random_speech(6, model.config, codes=4, seed=99, frames=(40, 50)))
    evaluation = Evaluation(held_out, model.config, FinetuneSettings(), accelerator)
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


def test_shuffling_moves_learnt_codes_alone(model: Any, mixed: list[Example]) -> None:
    one, config = mixed[2], model.config
    other = shuffled(one, config, seed=1)
    learnt = (one.audio_labels >= 0) & (one.audio_labels < 1024)
    assert torch.equal(other.audio_ids[~learnt], one.audio_ids[~learnt])
    assert torch.equal(other.audio_labels[learnt], other.audio_ids[learnt])
    assert torch.equal(other.audio_labels[~learnt], one.audio_labels[~learnt])
    assert not torch.equal(other.audio_ids, one.audio_ids)
    for book in range(8):
        assert torch.equal(other.audio_ids[:, book].sort().values, one.audio_ids[:, book].sort().values)
    assert torch.equal(shuffled(one, config, seed=1).audio_ids, other.audio_ids)


def test_the_entropy_of_the_order_is_that_of_unigrams_for_long_rows(model: Any) -> None:
    config = model.config
    nats, codes = order_entropy(speech([1], torch.arange(4000 * 8).reshape(-1, 8) % 4, config), config)
    assert codes == 32000
    assert nats / codes <= 1e-9  # 8 is a multiple of 4: each codebook has one code alone
    nats, codes = order_entropy(speech([1], (torch.arange(4000)[:, None] % 4).expand(-1, 8), config), config)
    assert nats / codes == pytest.approx(torch.tensor(4.0).log().item(), abs=0.01)
    assert order_entropy(writing([1], [2], config), config) == (0.0, 0)


def test_losses_without_labels_are_left_out() -> None:
    settings = FinetuneSettings()
    none = losses_of(torch.zeros(9), torch.zeros(9), settings)
    assert none == {"loss": 0.0}
    text = losses_of(torch.tensor([6.0, *[0.0] * 8]), torch.tensor([3.0, *[0.0] * 8]), settings)
    assert text == {"loss": pytest.approx(0.2), "text": 2.0}


def test_a_path_that_falls_far_behind_is_told_of_once() -> None:
    balance = Balance()
    said = [balance.add({"text": 5.0, "audio": 7.0 * 0.97**step}) for step in range(200)]
    (warning,) = [text for text in said if text]
    assert "--text-loss-weight" in warning
    again = Balance(balance.state())
    assert again.add({"text": 5.0, "audio": 0.01}) is None
    assert not any(Balance().add({"text": 5.0 - step / 100, "audio": 7.0}) for step in range(3))


@pytest.mark.parametrize("count", [1, 5, 12, 13])
def test_steps_cover_every_row_once_on_any_number_of_processes(model: Any, count: int) -> None:
    examples = Examples(random_speech(count, model.config))
    wanted = sum(label_counts(collate([examples[index]], model.config), 8) for index in range(count))
    for parts, ranks in ((1, 1), (2, 1), (2, 2), (1, 4)):
        steps = [Steps(examples, model.config, batch_size=2, parts=parts, rank=rank, ranks=ranks) for rank in range(ranks)]
        found = torch.zeros(9)
        lengths = set()
        for rank in steps:
            done = list(rank.rest_of_epoch())
            lengths.add(len(done))
            assert all(len(step) == parts for step in done)
            found += sum(label_counts(batch, 8) for step in done for batch in step)
        assert len(lengths) == 1
        torch.testing.assert_close(found, wanted)
