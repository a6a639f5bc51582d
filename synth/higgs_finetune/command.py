"""Command line of `train-higgs`: train a LoRA adapter for Higgs Audio v2 on recordings and their texts.

On several GPUs: torchrun --nproc_per_node=N -m synth.higgs_finetune.command, with the same options.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from prosody_tagger.command import exit_code, people
from prosody_tagger.errors import BadInput
from synth.higgs_finetune.settings import FinetuneSettings
from synth.higgs_finetune.targets import NO_AUDIO_ATTENTION, TARGETS, parse_targets
from synth.higgs_local.settings import HiggsLocalSettings

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},  # --train_data is --train-data
)
_DEFAULT = FinetuneSettings()


@app.command()
def train_higgs(
    train_data: Annotated[
        Path | None,
        typer.Option("--train-data", "--train-manifest", help="ChatML manifest, JSON or JSON Lines.", show_default=False),
    ] = None,
    val_data: Annotated[
        Path | None,
        typer.Option(
            "--val-data", "--val-manifest", help="Manifest of held-out rows.", show_default="every 20th row of --train-data"
        ),
    ] = None,
    model_path: Annotated[
        str, typer.Option("--model-path", "--base-ckpt", help="Folder of the base model, or its name on the hub.")
    ] = HiggsLocalSettings.model_fields["model"].default,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec", help="Folder of the codec, or its name on the hub.", show_default="the one that comes with the model"
        ),
    ] = None,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", help="Folder of the adapter, checkpoints, samples and metrics.")
    ] = Path("output/adapters/higgs"),
    codes_dir: Annotated[
        Path | None, typer.Option("--codes-dir", help="Folder of the encoded recordings.", show_default="OUTPUT_DIR/codes")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows in a batch on each GPU.")] = _DEFAULT.batch_size,
    grad_accum: Annotated[
        int,
        typer.Option("--grad-accum", "--gradient-accumulation-steps", help="Batches that one optimizer step adds up."),
    ] = _DEFAULT.grad_accum,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", "--lr", help="Peak of the learning rate.")
    ] = _DEFAULT.learning_rate,
    warmup: Annotated[
        float, typer.Option("--warmup", help="Share of the steps in which the learning rate rises.")
    ] = _DEFAULT.warmup,
    num_epochs: Annotated[
        int, typer.Option("--num-epochs", "--epochs", help="Number of passes over the data.")
    ] = _DEFAULT.num_epochs,
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Stop after this many steps.", show_default=False)] = None,
    lora_r: Annotated[int, typer.Option("--lora-r", help="Rank of the adapter.")] = _DEFAULT.lora_r,
    lora_alpha: Annotated[int, typer.Option("--lora-alpha", help="Scale of the adapter: alpha / r.")] = _DEFAULT.lora_alpha,
    lora_dropout: Annotated[float, typer.Option("--lora-dropout", help="Dropout of the adapter.")] = _DEFAULT.lora_dropout,
    targets: Annotated[
        str, typer.Option("--targets", help=f"Layers that the adapter changes, comma-separated: {', '.join(TARGETS)}.")
    ] = ",".join(_DEFAULT.targets),
    text_loss_weight: Annotated[
        float, typer.Option("--text-loss-weight", help="Weight of the text loss; 0 does not load the text head.")
    ] = _DEFAULT.text_loss_weight,
    audio_loss_weight: Annotated[
        float, typer.Option("--audio-loss-weight", help="Weight of the audio loss.")
    ] = _DEFAULT.audio_loss_weight,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Weight decay of AdamW.")] = _DEFAULT.weight_decay,
    max_grad_norm: Annotated[
        float, typer.Option("--max-grad-norm", help="Norm that gradients are clipped to.")
    ] = _DEFAULT.max_grad_norm,
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], typer.Option("--precision", help="Precision of the base model; auto is bf16 on a GPU.")
    ] = _DEFAULT.precision,
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Recompute activations in the backward pass: slower, much less memory.")
    ] = _DEFAULT.gradient_checkpointing,
    save_every: Annotated[
        int, typer.Option("--save-every", "--save-steps", help="Steps between checkpoints.")
    ] = _DEFAULT.save_every,
    keep_checkpoints: Annotated[
        int, typer.Option("--keep-checkpoints", help="Number of newest checkpoints to keep.")
    ] = _DEFAULT.keep_checkpoints,
    eval_every: Annotated[
        int, typer.Option("--eval-every", "--eval-steps", help="Steps between evaluations; 0 evaluates after every epoch.")
    ] = _DEFAULT.eval_every,
    sample_rows: Annotated[
        int, typer.Option("--sample-rows", help="Held-out rows to generate and measure speech for at every evaluation.")
    ] = _DEFAULT.sample_rows,
    loader_workers: Annotated[int, typer.Option("--loader-workers", help="Processes that prepare batches.")] = (
        _DEFAULT.loader_workers
    ),
    seed: Annotated[int, typer.Option("--seed", help="Seed of row order, initial weights and dropout.")] = _DEFAULT.seed,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto is a GPU if there is one.")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --output-dir from its latest checkpoint, or start one.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the checkpoints of the run in --output-dir and start again.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's files too.")] = False,
    validate_data_only: Annotated[
        bool, typer.Option("--validate-data-only", help="Check every row and exit; exit code 2 if any is bad.")
    ] = False,
    create_sample_data: Annotated[
        Path | None,
        typer.Option("--create-sample-data", help="Write a small working manifest there, and exit.", show_default=False),
    ] = None,
    use_audio_out_self_attention: Annotated[bool, typer.Option("--use-audio-out-self-attention", hidden=True)] = False,
) -> None:
    """Train a LoRA adapter for Higgs Audio v2, with or without marks."""
    if use_audio_out_self_attention:
        raise BadInput(NO_AUDIO_ATTENTION)
    if create_sample_data is not None:
        _create_sample_data(create_sample_data)
        return
    if train_data is None:
        raise BadInput("no data: give a manifest with --train-data, or write an example of one with --create-sample-data FOLDER")
    if validate_data_only:
        _validate([path for path in (train_data, val_data) if path is not None])
        return
    given = {name: value for name, value in locals().items() if name in FinetuneSettings.model_fields}
    settings = _settings(**given | {"targets": parse_targets(targets)})

    from synth.higgs_finetune.progress import NoDisplay, TerminalDisplay
    from synth.higgs_finetune.run import FinetuneJob, run

    job = FinetuneJob(train_data, val_data, model_path, codec, output_dir, codes_dir, device, resume, overwrite, tensorboard)
    if os.environ.get("RANK", "0") != "0":  # torchrun sets it; only the first process shows anything
        run(job, settings, NoDisplay())
        return
    with TerminalDisplay(people()) as display:
        result = run(job, settings, display)
        display.show_message(f"{result.step} of {result.steps} steps done; the adapter is in {output_dir}")


def _settings(**values: Any) -> FinetuneSettings:
    from pydantic import ValidationError

    try:
        return FinetuneSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "-".join(str(part) for part in first["loc"][:1]).replace("_", "-")
        raise BadInput(f"--{option} cannot be {first['input']!r}: {first['msg'].lower()}; --help lists the options") from None


def _create_sample_data(path: Path) -> None:
    from synth.higgs_finetune.sample_data import create_sample_data

    manifest = create_sample_data(path)
    people().print(f"wrote {manifest}; check it with --train-data {manifest} --validate-data-only", markup=False)


def _validate(paths: Sequence[Path]) -> None:
    """Check manifests and print their problems.

    Raises:
        BadInput: there are bad rows.
    """
    from synth.higgs_finetune.manifest import read_manifest
    from synth.higgs_finetune.validate import find_overlap, print_report, validate

    reports = [validate(read_manifest(path)) for path in paths]
    console = people()
    for report in reports:
        print_report(report, console)
    overlap = find_overlap(*reports) if len(reports) == 2 else ()
    for problem in overlap:
        console.print(f"{problem.source}: {problem.reason}", style="red", markup=False)
    bad = sum(len(report.bad) for report in reports) + len(overlap)
    if bad:
        raise BadInput(f"{bad} rows cannot be used; correct or remove the rows listed above")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return exit_code(app, args)


def command() -> None:
    """Run the command and exit: the entry point of the console script."""
    sys.exit(main())


if __name__ == "__main__":
    command()
