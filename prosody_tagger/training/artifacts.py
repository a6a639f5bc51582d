"""The folder that training leaves: what the runtime loads, and what people and scripts read of how it came about."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prosody_tagger.corpus.examples import Example
from prosody_tagger.density import DENSITIES
from prosody_tagger.evaluation import report
from prosody_tagger.evaluation.mark_scores import MarkScores
from prosody_tagger.evaluation.metrics import MEASURES, Guess, Truth
from prosody_tagger.model import Scores, fingerprint
from prosody_tagger.tagger import ProsodyTagger
from prosody_tagger.training.checkpoint import Progress
from prosody_tagger.training.thresholds import set_thresholds

PACKAGES = ("prosody-speech", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")
TRAINING_FILE = "training.json"


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def versions() -> dict[str, str | None]:
    """Of Python and of every package that the outcome depends on; None for one that is not installed as a package."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def base_record(source: str, network: Any) -> dict[str, str]:
    """What training.json says of the base, for the runtime to tell it from another."""
    return {"name": source, "fingerprint": fingerprint(network)}


def write_result(
    output: Path, record: Mapping[str, Any], progress: Progress, scores: Scores, held_out: Sequence[Example], elsewhere: Truth
) -> dict[str, Any]:
    """Write the thresholds, the figures, the model card and the plots beside the adapter; training.json comes last.

    Args:
        record: what training.json holds beside the figures: settings, base, data, split, versions.
        scores: the model's, of the words of ``held_out``; ``elsewhere`` are the labels of the words trained on.

    Returns:
        What training.json holds.
    """
    truth, guess = Truth.of(held_out), Guess.of(scores)
    rows = report.guess_rows(truth, guess, elsewhere)
    thresholds = set_thresholds(scores, truth)
    if record["settings"]["language"]:
        thresholds["languages"] = record["settings"]["language"]
    write_json(output / "thresholds.json", thresholds)
    marks = _marks(ProsodyTagger.load(output), held_out)
    figures, *others = rows.values()
    whole = {
        **record,
        "versions": versions(),
        "history": progress.history,
        "best_epoch": progress.best_epoch,
        "evaluation_loss": progress.history[progress.best_epoch - 1]["evaluation_loss"],
        "figures": {**figures, "marks": marks or None},
        "baselines": dict(zip(list(rows)[1:], others, strict=True)),
        "thresholds": thresholds,
    }
    plots = _plot(output, progress, truth, guess)
    (output / "README.md").write_text(_card(whole, rows, plots), encoding="utf-8")
    write_json(output / TRAINING_FILE, whole)
    return whole


def _marks(tagger: ProsodyTagger, held_out: Sequence[Example]) -> dict[str, Any]:
    """How many of the marks that stand in the texts held out the new tagger finds; loading it shows that it loads."""
    marked = [example for example in held_out if example.marks is not None]
    found = MarkScores()
    for example, tagged in zip(marked, tagger.mark_batch([example.text for example in marked]), strict=True):
        found.add(example, tagged)
    return found.as_dict()


def _plot(output: Path, progress: Progress, truth: Truth, guess: Guess) -> list[str]:
    """The names of the pictures; none where matplotlib, an extra, is not installed."""
    if find_spec("matplotlib") is None:
        return []
    from prosody_tagger.evaluation import plots

    plots.plot_loss(progress.history, progress.best_epoch, output / plots.LOSS_FILE)
    plots.plot_precision_recall(truth, guess, output / plots.CURVES_FILE)
    return [plots.LOSS_FILE, plots.CURVES_FILE]


def _card(whole: Mapping[str, Any], rows: Mapping[str, report.Figures], plots: Sequence[str]) -> str:
    settings, split = whole["settings"], whole["split"]
    lora = f"rank {settings['lora_r']}, alpha {settings['lora_alpha']:g}, dropout {settings['lora_dropout']:g}"
    batch = f"batches of {settings['batch_size']:,} texts and {settings['batch_tokens']:,} tokens at most"
    rates = f"learning rate {settings['lr']:g}, {batch}, seed {settings['seed']}"
    files = "\n".join(
        f"- `{Path(file['file']).name}`: {file['examples']:,} examples, SHA-256 `{file['sha256']}`" for file in whole["data"]
    )
    notes = "".join(f"- {note}\n" for note in split["notes"])
    densities = ", ".join(f"{density:.2f} at {name}" for name, density in DENSITIES.items())
    pictures = "\n".join(f"![{Path(name).stem.replace('-', ' ')}]({name})" for name in plots)
    found = whole["figures"]["marks"]
    marks = f"\nMarks at medium intensity:\n\n{report.markdown(report.mark_table({'tagger': found}))}\n" if found else ""
    return f"""---
library_name: peft
base_model: {json.dumps(whole["base"]["name"])}
tags: [prosody, emphasis, gpt-2, lora]
---
# A prosody tagger

A LoRA adapter ({lora}, on attention and MLP) over the GPT-2 `{whole["base"]["name"]}`, with trained rows for `<SEP>`,
the labels and the marks. It reads `text <SEP> text` and scores each word of the copy; `thresholds.json` turns the scores into
marks. It never generates, so no word of a text can change. Use it with `--tagger FOLDER` or `PROSODY_TAGGER__ADAPTER`.

**Trained** with `train-tagger` for {len(whole["history"])} epochs, of which number {whole["best_epoch"]} was kept: {rates}.
All settings, versions and losses are in `training.json`; `train-tagger --config training.json` trains it anew.

{files}

{split["train"]:,} examples to train on, {split["held_out"]:,} held out to evaluate on.
{notes}
**How well it marks** the text held out (evaluation loss {whole["evaluation_loss"]:.4f}; the epoch and the thresholds were
chosen on the same text):

{report.markdown(report.table(rows, MEASURES))}
{marks}
Word identity is each word's most frequent label in training. The figures for people are quoted: two readers of one text of the
Helsinki Prosody Corpus. The thresholds give, on the text held out, {densities} emphases a word.

{pictures}
"""
