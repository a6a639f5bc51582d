"""How well a tagger places marks: the measures of the literature, and the baselines beside them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.data import UNKNOWN, Example
from prosody_tagger.model import Scores, TaggerModel, encode
from prosody_tagger.segment import words

SPARSE_EMPHASIS = 2.0
"""Real-valued prominence from which a word counts as emphasised: 9 % of words, 1.6 a sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Scores and labels of all words of some sentences, n in all.

    Attributes:
        prominence: [n, 3] probabilities. marks: [n, 7]. boundary: [n].
        label: [n] prominence 0, 1, 2 or `UNKNOWN`. real: [n] real-valued prominence or nan.
        has_boundary: [n] whether boundary 2 follows, False where unknown.
        inner: [n] words that are not the last of their sentence and whose boundary is known.
        punctuated: [n] words whose run ends in punctuation.
        text: [n] the words in lower case, without outer punctuation.
    """

    prominence: NDArray[np.float32]
    marks: NDArray[np.float32]
    boundary: NDArray[np.float32]
    label: NDArray[np.int64]
    real: NDArray[np.float64]
    has_boundary: NDArray[np.bool_]
    inner: NDArray[np.bool_]
    punctuated: NDArray[np.bool_]
    text: list[str]


def score_examples(model: TaggerModel, examples: Sequence[Example], batch_size: int = 64) -> Scored:
    """Score sentences one by one, in batches of like length."""
    usable = [example for example in examples if example.prominence]
    runs = [words(example.text) for example in usable]
    encoded = encode(model.tokenizer, [example.text for example in usable], runs)
    order = sorted(range(len(usable)), key=lambda i: len(encoded[i].ids))
    scores: dict[int, Scores] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        scores.update(zip(chosen, model.score([encoded[i] for i in chosen]), strict=True))
    inner, punctuated, text = [], [], []
    for example, text_words in zip(usable, runs, strict=True):
        for index, word in enumerate(text_words):
            inner.append(index + 1 < len(text_words) and example.boundary[index] != UNKNOWN)
            punctuated.append(word.end > word.core_end)
            text.append(word.core(example.text).lower())
    return Scored(
        np.concatenate([scores[i].prominence for i in range(len(usable))]),
        np.concatenate([scores[i].marks for i in range(len(usable))]),
        np.concatenate([scores[i].boundary for i in range(len(usable))]),
        np.array([label for example in usable for label in example.prominence]),
        np.array([value for example in usable for value in example.emphasis]),
        np.array([label == 2 for example in usable for label in example.boundary]),
        np.array(inner),
        np.array(punctuated),
        text,
    )


class WordIdentity:
    """The baseline that knows each word's most frequent prominence and nothing of its place."""

    def __init__(self, examples: Sequence[Example]) -> None:
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for example in examples:
            for word, label in zip(words(example.text), example.prominence, strict=True):
                if label != UNKNOWN:
                    counts[word.core(example.text).lower()][label] += 1
        everything = sum(counts.values(), Counter())
        self.shares = {word: self._share(count) for word, count in counts.items()}
        self.default = self._share(everything)

    @staticmethod
    def _share(count: Counter[int]) -> NDArray[np.float64]:
        shares = np.array([count[0], count[1], count[2]], dtype=float)
        total: float = shares.sum()
        return shares / total

    def predict(self, text: Sequence[str]) -> NDArray[np.float64]:
        return np.array([self.shares.get(word, self.default) for word in text])


def figures(scored: Scored, baseline: WordIdentity | None = None) -> dict[str, float | None]:
    """The measures, as fractions."""
    known = scored.label != UNKNOWN
    real = ~np.isnan(scored.real)
    free = scored.inner & ~scored.punctuated
    result: dict[str, float | None] = {
        **_prominence(scored.prominence[known], scored.label[known], ""),
        "sparse_emph_ap": average_precision(scored.marks[real, 0], scored.real[real] >= SPARSE_EMPHASIS) if real.any() else None,
        "pause_f1_nonfinal": f1_at_density(scored.boundary[scored.inner], scored.has_boundary[scored.inner]),
        "pause_ap_unpunctuated": average_precision(scored.boundary[free], scored.has_boundary[free]),
        "pause_share_unpunctuated": float(scored.has_boundary[free].mean()),
    }
    if baseline:
        result |= _prominence(baseline.predict(scored.text)[known], scored.label[known], "word_identity_")
    return result


def _prominence(probabilities: NDArray[np.floating], label: NDArray[np.int64], prefix: str) -> dict[str, float | None]:
    two_way = (1 - probabilities[:, 0] > 0.5) == (label > 0)
    return {
        f"{prefix}prominence_2way_accuracy": float(two_way.mean()),
        f"{prefix}prominence_3way_accuracy": float((probabilities.argmax(1) == label).mean()),
        f"{prefix}emph_ap": average_precision(probabilities[:, 2], label == 2),
    }


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Area under the precision-recall curve, as the mean of the precision at each true item; ties share their rank's end."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], truth[order].astype(float)
    # Items of one score cannot be told apart: each counts as found where the last of them stands.
    end = np.searchsorted(-ordered, -ordered, side="right") - 1
    precision = np.cumsum(hits)[end] / (end + 1)
    return float((precision * hits).sum() / hits.sum())


def f1_at_density(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """F1 where as many items are chosen as are true."""
    chosen = np.argsort(-scores, kind="stable")[: int(truth.sum())]
    return float(truth[chosen].mean())


def at_density(scores: NDArray[np.floating], density: float) -> float:
    """The threshold above which the share ``density`` of the scores lies."""
    return float(np.quantile(scores, 1 - density))
