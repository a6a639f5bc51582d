"""Converted checkpoints, codecs and adapters give the results that boson_multimodal gave (benchmarks/boson_parity.py)."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ai_core.commands.convert import higgs
from prosody_tagger.errors import BadInput
from synth.higgs_local.boson_format.codec import native_codec, read_tensors
from synth.higgs_local.boson_format.convert import convert_adapter, convert_checkpoint, convert_codec
from synth.higgs_local.weights_file import read_header

DATA = Path(__file__).parents[2] / "data"
RECORDED = json.loads((DATA / "boson_parity.json").read_text())
TENSORS = load_file(DATA / "boson_parity.safetensors")
WEIGHTS = {name.removeprefix("model."): tensor for name, tensor in TENSORS.items() if name.startswith("model.")}
CASES = range(len(RECORDED["cases"]))
EOS = RECORDED["config"]["audio_stream_eos_id"]
TARGETS = r".*\.layers\.\d+\.(self_attn\.[qkvo]_proj|audio_mlp\.(gate|up|down)_proj)"


def write_old(folder: Path, *, shards: int = 1, config: dict[str, Any] | None = None) -> Path:
    """Write the recorded model as a folder in the old format."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**RECORDED["config"], **(config or {})}))
    (folder / "tokenizer.json").write_text(json.dumps(RECORDED["tokenizer"]))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|eot_id|>"})
    )
    if shards == 1:
        save_file(WEIGHTS, folder / "model.safetensors")
        return folder
    where = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: WEIGHTS[name] for name in sorted(WEIGHTS)[number::shards]}
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert_checkpoint(write_old(folder / "old", shards=3), folder / "new")
    return folder / "new"


@pytest.fixture(scope="module")
def model(native: Path) -> Any:
    from transformers import HiggsAudioV2ForConditionalGeneration

    return HiggsAudioV2ForConditionalGeneration.from_pretrained(native, use_text_head=True).eval()


def asked(case: dict[str, Any], config: Any) -> dict[str, torch.Tensor]:
    """Return the prompt of a case in the native format, with a placeholder for each frame of the recording."""
    ids, frames = case["ids"], case["recording"]
    if frames is None:
        return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    at = ids.index(config.audio_token_id)
    late = config.num_codebooks - 1
    ids = [*ids[:at], *[config.audio_token_id] * (len(frames) - late), *[config.audio_delay_token_id] * late, *ids[at + 1 :]]
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "audio_input_ids": torch.tensor([frames]),
        "audio_input_ids_mask": torch.ones(1, len(frames), dtype=torch.bool),
    }


def test_the_record_is_worth_comparing_with() -> None:
    frames = [torch.tensor(case["frames"]) for case in RECORDED["cases"]]
    assert {case["ended"] for case in RECORDED["cases"]} == {True, False}
    assert {case["recording"] is None for case in RECORDED["cases"]} == {True, False}
    assert all(len(frame.unique()) > 10 for frame in frames)
    assert sum(file.stat().st_size for file in DATA.glob("boson_parity.*")) < 500_000


@pytest.mark.parametrize("number", CASES)
@torch.no_grad()
def test_logits_are_those_of_boson_multimodal(model: Any, number: int) -> None:
    inputs = asked(RECORDED["cases"][number], model.config)
    wanted = TENSORS[f"case{number}.audio_logits"]
    frames = torch.tensor([RECORDED["cases"][number]["frames"][: len(wanted)]])
    length = inputs["input_ids"].shape[1]
    codes = [inputs["audio_input_ids"]] if "audio_input_ids" in inputs else []
    ids = torch.cat([inputs["input_ids"], torch.full((1, len(wanted)), model.config.audio_token_id)], dim=1)
    output = model(input_ids=ids, audio_input_ids=torch.cat([*codes, frames], dim=1), output_hidden_states=True)
    torch.testing.assert_close(output.logits[0, length:].reshape(wanted.shape), wanted, atol=1e-5, rtol=0)
    text = model.text_lm_head(output.hidden_states[-1])[0, length - 8 : length]
    torch.testing.assert_close(text, TENSORS[f"case{number}.text_logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("number", CASES)
def test_greedy_codes_are_those_of_boson_multimodal(model: Any, number: int) -> None:
    case = RECORDED["cases"][number]
    inputs = asked(case, model.config)
    found = model.generate(**inputs, max_new_tokens=RECORDED["limit"], do_sample=False, ras_win_len=None)[0]
    found = found[inputs["audio_input_ids"].shape[1] :] if "audio_input_ids" in inputs else found
    wanted = torch.tensor(case["frames"])
    assert torch.equal(found[: len(wanted)], wanted)
    # At the end of a sequence, the native model adds a frame of EOS only.
    rest = found[len(wanted) :]
    assert len(rest) <= case["ended"]
    assert torch.all(rest == EOS)


def test_weights_are_the_same_bit_for_bit(native: Path, tmp_path: Path) -> None:
    files = sorted(native.glob("*.safetensors"))
    assert len(files) == 3
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert len(found) == len(WEIGHTS)
    assert torch.equal(found["audio_lm_head.weight"], WEIGHTS["audio_decoder_proj.audio_lm_head.weight"])
    assert torch.equal(found["model.layers.1.audio_mlp.up_proj.weight"], WEIGHTS["layers.1.audio_mlp.up_proj.weight"])
    where = json.loads((native / "model.safetensors.index.json").read_text())
    assert where["weight_map"].keys() == found.keys()
    assert where["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())


def test_every_type_of_number_stays(tmp_path: Path) -> None:
    old = write_old(tmp_path / "old")
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in WEIGHTS.items()}, old / "model.safetensors")
    convert_checkpoint(old, tmp_path / "new")
    assert {tensor.dtype for tensor in load_file(tmp_path / "new" / "model.safetensors").values()} == {torch.bfloat16}


def test_the_folder_loads_with_its_tokenizer_and_settings(native: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    config = AutoConfig.from_pretrained(native)
    tokenizer = AutoTokenizer.from_pretrained(native)
    assert type(config).__name__ == "HiggsAudioV2Config"
    assert config.codebook_size == RECORDED["config"]["audio_codebook_size"] + 2
    assert config.eos_token_id == tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert config.audio_delay_token_id == tokenizer.convert_tokens_to_ids("<|reserved_special_token_6|>")
    settings = GenerationConfig.from_pretrained(native)
    assert (settings.ras_win_len, settings.ras_win_max_num_repeat, settings.temperature) == (7, 2, 0.7)


def test_progress_ends_at_all_of_it(tmp_path: Path) -> None:
    to_backend_error: list[tuple[int, int]] = []
    done = convert_checkpoint(write_old(tmp_path / "old", shards=2), tmp_path / "new", lambda *far: to_backend_error.append(far))
    assert to_backend_error == sorted(to_backend_error)
    assert to_backend_error[-1] == (done.size, done.size)
    assert done.size == sum(tensor.nbytes for tensor in WEIGHTS.values())


Spoil = Callable[[Path], object]


def in_config(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return spoil


def in_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        tensors = dict(WEIGHTS)
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def renumbered(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    next(token for token in tokenizer["added_tokens"] if token["content"] == "<|AUDIO_OUT|>")["id"] += 1
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


BROKEN: dict[str, tuple[Spoil, str]] = {
    "native already": (in_config(model_type="higgs_audio_v2"), "native form already"),
    "another model": (in_config(model_type="llama"), "'llama'"),
    "no type": (in_config(model_type=None), "None"),
    "audio attention": (in_config(use_audio_out_self_attention=True), "audio_attn"),
    "averaged codes": (in_config(audio_embed_avg=True), "audio_embed_avg"),
    "projected codes": (in_config(use_audio_out_embed_projector=True), "use_audio_out_embed_projector"),
    "RQ": (in_config(use_rq_transformer=True), "RQ-Transformer"),
    "Whisper": (in_config(skip_audio_tower=False), "Whisper"),
    "no delay": (in_config(use_delay_pattern=False), "use_delay_pattern"),
    "stacked": (in_config(audio_adapter_type="stack"), "audio_adapter_type"),
    "one FFN in some layers": (in_config(audio_dual_ffn_layers=[0, 2]), "audio_dual_ffn_layers"),
    "layers of no kind": (in_config(audio_dual_ffn_layers=[[], {}, None]), "audio_dual_ffn_layers"),
    "no text_config": (in_config(text_config=None), "text_config"),
    "a size of words": (
        in_config(text_config={**RECORDED["config"]["text_config"], "hidden_size": "32"}),
        "text_config.hidden_size",
    ),
    "a size of nothing": (
        in_config(text_config={**RECORDED["config"]["text_config"], "num_attention_heads": 0}),
        "num_attention_heads",
    ),
    "sizes that fit nothing": (
        in_config(text_config={**RECORDED["config"]["text_config"], "num_attention_heads": 5}),
        "config.json",
    ),
    "other sizes": (in_config(audio_codebook_size=31), "shape"),
    "a true codebook": (in_config(audio_num_codebooks=True), "audio_num_codebooks"),
    "config of lists": (lambda folder: (folder / "config.json").write_text("[1]"), "no JSON object"),
    "deep config": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "no JSON object"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "cannot read"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
    "tokenizer of another": (renumbered, "<|AUDIO_OUT|>"),
    "tokenizer without tokens": (
        lambda folder: (folder / "tokenizer.json").write_text('{"added_tokens": [1, {}]}'),
        "<|AUDIO_OUT|>",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    "cut weights": (cut, "header says"),
    "weights of text": (lambda folder: (folder / "model.safetensors").write_text("no weights, this"), "no whole safetensors"),
    "empty weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "no whole safetensors"),
    "a tensor too few": (in_weights(lambda tensors: tensors.pop("norm.weight")), "lacks model.norm.weight"),
    "a tensor too many": (in_weights(lambda tensors: tensors.update({"layers.3.mlp.up_proj.weight": torch.zeros(2)})), "no place"),
    "a tensor of nobody": (in_weights(lambda tensors: tensors.update({"audio_tower.conv1.weight": torch.zeros(2)})), "audio_tower"),
    "another shape": (in_weights(lambda tensors: tensors.update({"norm.weight": torch.zeros(31)})), "[31]"),
    "a pickle": (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickled"),
    "an index that leads away": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}'),
        "which files",
    ),
    "a shard that is missing": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}'),
        "x.safetensors",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    spoil, said = BROKEN[name]
    old = write_old(tmp_path / "old")
    spoil(old)
    with pytest.raises(BadInput) as refused:
        convert_checkpoint(old, tmp_path / "new")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    old = write_old(tmp_path / "old")
    with pytest.raises(BadInput, match="exists already"):
        convert_checkpoint(old, old)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="exists already"):
        convert_checkpoint(old, tmp_path / "link")
    with pytest.raises(BadInput, match="no folder"):
        convert_checkpoint(tmp_path / "none", tmp_path / "new")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(old, tmp_path / "new", stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "old"]
    (tmp_path / "new").mkdir()  # an empty folder may be replaced
    convert_checkpoint(old, tmp_path / "new")
    assert (tmp_path / "new" / "config.json").is_file()


# --- the codec


def filled(name: str, shape: list[int]) -> torch.Tensor:
    """Return a tensor of the recorded codec, computed from its name as in benchmarks/boson_parity.py."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).random_sample(4093) - 0.5
    values = torch.from_numpy(np.resize(numbers, int(np.prod(shape))).reshape(shape).astype(np.float32))
    if name.endswith("embed"):
        return values
    if name.endswith(("alpha", "weight_g", "norm.weight", "original0")):
        return 1.0 + 0.2 * values
    return torch.ones_like(values) if name.endswith("inited") else 0.2 * values


@pytest.fixture(scope="module")
def old_codec() -> dict[str, torch.Tensor]:
    return {name: filled(name, shape) for name, shape in RECORDED["codec"]["shapes"].items()}


@torch.no_grad()
def test_the_codec_hears_and_says_what_it_did(old_codec: dict[str, torch.Tensor], tmp_path: Path) -> None:
    from synth.higgs_local.codec_model import codec_class

    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text(json.dumps(RECORDED["codec"]["config"]))
    torch.save(old_codec, old / "model.pth")
    assert run("convert", str(old), str(tmp_path / "new")) == 0
    codec = codec_class().from_pretrained(tmp_path / "new").eval()
    codes = torch.tensor([RECORDED["codec"]["codes"]])
    heard = codec.encode(filled("sound", [1, 1, 19_200])).audio_codes[0]
    wanted = torch.tensor(RECORDED["codec"]["heard"])
    assert heard.shape == wanted.shape
    assert (heard == wanted).float().mean() > 0.98  # rounding on another processor may choose the other of two nearly equal entries
    assert len(wanted.unique()) > 20
    # Decode in float64, because rounding in float32 differs between processors by more than the tolerance.
    _, exact = native_codec(RECORDED["codec"]["config"], {name: tensor.double() for name, tensor in old_codec.items()})
    for name, tensor in codec.state_dict().items():
        torch.testing.assert_close(tensor.double(), exact[name], atol=1e-7, rtol=1e-6)
    codec.double().load_state_dict(exact)
    torch.testing.assert_close(codec.decode(codes).audio_values[0, 0], TENSORS["codec.said"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("config", "drop", "said"),
    [
        ({"semantic_techer": "wavlm_base_plus"}, None, "wavlm_base_plus"),
        ({"bins": [8, 5, 5]}, None, "RFSQ"),
        ({"ratios": [8, "5"]}, None, "ratios"),
        ({"n_q": 7}, None, "quantizer"),
        ({"D": None}, None, "config.json"),
        ({"codebook_dim": 15}, None, "15"),
        ({}, "fc_prior.bias", "fc.bias"),
        ({}, "encoder.block.2.block.1.block.1.weight_g", "weight_g"),
        ({}, "encoder.block.0.bias", "encoder.block.0.bias"),
    ],
)
def test_a_codec_that_cannot_be_converted(
    config: dict[str, Any], drop: str | None, said: str, old_codec: dict[str, torch.Tensor]
) -> None:
    tensors = {name: tensor for name, tensor in old_codec.items() if name != drop}
    with pytest.raises(BadInput) as refused:
        native_codec({**RECORDED["codec"]["config"], **config}, tensors)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04"])
def test_a_codec_file_that_holds_no_tensors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="no tensors"):
        convert_codec(tmp_path, tmp_path / "new")


def test_nothing_in_a_codec_file_is_run(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "model.pth")
    with pytest.raises(BadInput, match="no tensors"):
        read_tensors(tmp_path / "model.pth")


# --- adapters


def old_adapter(folder: Path, modules: dict[str, tuple[int, int]], **config: Any) -> Path:
    """Write an adapter as PEFT saves it for the old model; ``modules`` gives the inputs and outputs of each layer."""
    torch.manual_seed(3)
    tensors = {}
    for name, (inputs, outputs) in modules.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(4, inputs) * 0.1
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(outputs, 4) * 0.1
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "auto_mapping": {"base_model_class": "HiggsAudioModel", "parent_library": "boson_multimodal.model.higgs_audio"},
        "base_model_name_or_path": "old",
        "revision": "10840182",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def test_an_adapter_does_the_same_to_the_native_model(native: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import HiggsAudioV2ForConditionalGeneration

    modules = {
        "layers.0.self_attn.q_proj": (32, 32),
        "layers.2.audio_mlp.down_proj": (48, 32),
        "audio_decoder_proj.audio_lm_head": (32, 8 * 34),
    }
    old = old_adapter(tmp_path / "old", modules)
    (old / "prosody.json").write_text('{"marks": {}}')
    done = convert_adapter(old, tmp_path / "new", str(native))
    assert done.notes == ()
    config = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["audio_lm_head", "model.layers.0.self_attn.q_proj", "model.layers.2.audio_mlp.down_proj"]
    assert (config["base_model_name_or_path"], config["revision"]) == (str(native), None)
    assert (tmp_path / "new" / "prosody.json").read_text() == '{"marks": {}}'

    base = HiggsAudioV2ForConditionalGeneration.from_pretrained(native)
    adapted = PeftModel.from_pretrained(base, tmp_path / "new").merge_and_unload().state_dict()
    plain = HiggsAudioV2ForConditionalGeneration.from_pretrained(native).state_dict()
    deltas = load_file(old / "adapter_model.safetensors")
    changed = {name for name in plain if not torch.equal(plain[name], adapted[name])}
    assert changed == {f"{name}.weight" for name in config["target_modules"]}
    for name, native_name in zip(
        modules, ("model.layers.0.self_attn.q_proj", "model.layers.2.audio_mlp.down_proj", "audio_lm_head"), strict=True
    ):
        key = f"base_model.model.{name}"
        delta = deltas[f"{key}.lora_B.weight"] @ deltas[f"{key}.lora_A.weight"] * 2.0
        torch.testing.assert_close(adapted[f"{native_name}.weight"], plain[f"{native_name}.weight"] + delta)


def test_what_an_adapter_names_is_named_anew(tmp_path: Path) -> None:
    old = old_adapter(
        tmp_path / "old",
        {"layers.0.self_attn.q_proj": (32, 32)},
        target_modules=TARGETS,
        layers_to_transform=[0],
        modules_to_save=["audio_decoder_proj.audio_lm_head", "audio_lm_head"],
        trainable_token_indices={"embed_tokens": [260]},
        rank_pattern={"layers.0.self_attn.q_proj": 2, "q_proj": 3},
    )
    done = convert_adapter(old, tmp_path / "new")
    config = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.0.self_attn.q_proj"]
    assert config["layers_to_transform"] is None
    assert config["modules_to_save"] == ["audio_lm_head", "audio_lm_head"]
    assert config["trainable_token_indices"] == {"embed_tokens": [260]}
    assert config["rank_pattern"] == {"model.layers.0.self_attn.q_proj": 2, "q_proj": 3}
    assert "--base" in done.notes[0]


@pytest.mark.parametrize(
    ("modules", "config", "said"),
    [
        ({"layers.0.audio_attn.q_proj": (32, 32)}, {}, "audio_attn"),
        ({"audio_tower.layers.0.fc1": (32, 32)}, {}, "audio_tower"),
        ({"model.layers.0.self_attn.q_proj": (32, 32)}, {}, "native name already"),
        ({"layers.0.self_attn.q_proj": (32, 32)}, {"peft_type": "IA3"}, "IA3"),
        ({"layers.0.self_attn.q_proj": (32, 32)}, {"rank_pattern": {"^layers.0": 2}}, "^layers.0"),
    ],
)
def test_an_adapter_that_cannot_be_converted(
    modules: dict[str, tuple[int, int]], config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    old = old_adapter(tmp_path / "old", modules, **config)
    with pytest.raises(BadInput) as refused:
        convert_adapter(old, tmp_path / "new")
    assert said in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


# --- the command


def run(*args: str) -> int:
    from prosody_tagger.command import exit_code

    return exit_code(higgs, list(args))


def test_the_command_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_old(tmp_path / "old")
    assert run("convert", str(tmp_path / "old"), str(tmp_path / "new"), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tensors"] == len(WEIGHTS)
    assert "codec" in said["notes"][0]
    assert read_header(tmp_path / "new" / "model.safetensors").shape("model.norm.weight") == (32,)


def test_the_command_converts_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old_adapter(tmp_path / "old", {"layers.0.self_attn.q_proj": (32, 32)})
    assert run("convert", str(tmp_path / "old"), str(tmp_path / "new"), "--adapter", "--base", "b") == 0
    assert "new" in capsys.readouterr().out


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", str(tmp_path / "none"), str(tmp_path / "new")) == 2
    assert run("convert", str(tmp_path), str(tmp_path / "new"), "--base", "b") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "none" in lines[0]
    assert "--adapter" in lines[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    old = write_old(tmp_path / "old")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(BadInput, match="permission"):
        convert_checkpoint(old, locked / "new")
    shutil.rmtree(locked)
