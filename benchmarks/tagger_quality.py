"""How well the tagger's recipe places marks on speakers that it never saw, beside the baselines: five folds by speaker over dev.

Each fold has an adapter that learnt nothing of its speakers, by `python -m prosody_tagger.training.pretrain adapter
--leave-out FOLD`. Their scores are put together, so that each sentence of dev counts once; the intervals come from drawing
speakers anew.

python benchmarks/tagger_quality.py HELSINKI_PROSODY_CORPUS FOLD=ADAPTER [FOLD=ADAPTER ...] [--thresholds FILE] [--plot FILE]

With `--thresholds` it writes the thresholds that those scores give, for an adapter that learns from all speakers.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prosody_tagger.corpus.examples import Example, speaker_fold
from prosody_tagger.corpus.readers import read_examples
from prosody_tagger.evaluation import metrics as evaluate
from prosody_tagger.evaluation import report
from prosody_tagger.evaluation.metrics import MEASURES, Guess, Truth
from prosody_tagger.evaluation.plots import plot_precision_recall
from prosody_tagger.model import Scores, TaggerModel
from prosody_tagger.training.artifacts import write_json
from prosody_tagger.training.pretrain import dev
from prosody_tagger.training.thresholds import set_thresholds

WORD_IDENTITY_SHARE = 8
"""How often the released labelling counts in the word-identity baseline against the older one: where that does best."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folds", nargs="+", metavar="FOLD=ADAPTER", help="a fold, 0 to 4, and the adapter that left it out")
    parser.add_argument("--thresholds", type=Path, help="file to write the thresholds to")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--plot", type=Path, help="picture to draw, precision against recall")
    arguments = parser.parse_args()
    older = read_examples(arguments.corpus / "train_100_v1.txt")
    released = dev(arguments.corpus)
    examples: list[Example] = []
    tagger: list[Scores] = []
    identity: list[Guess] = []
    for fold, adapter in (argument.split("=", 1) for argument in arguments.folds):
        train, held_out = speaker_fold(released, int(fold))
        examples.extend(held_out)
        tagger.append(evaluate.score_examples(TaggerModel.load(Path(adapter)), held_out))
        identity.append(evaluate.word_identity(Truth.of(held_out), Truth.of([*older, *(train * WORD_IDENTITY_SHARE)])))
    truth = Truth.of(examples)
    scores = Scores(*(np.concatenate([getattr(part, name) for part in tagger]) for name in ("prominence", "boundary", "marks")))
    guess = Guess.of(scores)
    rows = {"tagger": evaluate.figures(truth, guess), **report.baselines(truth)}
    rows["word_identity"] = evaluate.figures(truth, _together(identity))
    speakers = len({example.speaker for example in examples})
    print(f"{len(examples):,} sentences, {len(truth.text):,} words, {speakers} speakers in {len(arguments.folds)} folds\n")
    print(report.markdown(report.table(rows, MEASURES, evaluate.intervals(truth, guess))))
    if arguments.json:
        write_json(arguments.json, rows)
    if arguments.plot:
        plot_precision_recall(truth, guess, arguments.plot)
    if arguments.thresholds:
        write_json(arguments.thresholds, {**set_thresholds(scores, truth), "languages": ["en"]})


def _together(guesses: Sequence[Guess]) -> Guess:
    """The guesses of all folds as one."""
    parts = [[getattr(guess, name) for guess in guesses] for name in ("prominence", "emph", "boundary")]
    return Guess(*(None if any(part is None for part in column) else np.concatenate(column) for column in parts))


if __name__ == "__main__":
    main()
