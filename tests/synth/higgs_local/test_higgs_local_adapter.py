"""Adapters: their files, whether they fit a model, exact switching, merging, and the commands."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from higgs_local_adapters import MARKS, make_model, save_adapter, save_trained, scores
from typer.testing import CliRunner

from ai_core.commands.adapter import app
from prosody_tagger.errors import BadInput
from synth.errors import BackendUnavailable
from synth.higgs_local.adapter import AdapterCatalogue, AdapterError, check_fit, find_adapters, read_adapter
from synth.higgs_local.base_model import describe_folder, describe_model
from synth.higgs_local.lora import AdapterSwitch, load_weights
from synth.higgs_local.merge import merge
from synth.higgs_local.prosody_file import TrainedMark, read_prosody, write_prosody


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model()


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained adapters and one without marks."""
    folder = tmp_path_factory.mktemp("adapters")
    save_trained(model, folder / "marks", seed=1)
    save_trained(model, folder / "emph", {"emph": MARKS["emph"]}, seed=2)
    save_adapter(model, folder / "voice", seed=3)
    return folder


@pytest.fixture(scope="module")
def checkpoint(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "model"
    model.save_pretrained(path)
    (path / "tokenizer.json").write_text("{}")
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of an adapter that a test may damage."""
    return Path(shutil.copytree(folder / "marks", tmp_path / "copy"))


def peft_scores(folder: Path, model: Any) -> torch.Tensor:
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(model, folder).eval()
    found = scores(wrapped)
    wrapped.unload()
    return found


def test_what_is_written_is_read(model: Any, folder: Path) -> None:
    adapter = read_adapter(folder / "marks")
    assert adapter.name == "marks"
    assert adapter.rank == 4
    assert len(adapter.modules) == 14
    assert adapter.rows == (280, 281)
    assert dict(adapter.marks) == MARKS
    prosody = adapter.prosody
    assert prosody is not None
    assert prosody.targets == 14
    assert prosody.base == describe_model(model, "tiny").base
    assert set(prosody.versions) == {"peft", "torch", "transformers"}
    assert check_fit(adapter, describe_model(model, "another name")) == ()


def test_an_adapter_without_prosody_json_is_a_voice_without_marks(model: Any, folder: Path) -> None:
    adapter = read_adapter(folder / "voice")
    assert adapter.prosody is None
    assert not adapter.marks
    (warning,) = check_fit(adapter, describe_model(model, "tiny"))
    assert "prosody.json" in warning


def test_every_adapter_of_a_folder_is_found(folder: Path, tmp_path: Path) -> None:
    assert list(find_adapters(folder)) == ["emph", "marks", "voice"]
    assert find_adapters(tmp_path / "nowhere") == {}


def test_switching_gives_pefts_scores_and_the_base_to_the_bit(folder: Path) -> None:
    model = make_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    base = scores(model)
    wanted = {name: peft_scores(folder / name, make_model()) for name in ("marks", "emph", "voice")}
    loaded = {name: load_weights(read_adapter(folder / name)) for name in wanted}
    switch = AdapterSwitch(model)
    for name in ("marks", "emph", "voice", "marks"):
        switch.activate(loaded[name])
        assert switch.active is loaded[name]
        torch.testing.assert_close(scores(model), wanted[name], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(scores(model), base, atol=1e-2)
    switch.activate(None)
    assert torch.equal(scores(model), base)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_addresses_of_weights_stay(folder: Path) -> None:
    """CUDA graphs and compiled code read the weights at fixed addresses."""
    model = make_model()
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    switch = AdapterSwitch(model)
    switch.activate(load_weights(read_adapter(folder / "marks")))
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == before


def test_a_switch_that_fails_leaves_the_base(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    base = scores(model)
    switch = AdapterSwitch(model)
    switch.activate(load_weights(read_adapter(folder / "emph")))

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(switch, "_change_rows", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        switch.activate(load_weights(read_adapter(folder / "marks")))
    assert switch.active is None
    assert torch.equal(scores(model), base)


@pytest.mark.parametrize(
    "lora",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.0\.self_attn\.v_proj": 3}},
        {"lora_alpha": 1},
    ],
    ids=["rslora", "patterns", "alpha"],
)
def test_scaling_is_pefts(lora: dict[str, Any], tmp_path: Path) -> None:
    save_adapter(make_model(), tmp_path / "a", **lora)
    model = make_model()
    AdapterSwitch(model).activate(load_weights(read_adapter(tmp_path / "a")))
    torch.testing.assert_close(scores(model), peft_scores(tmp_path / "a", make_model()), atol=1e-5, rtol=1e-5)


def test_half_precision_is_rounded_once(folder: Path) -> None:
    model = make_model().to(torch.bfloat16)
    before = model.model.layers[0].self_attn.q_proj.weight.clone()
    loaded = load_weights(read_adapter(folder / "marks"))
    AdapterSwitch(model).activate(loaded)
    factors = loaded.layers["model.layers.0.self_attn.q_proj"]
    wanted = before.float() + factors.scale * (factors.b @ factors.a)
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, wanted.to(torch.bfloat16))


def test_changes_of_the_text_head_are_left_out_where_there_is_none(tmp_path: Path) -> None:
    whole, model = make_model(text_head=True), make_model()
    model.load_state_dict(whole.state_dict(), strict=False)
    save_adapter(whole, tmp_path / "a", target_modules=["q_proj", "text_lm_head", "audio_lm_head"])
    adapter = read_adapter(tmp_path / "a")
    check_fit(adapter, describe_model(model, "tiny"))
    AdapterSwitch(model).activate(load_weights(adapter))
    torch.testing.assert_close(scores(model), peft_scores(tmp_path / "a", whole), atol=1e-5, rtol=1e-5)


# Adapters that do not fit are refused


def test_another_base_of_the_same_shape_is_refused(folder: Path) -> None:
    with pytest.raises(AdapterError, match="other weights of the same shape"):
        check_fit(read_adapter(folder / "marks"), describe_model(make_model(seed=5), "other"))


def test_the_base_is_the_same_in_any_precision(folder: Path) -> None:
    check_fit(read_adapter(folder / "marks"), describe_model(make_model().to(torch.bfloat16), "half"))


def test_a_base_with_an_adapter_in_it_is_still_the_base(folder: Path) -> None:
    model = make_model()
    AdapterSwitch(model).activate(load_weights(read_adapter(folder / "marks")))
    check_fit(read_adapter(folder / "marks"), describe_model(model, "tiny"))


def test_a_model_that_peft_has_wrapped_is_still_the_base(model: Any, folder: Path) -> None:
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(make_model(), folder / "marks")
    assert describe_model(wrapped.get_base_model(), "tiny").base == describe_model(model, "tiny").base


def test_another_shape_is_refused(folder: Path) -> None:
    with pytest.raises(AdapterError, match=r"intermediate_size 48.*has 64"):
        check_fit(read_adapter(folder / "marks"), describe_model(make_model(intermediate_size=64), "wide"))


def test_layers_of_another_shape_are_refused_without_prosody_json(folder: Path) -> None:
    with pytest.raises(AdapterError, match=r"has 32 x 64 weights, not 32 x 48"):
        check_fit(read_adapter(folder / "voice"), describe_model(make_model(intermediate_size=64), "wide"))


def test_layers_that_are_not_there_are_refused(folder: Path) -> None:
    with pytest.raises(AdapterError, match=r"model\.layers\.1\.\S+, which does not exist"):
        check_fit(read_adapter(folder / "voice"), describe_model(make_model(num_hidden_layers=1), "short"))


def test_a_count_of_targets_that_does_not_match_is_refused(copy: Path) -> None:
    edit(copy / "prosody.json", lambda data: data.update(targets=196))
    with pytest.raises(AdapterError, match=r"changes 14 layers, and its prosody\.json says 196"):
        read_adapter(copy)


def test_a_target_that_hit_nothing_is_refused(tmp_path: Path) -> None:
    save_adapter(make_model(), tmp_path / "a", target_modules=["self_attn.q_proj", "audio_attn.q_proj"])
    with pytest.raises(AdapterError, match=r"'audio_attn\.q_proj'"):
        read_adapter(tmp_path / "a")


def test_a_mark_on_a_control_token_is_refused(model: Any, tmp_path: Path) -> None:
    save_trained(model, tmp_path / "a", {"emph": TrainedMark("<|AUDIO_OUT|>", 293)})
    with pytest.raises(AdapterError, match="token 293, but 'tiny' uses that token"):
        check_fit(read_adapter(tmp_path / "a"), describe_model(model, "tiny"))


def test_a_mark_past_the_vocabulary_is_refused(model: Any, copy: Path) -> None:
    edit(copy / "prosody.json", lambda data: data["marks"]["emph"].update(id=300))
    with pytest.raises(AdapterError, match="<emph> at token 300, but 'tiny' has no such token"):
        check_fit(read_adapter(copy), describe_model(model, "tiny"))


def test_a_mark_whose_row_was_not_trained_is_told(model: Any, copy: Path) -> None:
    edit(copy / "prosody.json", lambda data: data["marks"]["emph"].update(id=279))
    (warning,) = check_fit(read_adapter(copy), describe_model(model, "tiny"))
    assert "emph" in warning


def edit(path: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(format=2), "format 2"),
        (lambda d: d.pop("marks"), "'marks' is missing"),
        (lambda d: d["marks"].update(shout={"token": "<x>", "id": 1}), "unknown mark 'shout'"),
        (lambda d: d["marks"]["emph"].update(id=281), "share a token"),
        (lambda d: d["marks"]["emph"].update(id="280"), "not an integer of 0 or more"),
        (lambda d: d["marks"]["emph"].update(id=True), "not an integer of 0 or more"),
        (lambda d: d["marks"]["emph"].update(id=-1), "not an integer of 0 or more"),
        (lambda d: d["marks"]["emph"].update(token="\x1b[2J"), "is not a string"),
        (lambda d: d.update(marks=[1]), "cannot be used"),
        (lambda d: d.update(base=None), "cannot be used"),
        (lambda d: d["base"].update(shape={"hidden_size": math.nan}), "not an integer of 0 or more"),
    ],
)
def test_a_broken_prosody_json_is_refused(change: Callable[[Any], object], said: str, copy: Path) -> None:
    edit(copy / "prosody.json", change)
    with pytest.raises(AdapterError, match=said):
        read_prosody(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"a":' * 100_000, b" " * 2_000_000])
@pytest.mark.parametrize("name", ["prosody.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_file_of_something_else_is_refused(name: str, content: bytes, copy: Path) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(AdapterError):
        read_adapter(copy)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_refused(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(AdapterError):
        read_adapter(copy)


@pytest.mark.parametrize("key", ["use_dora", "fan_in_fan_out", "modules_to_save"])
def test_other_kinds_of_lora_are_refused(key: str, copy: Path) -> None:
    edit(copy / "adapter_config.json", lambda data: data.update({key: ["x"]}))
    with pytest.raises(AdapterError, match=key):
        read_adapter(copy)


def test_another_type_of_adapter_is_refused(copy: Path) -> None:
    edit(copy / "adapter_config.json", lambda data: data.update(peft_type="IA3"))
    with pytest.raises(AdapterError, match="'IA3'"):
        read_adapter(copy)


def test_weights_beside_lora_are_refused(copy: Path) -> None:
    change_tensors(copy, lambda tensors: tensors.update({"base_model.model.model.norm.weight": torch.ones(32)}))
    with pytest.raises(AdapterError, match=r"model\.norm\.weight"):
        read_adapter(copy)


def test_half_a_layer_is_refused(copy: Path) -> None:
    change_tensors(copy, lambda tensors: tensors.pop("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"))
    with pytest.raises(AdapterError, match="do not fit"):
        read_adapter(copy)


def test_numbers_that_are_none_are_refused(copy: Path) -> None:
    change_tensors(copy, lambda tensors: next(iter(tensors.values())).fill_(math.nan))
    with pytest.raises(AdapterError, match="NaN"):
        load_weights(read_adapter(copy))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def test_marks_are_checked_before_they_are_written(model: Any, copy: Path) -> None:
    before = (copy / "prosody.json").read_bytes()
    base = describe_model(model, "tiny").base
    for marks in ({"shout": TrainedMark("<x>", 1)}, {"emph": TrainedMark("<x>", 1), "pitch_low": TrainedMark("<y>", 1)}):
        with pytest.raises(AdapterError):
            write_prosody(copy, base, marks)
    assert (copy / "prosody.json").read_bytes() == before


def test_prosody_json_is_not_written_where_no_adapter_is(model: Any, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="save the adapter first"):
        write_prosody(tmp_path, describe_model(model, "tiny").base, MARKS)


# The catalogue


def test_an_adapter_is_the_same_object_until_its_files_change(copy: Path) -> None:
    catalogue = AdapterCatalogue(copy.parent)
    first = catalogue.all()["copy"]
    assert catalogue.all()["copy"] is first
    edit(copy / "prosody.json", lambda data: data["marks"].pop("emph"))
    changed = catalogue.all()["copy"]
    assert not isinstance(changed, AdapterError)
    assert set(changed.marks) == {"pause_short"}
    (copy / "adapter_config.json").unlink()
    assert catalogue.all() == {}


def test_a_broken_adapter_is_listed_with_the_reason(copy: Path) -> None:
    (copy / "prosody.json").write_text("{")
    assert isinstance(AdapterCatalogue(copy.parent).all()["copy"], AdapterError)


# Merging


def test_a_merged_checkpoint_gives_the_adapters_scores(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    from transformers import HiggsAudioV2ForConditionalGeneration

    result = merge(folder / "marks", checkpoint, tmp_path / "merged")
    assert result.error < 1e-5
    assert result.targets == 14
    reloaded = HiggsAudioV2ForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(scores(reloaded), peft_scores(folder / "marks", make_model()), atol=1e-5, rtol=1e-5)
    assert (tmp_path / "merged" / "tokenizer.json").read_text() == "{}"
    assert read_prosody(tmp_path / "merged") == read_prosody(folder / "marks")


def test_a_merged_checkpoint_keeps_text_head_and_precision(tmp_path: Path) -> None:
    from safetensors import safe_open

    make_model(text_head=True).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    save_adapter(make_model(text_head=True), tmp_path / "a")
    result = merge(tmp_path / "a", tmp_path / "base", tmp_path / "merged")
    assert 0 < result.error < 5e-2
    with safe_open(tmp_path / "merged" / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("text_lm_head.weight").dtype == torch.bfloat16


def test_a_merge_that_is_not_the_adapter_writes_nothing(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prosody_tagger.errors import ProsodyError

    monkeypatch.setattr("synth.higgs_local.merge.load_weights", lambda _: load_weights(read_adapter(folder / "emph")))
    with pytest.raises(ProsodyError, match="away from the adapter's"):
        merge(folder / "marks", checkpoint, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_merge_into_another_base_is_refused(folder: Path, tmp_path: Path) -> None:
    make_model(seed=9).save_pretrained(tmp_path / "other")
    with pytest.raises(AdapterError, match="other weights"):
        merge(folder / "marks", tmp_path / "other", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_merge_does_not_write_over_anything(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(BadInput, match="exists already"):
        merge(folder / "marks", checkpoint, tmp_path)


def test_a_checkpoint_of_several_files_is_the_same_base(model: Any, folder: Path, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "base", max_shard_size="100KB")
    assert (tmp_path / "base" / "model.safetensors.index.json").is_file()
    opened = describe_folder(tmp_path / "base", "tiny")
    assert opened.base == describe_model(model, "tiny").base
    assert check_fit(read_adapter(folder / "marks"), opened) == ()


# The commands


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_list_tells_marks_and_what_cannot_be_used(folder: Path, copy: Path) -> None:
    listed = json.loads(run("list", folder, "--json").stdout)
    assert {entry["name"]: list(entry["marks"]) for entry in listed["adapters"]} == {
        "emph": ["emph"],
        "marks": ["emph", "pause_short"],
        "voice": [],
    }
    (copy / "prosody.json").write_text("{")
    (entry,) = json.loads(run("list", copy.parent, "--json").stdout)["adapters"]
    assert "cannot be read" in entry["error"]
    assert "cannot be used" in run("list", copy.parent).stdout


def test_list_without_a_folder_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROSODY_HIGGS_LOCAL__ADAPTERS", raising=False)
    result = run("list")
    assert isinstance(result.exception, BadInput)
    assert "PROSODY_HIGGS_LOCAL__ADAPTERS" in str(result.exception)


def test_list_takes_the_folder_of_the_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSODY_HIGGS_LOCAL__ADAPTERS", str(folder))
    assert len(json.loads(run("list", "--json").stdout)["adapters"]) == 3


def test_check_compares_with_a_base_on_disk(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    shown = json.loads(run("check", folder / "marks", "--base", checkpoint, "--json").stdout)
    assert shown["warnings"] == []
    assert shown["layers"] == 14
    assert "it fits" in run("check", folder / "marks", "--base", checkpoint).stdout
    assert isinstance(run("check", folder / "marks", "--base", tmp_path).exception, BackendUnavailable)


def test_merge_by_command(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    shown = json.loads(run("merge", folder / "marks", "--base", checkpoint, "-o", tmp_path / "m", "--json").stdout)
    assert shown["targets"] == 14
    assert (tmp_path / "m" / "model.safetensors").is_file()
