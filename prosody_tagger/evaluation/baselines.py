"""Predictors without a model, to compare a tagger with."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from prosody_tagger.corpus.examples import UNKNOWN
from prosody_tagger.evaluation.metrics import HUMAN_AGREEMENT, MEASURES, Bools, Floats, Predictions, WordLabels, measure
from prosody_tagger.markup import KINDS, Mark, MarkedText
from prosody_tagger.segment import segment_sentences, segment_words

FOLDS = 5
"""Folds of speakers in which the word-identity baseline is learnt and applied."""


class WordIdentity:
    """Predicts each word's distribution of labels in other text, whatever its position; unknown words get that of all words.

    Args:
        labels: labelled words to learn from.
        chosen: [n] which of these words to use; all by default.
    """

    def __init__(self, labels: WordLabels, chosen: Bools | None = None) -> None:
        indices = np.flatnonzero(np.ones(len(labels.words), bool) if chosen is None else chosen)
        emphasis_labels = labels.marks[:, KINDS.index("emph")]
        prominence: dict[str, Counter[int]] = defaultdict(Counter)
        emphasis: dict[str, Counter[int]] = defaultdict(Counter)
        for index in indices:
            if labels.prominence[index] != UNKNOWN:
                prominence[labels.words[index]][int(labels.prominence[index])] += 1
            if emphasis_labels[index] != UNKNOWN:
                emphasis[labels.words[index]][int(emphasis_labels[index])] += 1
        self._prominence = _class_shares(prominence, 3)
        self._emphasis = _class_shares(emphasis, 2)

    def prominence(self, words: Sequence[str]) -> Floats | None:
        """Return [n, 3] probabilities of prominence 0, 1 and 2; None if no labels were given."""
        return _look_up(self._prominence, words)

    def emphasis(self, words: Sequence[str]) -> Floats | None:
        """Return [n] probabilities of emphasis; None if no labels were given."""
        shares = _look_up(self._emphasis, words)
        return None if shares is None else shares[:, 1]


def _class_shares(counts: dict[str, Counter[int]], classes: int) -> dict[str | None, Floats]:
    """Return the share of each class for each word and, under None, for all words together."""
    shares: dict[str | None, Floats] = {}
    total = np.zeros(classes)
    for word, count in counts.items():
        array = np.array([count[number] for number in range(classes)], float)
        shares[word] = array / array.sum()
        total += array
    if total.any():
        shares[None] = total / total.sum()
    return shares


def _look_up(shares: dict[str | None, Floats], words: Sequence[str]) -> Floats | None:
    return np.array([shares.get(word, shares[None]) for word in words]) if shares else None


def predict_nothing(labels: WordLabels) -> Predictions:
    """Return predictions without any mark."""
    zeros = np.zeros(len(labels.words))
    return Predictions(np.tile([1.0, 0.0, 0.0], (len(zeros), 1)), zeros, zeros, are_decisions=True)


def predict_word_identity(labels: WordLabels, train_labels: WordLabels | None = None) -> Predictions:
    """Return the predictions of `WordIdentity`.

    Args:
        labels: the words to predict for.
        train_labels: the words to learn from; by default, those of the other speakers in ``labels``, in `FOLDS` folds.
    """
    if train_labels is not None:
        model = WordIdentity(train_labels)
        return Predictions(model.prominence(labels.words), model.emphasis(labels.words))
    prominence, emphasis = np.full((len(labels.words), 3), np.nan), np.full(len(labels.words), np.nan)
    fold = labels.speaker % FOLDS
    for number in np.unique(fold):
        inside = fold == number
        model = WordIdentity(labels, ~inside)
        words = [labels.words[index] for index in np.flatnonzero(inside)]
        for whole, part in ((prominence, model.prominence(words)), (emphasis, model.emphasis(words))):
            if part is not None:
                whole[inside] = part
    return Predictions(None if np.isnan(prominence).any() else prominence, None if np.isnan(emphasis).any() else emphasis)


def predict_punctuation(labels: WordLabels) -> Predictions:
    """Return predictions of a pause after every punctuated word and nowhere else."""
    return Predictions(boundary=labels.is_punctuated.astype(float), are_decisions=True)


def mark_punctuation(text: str) -> MarkedText:
    """Mark a long pause after punctuation between sentences, and a short one after punctuation within a sentence."""
    words = segment_words(text)
    starts = [start for start, _ in segment_sentences(text)]
    marks = []
    for before, after in pairwise(words):
        if before.end > before.core_end:
            is_sentence_end = bisect_right(starts, after.core_start) > bisect_right(starts, before.core_end)
            marks.append(Mark("pause_long" if is_sentence_end else "pause_short", after.start))
    return MarkedText(text, tuple(marks))


def measure_baselines(labels: WordLabels, train_labels: WordLabels | None = None) -> dict[str, dict[str, float | None]]:
    """Return the measures of each baseline, and the quoted ones of human readers.

    Args:
        labels: the words to predict for.
        train_labels: as for `predict_word_identity`.
    """
    return {
        "tag_nothing": measure(labels, predict_nothing(labels)),
        "word_identity": measure(labels, predict_word_identity(labels, train_labels)),
        "punctuation_rule": measure(labels, predict_punctuation(labels)),
        "human_quoted": {name: HUMAN_AGREEMENT.get(name) for name in MEASURES},
    }


def measure_with_baselines(
    labels: WordLabels, predictions: Predictions, train_labels: WordLabels | None = None
) -> dict[str, dict[str, float | None]]:
    """Return the measures of the tagger, under "tagger", followed by those of `measure_baselines`."""
    return {"tagger": measure(labels, predictions), **measure_baselines(labels, train_labels)}
