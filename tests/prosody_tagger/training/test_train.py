import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_tagger import TOKENIZER
from tokenizers import Tokenizer
from typer.testing import CliRunner

from prosody_tagger.command import exit_code
from prosody_tagger.corpus.examples import UNKNOWN, LabelledText, from_marked_text
from prosody_tagger.errors import BadInput, DataError, ModelError
from prosody_tagger.evaluation.evaluate import app as evaluate_app
from prosody_tagger.evaluation.metrics import score_examples
from prosody_tagger.markup import KINDS, parse
from prosody_tagger.model import ADDED_TOKENS, SEP, encode, read_tokenizer, token_id
from prosody_tagger.segment import segment_words
from prosody_tagger.tagger import ProsodyTagger
from prosody_tagger.training import train as training
from prosody_tagger.training import trainer
from prosody_tagger.training.batches import BatchBuilder, group_labels
from prosody_tagger.training.settings import TrainSettings
from prosody_tagger.training.trainer import evaluation_loss

ROOT = Path(__file__).resolve().parents[3]
KILL_AFTER_SAVES = """
import os, signal, sys
from prosody_tagger.training import checkpoint
from prosody_tagger.training import trainer
from prosody_tagger.training.train import app
trainer.CHECKPOINT_SECONDS = 0.0
save, count = checkpoint.TrainingCheckpoint.save, [0]
def save_and_kill(self, state):
    save(self, state)
    count[0] += 1
    if count[0] == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.TrainingCheckpoint.save = save_and_kill
app(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences in which "never" is emphasised, with a pause after "saw" or "found"."""
    draw = np.random.default_rng(0)
    lines = []
    for number in range(60):
        one, two = (f"{stem}{draw.integers(1000)}" for stem in ("cap", "map"))
        verb = "<emph>never saw" if number % 3 else "found"
        lines.append(f"The {one} {verb} <pause_short>the {two} on day {number}.")
    path = tmp_path_factory.mktemp("data") / "train.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with weights as large as those of a trained one, so that it distinguishes words and positions from the start."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    network = GPT2LMHeadModel(
        GPT2Config(vocab_size=50257, n_layer=2, n_head=2, n_embd=32, n_positions=128, resid_pdrop=0, embd_pdrop=0)
    )
    with torch.no_grad():
        network.transformer.wte.weight.mul_(15)
        for block in network.transformer.h:
            for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
                layer.weight.mul_(5)
    folder = tmp_path_factory.mktemp("made") / "base"
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return read_tokenizer(TOKENIZER)


def settings_of(base: Path, data: Path, output: Path, **others: Any) -> TrainSettings:
    return TrainSettings(data=(data,), base=str(base), output=output, **({"epochs": 2, "lr": 0.01, "lora_r": 2} | others))


@pytest.fixture(scope="module")
def trained(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "tagger"
    training.train(settings_of(base, data, output, epochs=8, batch_size=4))
    return output


@pytest.fixture(scope="module")
def whole(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of two epochs without interruption."""
    output = tmp_path_factory.mktemp("whole") / "tagger"
    training.train(settings_of(base, data, output))
    return output


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return found


def test_the_result_is_complete_and_loads(trained: Path, data: Path, base: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    expected = {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "thresholds.json",
        "training.json",
        "README.md",
    }
    assert names == expected | {"loss.png", "precision-recall.png"}
    found = record(trained)
    assert found["settings"]["lora_r"] == 2
    assert len(found["data"][0]["sha256"]) == 64
    assert found["versions"]["torch"] == torch.__version__
    card = (trained / "README.md").read_text()
    assert f"{found['evaluation_loss']:.4f}" in card
    assert "| emph | tagger |" in card
    tagger = ProsodyTagger.load(trained)
    marked = tagger.mark("The cap1 never saw the map2 on day 3.")
    assert marked.text == "The cap1 never saw the map2 on day 3."
    assert any(mark.kind == "pause_short" and mark.offset == marked.text.index("the map2") for mark in marked.marks)


def test_evaluation_on_the_training_data_is_reported(trained: Path, data: Path) -> None:
    args = ["--data", str(data), "--tagger", str(trained), "--json"]
    found = json.loads(CliRunner().invoke(evaluate_app, args, catch_exceptions=False).stdout)
    assert found["trained_on"] == [str(data)]
    assert found["marks"]["pause_short"]["within_one_word"]["f1"] >= found["marks"]["pause_short"]["exact"]["f1"] > 0.3


def test_it_learns(trained: Path) -> None:
    found = record(trained)
    losses = [epoch["evaluation_loss"] for epoch in found["history"]]
    assert min(losses) < 0.85 * losses[0]
    assert found["evaluation_loss"] == min(losses)
    assert found["figures"]["pause_ap_unpunctuated"] > 0.5  # one slot in nine has a pause


def test_only_lora_and_the_rows_of_our_tokens_are_trained(trained: Path) -> None:
    names = load_file(trained / "adapter_model.safetensors").keys()
    assert {name.split(".")[-3] for name in names if "lora_" in name} == {"c_attn", "c_proj", "c_fc"}
    (rows,) = (name for name in names if "lora_" not in name)
    assert load_file(trained / "adapter_model.safetensors")[rows].shape[0] == len(ADDED_TOKENS)
    config = json.loads((trained / "adapter_config.json").read_text())
    assert config["trainable_token_indices"] == list(range(50257, 50257 + len(ADDED_TOKENS)))


def test_the_best_epoch_is_saved(trained: Path, data: Path) -> None:
    """The loss of the folder as the runtime loads it is that of the best epoch."""
    settings = TrainSettings.model_validate(record(trained)["settings"])
    _, parts = training.read_data(settings)
    scores = score_examples(ProsodyTagger.load(trained).model, parts.held_out)
    labels = np.concatenate(group_labels(parts.held_out))
    labels[:, (np.concatenate(group_labels(parts.train)) == UNKNOWN).all(0)] = UNKNOWN
    assert evaluation_loss(scores, labels) == pytest.approx(record(trained)["evaluation_loss"], abs=1e-5)


def test_a_killed_and_resumed_run_gives_the_same_result(base: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    args = [str(data), "--base", str(base), "--epochs", "2", "--lr", "0.01", "--lora-r", "2", "-o", str(tmp_path / "cut")]
    env = os.environ | {"PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", KILL_AFTER_SAVES, "4", *args, "--resume"], env=env, capture_output=True)
    assert process.returncode == -9, process.stderr.decode()
    state = torch.load(tmp_path / "cut" / "checkpoint.pt")["progress"]
    assert (state["epoch"], state["step"]) == (1, 1)  # in the middle of the second epoch
    with pytest.raises(BadInput, match=r"lr 0\.01, now 0\.02"):
        training.train(settings_of(base, data, tmp_path / "cut", lr=0.02), resume=True)
    training.train(settings_of(base, data, tmp_path / "cut"), resume=True)
    cut = record(tmp_path / "cut")
    for name in ("history", "figures", "thresholds"):
        assert cut[name] == record(whole)[name]
    name = "adapter_model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (whole / name).read_bytes()
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()
    again = training.train(settings_of(base, data, tmp_path / "cut"), resume=True)
    assert again == cut


def test_two_processes_train_the_same_model_as_one(base: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    args = [str(data), "--base", str(base), "--epochs", "2", "--lr", "0.01", "--lora-r", "2", "-o", str(tmp_path / "two")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "prosody_tagger.training.train",
    ]
    process = subprocess.run([*launch, *args], env=env, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    one, two = record(whole)["history"], record(tmp_path / "two")["history"]
    assert [epoch["evaluation_loss"] for epoch in two] == pytest.approx([epoch["evaluation_loss"] for epoch in one], abs=1e-3)


def test_early_stopping_keeps_the_best(base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.0, 0.5])
    monkeypatch.setattr(trainer, "evaluation_loss", lambda *_: next(losses))
    found = training.train(settings_of(base, data, tmp_path / "out", epochs=5, patience=2))
    assert [epoch["evaluation_loss"] for epoch in found["history"]] == [3.0, 1.0, 2.0, 2.0]
    assert found["best_epoch"] == 2


def test_invalid_lines_prevent_training(base: Path, data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("fine <emph>line\nbad <emp>line\nbad end <emph>\n")
    with pytest.raises(DataError) as caught:
        CliRunner().invoke(training.app, [str(data), "--data", str(bad), "-o", str(tmp_path / "o")], catch_exceptions=False)
    assert caught.value.exit_code == 2
    assert f"{bad}:2:" in str(caught.value)
    assert f"{bad}:3:" in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_unusable_outputs_and_bases_are_refused(base: Path, trained: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    with pytest.raises(BadInput, match="other than a tagger"):
        training.train(settings_of(base, data, tmp_path / "mine"))
    with pytest.raises(ModelError, match="is an adapter"):
        training.train(settings_of(trained, data, tmp_path / "o"))
    with pytest.raises(ModelError, match="cannot load the base"):
        training.train(settings_of(tmp_path / "nothing", data, tmp_path / "o"))
    (tmp_path / "o").mkdir(exist_ok=True)
    (tmp_path / "o" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(BadInput, match="is broken"):
        training.train(settings_of(base, data, tmp_path / "o"), resume=True)


def test_an_unfinished_run_is_not_overwritten_unasked(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "unfinished"
    output.mkdir()
    checkpoint = output / "checkpoint.pt"
    checkpoint.write_bytes(b"hours of work")
    args = [str(data), "--base", str(base), "--epochs", "1", "--lora-r", "2", "-o", str(output)]
    assert exit_code(training.app, args) == 2
    message = capsys.readouterr().err
    assert repr(str(output)) in message
    assert "--resume" in message
    assert "--overwrite" in message
    assert checkpoint.read_bytes() == b"hours of work"
    assert exit_code(training.app, [*args, "--resume", "--overwrite"]) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert checkpoint.read_bytes() == b"hours of work"
    assert exit_code(training.app, [*args, "--overwrite"]) == 0
    assert not checkpoint.exists()
    ProsodyTagger.load(output)
    assert exit_code(training.app, args) == 0  # a finished run holds no checkpoint and may be repeated


def test_a_partial_checkpoint_is_deleted_at_the_end(base: Path, data: Path, tmp_path: Path) -> None:
    """A process killed within the first save leaves a partial file and nothing else."""
    (tmp_path / ".checkpoint.pt.0a1b2c3d.part").write_bytes(b"half")
    training.train(settings_of(base, data, tmp_path, epochs=1))
    assert not list(tmp_path.glob(".*"))


def test_pitch_marks_and_long_pauses_can_be_learnt(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "pitch.txt"
    lines = [f"Is {word} here <pause_long>or <pitch_rising>not {n}?" for n, word in enumerate(["red", "old", "big", "new"] * 15)]
    data.write_text("\n".join(lines))
    training.train(settings_of(base, data, tmp_path / "out", epochs=20, batch_size=4))
    marked = ProsodyTagger.load(tmp_path / "out").mark("Is blue here or not 7?")
    assert {(mark.kind, mark.offset) for mark in marked.marks} >= {("pause_long", 13), ("pitch_rising", 16)}


def test_labels_are_only_in_the_copy(tokenizer: Tokenizer) -> None:
    """Each label is at the last token of a word of the copy; words longer than the model's limit are cut."""
    example = from_marked_text(parse("Unbelievably <emph>so, " + "x1" * 200 + " then."))
    builder = BatchBuilder(tokenizer, [example] * 3, max_tokens=40, batch_size=2, batch_tokens=1000, swap_rare=False, seed=0)
    assert sum(len(item.encoded.last) for item in builder.items) == 3 * len(example.prominence)
    assert all(len(item.encoded.ids) <= 40 for item in builder.items)
    for texts in builder.plan(0):
        for part in builder.parts(texts, 4, 0):
            sep = token_id(tokenizer, SEP)
            middle = [int((row == sep).nonzero()[0]) for row in part.inputs]
            assert all(column > middle[row] for row, column in zip(part.rows, part.columns, strict=True))
            assert len(part.labels) == len(part.rows)


def test_a_plan_has_every_item_once_and_is_reproducible(tokenizer: Tokenizer) -> None:
    examples = [from_marked_text(parse(f"Word <emph>{number} " + "and more " * (number % 7))) for number in range(50)]
    builder = BatchBuilder(tokenizer, examples, max_tokens=60, batch_size=4, batch_tokens=300, swap_rare=True, seed=3)
    for epoch in range(2):
        plan = builder.plan(epoch)
        assert sorted(index for batch in plan for text in batch for index in text) == list(range(50))
        assert plan == builder.plan(epoch)
        assert all(len(batch) <= 4 for batch in plan)
        for batch in plan:
            one, many = builder.parts(batch, 1, epoch)[0], builder.parts(batch, 3, epoch)
            assert one.labels.tolist() == [row for part in many for row in part.labels.tolist()]
    assert builder.plan(0) != builder.plan(1)


def test_group_labels_of_each_kind_of_data() -> None:
    emph = 2 + KINDS.index("emph")
    marked = from_marked_text(parse("a <emph>b <pause_short>c"))
    nan = float("nan")
    v1 = LabelledText("1_1_1", "a b", (0, 2), (0, 2), (nan, nan))
    v3 = LabelledText("1_1_1", "a b", (0, 2), (0, 2), (0.1, 2.5))
    (labels,) = group_labels([marked])
    assert labels[:, emph].tolist() == [0, 1, 0]
    assert labels[:, 1].tolist() == [0, 1, UNKNOWN]
    assert (labels[:, 2 + KINDS.index("pitch_high")] == UNKNOWN).all()
    assert group_labels([v3])[0][:, [0, 1, emph]].tolist() == [[0, 0, 0], [2, 1, 1]]
    assert group_labels([v1])[0][:, emph].tolist() == [0, 1]  # prominence 2, where nothing else defines emphasis
    assert (group_labels([v1, v3])[0][:, emph] == UNKNOWN).all()


def test_joined_texts_encode_like_the_joined_text(tokenizer: Tokenizer) -> None:
    texts = ["He's here.", "It costs $299, no?", "He's here. It costs $299, no?"]
    one, two, both = encode(tokenizer, texts, [segment_words(text) for text in texts])
    assert one.ids + two.ids == both.ids
