"""What stands beside a trained adapter for people: a model card, and the loss curves as a picture."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synth.higgs_finetune.metrics_log import read_journal
from synth.higgs_finetune.settings import JOURNAL, FinetuneSettings

CARD, CURVES = "README.md", "loss.png"


def write_card(
    folder: Path, settings: FinetuneSettings, *, base: str, marks: Iterable[str], rows: tuple[int, int], need: str
) -> None:
    """Write the model card of the adapter in ``folder``, from its journal.

    Args:
        base: the model that it was trained on.
        marks: those that it was trained on.
        rows: to train on, and held out.
        need: what the run was said to need.
    """
    lines = list(read_journal(folder / JOURNAL))
    held_out = [line for line in lines if line["kind"] == "held_out"]
    steps = [line for line in lines if line["kind"] == "train"]
    kinds = ", ".join(f"`<{kind}>`" for kind in marks)
    parts = [
        f"---\nbase_model: {base}\nlibrary_name: peft\npipeline_tag: text-to-speech\ntags: [lora, higgs-audio]\n---",
        f"# {folder.resolve().name}",
        f"A LoRA adapter for Higgs Audio v2, trained on {rows[0]} rows and scored on {rows[1]} that it did not see.",
        f"Marks that it was trained on: {kinds or 'none'}. Their tokens are in `prosody.json`.",
        "## Use\n\nPut the folder into the folder of adapters of the local Higgs backend, or load it with "
        "`peft.PeftModel.from_pretrained`. `prosody adapter merge` makes a checkpoint of it for servers that load no adapters.",
        "## Losses\n\nIn nats a label; audio is the mean over the codebooks. `shuffled` is the audio loss on the same rows with "
        "their codes shuffled in time, and `least` what an honest model cannot get below there.",
        _table(("step", "loss", "text", "audio", "shuffled", "least"), [_losses(line) for line in held_out]),
        *_samples(lines),
        "## Training",
        _table(("setting", "value"), [(name, str(value)) for name, value in settings.model_dump(mode="json").items()]),
        *([f"It took {sum(line['seconds'] for line in steps):.0f} seconds of steps; said before: {need}."] if steps else []),
    ]
    (folder / CARD).write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def draw_curves(folder: Path) -> bool:
    """Draw the losses in the journal of ``folder`` as a PNG. False if matplotlib is not installed, or there is nothing to draw."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    lines = list(read_journal(folder / JOURNAL))
    if not any(name in line for line in lines for name in ("audio", "text")):
        return False
    names = [name for name in ("audio", "text") if any(name in line for line in lines)]
    figure = Figure(figsize=(4.5 * len(names), 4), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for kind, style in (("train", "-"), ("held_out", "o-")):
            points = [(line["step"], line[name]) for line in lines if line["kind"] == kind and name in line]
            if points:
                panel.plot(*zip(*points, strict=True), style, label=kind.replace("_", " "), linewidth=1, markersize=4)
        panel.set(title=f"{name} loss", xlabel="step", ylabel="nats a label")
        panel.legend()
        panel.grid(alpha=0.3)
    figure.savefig(folder / CURVES, dpi=120)
    return True


def _losses(line: Mapping[str, Any]) -> tuple[str, ...]:
    figures = (line.get(name) for name in ("loss", "text", "audio", "shuffled", "shuffled_least"))
    return (str(line["step"]), *("" if value is None else f"{value:.3f}" for value in figures))


def _samples(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    samples = [line for line in lines if line["kind"] == "sample"]
    if not samples:
        return []
    last = [line for line in samples if line["step"] == samples[-1]["step"]]
    rows = [
        (
            f"{line['seconds']:.2f}",
            f"{line['recorded_seconds']:.2f}",
            "yes" if line["ended"] else "no",
            f"{line['silence']:.0%}" if "silence" in line else "",
            f"{line['similarity']:.2f}" if "similarity" in line else "",
            f"{line['realised']} of {line['marks']}" if "marks" in line else "",
        )
        for line in last
    ]
    columns = ("seconds", "recorded", "ended by itself", "silence", "speaker similarity", "marks heard")
    return [f"## Spoken after step {last[0]['step']}", _table(columns, rows)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
