"""Command `train-tagger`: train a LoRA adapter over a GPT-2 on marked text or on the Helsinki Prosody Corpus.

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

    from prosody_tagger.corpus.examples import LabelledText
    from prosody_tagger.corpus.readers import DataFile
    from prosody_tagger.corpus.splits import Split
    from prosody_tagger.training.checkpoint import TrainingCheckpoint
    from prosody_tagger.training.distillation import Teacher
    from prosody_tagger.training.trainer import LoopSettings

    PrintLine = Callable[[str], None]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _default(name: str) -> str:
    return str(TrainSettings.model_fields[name].default)


@app.command()
def train_tagger(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Training data: marked text, JSONL or Helsinki columns.", show_default=False),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Another file to train on; repeatable.", show_default=False)
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Folder or hub name of a GPT-2.", show_default="the shipped base")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write the tagger to.", show_default=_default("output"))
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Maximum number of passes over the data.", show_default=_default("epochs"))
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            help="Stop after this many epochs without a lower evaluation loss; 0 trains all epochs and keeps the last.",
            show_default=_default("patience"),
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", help="Maximum texts per batch, over all processes.", show_default=_default("batch_size")),
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.", show_default=_default("lr"))] = None,
    lora_r: Annotated[int | None, typer.Option("--lora-r", help="LoRA rank.", show_default=_default("lora_r"))] = None,
    lora_alpha: Annotated[
        float | None, typer.Option("--lora-alpha", help="LoRA scale.", show_default=_default("lora_alpha"))
    ] = None,
    lora_dropout: Annotated[
        float | None, typer.Option("--lora-dropout", help="LoRA dropout.", show_default=_default("lora_dropout"))
    ] = None,
    eval_fraction: Annotated[
        float | None,
        typer.Option("--eval-fraction", help="Share of the data to hold out for evaluation.", show_default=str(EVAL_FRACTION)),
    ] = None,
    eval_data: Annotated[
        list[Path] | None,
        typer.Option("--eval-data", help="A file to evaluate on, instead of held-out data; repeatable.", show_default=False),
    ] = None,
    max_examples: Annotated[
        int | None, typer.Option("--max-examples", help="Train on a random sample of this many examples.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Random seed.", show_default=_default("seed"))] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            "--language",
            help="Language of the data, such as en; repeatable. The tagger puts no emphasis on text in other languages.",
            show_default="any language",
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option("--precision", help="Number format of the forward pass.", show_default=_default("precision")),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the unfinished run in --output, or start one if there is none.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the unfinished run in --output and start again.")] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML or JSON file of these options, or a training.json; the command line takes precedence."),
    ] = None,
) -> None:
    """Train a tagger on your own examples.

    Each line of data is marked text, for example: It's <emph>only $299 <pause_short>today. Give the resulting folder to --tagger.
    """
    options = dict(locals())
    for name in ("files", "resume", "overwrite", "config"):
        del options[name]
    options["data"] = [*(files or []), *(data or [])]
    train(load_train_settings(options, config), resume=resume, overwrite=overwrite)


def train(settings: TrainSettings, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Train a tagger, write its folder, and return the content of its training.json.

    Args:
        settings: what to train on, and how.
        resume: continue the unfinished run in the output folder, or start one if there is none.
        overwrite: delete the unfinished run in the output folder and start again.

    Raises:
        DataError: the data has unusable lines, or is too little; nothing is trained then.
        ModelError: the base cannot be loaded.
        BadInput: the output folder holds other files, the checkpoint of another run, or an unfinished run without ``resume`` or
            ``overwrite``.
    """
    _check_output(settings.output, resume=resume, overwrite=overwrite)
    files, split = read_data(settings)
    return train_on_split(settings, files, split, resume=resume, overwrite=overwrite)


def train_on_split(
    settings: TrainSettings,
    files: "Sequence[DataFile]",
    split: "Split",
    *,
    resume: bool = False,
    overwrite: bool = False,
    teacher: "Teacher | None" = None,
) -> dict[str, Any]:
    """Train like `train`, on examples that were already read from ``files`` and split, optionally with a teacher."""
    import torch

    _check_output(settings.output, resume=resume, overwrite=overwrite)
    accelerator, print_line = start_run(settings.seed)
    try:
        for line in _describe_data(files, split):
            print_line(line)
        return _train(settings, files, split, accelerator, print_line, resume, teacher)
    finally:
        accelerator.end_training()
        torch.set_flush_denormal(False)  # restore the caller's floating-point mode


def read_data(settings: TrainSettings) -> "tuple[list[DataFile], Split]":
    """Read all files, and split the examples into training and evaluation data without overlap.

    Raises:
        DataError: the data has unusable lines, or is too little.
    """
    from prosody_tagger.corpus.readers import merge_labellings, read_files
    from prosody_tagger.corpus.splits import Split, drop_repeats, hold_out, remove_overlap

    count = len(settings.data)
    files = read_files([*settings.data, *settings.eval_data])
    examples, notes = merge_labellings([example for file in files[:count] for example in file.examples])
    examples, repeats = drop_repeats(examples)
    if repeats:
        notes.append(f"{repeats} examples were left out: they repeat another one, including its marks")
    fraction = settings.held_out_fraction
    if fraction is None:
        held_out, _ = merge_labellings([example for file in files[count:] for example in file.examples])
        parts = remove_overlap(examples, held_out, notes)
    else:
        parts = hold_out(examples, fraction, settings.seed)
        parts = Split(parts.train, parts.held_out, [*notes, *parts.notes])
    chosen = parts.train
    if settings.max_examples is not None and settings.max_examples < len(chosen):
        drawn = random.Random(settings.seed).sample(range(len(chosen)), settings.max_examples)
        chosen = [chosen[index] for index in sorted(drawn)]
        parts.notes.append(f"{len(chosen)} of {len(parts.train)} examples were sampled to train on")
    return files, Split(chosen, parts.held_out, parts.notes)


def start_run(seed: int) -> "tuple[Accelerator, PrintLine]":
    """Join the processes of this run and seed all random generators.

    Returns:
        The accelerator, and a function that prints a line to stderr in the main process and does nothing in the others.
    """
    import numpy as np
    import torch
    from accelerate import Accelerator

    from prosody_tagger.command import people

    # Rows of rare tokens produce denormal optimizer states, which are about 100 times slower, so flush them to zero. Threads
    # inherit this mode when they are created: set it before the first computation.
    torch.set_flush_denormal(True)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    console = people()

    def print_line(line: str) -> None:
        if accelerator.is_main_process:
            console.print(line, markup=False)

    return accelerator, print_line


def _train(
    settings: TrainSettings,
    files: "Sequence[DataFile]",
    split: "Split",
    accelerator: "Accelerator",
    print_line: "PrintLine",
    resume: bool,
    teacher: "Teacher | None",
) -> dict[str, Any]:
    from prosody_tagger.evaluation.metrics import WordLabels
    from prosody_tagger.training.artifacts import TRAINING_FILE, base_record, write_artifacts
    from prosody_tagger.training.base_models import adapter_base_name, add_lora, load_base, save_adapter
    from prosody_tagger.training.checkpoint import CHECKPOINT_FILE, TrainingCheckpoint
    from prosody_tagger.training.trainer import TaggerTrainer

    network, tokenizer = load_base(settings.base)
    base = base_record(adapter_base_name(settings.base, settings.output), network)
    network = add_lora(network, r=settings.lora_r, alpha=settings.lora_alpha, dropout=settings.lora_dropout)
    record = _training_record(settings, files, split, base)
    settings.output.mkdir(parents=True, exist_ok=True)
    checkpoint = TrainingCheckpoint(settings.output / CHECKPOINT_FILE, _run_identity(record))
    trainer = TaggerTrainer(
        network, tokenizer, split.train, split.held_out, _loop_settings(settings), accelerator, checkpoint, teacher
    )
    if resume:
        finished = _finished_record(settings.output, checkpoint)
        if finished is not None:
            print_line(f"the run in {settings.output} is already finished")
            return finished
        print_line("resuming from the checkpoint" if trainer.resume() else "there is no checkpoint; starting from the beginning")
    accelerator.wait_for_everyone()
    if not resume and accelerator.is_main_process:
        checkpoint.remove()
        (settings.output / TRAINING_FILE).unlink(missing_ok=True)
    progress = trainer.run()
    scores = trainer.score_held_out()
    result: dict[str, Any] = {}
    if accelerator.is_main_process:
        save_adapter(network, tokenizer, base["name"], settings.output)
        result = write_artifacts(settings.output, record, progress, scores, split.held_out, WordLabels.of(split.train))
        checkpoint.remove()
        _report_result(result, settings.output, print_line)
    accelerator.wait_for_everyone()
    return result


def _loop_settings(settings: TrainSettings) -> "LoopSettings":
    import torch

    from prosody_tagger.training.trainer import LoopSettings

    wanted = settings.precision == "bfloat16"
    automatic = settings.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return LoopSettings(
        epochs=settings.epochs,
        lr=settings.lr,
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
        seed=settings.seed,
        patience=settings.patience,
        bfloat16=wanted or automatic,
        swap_rare=settings.swap_rare,
    )


def _training_record(settings: TrainSettings, files: "Sequence[DataFile]", split: "Split", base: dict[str, str]) -> dict[str, Any]:
    """Return the part of training.json that describes the run: settings, base, data and split."""
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


def _run_identity(record: dict[str, Any]) -> dict[str, Any]:
    """Return everything that the outcome depends on. Names and folders are left out: the same data elsewhere is the same run."""
    settings = {name: value for name, value in record["settings"].items() if name not in {"data", "eval_data", "output", "base"}}
    data = [[file["use"], file["sha256"]] for file in record["data"]]
    return {**settings, "data": data, "base": record["base"]["fingerprint"]}


def _finished_record(output: Path, checkpoint: "TrainingCheckpoint") -> dict[str, Any] | None:
    """Return the content of training.json if this run is finished, else None."""
    from prosody_tagger.training.artifacts import TRAINING_FILE

    if checkpoint.path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads((output / TRAINING_FILE).read_text(encoding="utf-8"))
        same = _run_identity(result) == json.loads(json.dumps(checkpoint.identity))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if same else None


def _check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to write among files of other programs, or over an unfinished run.

    Raises:
        BadInput: either is the case.
    """
    from prosody_tagger.errors import BadInput
    from prosody_tagger.training.checkpoint import has_checkpoint, refuse_to_overwrite

    if output.exists() and not output.is_dir():
        raise BadInput(f"--output {output} is a file; give a folder")
    refuse_to_overwrite(output, resume=resume, overwrite=overwrite)
    files_of_a_tagger = ("adapter_config.json", "tokenizer.json", "training.json")
    is_known = has_checkpoint(output) or any((output / name).exists() for name in files_of_a_tagger)
    if output.is_dir() and any(output.iterdir()) and not is_known:
        raise BadInput(f"--output {output} holds files of something other than a tagger; give an empty or a new folder")


def _describe_data(files: "Sequence[DataFile]", split: "Split") -> list[str]:
    lines = [f"{file.path}: {_describe_examples(file.examples)}" for file in files]
    return [*lines, *split.notes, f"{len(split.train)} examples to train on, {len(split.held_out)} to evaluate on"]


def _describe_examples(examples: "Sequence[LabelledText]") -> str:
    kinds = sorted({example.labelling for example in examples})
    names = {"v1": "older labelling (v1)", "v3": "released labelling (v3)", "marked": "marked text"}
    return f"{len(examples)} examples, {', '.join(names[kind] for kind in kinds)}"


def _report_result(result: dict[str, Any], output: Path, print_line: "PrintLine") -> None:
    print_line(f"evaluation loss {result['evaluation_loss']:.4f} in epoch {result['best_epoch']}")
    if not (output / "loss.png").exists():
        print_line(f"no plots: matplotlib is not installed; {install_command('plot')}")
    print_line(f"written to {output}; use it with --tagger {output}")


def main() -> None:
    """Run the command and exit the process with its exit code."""
    from prosody_tagger.command import run_command

    run_command(app)


if __name__ == "__main__":
    main()
