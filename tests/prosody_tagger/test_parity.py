"""The tagger at run time scores as transformers and peft do, which it does not import."""

import json
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from tiny_tagger import TOKENIZER, make_tagger

from prosody_tagger.errors import ModelError
from prosody_tagger.markup import KINDS
from prosody_tagger.model import ADDED_TOKENS, SHIPPED, SHIPPED_ADAPTER, Encoded, TaggerModel, encode
from prosody_tagger.segment import segment_words
from prosody_tagger.tagger import ProsodyTagger, Thresholds
from prosody_tagger.weights import read_base, read_tensors

TOLERANCE = 1e-4
PACKAGES = {"torch", "transformers", "peft", "accelerate"}
TEXTS = [
    "It was a bright cold day in April, and the clocks were striking thirteen.",
    "Go!",
    "It's naïve — unbelievably so, 你好 \U0001f600 ($299)!",
    "\u0301 \u0302 so \u0303 it goes \u0304",
    "One. Two three, four; and then nobody here ever saw so many people at once? " * 2,
]


def peft_model(adapter: Path, base: str) -> TaggerModel:
    """The adapter as transformers and peft load it, in float32."""
    import torch
    from peft import PeftModel
    from transformers import GPT2LMHeadModel

    from prosody_tagger.model import read_tokenizer
    from prosody_tagger.training.torch_network import torch_tagger_model

    tokenizer = read_tokenizer(adapter / "tokenizer.json")
    network = GPT2LMHeadModel.from_pretrained(base, dtype=torch.float32)
    network.resize_token_embeddings(tokenizer.get_vocab_size(), mean_resizing=False)
    return torch_tagger_model(PeftModel.from_pretrained(network, str(adapter)).merge_and_unload(), tokenizer)


def encoded(model: TaggerModel, texts: list[str]) -> list[Encoded]:
    limit = model.max_tokens
    runs = [segment_words(text) for text in texts]
    return [Encoded(each.ids[:limit], [min(at, limit - 1) for at in each.last]) for each in encode(model.tokenizer, texts, runs)]


def difference(one: TaggerModel, other: TaggerModel, texts: list[str] = TEXTS) -> float:
    """The largest difference between probabilities, which must differ from word to word."""
    batch = encoded(one, texts)
    tables = [
        np.concatenate(model.forward(*zip(*[(item.ids, item.last) for item in batch], strict=True))) for model in (one, other)
    ]
    assert tables[0].dtype == np.float32
    assert np.ptp(tables[1], axis=0).max() > 0.1
    return float(np.abs(tables[0] - tables[1]).max())


def edit_config(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_shipped_adapter() -> None:
    assert difference(TaggerModel.load(), peft_model(SHIPPED_ADAPTER, str(SHIPPED / "tagger-base"))) < TOLERANCE


def test_an_adapter_trained_here(tiny_tagger: Path, tmp_path: Path) -> None:
    from prosody_tagger.training import train as training
    from prosody_tagger.training.settings import TrainSettings

    data = tmp_path / "train.txt"
    lines = (f"The cap{number * 7} <emph>never saw <pause_short>the map{number} on day {number}." for number in range(24))
    data.write_text("".join(f"{line}\n" for line in lines))
    base, output = str(tiny_tagger.parent / "base"), tmp_path / "tagger"
    training.train(TrainSettings(data=(data,), base=base, output=output, epochs=2, lr=0.05, lora_r=2, batch_size=4))
    ours, theirs = TaggerModel.load(output), peft_model(output, base)
    assert difference(ours, theirs, ["The cap9 never saw the map3 on day 9.", *TEXTS]) < TOLERANCE


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the shape of the hub's gpt2, with random weights, in a file with the names of the hub's."""
    import torch
    from safetensors.torch import save_file
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(1)
    network = GPT2LMHeadModel(GPT2Config()).half()
    network.config.save_pretrained(folder)
    tensors = network.transformer.state_dict()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({name: config[name] for name in config if name != "activation_function"}))
    weights = {name: weight * 2 if name.startswith("h.") and weight.dim() == 2 else weight for name, weight in tensors.items()}
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 1024, 1024).bool().tril() for layer in range(2)}
    save_file(weights | masks, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_base_of_the_shape_of_gpt2(gpt2_folder: Path, tmp_path: Path) -> None:
    import torch

    from prosody_tagger.training.base_models import add_lora, load_base, save_adapter

    torch.manual_seed(2)
    network, tokenizer = load_base(str(gpt2_folder))
    adapted = add_lora(network, r=8, alpha=16, dropout=0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.normal_(0, 0.05 if "trainable_tokens" in name else 0.02)
    save_adapter(adapted, tokenizer, str(gpt2_folder), tmp_path)
    del network, adapted
    assert difference(TaggerModel.load(tmp_path), peft_model(tmp_path, str(gpt2_folder)), TEXTS[:2]) < TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        {"activation_function": "gelu"},
        {"activation_function": "relu", "n_layer": 1},
        {"activation_function": "silu", "n_inner": 24},
        {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3, "layer_norm_epsilon": 1e-3},
        {"scale_attn_weights": False, "activation_function": "tanh"},
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bases_of_other_shapes(tmp_path: Path, options: dict[str, Any], dtype: str) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    make_tagger(tmp_path)
    config = GPT2Config(**({"vocab_size": 50257, "n_layer": 2, "n_head": 4, "n_embd": 16, "n_positions": 128} | options))
    torch.manual_seed(3)
    network = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "wte" not in name:
                weight.normal_(1 if "ln_" in name and "weight" in name else 0, 0.3)
    (tmp_path / "base" / "model.safetensors").unlink()
    network.to(getattr(torch, dtype)).save_pretrained(tmp_path / "base", max_shard_size="1MB")
    assert (tmp_path / "base" / "model.safetensors.index.json").exists()
    adapter = lora_adapter(tmp_path)
    assert difference(TaggerModel.load(adapter), peft_model(adapter, str(tmp_path / "base"))) < TOLERANCE


def lora_adapter(folder: Path, **options: Any) -> Path:
    """An adapter with random weights over ``folder / "base"``, and with the tokenizer of ``folder / "adapter"``."""
    import shutil

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    base = GPT2LMHeadModel.from_pretrained(folder / "base", dtype=torch.float32)
    vocab = base.config.vocab_size
    base.resize_token_embeddings(vocab + len(ADDED_TOKENS), mean_resizing=False)
    tokens = list(range(vocab + len(ADDED_TOKENS) - 1, vocab - 1, -1))  # peft keeps the order in which they are given
    network = get_peft_model(
        base,
        LoraConfig(
            **{
                "r": 4,
                "target_modules": ["c_attn", "c_proj", "c_fc"],
                "fan_in_fan_out": True,
                "init_lora_weights": False,
                "trainable_token_indices": tokens,
                "task_type": "CAUSAL_LM",
            }
            | options
        ),
    )
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                weight.normal_(0, 0.5 if "trainable_tokens" in name else 0.2)
    adapter = folder / "adapter"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft takes a bias for a matrix that was not saved whole
        network.save_pretrained(adapter, save_embedding_layers=False)
    edit_config(adapter, base_model_name_or_path="../base")
    shutil.copy(TOKENIZER, adapter)
    return adapter


@pytest.mark.parametrize(
    "options",
    [
        {"lora_alpha": 3, "use_rslora": True},
        {"rank_pattern": {"c_fc": 2}, "alpha_pattern": {"h.1.attn.c_proj": 20, "c_fc": 1}},
        {"lora_bias": True},
        {"bias": "all"},
        {"modules_to_save": ["ln_f", "mlp"], "target_modules": ["c_attn"]},
        {"trainable_token_indices": {"wte": [11, 262, *range(50257, 50257 + len(ADDED_TOKENS))]}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_adapters_of_every_kind(tmp_path: Path, options: dict[str, Any]) -> None:
    make_tagger(tmp_path)
    adapter = lora_adapter(tmp_path, **options)
    assert difference(TaggerModel.load(adapter), peft_model(adapter, str(tmp_path / "base"))) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "message"),
    [({"use_dora": True}, "no plain LoRA adapter.*use_dora"), ({"target_modules": ["wte"]}, "has no place for")],
)
def test_an_adapter_that_changes_more_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    make_tagger(tmp_path)
    if "target_modules" in options:
        options = options | {"trainable_token_indices": None}
    with pytest.raises(ModelError, match=message):
        TaggerModel.load(lora_adapter(tmp_path, **options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "mish"}, "activation function 'mish' is none of gelu"),
        ({"model_type": "llama"}, "type 'llama', not a GPT-2"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"n_layer": 5}, "h.2.attn.c_attn.weight is missing"),
    ],
)
def test_a_base_that_is_no_plain_gpt2_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    adapter = make_tagger(tmp_path)
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=re.escape(message)):
        TaggerModel.load(adapter)


def sentences(count: int) -> list[str]:
    """Sentences of two to nine words, of names, numbers, prices, contractions and punctuation."""
    draw = Random(0)
    words = (
        "the a this that my no every she he they nobody Anna Peter London I we you it will can could never only really just quite "
        "saw took found gave wanted lost kept tried to in on at with from for and but or because red cold bright last next small "
        "house train ticket price answer people water morning April Tuesday money train doctor kitchen window letter question "
        "it's don't won't can't they're $299 30% 1984 7 half-price well-known what who why how where if when than more most very"
    ).split()
    made = []
    for _ in range(count):
        chosen = [draw.choice(words) + draw.choice(["", "", "", "", "", ",", ";", " —"]) for _ in range(draw.randint(2, 9))]
        text = " ".join(chosen).rstrip(",;— ")
        made.append(text[:1].upper() + text[1:] + draw.choice(".....?!"))
    return made


def test_marks_of_a_thousand_sentences() -> None:
    texts = sentences(1000)
    ours = ProsodyTagger.load()
    theirs = ProsodyTagger(peft_model(SHIPPED_ADAPTER, str(SHIPPED / "tagger-base")), ours.thresholds)
    marked, expected = ours.mark_batch(texts), theirs.mark_batch(texts)
    assert marked == expected
    kinds = {mark.kind for text in marked for mark in text.marks}
    assert {"emph", "pause_short"} <= kinds <= set(KINDS)


def test_marking_imports_no_torch(tiny_tagger: Path) -> None:
    lines = [
        "import sys",
        "from ai_core.commands.cli import main",
        f"sys.argv = ['prosody', 'mark', 'It was cold today.', '--tagger', {str(tiny_tagger)!r}]",
        "try: main()",
        "except SystemExit as end: assert not end.code",
        "print({name.partition('.')[0] for name in sys.modules}, file=sys.stderr)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert "today" in done.stdout
    imported: set[str] = set(eval(done.stderr.splitlines()[-1]))
    assert "onnxruntime" in imported
    assert not imported & PACKAGES


def test_threads_share_a_model(tiny_tagger: Path) -> None:
    model = TaggerModel.load(tiny_tagger)
    tagger = ProsodyTagger(model, Thresholds({"low": 0.8, "medium": 0.6, "high": 0.4}, 0.5))
    expected = [tagger.score(text).marks for text in TEXTS]
    wrong: list[str] = []

    def score() -> None:
        for text, marks in list(zip(TEXTS, expected, strict=True)) * 20:
            if not np.allclose(tagger.score(text).marks, marks, atol=1e-6):
                wrong.append(text)

    threads = [threading.Thread(target=score) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_the_token_embedding_stays_in_its_file() -> None:
    table = read_base(str(SHIPPED / "tagger-base")).tokens.table
    assert isinstance(table.base, np.ndarray)
    mapped: Any = table
    while not isinstance(mapped, np.memmap) and mapped is not None:
        mapped = mapped.base
    assert mapped is not None
    assert np.array_equal(table, read_tensors(SHIPPED / "tagger-base" / "model.safetensors")["transformer.wte.weight"])
