"""The command `train-tagger`: a LoRA adapter over a GPT-2, from marked text or from the Helsinki Prosody Corpus.

train-tagger examples.jsonl --output output/tagger
torchrun --nproc_per_node=2 -m prosody_tagger.training.train examples.jsonl --output output/tagger
"""

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prosody_tagger.extras import install_command
from prosody_tagger.training.settings import EVAL_FRACTION, Precision, TrainSettings, load_train_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from accelerate import Accelerator

    from prosody_tagger.corpus.examples import Example
    from prosody_tagger.corpus.readers import DataFile
    from prosody_tagger.corpus.splits import Split
    from prosody_tagger.training.checkpoint import Checkpoint
    from prosody_tagger.training.distillation import Teacher

    Say = Callable[[str], None]

CHECKPOINT_FILE = "checkpoint.pt"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _default(name: str) -> str:
    return str(TrainSettings.model_fields[name].default)


@app.command()
def train_tagger(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", help="Marked text, JSONL or Helsinki columns.", show_default=False)
    ] = None,
    data: Annotated[list[Path] | None, typer.Option("--data", help="One more file to train on.", show_default=False)] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Folder or hub name of a GPT-2.", show_default="the one that ships")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the result.", show_default=_default("output"))
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Times through the data, at most.", show_default=_default("epochs"))
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience", help="Epochs without a lower evaluation loss before it ends.", show_default=_default("patience")
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", help="Texts in a batch, over all processes.", show_default=_default("batch_size")),
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate at its highest.", show_default=_default("lr"))] = None,
    lora_r: Annotated[int | None, typer.Option("--lora-r", help="Rank.", show_default=_default("lora_r"))] = None,
    lora_alpha: Annotated[float | None, typer.Option("--lora-alpha", help="Scale.", show_default=_default("lora_alpha"))] = None,
    lora_dropout: Annotated[
        float | None, typer.Option("--lora-dropout", help="Dropout.", show_default=_default("lora_dropout"))
    ] = None,
    eval_fraction: Annotated[
        float | None,
        typer.Option("--eval-fraction", help="Share of the data to evaluate on.", show_default=str(EVAL_FRACTION)),
    ] = None,
    eval_data: Annotated[
        list[Path] | None, typer.Option("--eval-data", help="A file to evaluate on, in place of a share.", show_default=False)
    ] = None,
    max_examples: Annotated[
        int | None, typer.Option("--max-examples", help="Train on so many examples at most.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of all that is drawn.", show_default=_default("seed"))] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            "--language",
            help="What the data is written in, such as en; text in another language then gets no emphasis.",
            show_default="every language is taken",
        ),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="What the network computes in.", show_default=_default("precision"))
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut off, or start one.")] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="These options as TOML or JSON, or a training.json; options given here count first."),
    ] = None,
) -> None:
    """Train a tagger on your own examples.

    A line of data is marked text, as in: It's <emph>only $299 <pause_short>today. What came out goes to --tagger.
    """
    options = {name: value for name, value in locals().items() if name not in {"files", "data", "resume", "config"}}
    options["data"] = [*(files or []), *(data or [])]
    train(load_train_settings(options, config), resume=resume)


def train(settings: TrainSettings, *, resume: bool = False) -> dict[str, Any]:
    """Train a tagger and write its folder; returns what training.json holds.

    Raises:
        DataError: lines that cannot be used, or too little data; nothing is trained then.
        ModelError: the base cannot be loaded.
        BadInput: an output folder that holds something else, or a checkpoint of another run.
    """
    files, split = prepare(settings)
    return train_on(settings, files, split, resume=resume)


def train_on(
    settings: TrainSettings,
    files: "Sequence[DataFile]",
    split: "Split",
    *,
    resume: bool = False,
    teacher: "Teacher | None" = None,
) -> dict[str, Any]:
    """Like `train`, with the examples as they were read from ``files`` and split, and with a teacher to follow if there is one."""
    import torch

    _check_output(settings.output)
    accelerator, say = start(settings.seed)
    try:
        for line in _about(files, split):
            say(line)
        return _train(settings, files, split, accelerator, say, resume, teacher)
    finally:
        accelerator.end_training()
        torch.set_flush_denormal(False)  # the caller's own computations are exact again


def prepare(settings: TrainSettings) -> "tuple[list[DataFile], Split]":
    """Read the data, all of it before anything is trained, and keep training and evaluation apart.

    Raises:
        DataError: lines that cannot be used, or too little data.
    """
    from prosody_tagger.corpus.readers import merge_labellings, read_files
    from prosody_tagger.corpus.splits import Split, keep_apart, split, without_repeats

    count = len(settings.data)
    files = read_files([*settings.data, *settings.eval_data])
    examples, notes = merge_labellings([example for file in files[:count] for example in file.examples])
    examples, repeats = without_repeats(examples)
    if repeats:
        notes.append(f"{repeats} examples were left out: they say again what another one says, mark for mark")
    fraction = settings.held_out_fraction
    if fraction is None:
        held_out, _ = merge_labellings([example for file in files[count:] for example in file.examples])
        parts = keep_apart(examples, held_out, notes)
    else:
        parts = split(examples, fraction, settings.seed)
        parts = Split(parts.train, parts.held_out, [*notes, *parts.notes])
    chosen = parts.train
    if settings.max_examples is not None and settings.max_examples < len(chosen):
        drawn = random.Random(settings.seed).sample(range(len(chosen)), settings.max_examples)
        chosen = [chosen[index] for index in sorted(drawn)]
        parts.notes.append(f"{len(chosen)} of {len(parts.train)} examples were drawn to train on")
    return files, Split(chosen, parts.held_out, parts.notes)


def start(seed: int) -> "tuple[Accelerator, Say]":
    """The processes of this run, everything drawn from ``seed``, and how the first of them talks to people."""
    import numpy as np
    import torch
    from accelerate import Accelerator

    from prosody_tagger.command import people

    # Rows of words that seldom come leave the optimizer numbers so small that a processor computes them in microcode, a hundred
    # times slower. Threads take this over from the one that makes them, so it stands before the first computation.
    torch.set_flush_denormal(True)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    console = people()

    def say(line: str) -> None:
        if accelerator.is_main_process:
            console.print(line, markup=False)

    return accelerator, say


def _train(
    settings: TrainSettings,
    files: "Sequence[DataFile]",
    split: "Split",
    accelerator: "Accelerator",
    say: "Say",
    resume: bool,
    teacher: "Teacher | None",
) -> dict[str, Any]:
    from prosody_tagger.evaluation.metrics import Truth
    from prosody_tagger.training.artifacts import base_record, write_result
    from prosody_tagger.training.base_models import base_name, load_base, save_adapter, with_lora
    from prosody_tagger.training.checkpoint import Checkpoint
    from prosody_tagger.training.trainer import Fit

    network, tokenizer = load_base(settings.base)
    base = base_record(base_name(settings.base, settings.output), network)
    network = with_lora(network, r=settings.lora_r, alpha=settings.lora_alpha, dropout=settings.lora_dropout)
    record = _record(settings, files, split, base)
    settings.output.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(settings.output / CHECKPOINT_FILE, _identity(record))
    fit = Fit(network, tokenizer, split.train, split.held_out, _fit_settings(settings), accelerator, checkpoint, teacher)
    if resume:
        done = _finished(settings.output, checkpoint)
        if done is not None:
            say(f"{settings.output} is finished already")
            return done
        say("going on from the checkpoint" if fit.resume() else "there is no checkpoint; starting from the beginning")
    accelerator.wait_for_everyone()
    if not resume and accelerator.is_main_process:
        checkpoint.remove()
        (settings.output / "training.json").unlink(missing_ok=True)
    progress = fit.run()
    scores = fit.scores()
    whole: dict[str, Any] = {}
    if accelerator.is_main_process:
        save_adapter(network, tokenizer, base["name"], settings.output)
        whole = write_result(settings.output, record, progress, scores, split.held_out, Truth.of(split.train))
        checkpoint.remove()
        _show(whole, settings.output, say)
    accelerator.wait_for_everyone()
    return whole


def _fit_settings(settings: TrainSettings) -> Any:
    import torch

    from prosody_tagger.training.trainer import FitSettings

    wanted = settings.precision == "bfloat16"
    automatic = settings.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return FitSettings(
        epochs=settings.epochs,
        lr=settings.lr,
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
        seed=settings.seed,
        patience=settings.patience,
        bfloat16=wanted or automatic,
        swap_rare=settings.swap_rare,
    )


def _record(settings: TrainSettings, files: "Sequence[DataFile]", split: "Split", base: dict[str, str]) -> dict[str, Any]:
    """What training.json says of how the result came about."""
    return {
        "settings": settings.as_json(),
        "base": base,
        "data": [
            {
                "file": str(file.path),
                "use": "train" if index < len(settings.data) else "evaluate",
                "sha256": file.sha256,
                "examples": len(file.examples),
                "labelling": sorted({example.labelling for example in file.examples}),
            }
            for index, file in enumerate(files)
        ],
        "split": {
            "train": len(split.train),
            "held_out": len(split.held_out),
            "held_out_speakers": sorted({example.speaker for example in split.held_out if example.speaker}),
            "notes": split.notes,
        },
    }


def _identity(record: dict[str, Any]) -> dict[str, Any]:
    """All that the outcome depends on: another folder or another name for the same data is the same run."""
    settings = {name: value for name, value in record["settings"].items() if name not in {"data", "eval_data", "output", "base"}}
    data = [[file["use"], file["sha256"]] for file in record["data"]]
    return {**settings, "data": data, "base": record["base"]["fingerprint"]}


def _finished(output: Path, checkpoint: "Checkpoint") -> dict[str, Any] | None:
    """What training.json holds, if this very run has ended."""
    if checkpoint.path.exists():
        return None
    try:
        whole: dict[str, Any] = json.loads((output / "training.json").read_text(encoding="utf-8"))
        same = _identity(whole) == json.loads(json.dumps(checkpoint.identity))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return whole if same else None


def _check_output(output: Path) -> None:
    """Refuse to write among files that no training left."""
    from prosody_tagger.errors import BadInput

    known = ("adapter_config.json", "tokenizer.json", CHECKPOINT_FILE, "checkpoint.part", "training.json")
    if output.exists() and not output.is_dir():
        raise BadInput(f"--output {output} is a file; give a folder")
    if output.is_dir() and any(output.iterdir()) and not any((output / name).exists() for name in known):
        raise BadInput(f"--output {output} holds files that are no tagger's; give an empty or a new folder")


def _about(files: "Sequence[DataFile]", split: "Split") -> list[str]:
    lines = [f"{file.path}: {_counted(file.examples)}" for file in files]
    return [*lines, *split.notes, f"{len(split.train)} examples to train on, {len(split.held_out)} to evaluate on"]


def _counted(examples: "Sequence[Example]") -> str:
    kinds = sorted({example.labelling for example in examples})
    names = {"v1": "older labelling (v1)", "v3": "released labelling (v3)", "marked": "marked text"}
    return f"{len(examples)} examples, {', '.join(names[kind] for kind in kinds)}"


def _show(whole: dict[str, Any], output: Path, say: "Say") -> None:
    say(f"evaluation loss {whole['evaluation_loss']:.4f} in epoch {whole['best_epoch']}")
    if not (output / "loss.png").exists():
        say(f"no plots: matplotlib is not installed; {install_command('plot')}")
    say(f"written to {output}; use it with --tagger {output}")


def main() -> None:
    """Entry point of the command."""
    from prosody_tagger.command import run_command

    run_command(app)


if __name__ == "__main__":
    main()
