"""The making of the shipped tagger, on a corpus that is made up."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_tagger import TOKENIZER
from typer.testing import CliRunner

from prosody_tagger import pretrain
from prosody_tagger.bases import load_base
from prosody_tagger.batches import Batches, label_groups
from prosody_tagger.data import UNKNOWN, Example, speaker_fold, unlabelled
from prosody_tagger.errors import DataError
from prosody_tagger.fit import Counts, FitSettings, loss_of
from prosody_tagger.model import ADDED_TOKENS, encode, read_tokenizer
from prosody_tagger.reading import read_taught, read_text
from prosody_tagger.segment import words
from prosody_tagger.tagger import ProsodyTagger
from prosody_tagger.word_pieces import start_from_word_pieces

SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 128}
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


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(pretrain, "BASE_SHAPE", SHAPE)

    def run(*args: object) -> None:
        CliRunner().invoke(pretrain.app, [str(arg) for arg in args], catch_exceptions=False)
        torch.set_flush_denormal(False)

    return run


def say(path: Path, examples: list[Example], shares: list[float]) -> Path:
    """What a teacher would say who says the same of every word."""
    np.save(path, np.tile(np.array(shares, np.float16), (sum(len(e.prominence) for e in examples), 1)))
    return path


def test_base_and_adapter_are_made_and_load(run: Run, corpus: Path, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    prose = tmp_path / "prose.txt"
    prose.write_text("The king never saw it.\n\nNine rings, all of them gold.\n" * 3)
    taught = say(tmp_path / "prose.npy", read_text(prose), [0.1, 0.2, 0.7, 0.4, np.nan])
    older = say(tmp_path / "older.npy", read_text(corpus / "train_100_v1.txt"), [0.6, 0.2, 0.2, 0.1, 0.1])
    common = ("--helsinki", corpus, "--epochs", 1, "--batch-tokens", 1024)
    run("base", *common, "--output", base, "--tokenizer-file", TOKENIZER, "--taught", f"{prose}={taught}", "--older-shares", older)
    assert {path.name for path in base.iterdir()} == {"config.json", "model.safetensors", "token-rows.safetensors"}
    run("adapter", *common, "--base", base, "--output", adapter, "--leave-out", 1, "--older-shares", older)
    record = json.loads((adapter / "training.json").read_text())
    assert record["split"]["held_out_speakers"] == ["2"]
    assert record["split"]["train"] == 24 + 22
    assert record["settings"]["patience"] == 0
    assert json.loads((adapter / "thresholds.json").read_text())["languages"] == ["en"]
    assert ProsodyTagger.load(adapter).mark("The cat never saw nine gold rings.").text == "The cat never saw nine gold rings."


def test_an_adapter_of_all_speakers_keeps_its_card(run: Run, corpus: Path, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    run("base", "--helsinki", corpus, "--output", base, "--tokenizer-file", TOKENIZER, "--epochs", 1)
    adapter.mkdir()
    (adapter / "README.md").write_text("what people wrote")
    (adapter / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    run("adapter", "--helsinki", corpus, "--base", base, "--output", adapter, "--epochs", 1, "--max-examples", 7)
    assert (adapter / "README.md").read_text() == "what people wrote"
    split = json.loads((adapter / "training.json").read_text())["split"]
    assert (split["train"], split["held_out"]) == (7, 4)


def test_folds_hold_every_speaker_once(corpus: Path) -> None:
    examples = pretrain.dev(corpus)
    held_out = [speaker_fold(examples, fold)[1] for fold in range(5)]
    assert sorted(e.source for fold in held_out for e in fold) == sorted(e.source for e in examples)
    for fold, part in enumerate(held_out):
        train, _ = speaker_fold(examples, fold)
        assert not {e.speaker for e in train} & {e.speaker for e in part}


def test_what_a_teacher_says_must_belong_to_the_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("One two three.\n- -\nFour five.\n")
    examples = read_text(text)
    assert [example.text for example in examples] == ["One two three.", "Four five."]
    shares = say(tmp_path / "a.npy", examples, [0.5, 0.25, 0.25, 0.125, 1.0])
    assert [example.shares.shape for example in read_taught(text, shares) if example.shares is not None] == [(3, 5), (2, 5)]
    with pytest.raises(DataError, match="5 words"):
        read_taught(text, say(tmp_path / "b.npy", examples[:1], [0.0] * 5))
    (tmp_path / "c.npy").write_bytes(b"no numbers")
    with pytest.raises(DataError, match=r"c\.npy"):
        read_taught(text, tmp_path / "c.npy")


def test_a_teacher_is_followed(tmp_path: Path) -> None:
    """Without labels the network comes to say what the teacher says, and where that says nothing, nothing is learnt."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=50257, **SHAPE)).save_pretrained(tmp_path)
    network, tokenizer = load_base(str(tmp_path))
    text = "Nobody asked for gold."
    count = len(words(text))
    shares = np.tile(np.array([0.2, 0.1, 0.7, 0.9, np.nan], np.float32), (count, 1))
    example = Example("", text, (UNKNOWN,) * count, (UNKNOWN,) * count, (float("nan"),) * count, shares=shares)
    made = Batches(tokenizer, [example], max_tokens=60, batch_size=1, batch_tokens=500, swap_rare=False, seed=0)
    (batch,) = made.parts(made.plan(0)[0], 1, 0)
    counts = Counts.of([batch])
    assert counts.taught == [count, count, 0]
    settings = FitSettings(epochs=1, lr=1e-2, batch_size=1, batch_tokens=500, seed=0, patience=0, bfloat16=False)
    groups = label_groups(tokenizer)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    network.eval()
    for _ in range(60):
        optimizer.zero_grad()
        loss = loss_of(network, batch, groups, counts, settings)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    entropy = -sum(p * np.log(p) for p in (0.2, 0.1, 0.7, 0.9, 0.1))
    assert loss.item() == pytest.approx(entropy, abs=0.02)
    silent = Batches(tokenizer, [unlabelled(text)], max_tokens=60, batch_size=1, batch_tokens=500, swap_rare=False, seed=0)
    (nothing,) = silent.parts(silent.plan(0)[0], 1, 0)
    assert loss_of(network, nothing, groups, Counts.of([nothing]), settings).item() == 0.0


def test_tokens_start_as_the_word_pieces_of_an_encoder(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "gold", "king", "##dom", "##s", "never"]
    wordpiece = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.Lowercase()
    wordpiece.pre_tokenizer = pre_tokenizers.Whitespace()
    wordpiece.decoder = decoders.WordPiece()
    PreTrainedTokenizerFast(
        tokenizer_object=wordpiece, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(tmp_path)
    encoder = BertModel(BertConfig(vocab_size=len(pieces), hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    encoder.save_pretrained(tmp_path)
    tokenizer = read_tokenizer(TOKENIZER)
    network = GPT2LMHeadModel(GPT2Config(vocab_size=tokenizer.get_vocab_size(), **SHAPE))
    weight = network.transformer.wte.weight
    before = weight.detach().clone()
    share = start_from_word_pieces(network, tokenizer, tmp_path)

    def row(word: str) -> torch.Tensor:
        (index,) = encode(tokenizer, [word], [words(word)])[0].ids
        return weight.detach()[index]

    assert torch.equal(row("gold"), row("Gold"))
    rows = encoder.get_input_embeddings().weight.detach()
    assert torch.nn.functional.cosine_similarity(row("kingdom"), rows[[5, 6]].mean(0), dim=0).item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(weight[-len(ADDED_TOKENS) :], before[-len(ADDED_TOKENS) :])
    changed = (weight != before).any(1).float().mean().item()
    assert share == pytest.approx(changed, abs=1e-3)
    assert 0 < share < 0.01
