"""How well the shipped tagger places marks on speakers that it never saw, beside the baseline of word identity.

python benchmarks/tagger_quality.py FOLDER_OF_THE_HELSINKI_PROSODY_CORPUS
"""

import sys
from pathlib import Path

import numpy as np

from prosody_tagger import evaluate, report
from prosody_tagger.evaluate import MEASURES, Guess, Truth
from prosody_tagger.model import TaggerModel
from prosody_tagger.pretrain import held_out_split
from prosody_tagger.reading import read_examples
from prosody_tagger.thresholds import DENSITY

WORD_IDENTITY_SHARE = 8
"""How often the released labelling counts in the word-identity baseline against the older one: where that does best."""


def main() -> None:
    helsinki = Path(sys.argv[1])
    train, held_out = held_out_split(helsinki)
    older = read_examples(helsinki / "train_100_v1.txt")
    scores = evaluate.score_examples(TaggerModel.load(), held_out)
    truth, guess = Truth.of(held_out), Guess.of(scores)
    rows = report.guess_rows(truth, guess, Truth.of([*older, *(train * WORD_IDENTITY_SHARE)]))
    names = ", ".join(sorted({example.speaker for example in held_out}))
    print(f"{len(held_out):,} sentences, {len(truth.text):,} words, speakers held out: {names}\n")
    print(report.markdown(report.table(rows, MEASURES, evaluate.intervals(truth, guess))), "\n")
    emph = scores.marks[:, 0]
    for name, density in DENSITY.items():
        threshold = evaluate.at_density(emph, density)
        print(f"{np.mean(emph >= threshold):8.4f}  emphases a word at {name} (threshold {threshold:.4f})")


if __name__ == "__main__":
    main()
