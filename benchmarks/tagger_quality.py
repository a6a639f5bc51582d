"""Measure the recipe of the shipped tagger on unseen speakers, beside the baselines: five-fold cross-validation by speaker over
dev.

Each fold is scored by an adapter trained without its speakers, with `python -m prosody_tagger.training.pretrain adapter
--leave-out FOLD`. The scores of all folds are pooled, so each sentence of dev counts once. Intervals come from resampling speakers.

python benchmarks/tagger_quality.py HELSINKI_PROSODY_CORPUS FOLD=ADAPTER [FOLD=ADAPTER ...] [--thresholds FILE] [--plot FILE]

With `--thresholds` it writes thresholds chosen on these scores, for an adapter that is trained on all speakers.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prosody_tagger.corpus.examples import LabelledText, speaker_fold
from prosody_tagger.corpus.readers import read_examples
from prosody_tagger.evaluation import report
from prosody_tagger.evaluation.baselines import measure_baselines, predict_word_identity
from prosody_tagger.evaluation.metrics import (
    MEASURES,
    Predictions,
    WordLabels,
    bootstrap_intervals,
    concatenate_scores,
    measure,
    score_examples,
)
from prosody_tagger.evaluation.plots import plot_precision_recall
from prosody_tagger.model import Scores, TaggerModel
from prosody_tagger.training.artifacts import choose_thresholds, write_json
from prosody_tagger.training.pretrain import read_dev

RELEASED_WEIGHT = 8
"""Weight of the released labelling relative to the older one in the word-identity baseline: the value with the best result."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folds", nargs="+", metavar="FOLD=ADAPTER", help="a fold, 0 to 4, and the adapter trained without it")
    parser.add_argument("--thresholds", type=Path, help="file to write the thresholds to")
    parser.add_argument("--json", type=Path, help="file to write the measures to")
    parser.add_argument("--plot", type=Path, help="image to write, precision against recall")
    arguments = parser.parse_args()
    older = read_examples(arguments.corpus / "train_100_v1.txt")
    released = read_dev(arguments.corpus)
    examples: list[LabelledText] = []
    tagger: list[Scores] = []
    identity: list[Predictions] = []
    for fold, adapter in (argument.split("=", 1) for argument in arguments.folds):
        train, held_out = speaker_fold(released, int(fold))
        examples.extend(held_out)
        tagger.append(score_examples(TaggerModel.load(Path(adapter)), held_out))
        identity.append(predict_word_identity(WordLabels.of(held_out), WordLabels.of([*older, *(train * RELEASED_WEIGHT)])))
    labels = WordLabels.of(examples)
    scores = concatenate_scores(tagger)
    predictions = Predictions.of(scores)
    results = {"tagger": measure(labels, predictions), **measure_baselines(labels)}
    results["word_identity"] = measure(labels, _concatenate(identity))
    speakers = len({example.speaker for example in examples})
    print(f"{len(examples):,} sentences, {len(labels.words):,} words, {speakers} speakers in {len(arguments.folds)} folds\n")
    print(report.to_markdown(report.measures_table(results, MEASURES, bootstrap_intervals(labels, predictions))))
    if arguments.json:
        write_json(arguments.json, results)
    if arguments.plot:
        plot_precision_recall(labels, predictions, arguments.plot)
    if arguments.thresholds:
        write_json(arguments.thresholds, {**choose_thresholds(scores, labels), "languages": ["en"]})


def _concatenate(folds: Sequence[Predictions]) -> Predictions:
    """Return the predictions of all folds as one."""
    parts = [[getattr(fold, name) for fold in folds] for name in ("prominence", "emphasis", "boundary")]
    return Predictions(*(None if any(part is None for part in column) else np.concatenate(column) for column in parts))


if __name__ == "__main__":
    main()
