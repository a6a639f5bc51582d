"""How well the tagger's recipe places marks on speakers that it never saw, beside the baselines: five folds by speaker over dev.

Each fold has an adapter that learnt nothing of its speakers, by `python -m prosody_tagger.pretrain adapter --leave-out FOLD`. Their
scores are put together, so that each sentence of dev counts once; the intervals come from drawing speakers anew.

python benchmarks/tagger_quality.py FOLDER_OF_THE_HELSINKI_PROSODY_CORPUS FOLD=ADAPTER [FOLD=ADAPTER ...]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prosody_tagger import evaluate, report
from prosody_tagger.data import Example, speaker_fold
from prosody_tagger.evaluate import MEASURES, Guess, Truth
from prosody_tagger.model import TaggerModel
from prosody_tagger.pretrain import dev
from prosody_tagger.reading import read_examples

WORD_IDENTITY_SHARE = 8
"""How often the released labelling counts in the word-identity baseline against the older one: where that does best."""


def main() -> None:
    helsinki = Path(sys.argv[1])
    adapters = [argument.split("=", 1) for argument in sys.argv[2:]]
    older = read_examples(helsinki / "train_100_v1.txt")
    examples: list[Example] = []
    tagger: list[Guess] = []
    identity: list[Guess] = []
    for fold, adapter in adapters:
        train, held_out = speaker_fold(dev(helsinki), int(fold))
        examples.extend(held_out)
        tagger.append(Guess.of(evaluate.score_examples(TaggerModel.load(Path(adapter)), held_out)))
        identity.append(evaluate.word_identity(Truth.of(held_out), Truth.of([*older, *(train * WORD_IDENTITY_SHARE)])))
    truth, guess = Truth.of(examples), _together(tagger)
    rows = {"tagger": evaluate.figures(truth, guess), **report.baselines(truth)}
    rows["word_identity"] = evaluate.figures(truth, _together(identity))
    speakers = len({example.speaker for example in examples})
    print(f"{len(examples):,} sentences, {len(truth.text):,} words, {speakers} speakers in {len(adapters)} folds\n")
    print(report.markdown(report.table(rows, MEASURES, evaluate.intervals(truth, guess))))


def _together(guesses: Sequence[Guess]) -> Guess:
    """The guesses of all folds as one."""
    parts = [[getattr(guess, name) for guess in guesses] for name in ("prominence", "emph", "boundary")]
    return Guess(*(None if any(part is None for part in column) else np.concatenate(column) for column in parts))


if __name__ == "__main__":
    main()
