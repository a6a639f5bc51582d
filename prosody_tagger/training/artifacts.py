"""The output folder of a training run: adapter settings for the runtime, and a record of the training for readers and scripts."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prosody_tagger.corpus.examples import UNKNOWN, LabelledText
from prosody_tagger.density import DENSITIES
from prosody_tagger.evaluation import report
from prosody_tagger.evaluation.baselines import measure_with_baselines
from prosody_tagger.evaluation.mark_scores import MarkScores
from prosody_tagger.evaluation.metrics import MEASURES, Predictions, WordLabels, threshold_for_share
from prosody_tagger.files import write_file
from prosody_tagger.markup import KINDS, PITCHES
from prosody_tagger.model import Scores
from prosody_tagger.tagger import ProsodyTagger
from prosody_tagger.training.checkpoint import TrainingProgress
from prosody_tagger.weights import fingerprint

PACKAGES = ("prosody-speech", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")
"""Packages whose versions are recorded, because the result depends on them."""
TRAINING_FILE = "training.json"
DEFAULT_THRESHOLD = 0.5
"""Pause threshold (a probability) where the held-out text has no boundary labels to choose one by."""


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON.

    Raises:
        OSError: the file cannot be written.
    """
    write_file(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def package_versions() -> dict[str, str | None]:
    """Return the versions of Python and of `PACKAGES`; None for a package that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def base_record(name: str, network: Any) -> dict[str, str]:
    """Return the entry of training.json by which the runtime recognises the base."""
    return {"name": name, "fingerprint": fingerprint(network.transformer.wpe.weight.detach().float().cpu().numpy())}


def choose_thresholds(scores: Scores, labels: WordLabels) -> dict[str, Any]:
    """Return the content of thresholds.json: thresholds at which held-out text gets the requested number of marks.

    Emphasis gets one threshold for each named density. Pauses get the share that the labels have within a text. Pitch marks and
    long pauses get the share that they have among words and among pauses, if the held-out text contains them.

    Args:
        scores: the model's scores of n held-out words.
        labels: the labels of the same words.
    """
    emphasis = scores.marks[:, KINDS.index("emph")]
    inner = labels.is_inner & (labels.boundary != UNKNOWN)
    share = float((labels.boundary[inner] == 1).mean()) if inner.any() else None
    thresholds: dict[str, Any] = {
        "emph": {name: threshold_for_share(emphasis, density) for name, density in DENSITIES.items()},
        "pause": DEFAULT_THRESHOLD if share is None else threshold_for_share(scores.boundary[inner], share) if share else 1.0,
    }
    pitches = {}
    for kind in PITCHES:
        column = KINDS.index(kind)
        known = labels.marks[:, column] != UNKNOWN
        if (labels.marks[:, column] == 1).any():
            pitch_share = float((labels.marks[known, column] == 1).mean())
            pitches[kind] = threshold_for_share(scores.marks[known, column], pitch_share)
    if pitches:
        thresholds["pitch"] = pitches
    long, short = KINDS.index("pause_long"), KINDS.index("pause_short")
    pauses = inner & (labels.boundary == 1) & (labels.marks[:, long] != UNKNOWN)
    is_long = labels.marks[pauses, long] == 1
    if is_long.any() or (labels.marks[pauses, short] == 1).any():
        long_share = float(is_long.mean())
        thresholds["pause_long"] = threshold_for_share(scores.marks[pauses, long], long_share) if is_long.any() else 1.0
    return thresholds


def write_artifacts(
    output: Path,
    record: Mapping[str, Any],
    progress: TrainingProgress,
    scores: Scores,
    held_out: Sequence[LabelledText],
    train_labels: WordLabels,
) -> dict[str, Any]:
    """Write thresholds, model card, plots and, last, training.json beside the adapter.

    Args:
        output: the folder, which already holds the adapter and its tokenizer.
        record: the description of the run for training.json: settings, base, data, split.
        progress: the history of the run.
        scores: the model's scores of all words of ``held_out``.
        held_out: the evaluation data.
        train_labels: labels of the training words, for the word-identity baseline.

    Returns:
        The content of training.json.

    Raises:
        OSError: a file cannot be written.
    """
    labels, predictions = WordLabels.of(held_out), Predictions.of(scores)
    rows = measure_with_baselines(labels, predictions, train_labels)
    thresholds = choose_thresholds(scores, labels)
    if record["settings"]["language"]:
        thresholds["languages"] = record["settings"]["language"]
    write_json(output / "thresholds.json", thresholds)
    marks = _score_marks(ProsodyTagger.load(output), held_out)
    measures, *baselines = rows.values()
    result = {
        **record,
        "versions": package_versions(),
        "history": progress.history,
        "best_epoch": progress.best_epoch,
        "evaluation_loss": progress.history[progress.best_epoch - 1]["evaluation_loss"],
        "figures": {**measures, "marks": marks or None},
        "baselines": dict(zip(list(rows)[1:], baselines, strict=True)),
        "thresholds": thresholds,
    }
    plots = _write_plots(output, progress, labels, predictions)
    write_file(output / "README.md", _model_card(result, rows, plots))
    write_json(output / TRAINING_FILE, result)
    return result


def _score_marks(tagger: ProsodyTagger, held_out: Sequence[LabelledText]) -> dict[str, Any]:
    """Compare the tagger's marks with those of the held-out marked text; the tagger was loaded from the new folder, as a check."""
    marked = [example for example in held_out if example.marks is not None]
    scores = MarkScores()
    for example, tagged in zip(marked, tagger.mark_batch([example.text for example in marked]), strict=True):
        scores.add(example, tagged)
    return scores.as_dict()


def _write_plots(output: Path, progress: TrainingProgress, labels: WordLabels, predictions: Predictions) -> list[str]:
    """Write the plots and return their file names; none if matplotlib, which is optional, is not installed."""
    if find_spec("matplotlib") is None:
        return []
    from prosody_tagger.evaluation import plots

    plots.plot_loss(progress.history, progress.best_epoch, output / plots.LOSS_FILE)
    plots.plot_precision_recall(labels, predictions, output / plots.CURVES_FILE)
    return [plots.LOSS_FILE, plots.CURVES_FILE]


def _model_card(result: Mapping[str, Any], rows: Mapping[str, report.Measures], plots: Sequence[str]) -> str:
    settings, split = result["settings"], result["split"]
    lora = f"rank {settings['lora_r']}, alpha {settings['lora_alpha']:g}, dropout {settings['lora_dropout']:g}"
    batch = f"batches of at most {settings['batch_size']:,} texts and {settings['batch_tokens']:,} tokens"
    optimization = f"learning rate {settings['lr']:g}, {batch}, seed {settings['seed']}"
    files = "\n".join(
        f"- `{Path(file['file']).name}`: {file['examples']:,} examples, SHA-256 `{file['sha256']}`" for file in result["data"]
    )
    notes = "".join(f"- {note}\n" for note in split["notes"])
    densities = ", ".join(f"{density:.2f} at {name}" for name, density in DENSITIES.items())
    pictures = "\n".join(f"![{Path(name).stem.replace('-', ' ')}]({name})" for name in plots)
    mark_rows = result["figures"]["marks"]
    marks = f"\nMarks at medium density:\n\n{report.to_markdown(report.mark_table({'tagger': mark_rows}))}\n" if mark_rows else ""
    return f"""---
library_name: peft
base_model: {json.dumps(result["base"]["name"])}
tags: [prosody, emphasis, gpt-2, lora]
---
# A prosody tagger

A LoRA adapter ({lora}, on attention and MLP) over the GPT-2 `{result["base"]["name"]}`, with trained embedding rows for `<SEP>`,
the labels and the marks. It reads `text <SEP> text` and scores each word of the copy; `thresholds.json` turns the scores into
marks. It generates no text, so the words of a text never change. Use it with `--tagger FOLDER` or `PROSODY_TAGGER__ADAPTER`.

**Training**: `train-tagger`, {len(result["history"])} epochs, of which number {result["best_epoch"]} was kept; {optimization}.
`training.json` holds all settings, versions and losses; `train-tagger --config training.json` repeats the training.

{files}

{split["train"]:,} examples to train on, {split["held_out"]:,} held out for evaluation.
{notes}
**Evaluation** on the held-out text (evaluation loss {result["evaluation_loss"]:.4f}; the epoch and the thresholds were chosen on
the same text):

{report.to_markdown(report.measures_table(rows, MEASURES))}
{marks}
Word identity predicts the most frequent label of each word in the training data. The human results are quoted: the agreement of two
readers of one text of the Helsinki Prosody Corpus. On the held-out text, the thresholds give {densities} emphases per word.

{pictures}
"""
