"""Whole runs on a model of a few thousand weights: what is learnt, how a run goes on, and what its adapter is good for."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import higgs_finetune_process as processes
import pytest
import torch
from higgs_finetune_examples import Quiet, fit, random_speech, small_model, speech, tokens_of_marks, writing
from safetensors.torch import load_file
from tiny_higgs import save_checkpoint

from prosody_tagger.errors import BadInput, ProsodyError
from synth.errors import BackendUnavailable
from synth.higgs_finetune.command import main
from synth.higgs_finetune.data_loader import Examples
from synth.higgs_finetune.examples import Example, collate
from synth.higgs_finetune.metrics_log import Journal, read_journal
from synth.higgs_finetune.model_card import write_card
from synth.higgs_finetune.resource_estimate import estimate
from synth.higgs_finetune.samples import frames_of, prompt_of, silence_share, speak
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.targets import add_adapter, compute_in_half
from synth.higgs_finetune.trainer import learning_rate, make_accelerator, train
from synth.higgs_local.adapter import TrainedMark, check_fit, read_adapter, write_prosody
from synth.higgs_local.base_model import of_model
from synth.higgs_local.lora import Switch, load
from synth.higgs_local.merge import merge
from synth.higgs_local.sampling import Sampling

ALL = ["attention", "audio-ffn", "heads"]
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def start(*arguments: str | Path, ranks: int = 1) -> subprocess.CompletedProcess[bytes]:
    """The script of `higgs_finetune_process`, on so many ranks."""
    script = str(Path(__file__).with_name("higgs_finetune_process.py"))
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, *several, script, *map(str, arguments)], env=environment, capture_output=True, timeout=120, check=False
    )


def test_one_clip_is_learnt_by_heart_and_ends_where_it_ends(tmp_path: Path) -> None:
    model = small_model(hidden_size=64)
    config = model.config
    chance = torch.Generator().manual_seed(1)
    codes, voice = (torch.randint(1024, (frames, 8), generator=chance) for frames in (19, 5))
    clip = speech([5, 6, 7, 8], codes, config, reference=voice)
    assert frames_of(clip, config) == 19
    assert len(prompt_of(clip, config)) == len(clip.input_ids) - (19 + 2 + 7) - 1
    trained, _, _ = fit(
        model,
        [clip],
        tmp_path,
        targets=ALL,
        learning_rate=1e-2,
        num_epochs=100,
        batch_size=1,
        grad_accum=1,
        lora_r=32,
        lora_alpha=64,
    )
    (said,) = speak(trained.get_base_model(), [clip], GREEDY)
    assert not said.cut
    assert len(said.codes) == 19
    assert (said.codes == codes).float().mean() >= 0.99


def test_a_model_in_half_precision_is_trained_and_speaks(tmp_path: Path) -> None:
    model = small_model().to(torch.bfloat16)
    rows = random_speech(2, model.config)
    compute_in_half(adapted := add_adapter(model, ["attention", "audio-ffn"]))
    told = Quiet()
    settings = FinetuneSettings(num_epochs=10, learning_rate=1e-2)
    train(settings, adapted, Examples(rows), tmp_path, watcher=told)
    assert told.losses[-1] < told.losses[0] - 0.1
    said = speak(adapted.get_base_model(), rows, GREEDY)
    assert all(len(one.codes) for one in said)


def marked_rows(count: int, marks: dict[str, int], config: Any, *, seed: int) -> list[tuple[Example, torch.Tensor]]:
    """Any text with an emphasis or a pause somewhere in it; which of the two decides every code."""
    chance = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        text = torch.randint(0, 200, (int(torch.randint(3, 8, (), generator=chance)),), generator=chance).tolist()
        is_pause = number % 2
        text.insert(int(torch.randint(len(text), (), generator=chance)), marks["pause_short" if is_pause else "emph"])
        codes = torch.arange(4).reshape(2, 2) * 2 + is_pause
        rows.append((speech(text, codes, config), codes))
    return rows


@pytest.mark.parametrize("is_trained", [True, False], ids=["rows trained", "rows left alone"])
def test_marks_decide_codes_only_with_rows_of_their_own(is_trained: bool, tmp_path: Path) -> None:
    """All reserved tokens begin alike, as those of a base that never saw them nearly do."""
    model = small_model(num_codebooks=2)
    marks = tokens_of_marks(model.config)
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[list(marks.values())] = embedding[marks["emph"]].clone()
    trained, _, _ = fit(
        model,
        [row for row, _ in marked_rows(64, marks, model.config, seed=0)],
        tmp_path,
        marks=[marks["emph"], marks["pause_short"]] if is_trained else (),
        targets=ALL,
        learning_rate=1e-2,
        num_epochs=15,
        batch_size=16,
        grad_accum=1,
    )
    held_out = marked_rows(40, marks, model.config, seed=1)
    said = speak(trained.get_base_model(), [row for row, _ in held_out], GREEDY)
    right = sum(torch.equal(one.codes, codes) for one, (_, codes) in zip(said, held_out, strict=True)) / len(held_out)
    assert right >= 0.95 if is_trained else right <= 0.65


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def test_accumulating_four_parts_is_one_batch_of_four(tmp_path: Path) -> None:
    results = []
    for batch_size, grad_accum in ((4, 1), (1, 4), (2, 2)):
        model = small_model()
        rows = [*random_speech(5, model.config), writing([1, 2, 3], [4, 5], model.config), writing([1], [2], model.config)]
        folder = tmp_path / f"{batch_size}x{grad_accum}"
        trained, _, told = fit(
            model, rows, folder, targets=ALL, batch_size=batch_size, grad_accum=grad_accum, num_epochs=4, learning_rate=1e-2
        )
        results.append((told.losses, trained_weights(trained)))
    (losses, weights), *others = results
    assert losses[-1] < losses[0]
    for other_losses, other_weights in others:
        assert other_losses == pytest.approx(losses, abs=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(other_weights[name], weight, atol=1e-5, rtol=0, msg=name)


def test_two_processes_learn_what_one_learns_though_one_has_no_audio(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    done = start("ranks", tmp_path / "two", ranks=2)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    processes.train_on_ranks(tmp_path / "one", 1)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one["losses"][-1] < one["losses"][0]
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-5, msg=name)


def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    killed = start("killed", tmp_path / "killed")
    assert killed.returncode == -9, killed.stderr.decode()[-3000:]
    model = small_model()
    rows = random_speech(9, model.config)
    whole, _, told = fit(model, rows, tmp_path / "whole", **processes.RESUMED)
    left = list(read_journal(tmp_path / "killed" / "log.jsonl"))
    assert [line["loss"] for line in left] == told.losses[: processes.KILLED_AFTER]
    with pytest.raises(BadInput, match="--resume"):
        fit(small_model(), rows, tmp_path / "killed", **processes.RESUMED)
    with pytest.raises(BadInput, match=r"learning_rate 0\.01, now 0\.02"):
        fit(small_model(), rows, tmp_path / "killed", resume=True, **processes.RESUMED | {"learning_rate": 0.02})
    with pytest.raises(BadInput, match="examples"):
        fit(small_model(), rows[1:], tmp_path / "killed", resume=True, **processes.RESUMED)
    torch.manual_seed(123)
    again, outcome, resumed = fit(small_model(), rows, tmp_path / "killed", resume=True, **processes.RESUMED)
    assert resumed.losses == told.losses[4:]
    assert outcome.step == len(told.losses) == 9
    assert all(torch.equal(weight, trained_weights(again)[name]) for name, weight in trained_weights(whole).items())
    journal = [line["loss"] for line in read_journal(tmp_path / "killed" / "log.jsonl")]
    assert journal == told.losses


def test_a_run_resumed_after_its_end_does_nothing(tmp_path: Path) -> None:
    model = small_model()
    rows = random_speech(2, model.config)
    first, _, _ = fit(model, rows, tmp_path, targets=ALL)
    second, outcome, told = fit(small_model(), rows, tmp_path, targets=ALL, resume=True)
    assert told.losses == []
    assert outcome.step == 3
    assert all(torch.equal(weight, trained_weights(second)[name]) for name, weight in trained_weights(first).items())


def test_old_checkpoints_go_and_an_unfinished_one_does_not_count(tmp_path: Path) -> None:
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


def native_scores(model: Any, row: Example) -> torch.Tensor:
    batch = {name: value for name, value in collate([row], model.config).items() if "labels" not in name}
    with torch.inference_mode():
        scores: torch.Tensor = model.eval()(**batch).logits
    return scores


def test_the_adapter_is_the_same_in_peft_in_the_backend_and_merged(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import HiggsAudioV2ForConditionalGeneration

    base_folder = save_checkpoint(tmp_path / "base", model=small_model())
    model = small_model()
    base = of_model(model, str(base_folder)).base
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
    assert check_fit(adapter, of_model(small_model(), "base")) == ()
    local = small_model()
    Switch(local).to(load(adapter))
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


def test_need_grows_with_the_batch_and_shrinks_with_checkpointing() -> None:
    rows = Examples(random_speech(8, small_model().config))
    model = add_adapter(small_model(), ["attention"])
    torch.manual_seed(5)
    state = torch.get_rng_state()

    def kept(**changes: Any) -> int:
        return estimate(model, rows, FinetuneSettings(**changes)).kept

    small, large = kept(batch_size=1), kept(batch_size=4)
    assert 3 * small < large <= 4 * small
    assert kept(batch_size=4, gradient_checkpointing=False) > large
    assert torch.equal(torch.get_rng_state(), state)  # a run is the same whether or not this was asked
    need = estimate(model, rows, FinetuneSettings(num_epochs=2, batch_size=2, grad_accum=2))
    assert need.steps == 4
    assert need.tokens == sum(rows.lengths)
    assert need.weights == sum(weight.nbytes for weight in small_model().parameters())
    assert need.seconds > 0
    assert not need.is_too_much
    assert "4 steps" in need.told()


def test_a_journal_survives_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    journal = Journal(path)
    for step in (1, 2, 3):
        journal.write("train", step, {"loss": float(step)})
    journal.close()
    path.write_text(path.read_text() + '{"kind": "train", "st')
    Journal(path, from_step=2).close()
    assert [line["step"] for line in read_journal(path)] == [1, 2]
    assert list(read_journal(tmp_path / "none")) == []


def test_silence_is_what_is_40_db_below() -> None:
    import numpy as np

    from synth.base import Audio

    tone = np.sin(np.arange(24000) / 10).astype(np.float32) * 0.5
    tone[12000:] *= 0.001
    assert silence_share(Audio(tone, 24000)) == pytest.approx(0.5, abs=0.01)
    assert silence_share(Audio(np.zeros(2400, np.float32), 24000)) == 1.0
    assert silence_share(Audio(np.zeros(0, np.float32), 24000)) == 1.0


def test_samples_are_compared_with_the_voice_of_their_recording(tmp_path: Path) -> None:
    """The latest recording that was given before; with none, the one that is learnt."""
    import numpy as np
    from tiny_higgs import tiny_codec

    from prosody_tagger.markup import plain
    from synth.audio.encoding import encode
    from synth.base import Audio
    from synth.higgs_finetune.manifest import Row, Turn
    from synth.higgs_finetune.samples import Samples
    from synth.higgs_local.codec_stream import Codec

    for name, samples in (("voice.wav", 100), ("clip.wav", 200)):
        (tmp_path / name).write_bytes(encode(Audio(np.full(samples, 0.5, np.float32), 24000)))
    model = small_model()
    example = speech([1, 2], torch.arange(40).reshape(5, 8), model.config)
    turn = Turn(plain("said"), tmp_path / "voice.wav")
    rows = [Row("m:1", None, None, None, references, plain("text"), tmp_path / "clip.wav") for references in ((turn,), ())]
    heard = []

    def compare(said: Audio, recorded: Audio) -> float:
        heard.append(len(recorded.samples))
        return 0.5 if len(heard) == 1 else math.nan

    samples = Samples([(row, example) for row in rows], Codec(tiny_codec()), tmp_path / "samples", compare)
    first, second = samples(model, 7)
    assert heard == [100, 200]
    assert first["similarity"] == 0.5
    assert "similarity" not in second
    assert first["recorded_seconds"] == pytest.approx(5 * 0.04)
    assert first["seconds"] <= 2 * 5 * 0.04 + 25 * 0.04 + 0.1
    assert sorted(path.name for path in (tmp_path / "samples" / "00000007").iterdir()) == ["0.wav", "1.wav"]
    assert samples(model, 7) is not None


def test_a_card_without_evaluations_says_what_there_is(tmp_path: Path) -> None:
    Journal(tmp_path / "log.jsonl").close()
    write_card(tmp_path, FinetuneSettings(), base="owner/base", marks=[], rows=(3, 0), need="little")
    card = (tmp_path / "README.md").read_text()
    assert "base_model: owner/base" in card
    assert "trained on: none" in card


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--create-sample-data"),
        (["--train_data", "no-such.json", "--lora_r", "0"], "--lora-r cannot be 0"),
        (["--train-data", "no-such.json", "--lr", "nan"], "--learning-rate"),
        (["--train_data", "no-such.json", "--targets", "lm_head"], "no target 'lm-head'"),
        (["--use_audio_out_self_attention"], "random weights"),
        (["--train_data", "no-such.json", "--validate_data_only"], "no-such.json"),
        (["--train_data", "no-such.json"], "no-such.json"),
        (["--train_dta", "x"], "--help"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments]) == 2
    assert said in capsys.readouterr().err


def test_from_sample_data_to_an_adapter_with_its_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "base", model=small_model())
    assert main(["--create_sample_data", str(tmp_path / "data")]) == 0
    manifest = str(tmp_path / "data" / "manifest.json")
    assert main(["--train_manifest", manifest, "--validate_data_only"]) == 0
    output = tmp_path / "adapter"
    arguments = ["--train_manifest", manifest, "--base_ckpt", str(tmp_path / "base"), "--output_dir", str(output)]
    arguments += ["--batch_size", "2", "--grad-accum", "2", "--epochs", "2", "--lr", "1e-3", "--sample_rows", "1"]
    assert main(arguments) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "this needs about" in said
    assert "step 4, held out" in said
    adapter = read_adapter(output)
    assert "emph" in adapter.marks
    assert check_fit(adapter, of_model(small_model(), "base")) == ()
    card = (output / "README.md").read_text()
    assert "<emph>" in card
    assert "Spoken after step 4" in card
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    lines = list(read_journal(output / "log.jsonl"))
    assert [line["kind"] for line in lines].count("train") == 4
    assert {"loss", "text", "audio", "codebooks", "text_to_audio", "shuffled"} <= lines[-2].keys()
    sample = lines[-1]
    assert sample["kind"] == "sample"
    assert {"seconds", "recorded_seconds", "ended", "silence"} <= sample.keys()
    assert (output / "samples" / "00000004" / sample["file"]).stat().st_size > 44
    assert read_adapter(output / "checkpoints" / "00000004").marks == adapter.marks
    assert math.isfinite(json.loads((output / "log.jsonl").read_text().splitlines()[0])["loss"])
    assert main(arguments) == 2  # it has been done


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(BackendUnavailable, match=r"prosody-speech\[train-higgs\]"):
        make_accelerator("cpu")


def test_batches_made_by_other_processes_are_the_same(tmp_path: Path) -> None:
    losses = []
    for workers in (0, 2):
        model = small_model()
        rows = random_speech(5, model.config)
        _, _, told = fit(model, rows, tmp_path / str(workers), loader_workers=workers, batch_size=2, lora_dropout=0.1)
        losses.append(told.losses)
    assert losses[0] == losses[1]


def test_a_run_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    model = small_model()
    rows = random_speech(6, model.config)
    how: dict[str, Any] = {"batch_size": 2, "grad_accum": 1, "num_epochs": 2, "learning_rate": 1e-2}
    _, _, whole = fit(model, rows, tmp_path / "whole", **how)
    _, first, begun = fit(small_model(), rows, tmp_path / "cut", max_steps=2, **how)
    assert (first.step, first.steps) == (2, 6)
    _, _, ended = fit(small_model(), rows, tmp_path / "cut", resume=True, **how)
    assert begun.losses + ended.losses == whole.losses


def test_training_calls_only_the_wrapper(tmp_path: Path) -> None:
    """Data-parallel training is right only if what is called is what was wrapped."""
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
            Examples(rows),
            tmp_path,
            watcher=Quiet(),
            accelerator=accelerator,
        )
    finally:
        HiggsLoss.forward = original  # type: ignore[method-assign]
    assert len(called) == len(loss_calls) == 4
