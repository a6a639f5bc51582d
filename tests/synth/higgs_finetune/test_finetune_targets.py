"""Targets of LoRA and tokens of marks: found, counted, and trained without changing anything else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from higgs_finetune_examples import fit, random_speech, small_model, speech, tokens_of_marks
from tiny_higgs import tiny_model, tiny_tokenizer
from tokenizers import AddedToken

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS
from synth.higgs_finetune.examples import collate
from synth.higgs_finetune.loss import HiggsLoss
from synth.higgs_finetune.targets import TARGETS, add_adapter, disable_input_cast, find_targets, mark_tokens, parse_targets


def test_targets_are_found_and_counted() -> None:
    found = find_targets(small_model(), list(TARGETS))
    assert {target: len(names) for target, names in found.items()} == {
        "attention": 8,
        "text-ffn": 6,
        "audio-ffn": 6,
        "heads": 2,
    }
    assert "model.layers.1.mlp.gate_proj" in found["text-ffn"]
    assert not any("audio_mlp" in name for name in found["text-ffn"])
    assert find_targets(tiny_model(), ["heads"]) == {"heads": ["audio_lm_head"]}


def test_a_target_that_matches_nothing_is_an_error() -> None:
    broken = small_model()
    for layer in broken.model.layers:
        layer.audio_mlp = torch.nn.Identity()
    with pytest.raises(BadInput, match="'audio-ffn' matches 0 layers of the model and should match 6"):
        add_adapter(broken, ["attention", "audio-ffn"])
    with pytest.raises(BadInput, match="heads"):
        find_targets(torch.nn.Linear(2, 2), ["heads"])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("attention,audio-ffn", ("attention", "audio-ffn")),
        (" audio_ffn , ATTENTION,attention", ("attention", "audio-ffn")),
        ("heads", ("heads",)),
    ],
)
def test_targets_are_parsed(given: str, wanted: tuple[str, ...]) -> None:
    assert parse_targets(given) == wanted


@pytest.mark.parametrize("given", ["", " , ", "lm_head", "attention,audio_head", "attention\x00"])
def test_unknown_targets_are_refused(given: str) -> None:
    with pytest.raises(BadInput, match="the targets are attention, text-ffn, audio-ffn, heads"):
        parse_targets(given)


@pytest.mark.parametrize("given", ["audio_attn", "attention,audio-attn.q_proj", "use_audio_out_self_attention"])
def test_audio_attention_is_refused_with_the_reason(given: str) -> None:
    with pytest.raises(BadInput, match="random weights"):
        parse_targets(given)


def test_marks_get_unused_reserved_tokens() -> None:
    tokenizer, config = tiny_tokenizer(), tiny_model().config
    every = mark_tokens(tokenizer, config)
    assert list(every) == list(KINDS)
    assert len({mark.id for mark in every.values()}) == len(KINDS)
    for mark in every.values():
        assert tokenizer.convert_tokens_to_ids(mark.token) == mark.id != config.audio_delay_token_id
    assert mark_tokens(tokenizer, config, ["pitch_low"]) == {"pitch_low": every["pitch_low"]}


def test_a_tokenizer_without_enough_reserved_tokens_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    config = tiny_model().config
    config.audio_bos_token_id = tokenizer.convert_tokens_to_ids("<|reserved_special_token_12|>")
    with pytest.raises(BadInput, match="6 unused reserved tokens"):
        mark_tokens(tokenizer, config)
    tokenizer.add_tokens([AddedToken("<|reserved_special_token_99|>")])  # its id is beyond the model's embedding
    with pytest.raises(BadInput, match="6 unused reserved tokens"):
        mark_tokens(tokenizer, config)


@pytest.mark.parametrize("targets", [["attention"], ["audio-ffn", "heads"], list(TARGETS)], ids="+".join)
def test_only_the_adapter_and_trained_rows_get_gradients(targets: list[str]) -> None:
    model = small_model()
    marks = list(tokens_of_marks(model.config).values())[:2]
    wrapped = add_adapter(model, targets, mark_ids=marks)
    batch = collate([speech([5, marks[0], 6], torch.arange(32).reshape(4, 8), model.config)], model.config)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.02)  # B is initialised with zeros, which would pass no gradient to A
    HiggsLoss(wrapped)(batch).loss.backward()
    layers = [name for names in find_targets(small_model(), targets).values() for name in names]
    expected = {f"base_model.model.{layer}.lora_{part}.default.weight" for layer in layers for part in "AB"}
    rows = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta.default"
    with_gradient = {name for name, weight in wrapped.named_parameters() if weight.grad is not None}
    assert with_gradient == expected | {rows}
    assert all(wrapped.get_parameter(name).grad.any() for name in expected)
    gradient = wrapped.get_parameter(rows).grad
    assert gradient[0].any()
    assert not gradient[1].any()


def test_training_does_not_change_the_base(tmp_path: Path) -> None:
    model = small_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    marks = list(tokens_of_marks(model.config).values())
    rows = [speech([1, mark, 2], torch.full((3, 8), mark), model.config) for mark in marks]
    wrapped, _, recorder = fit(
        model, rows, tmp_path, marks=marks, targets=list(TARGETS), learning_rate=1e-2, num_epochs=3, batch_size=4, grad_accum=1
    )
    assert recorder.losses[-1] < recorder.losses[0]
    after = wrapped.unload().state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_trained_weights_are_float32_over_a_base_in_half_precision() -> None:
    model = add_adapter(small_model().to(torch.bfloat16), ["attention"], mark_ids=[270])
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    disable_input_cast(model)
    batch = collate(random_speech(2, model.get_base_model().config), model.get_base_model().config)
    found = HiggsLoss(model, half=True)(batch)
    found.loss.backward()
    assert all(weight.grad.dtype == torch.float32 for weight in model.parameters() if weight.requires_grad)


def test_the_saved_configuration_has_the_hyperparameters(tmp_path: Path) -> None:
    wrapped: Any = add_adapter(small_model(), ["attention", "heads"], r=4, alpha=8, dropout=0.1)
    wrapped.save_pretrained(tmp_path, save_embedding_layers=False)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.1)
