"""Model card of a trained adapter, and a picture of its loss curves."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synth.higgs_finetune.metrics_log import read_metrics
from synth.higgs_finetune.settings import METRICS_FILE, FinetuneSettings

CARD_FILE, CURVES_FILE = "README.md", "loss.png"


def write_card(
    folder: Path, settings: FinetuneSettings, *, base: str, marks: Iterable[str], rows: tuple[int, int], estimate: str
) -> None:
    """Write the model card of the adapter in ``folder``, from its metrics log.

    Args:
        folder: the output folder of the run.
        settings: settings of the run.
        base: the base model, as a folder or a name on the hub.
        marks: the kinds of marks that the adapter was trained on.
        rows: number of training rows and of held-out rows.
        estimate: memory and time that were estimated before the run.
    """
    lines = list(read_metrics(folder / METRICS_FILE))
    held_out = [line for line in lines if line["kind"] == "held_out"]
    steps = [line for line in lines if line["kind"] == "train"]
    kinds = ", ".join(f"`<{kind}>`" for kind in marks)
    seconds = sum(line["seconds"] for line in steps)
    parts = [
        f"---\nbase_model: {base}\nlibrary_name: peft\npipeline_tag: text-to-speech\ntags: [lora, higgs-audio]\n---",
        f"# {folder.resolve().name}",
        f"A LoRA adapter for Higgs Audio v2, trained on {rows[0]} rows and evaluated on {rows[1]} held-out rows.",
        f"Marks that it was trained on: {kinds or 'none'}. `prosody.json` lists their tokens.",
        "## Use\n\nMove this folder into the adapters folder of the local Higgs backend, or load it with "
        "`peft.PeftModel.from_pretrained`. For servers that load no adapters, `prosody adapter merge` writes a merged checkpoint.",
        "## Losses\n\nIn nats per label; audio is the mean over the codebooks. `shuffled` is the audio loss on the same rows with "
        "codes shuffled in time, and `least` the lowest value that it can have unless labels leak into the input.",
        _table(("step", "loss", "text", "audio", "shuffled", "least"), [_loss_cells(line) for line in held_out]),
        *_samples_section(lines),
        "## Training",
        _table(("setting", "value"), [(name, str(value)) for name, value in settings.model_dump(mode="json").items()]),
        *([f"All steps together took {seconds:.0f} seconds. Estimate before the run: {estimate}."] if steps else []),
    ]
    (folder / CARD_FILE).write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def draw_curves(folder: Path) -> bool:
    """Draw the losses in the metrics log of ``folder`` as a PNG.

    Returns:
        False if matplotlib is not installed or the log has no losses.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    lines = list(read_metrics(folder / METRICS_FILE))
    names = [name for name in ("audio", "text") if any(name in line for line in lines)]
    if not names:
        return False
    figure = Figure(figsize=(4.5 * len(names), 4), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for kind, style in (("train", "-"), ("held_out", "o-")):
            points = [(line["step"], line[name]) for line in lines if line["kind"] == kind and name in line]
            if points:
                panel.plot(*zip(*points, strict=True), style, label=kind.replace("_", " "), linewidth=1, markersize=4)
        panel.set(title=f"{name} loss", xlabel="step", ylabel="nats per label")
        panel.legend()
        panel.grid(alpha=0.3)
    figure.savefig(folder / CURVES_FILE, dpi=120)
    return True


def _loss_cells(line: Mapping[str, Any]) -> tuple[str, ...]:
    losses = (line.get(name) for name in ("loss", "text", "audio", "shuffled", "shuffled_least"))
    return (str(line["step"]), *("" if value is None else f"{value:.3f}" for value in losses))


def _samples_section(lines: Sequence[Mapping[str, Any]]) -> list[str]:
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
    columns = ("seconds", "recorded", "stopped by itself", "silence", "speaker similarity", "marks realised")
    return [f"## Samples after step {last[0]['step']}", _table(columns, rows)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
