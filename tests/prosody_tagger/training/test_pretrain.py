"""Pre-training of the shipped tagger, on a synthetic corpus."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from prosody_tagger.corpus.examples import speaker_fold, unlabelled_text
from prosody_tagger.corpus.readers import read_plain_or_columns
from prosody_tagger.model import encode
from prosody_tagger.segment import segment_words
from prosody_tagger.tagger import ProsodyTagger
from prosody_tagger.training import pretrain
from prosody_tagger.training.base_models import load_base
from prosody_tagger.training.batches import BatchBuilder, label_groups
from prosody_tagger.training.distillation import Teacher
from prosody_tagger.training.torch_network import read
from prosody_tagger.training.trainer import LabelCounts, batch_loss
from prosody_tagger.training.transplant import transplant

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *"the cat never saw nine gold rings king ##dom ##s it all of them nobody asked for , .".split(),
]
LOUD = {"never", "nine", "gold"}
Run = Callable[..., None]


def write_columns(path: Path, speakers: int, sentences: int, real: bool) -> None:
    """Sentences in which some words are always prominent, and a boundary follows every "saw"."""
    draw = np.random.default_rng(speakers)
    lines = []
    for speaker in range(speakers):
        for number in range(sentences):
            lines.append(f"<file>\t{speaker + 1}_{number}_0.txt")
            for word in (*draw.permutation(["the", "cat", "never", "saw", "nine", "gold", "rings"]), "."):
                if word == ".":
                    lines.append("\t".join([word, *["NA"] * (4 if real else 2)]))
                    continue
                label, boundary = ("2", "2.5") if word in LOUD else ("0", "0.1"), "2" if word == "saw" else "0"
                lines.append("\t".join([word, label[0], boundary, *([label[1], boundary] if real else [])]))
            lines.append("")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_columns(folder / "dev.txt", 5, 6, real=True)
    write_columns(folder / "dev_v1.txt", 5, 6, real=False)
    write_columns(folder / "train_100_v1.txt", 6, 11, real=False)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with random weights, large enough for its vectors to differ, and an untrained head."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    network = BertModel(BertConfig(vocab_size=len(PIECES), max_position_embeddings=129, hidden_act="gelu", **shape))
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() == 2:
                weight.mul_(5)  # as large as in a trained one
    network.save_pretrained(folder)
    pieces = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.Lowercase()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.save(str(folder / "tokenizer.json"))
    teacher = Teacher(folder)
    with torch.no_grad():
        teacher.head.bias.zero_()
    teacher.save(folder)
    return folder


@pytest.fixture
def run() -> Run:
    def run(*args: object) -> None:
        CliRunner().invoke(pretrain.app, [str(arg) for arg in args], catch_exceptions=False)
        torch.set_flush_denormal(False)

    return run


def test_base_and_adapter_are_trained_and_load(run: Run, encoder: Path, corpus: Path, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    prose = tmp_path / "prose.txt"
    prose.write_text("The king never saw it.\n\nNine rings, all of them gold.\n" * 3)
    common = ("--helsinki", corpus, "--epochs", 1, "--batch-tokens", 1024)
    run("base", encoder, *common, "--output", base, "--text", prose)
    assert {path.name for path in base.iterdir()} == {
        "config.json",
        "model.safetensors",
        "token-rows.safetensors",
        "tokenizer.json",
    }
    run("adapter", encoder, *common, "--base", base, "--output", adapter, "--leave-out", 1)
    record = json.loads((adapter / "training.json").read_text())
    assert record["split"]["held_out_speakers"] == ["2"]
    assert record["split"]["train"] == 24 + 11
    assert record["settings"]["patience"] == 0
    assert json.loads((adapter / "thresholds.json").read_text())["languages"] == ["en"]
    assert ProsodyTagger.load(adapter).mark("The cat never saw nine gold rings.").text == "The cat never saw nine gold rings."


def test_an_adapter_of_all_speakers_keeps_its_model_card(run: Run, encoder: Path, corpus: Path, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    run("base", encoder, "--helsinki", corpus, "--output", base, "--epochs", 1)
    adapter.mkdir()
    (adapter / "README.md").write_text("written by hand")
    (adapter / "tokenizer.json").write_text("{}")
    thresholds = tmp_path / "thresholds.json"
    thresholds.write_text('{"emph": {"low": 0.9, "medium": 0.8, "high": 0.7}, "pause": 0.6, "languages": ["en"]}')
    options = ("--epochs", 1, "--batch-tokens", 1024, "--thresholds", thresholds)
    run("adapter", encoder, "--helsinki", corpus, "--base", base, "--output", adapter, *options)
    assert (adapter / "README.md").read_text() == "written by hand"
    assert (adapter / "thresholds.json").read_text() == thresholds.read_text()
    split = json.loads((adapter / "training.json").read_text())["split"]
    assert (split["train"], split["held_out"]) == (30 + 11, 4)


def test_folds_contain_every_speaker_once(corpus: Path) -> None:
    examples = pretrain.read_dev(corpus)
    held_out = [speaker_fold(examples, fold)[1] for fold in range(5)]
    assert sorted(e.source for fold in held_out for e in fold) == sorted(e.source for e in examples)
    for fold, part in enumerate(held_out):
        train, _ = speaker_fold(examples, fold)
        assert not {e.speaker for e in train} & {e.speaker for e in part}


def test_lines_without_words_are_skipped(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("One two three.\n- -\nFour five.\n")
    assert [example.text for example in read_plain_or_columns(text)] == ["One two three.", "Four five."]


def test_a_teacher_encodes_each_text_independently(encoder: Path) -> None:
    teacher = Teacher(encoder).eval()
    texts = ["The king saw nine kingdoms.", "Gold.", "Nobody asked for rings, \u0301 never."]
    encoded = encode(teacher.tokenizer, texts, [segment_words(text) for text in texts])
    with torch.inference_mode():
        vectors, logits = teacher(encoded)
        alone = [teacher([item]) for item in encoded]
    assert logits.shape == (sum(len(item.last) for item in encoded), 6)
    assert torch.allclose(vectors, torch.cat([item[0] for item in alone]), atol=1e-5)
    assert torch.allclose(logits, torch.cat([item[1] for item in alone]), atol=1e-5)
    kingdoms = vectors[4:7].mean(0)  # king ##dom ##s, without the stop
    assert encoded[0].ids[4:7] == [PIECES.index(piece) for piece in ("king", "##dom", "##s")]
    assert not torch.allclose(logits[4], teacher.head(kingdoms), atol=1e-3)
    assert torch.allclose(logits[4], teacher.head(vectors[4:8].mean(0)), atol=1e-5)


def test_a_transplanted_gpt2_approximates_the_encoder(encoder: Path) -> None:
    """The first layer norm is exact, and the others explain most of the variance."""
    teacher = Teacher(encoder).eval()
    draw = np.random.default_rng(0)
    texts = [draw.integers(4, len(PIECES), draw.integers(4, 12)).tolist() for _ in range(60)]
    network, explained = transplant(teacher, texts)
    assert len(explained) == 5
    assert explained[0] == pytest.approx(1.0, abs=1e-6)  # no residual has been added yet
    assert min(explained) > 0.7
    assert network.transformer.wte.weight.shape[0] == len(PIECES) + 14
    # The first sublayer gets exactly the vectors that the encoder's does.
    ids = torch.tensor([texts[0]])
    positions = torch.arange(ids.shape[1])
    with torch.inference_mode():
        normalised = network.transformer.h[0].ln_1(network.transformer.wte(ids) + network.transformer.wpe(positions))
        expected = teacher.encoder.embeddings(torch.tensor([[teacher.ends[0], *texts[0], teacher.ends[1]]]))[:, 1:-1]
    assert torch.allclose(normalised, expected, atol=1e-4)


def test_distillation_makes_the_student_match_its_teacher(encoder: Path, run: Run, corpus: Path, tmp_path: Path) -> None:
    """Without labels, the student learns the teacher's probabilities and vectors; without a teacher as well, the loss is zero."""
    run("base", encoder, "--helsinki", corpus, "--output", tmp_path, "--epochs", 1)
    network, tokenizer = load_base(str(tmp_path))
    network.eval()
    builder = BatchBuilder(
        tokenizer,
        [unlabelled_text("Nobody asked for gold."), unlabelled_text("The king saw nine rings, all of them gold.")],
        max_tokens=60,
        batch_size=2,
        batch_tokens=500,
        swap_rare=False,
        seed=1,
    )
    (batch,) = builder.parts([range(1), range(1, 2)], 1, 0)
    counts, groups = LabelCounts.of([batch]), label_groups(tokenizer)
    assert (counts.words, counts.tokens) == (13, 16)
    assert batch_loss(network, batch, groups, counts).item() == 0.0
    teacher = Teacher(encoder).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        batch_loss(network, batch, groups, counts, teacher).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.inference_mode():
        vectors, teacher_logits = teacher(batch.texts)
        hidden = read(network.transformer, batch.inputs, batch.positions)
        rows = network.transformer.wte.weight[groups[0]]
        found = (hidden[batch.rows, batch.columns] @ rows.T).softmax(-1)
        own = hidden[0, len(batch.texts[0].ids) + 1 : 2 * len(batch.texts[0].ids) + 1]
    assert torch.allclose(found, teacher_logits[:, :3].softmax(-1), atol=0.05)
    assert torch.cosine_similarity(own, vectors[: len(own)]).min() > 0.9
