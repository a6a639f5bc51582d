"""Training runs on a model of a few thousand weights: equal results however they are divided, resuming, and the adapter."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import higgs_finetune_process as processes
import pytest
import torch
from higgs_finetune_examples import Recorder, fit, random_speech, small_model, speech, tokens_of_marks, trained_weights, writing
from safetensors.torch import load_file
from tiny_higgs import save_checkpoint

from prosody_tagger.errors import BadInput, ProsodyError
from prosody_tagger.extras import install_command
from synth.errors import BackendUnavailable
from synth.higgs_finetune.data_loader import ExampleDataset
from synth.higgs_finetune.examples import TrainingExample, collate
from synth.higgs_finetune.metrics_log import read_metrics
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.targets import add_adapter
from synth.higgs_finetune.trainer import learning_rate, make_accelerator, mean_losses, train
from synth.higgs_local.adapter import check_fit, read_adapter
from synth.higgs_local.base_model import describe_model
from synth.higgs_local.lora import AdapterSwitch, load_weights
from synth.higgs_local.merge import merge
from synth.higgs_local.prosody_file import TrainedMark, write_prosody

ALL = ["attention", "audio-ffn", "heads"]


def start(*arguments: str | Path, ranks: int = 1) -> subprocess.CompletedProcess[bytes]:
    """Run the script `higgs_finetune_process` on ``ranks`` processes."""
    script = str(Path(__file__).with_name("higgs_finetune_process.py"))
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, *several, script, *map(str, arguments)], env=environment, capture_output=True, timeout=300, check=False
    )


def test_gradient_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    results = []
    for batch_size, grad_accum in ((4, 1), (1, 4), (2, 2)):
        model = small_model()
        rows = [*random_speech(5, model.config), writing([1, 2, 3], [4, 5], model.config), writing([1], [2], model.config)]
        folder = tmp_path / f"{batch_size}x{grad_accum}"
        trained, _, recorder = fit(
            model, rows, folder, targets=ALL, batch_size=batch_size, grad_accum=grad_accum, num_epochs=4, learning_rate=1e-3
        )
        results.append((recorder.losses, trained_weights(trained)))
    (losses, weights), *others = results
    assert losses[-1] < losses[0]
    for other_losses, other_weights in others:
        assert other_losses == pytest.approx(losses, abs=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(other_weights[name], weight, atol=1e-5, rtol=0, msg=name)


def test_two_processes_equal_one_even_if_one_has_no_audio(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    done = start("ranks", tmp_path / "two", ranks=2)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    processes.train_on_ranks(tmp_path / "one", 1)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one["losses"][-1] < one["losses"][0]
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-5, msg=name)


def test_a_killed_run_resumes_exactly(tmp_path: Path) -> None:
    killed = start("killed", tmp_path / "killed")
    assert killed.returncode == -9, killed.stderr.decode()[-3000:]
    model = small_model()
    rows = random_speech(9, model.config)
    whole, _, recorder = fit(model, rows, tmp_path / "whole", **processes.RESUMED)
    lines = list(read_metrics(tmp_path / "killed" / "log.jsonl"))
    assert [line["loss"] for line in lines] == recorder.losses[: processes.KILLED_AFTER]
    with pytest.raises(BadInput, match="--resume"):
        fit(small_model(), rows, tmp_path / "killed", **processes.RESUMED)
    with pytest.raises(BadInput, match=r"learning_rate 0\.01, now 0\.02"):
        fit(small_model(), rows, tmp_path / "killed", resume=True, **processes.RESUMED | {"learning_rate": 0.02})
    with pytest.raises(BadInput, match="examples"):
        fit(small_model(), rows[1:], tmp_path / "killed", resume=True, **processes.RESUMED)
    torch.manual_seed(123)
    again, result, resumed = fit(small_model(), rows, tmp_path / "killed", resume=True, **processes.RESUMED)
    assert resumed.losses == recorder.losses[4:]
    assert result.step == len(recorder.losses) == 9
    assert all(torch.equal(weight, trained_weights(again)[name]) for name, weight in trained_weights(whole).items())
    logged = [line["loss"] for line in read_metrics(tmp_path / "killed" / "log.jsonl")]
    assert logged == recorder.losses


def test_resuming_a_finished_run_does_nothing(tmp_path: Path) -> None:
    model = small_model()
    rows = random_speech(2, model.config)
    first, _, _ = fit(model, rows, tmp_path, targets=ALL)
    second, result, recorder = fit(small_model(), rows, tmp_path, targets=ALL, resume=True)
    assert recorder.losses == []
    assert result.step == 3
    assert all(torch.equal(weight, trained_weights(second)[name]) for name, weight in trained_weights(first).items())


def test_old_checkpoints_are_deleted_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    model = small_model()
    rows = random_speech(4, model.config)
    fit(model, rows, tmp_path, targets=ALL, batch_size=2, grad_accum=1, num_epochs=3, save_every=1, keep_checkpoints=2)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["00000005", "00000006"]
    (folder / "00000006" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(BadInput, match="cannot be used"):
        fit(
            small_model(),
            rows,
            tmp_path,
            targets=ALL,
            batch_size=2,
            grad_accum=1,
            num_epochs=3,
            save_every=1,
            resume=True,
        )


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        model.audio_lm_head.weight[0, 0] = float("nan")
    with pytest.raises(ProsodyError, match="not finite"):
        fit(model, random_speech(2, model.config), tmp_path)


def native_scores(model: Any, row: TrainingExample) -> torch.Tensor:
    batch = {name: value for name, value in collate([row], model.config).items() if "labels" not in name}
    with torch.inference_mode():
        scores: torch.Tensor = model.eval()(**batch).logits
    return scores


def test_the_adapter_gives_equal_logits_in_peft_in_the_backend_and_merged(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import HiggsAudioV2ForConditionalGeneration

    base_folder = save_checkpoint(tmp_path / "base", model=small_model())
    model = small_model()
    base = describe_model(model, str(base_folder)).base
    marks = tokens_of_marks(model.config)
    rows = [speech([3, marks["emph"], 9], one, model.config) for one in torch.randint(1024, (4, 6, 8))]
    trained, _, _ = fit(
        model,
        rows,
        tmp_path / "run",
        marks=[marks["emph"], marks["pause_long"]],
        targets=[*ALL, "text-ffn"],
        learning_rate=2e-2,
        num_epochs=10,
    )
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    write_prosody(tmp_path / "adapter", base, {"emph": TrainedMark("<|reserved_special_token_10|>", marks["emph"])})
    wanted = native_scores(trained.get_base_model(), rows[0])
    assert (wanted - native_scores(small_model(), rows[0])).abs().max() > 1e-2

    adapter = read_adapter(tmp_path / "adapter")
    assert check_fit(adapter, describe_model(small_model(), "base")) == ()
    local = small_model()
    AdapterSwitch(local).activate(load_weights(adapter))
    loaded = PeftModel.from_pretrained(small_model(), tmp_path / "adapter").get_base_model()
    merged = merge(tmp_path / "adapter", base_folder, tmp_path / "merged")
    assert merged.error < 1e-5
    whole = HiggsAudioV2ForConditionalGeneration.from_pretrained(tmp_path / "merged")
    for other in (loaded, local, whole):
        torch.testing.assert_close(native_scores(other, rows[0]), wanted, atol=1e-5, rtol=1e-4)


def test_the_learning_rate_rises_and_falls() -> None:
    settings = FinetuneSettings(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert learning_rate(settings, 0, 1) == 1.0


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(BackendUnavailable, match=re.escape(install_command("train-higgs"))):
        make_accelerator("cpu")


def test_a_run_limited_by_max_steps_resumes(tmp_path: Path) -> None:
    model = small_model()
    rows = random_speech(6, model.config)
    how: dict[str, Any] = {"batch_size": 2, "grad_accum": 1, "num_epochs": 2, "learning_rate": 1e-2}
    _, _, whole = fit(model, rows, tmp_path / "whole", **how)
    _, first, begun = fit(small_model(), rows, tmp_path / "cut", max_steps=2, **how)
    assert (first.step, first.steps) == (2, 6)
    _, _, ended = fit(small_model(), rows, tmp_path / "cut", resume=True, **how)
    assert begun.losses + ended.losses == whole.losses


def test_training_calls_the_wrapped_module(tmp_path: Path) -> None:
    """A data-parallel wrapper synchronises gradients only if training calls it and not the module in it."""
    called = []

    class Wrapper(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *given: Any) -> Any:
            called.append("wrapper")
            return self.module(*given)

    accelerator = make_accelerator("cpu")
    accelerator.prepare_model = lambda module: Wrapper(module)
    model = small_model()
    rows = random_speech(4, model.config)
    loss_calls = []
    from synth.higgs_finetune.loss import HiggsLoss

    original = HiggsLoss.forward
    HiggsLoss.forward = lambda self, *given: (loss_calls.append(1), original(self, *given))[1]  # type: ignore[method-assign,assignment]
    try:
        train(
            FinetuneSettings(batch_size=1, grad_accum=2, num_epochs=1, gradient_checkpointing=False),
            add_adapter(model, ["attention"]),
            ExampleDataset(rows),
            tmp_path,
            observer=Recorder(),
            accelerator=accelerator,
        )
    finally:
        HiggsLoss.forward = original  # type: ignore[method-assign]
    assert len(called) == len(loss_calls) == 4


def test_losses_without_labels_are_left_out() -> None:
    settings = FinetuneSettings()
    none = mean_losses(torch.zeros(9), torch.zeros(9), settings)
    assert none == {"loss": 0.0}
    text = mean_losses(torch.tensor([6.0, *[0.0] * 8]), torch.tensor([3.0, *[0.0] * 8]), settings)
    assert text == {"loss": pytest.approx(0.2), "text": 2.0}
