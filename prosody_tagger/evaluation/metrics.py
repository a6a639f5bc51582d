"""Measures over a tagger's scores, as in the literature on prominence prediction, with bootstrap intervals over speakers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.corpus.examples import UNKNOWN, LabelledText
from prosody_tagger.markup import KINDS
from prosody_tagger.model import Scores, TaggerModel, encode
from prosody_tagger.segment import segment_words
from prosody_tagger.tagger import ProsodyTagger, Thresholds

SPARSE_EMPHASIS = 2.0
"""Real-valued prominence from which a word counts as emphasised: 9 % of the words of the Helsinki corpus, 1.6 per sentence."""

MEASURES = (
    "prominence_2way_accuracy",
    "prominence_3way_accuracy",
    "emph_ap",
    "emph_f1_at_density",
    "sparse_emph_ap",
    "sparse_emph_f1_at_density",
    "pause_f1",
    "pause_f1_nonfinal",
    "pause_ap_unpunctuated",
    "top1_agreement",
)
"""Names of the measures, each a fraction."""

HUMAN_AGREEMENT = {
    "prominence_2way_accuracy": 0.778,
    "prominence_3way_accuracy": 0.637,
    "sparse_emph_f1_at_density": 0.36,
    "top1_agreement": 0.35,
}
"""Quoted: agreement of two readers of one text of the Helsinki Prosody Corpus."""

RESAMPLES = 1000
"""Number of bootstrap samples."""
CONFIDENCE_QUANTILES = (0.025, 0.975)

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Weights = NDArray[np.float64]
WeightedMeasure = Callable[[Weights], float]
"""A measure as a function of the weight of each speaker, [speakers]; nan if there is nothing to measure."""


@dataclass(frozen=True, slots=True, eq=False)
class WordLabels:
    """The labels of all n words of some examples.

    Attributes:
        prominence: [n] 0, 1, 2 or `UNKNOWN`.
        real_prominence: [n] real-valued prominence, or nan.
        boundary: [n] 1 if boundary 2 or a pause follows the word, 0 if not, or `UNKNOWN`.
        marks: [n, 7] 1 if the word has the mark of `KINDS`, 0 if not, or `UNKNOWN`.
        is_inner: [n] whether the word is not the last of its example.
        is_punctuated: [n] whether the word's run ends in punctuation.
        example: [n] index of the example.
        speaker: [n] index of the speaker; of the example where the speaker is unknown or the same for all examples.
        words: [n] the words in lower case, without outer punctuation.
    """

    prominence: NDArray[np.int64]
    real_prominence: NDArray[np.float64]
    boundary: NDArray[np.int64]
    marks: NDArray[np.int64]
    is_inner: Bools
    is_punctuated: Bools
    example: NDArray[np.int64]
    speaker: NDArray[np.int64]
    words: list[str]

    @classmethod
    def of(cls, examples: Sequence[LabelledText]) -> "WordLabels":
        """Collect the labels of ``examples``, which must not be empty."""
        names = [example.speaker or f"\0{index}" for index, example in enumerate(examples)]
        if len(set(names)) == 1:  # a single speaker cannot be resampled, so resample the examples
            names = [str(index) for index in range(len(examples))]
        speaker_index = {name: index for index, name in enumerate(dict.fromkeys(names))}
        is_inner: list[bool] = []
        is_punctuated: list[bool] = []
        text: list[str] = []
        for example in examples:
            words = segment_words(example.text)
            is_inner.extend(index + 1 < len(words) for index in range(len(words)))
            is_punctuated.extend(word.end > word.core_end for word in words)
            text.extend(word.core(example.text).lower() for word in words)
        counts = [len(example.prominence) for example in examples]
        return cls(
            np.array([label for example in examples for label in example.prominence], np.int64),
            np.array([value for example in examples for value in example.real_prominence], np.float64),
            np.array([UNKNOWN if b == UNKNOWN else int(b == 2) for e in examples for b in e.boundary], np.int64),
            np.concatenate([mark_labels(example) for example in examples]),
            np.array(is_inner, bool),
            np.array(is_punctuated, bool),
            np.repeat(np.arange(len(examples)), counts),
            np.repeat([speaker_index[name] for name in names], counts),
            text,
        )


def mark_labels(example: LabelledText) -> NDArray[np.int64]:
    """Return [n, 7] labels 0 and 1 of each mark, or `UNKNOWN`.

    Marked text has labels for all marks. Other text has them for emphasis, where its real-valued prominence is known.
    """
    labels = np.full((len(example.prominence), len(KINDS)), UNKNOWN, np.int64)
    if example.marks is not None:
        for row, kinds in zip(labels, example.marks, strict=True):
            row[:] = [kind in kinds for kind in KINDS]
    else:
        real = np.array(example.real_prominence)
        known = ~np.isnan(real)
        labels[known, KINDS.index("emph")] = real[known] >= SPARSE_EMPHASIS
    return labels


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Predictions of a tagger or a baseline for n words; None for what it does not predict.

    Attributes:
        prominence: [n, 3] probabilities of prominence 0, 1 and 2.
        emphasis: [n] scores of emphasis.
        boundary: [n] scores of a boundary after the word.
        are_decisions: whether the scores of emphasis and boundary are decisions, 0 or 1, to which no threshold is applied.
    """

    prominence: Floats | None = None
    emphasis: Floats | None = None
    boundary: Floats | None = None
    are_decisions: bool = False

    @classmethod
    def of(cls, scores: Scores) -> "Predictions":
        """Return a model's scores as predictions."""
        return cls(scores.prominence, scores.marks[:, KINDS.index("emph")], scores.boundary)


def score_examples(model: TaggerModel, examples: Sequence[LabelledText], batch_size: int = 64) -> Scores:
    """Score each example on its own, in batches of similar length, and return the scores of all words in order."""
    words = [segment_words(example.text) for example in examples]
    encoded = encode(model.tokenizer, [example.text for example in examples], words)
    short = [index for index, item in enumerate(encoded) if len(item.ids) <= model.max_tokens]
    order = sorted(short, key=lambda i: len(encoded[i].ids))
    scores: dict[int, Scores] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        scores.update(zip(chosen, model.score([encoded[i] for i in chosen]), strict=True))
    windowed = ProsodyTagger(model, Thresholds({}, 1.0))
    for index in set(range(len(examples))) - scores.keys():
        scores[index] = windowed.score(examples[index].text)
    return concatenate_scores([scores[index] for index in range(len(examples))])


def concatenate_scores(parts: Sequence[Scores]) -> Scores:
    """Return the scores of several texts as one."""
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("prominence", "boundary", "marks")))


def measure(labels: WordLabels, predictions: Predictions) -> dict[str, float | None]:
    """Return all of `MEASURES` as fractions; None where labels or predictions are missing."""
    measures = weighted_measures(labels, predictions)
    weights = np.ones(int(labels.speaker.max()) + 1)
    return {name: _none_if_nan(measures[name](weights)) if name in measures else None for name in MEASURES}


def bootstrap_intervals(labels: WordLabels, predictions: Predictions, seed: int = 0) -> dict[str, tuple[float, float] | None]:
    """Return the 95 % bootstrap interval of each of `MEASURES`, from resampling the speakers with replacement.

    Args:
        labels, predictions: as for `measure`.
        seed: of the resampling.
    """
    measures = weighted_measures(labels, predictions)
    count = int(labels.speaker.max()) + 1
    samples = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)
    intervals: dict[str, tuple[float, float] | None] = dict.fromkeys(MEASURES)
    for name, weighted_measure in measures.items():
        values = np.array([weighted_measure(weights) for weights in samples])
        values = values[~np.isnan(values)]
        if len(values):
            low, high = np.quantile(values, CONFIDENCE_QUANTILES)
            intervals[name] = (float(low), float(high))
    return intervals


def weighted_measures(labels: WordLabels, predictions: Predictions) -> dict[str, WeightedMeasure]:
    """Return those of `MEASURES` for which there are both labels and predictions."""
    measures: dict[str, WeightedMeasure] = {}
    known = labels.prominence != UNKNOWN
    if predictions.prominence is not None and known.any():
        prominence, speaker = labels.prominence[known], labels.speaker[known]
        probabilities = predictions.prominence[known]
        measures["prominence_2way_accuracy"] = _accuracy((1 - probabilities[:, 0] > 0.5) == (prominence > 0), speaker)
        measures["prominence_3way_accuracy"] = _accuracy(probabilities.argmax(1) == prominence, speaker)
        ranking = _Ranking(probabilities[:, 2], prominence == 2, speaker)
        measures["emph_ap"] = ranking.average_precision
        measures["emph_f1_at_density"] = ranking.f1(predictions.are_decisions)
    known = ~np.isnan(labels.real_prominence)
    if predictions.emphasis is not None and known.any():
        is_emphasised = labels.real_prominence[known] >= SPARSE_EMPHASIS
        ranking = _Ranking(predictions.emphasis[known], is_emphasised, labels.speaker[known])
        measures["sparse_emph_ap"] = ranking.average_precision
        measures["sparse_emph_f1_at_density"] = ranking.f1(predictions.are_decisions)
        measures["top1_agreement"] = _top1_agreement(labels, predictions.emphasis, known)
    known = labels.boundary != UNKNOWN
    if predictions.boundary is not None and known.any():
        for name, chosen in {"pause_f1": known, "pause_f1_nonfinal": known & labels.is_inner}.items():
            ranking = _Ranking(predictions.boundary[chosen], labels.boundary[chosen] == 1, labels.speaker[chosen])
            measures[name] = ranking.f1(predictions.are_decisions)
        chosen = known & labels.is_inner & ~labels.is_punctuated
        ranking = _Ranking(predictions.boundary[chosen], labels.boundary[chosen] == 1, labels.speaker[chosen])
        measures["pause_ap_unpunctuated"] = ranking.average_precision
    return measures


def average_precision(scores: Floats, is_positive: Bools) -> float:
    """Return the area under the precision-recall curve: the mean of the precision at each positive item.

    Items with equal scores count together: each has the precision at the last of them.
    """
    return _Ranking(scores, is_positive, np.zeros(len(scores), np.int64)).average_precision(np.ones(1))


def f1_at_density(scores: Floats, is_positive: Bools) -> float:
    """Return F1 when as many items are selected as are positive; of items tied at the limit, a fraction is selected."""
    return _Ranking(scores, is_positive, np.zeros(len(scores), np.int64)).f1_at_density(np.ones(1))


def threshold_for_share(scores: Floats, share: float) -> float:
    """Return the threshold that the given share of the scores exceeds."""
    return float(np.quantile(scores, 1 - share))


def precision_recall_curve(scores: Floats, is_positive: Bools) -> tuple[Floats, Floats]:
    """Return precision and recall at every distinct threshold, from the highest down."""
    ranking = _Ranking(scores, is_positive, np.zeros(len(scores), np.int64))
    hits, selected = np.cumsum(ranking.is_positive)[ranking.ends], ranking.ends + 1
    return hits / selected, hits / max(1.0, hits[-1])


class _Ranking:
    """Items sorted by descending score, so that a measure for any speaker weights needs only cumulative sums.

    Args:
        scores: [n].
        is_positive: [n].
        speaker: [n] index of the speaker of each item.
    """

    def __init__(self, scores: Floats, is_positive: Bools, speaker: NDArray[np.int64]) -> None:
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        self.is_positive = is_positive[order].astype(float)
        self.speaker = speaker[order]
        # Items with equal scores cannot be separated by a threshold: keep the index of the last of them.
        self.ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(order) else np.zeros(0, np.int64)
        self.is_selected = ordered > 0.5

    def _cumulative_weights(self, weights: Weights) -> tuple[Weights, Weights]:
        """Return the weight of all items, and of the positive ones, down to each distinct score."""
        weight = weights[self.speaker]
        return np.cumsum(weight)[self.ends], np.cumsum(weight * self.is_positive)[self.ends]

    def average_precision(self, weights: Weights) -> float:
        selected, hits = self._cumulative_weights(weights)
        if not len(hits) or not hits[-1]:
            return float("nan")
        precision = np.divide(hits, selected, out=np.zeros_like(hits), where=selected > 0)
        return float((precision * np.diff(hits, prepend=0.0)).sum() / hits[-1])

    def f1(self, are_decisions: bool) -> WeightedMeasure:
        return self.f1_of_decisions if are_decisions else self.f1_at_density

    def f1_at_density(self, weights: Weights) -> float:
        selected, hits = self._cumulative_weights(weights)
        if not len(hits) or not hits[-1]:
            return float("nan")
        return float(np.interp(hits[-1], np.append(0.0, selected), np.append(0.0, hits)) / hits[-1])

    def f1_of_decisions(self, weights: Weights) -> float:
        weight = weights[self.speaker]
        size = float((weight * (self.is_selected + self.is_positive)).sum())
        return 2 * float((weight * self.is_positive * self.is_selected).sum()) / size if size else float("nan")


def _accuracy(is_correct: NDArray[np.floating] | Bools, speaker: NDArray[np.int64]) -> WeightedMeasure:
    """Return the weighted mean of ``is_correct`` over the items."""
    sums, counts = np.bincount(speaker, is_correct), np.bincount(speaker)

    def accuracy(weights: Weights) -> float:
        size = float(weights[: len(counts)] @ counts)
        return float(weights[: len(sums)] @ sums) / size if size else float("nan")

    return accuracy


def _top1_agreement(labels: WordLabels, emphasis: Floats, known: Bools) -> WeightedMeasure:
    """Return the share of examples whose top-scored word has the highest real prominence; each of k tied words counts 1/k."""
    agreement: list[float] = []
    speaker: list[int] = []
    for inside in np.split(np.flatnonzero(known), np.flatnonzero(np.diff(labels.example[known])) + 1):
        top = inside[emphasis[inside] == emphasis[inside].max()]
        agreement.append(float((labels.real_prominence[top] == labels.real_prominence[inside].max()).mean()))
        speaker.append(int(labels.speaker[inside[0]]))
    return _accuracy(np.array(agreement), np.array(speaker))


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value
