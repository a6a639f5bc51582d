"""The command train-higgs: errors, and whole runs on a model of a few thousand weights."""

import json
import math
from pathlib import Path

import pytest
from higgs_finetune_examples import small_model
from tiny_higgs import save_checkpoint

from synth.higgs_finetune.command import main
from synth.higgs_finetune.metrics_log import read_metrics
from synth.higgs_local.adapter import check_fit, read_adapter
from synth.higgs_local.base_model import describe_model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--create-sample-data"),
        (["--train_data", "no-such.json", "--lora_r", "0"], "--lora-r cannot be 0"),
        (["--train-data", "no-such.json", "--lr", "nan"], "--learning-rate"),
        (["--train_data", "no-such.json", "--targets", "lm_head"], "no target 'lm-head'"),
        (["--use_audio_out_self_attention"], "random weights"),
        (["--train_data", "no-such.json", "--validate_data_only"], "no-such.json"),
        (["--train_data", "no-such.json"], "no-such.json"),
        (["--train_data", "no-such.json", "--resume", "--overwrite"], "exclude each other"),
        (["--train_dta", "x"], "--help"),
    ],
)
def test_invalid_options_give_a_clear_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments]) == 2
    assert message in capsys.readouterr().err


def test_from_sample_data_to_an_adapter_with_its_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "base", model=small_model())
    assert main(["--create_sample_data", str(tmp_path / "data")]) == 0
    manifest = str(tmp_path / "data" / "manifest.json")
    assert main(["--train_manifest", manifest, "--validate_data_only"]) == 0
    output = tmp_path / "adapter"
    arguments = ["--train_manifest", manifest, "--base_ckpt", str(tmp_path / "base"), "--output_dir", str(output)]
    arguments += ["--batch_size", "2", "--grad-accum", "2", "--epochs", "2", "--lr", "1e-3", "--sample_rows", "1"]
    assert main(arguments) == 0
    output_text = " ".join(capsys.readouterr().err.split())
    assert "this run needs about" in output_text
    assert "step 4, held out" in output_text
    adapter = read_adapter(output)
    assert "emph" in adapter.marks
    assert check_fit(adapter, describe_model(small_model(), "base")) == ()
    card = (output / "README.md").read_text()
    assert "<emph>" in card
    assert "Samples after step 4" in card
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    lines = list(read_metrics(output / "log.jsonl"))
    assert [line["kind"] for line in lines].count("train") == 4
    assert {"loss", "text", "audio", "codebooks", "text_to_audio", "shuffled"} <= lines[-2].keys()
    sample = lines[-1]
    assert sample["kind"] == "sample"
    assert {"seconds", "recorded_seconds", "ended", "silence"} <= sample.keys()
    assert (output / "samples" / "00000004" / sample["file"]).stat().st_size > 44
    assert read_adapter(output / "checkpoints" / "00000004").marks == adapter.marks
    assert math.isfinite(json.loads((output / "log.jsonl").read_text().splitlines()[0])["loss"])
    capsys.readouterr()
    assert main(arguments) == 2
    assert "--overwrite to delete it and start again" in capsys.readouterr().err
    assert (output / "checkpoints" / "00000004").is_dir()
    assert main([*arguments, "--overwrite", "--max-steps", "1"]) == 0
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["00000001"]
