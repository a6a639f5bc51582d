"""How well the shipped tagger places marks on speakers that it never saw, beside the baseline of word identity.

python benchmarks/tagger_quality.py FOLDER_OF_THE_HELSINKI_PROSODY_CORPUS
"""

import sys
from pathlib import Path

import numpy as np

from prosody_tagger import evaluate
from prosody_tagger.data import read_helsinki
from prosody_tagger.model import TaggerModel
from prosody_tagger.train import DENSITY, WORD_IDENTITY_SHARE, held_out_split


def main() -> None:
    helsinki = Path(sys.argv[1])
    train, held_out = held_out_split(helsinki)
    older = read_helsinki(helsinki / "train_100_v1.txt")
    scored = evaluate.score_examples(TaggerModel.load(), held_out)
    figures = evaluate.figures(scored, evaluate.WordIdentity([*older, *(train * WORD_IDENTITY_SHARE)]))
    names = ", ".join(sorted({example.speaker for example in held_out}))
    print(f"{len(held_out):,} sentences, {len(scored.label):,} words, speakers held out: {names}")
    for name, value in figures.items():
        print(f"{value:8.4f}  {name}")
    for name, density in DENSITY.items():
        threshold = evaluate.at_density(scored.marks[:, 0], density)
        print(f"{np.mean(scored.marks[:, 0] >= threshold):8.4f}  emphases a word at {name} (threshold {threshold:.4f})")


if __name__ == "__main__":
    main()
