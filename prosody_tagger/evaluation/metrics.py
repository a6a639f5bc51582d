"""How well a tagger places marks: the measures of the literature, with intervals, and the baselines beside them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.corpus.examples import UNKNOWN, Example
from prosody_tagger.markup import KINDS
from prosody_tagger.model import Scores, TaggerModel, encode
from prosody_tagger.segment import segment_words
from prosody_tagger.tagger import ProsodyTagger, Thresholds

SPARSE_EMPHASIS = 2.0
"""Real-valued prominence from which a word counts as emphasised: 9 % of words, 1.6 a sentence."""

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
"""What is measured of scores, as fractions."""

HUMAN = {
    "prominence_2way_accuracy": 0.778,
    "prominence_3way_accuracy": 0.637,
    "sparse_emph_f1_at_density": 0.36,
    "top1_agreement": 0.35,
}
"""Quoted: how far two readers of one text of the Helsinki Prosody Corpus agree."""

RESAMPLES = 1000
FOLDS = 5

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Weights = NDArray[np.float64]
Statistic = Callable[[Weights], float]
"""A measure, given how often each speaker counts; nan where there is nothing to measure."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The labels of all n words of some examples.

    Attributes:
        label: [n] prominence 0, 1, 2 or `UNKNOWN`.
        real: [n] real-valued prominence or nan.
        boundary: [n] 1 where boundary 2 or a pause follows, 0 where not, or `UNKNOWN`.
        marks: [n, 7] whether each of `KINDS` is there, 0, 1 or `UNKNOWN`.
        inner: [n] words that are not the last of their example.
        punctuated: [n] words whose run ends in punctuation.
        example: [n] index of the example. speaker: [n] index of the speaker, or of the example where nobody says who speaks.
        text: the words in lower case, without outer punctuation.
    """

    label: NDArray[np.int64]
    real: NDArray[np.float64]
    boundary: NDArray[np.int64]
    marks: NDArray[np.int64]
    inner: Bools
    punctuated: Bools
    example: NDArray[np.int64]
    speaker: NDArray[np.int64]
    text: list[str]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Truth":
        names = [example.speaker or f"\0{index}" for index, example in enumerate(examples)]
        if len(set(names)) == 1:  # one speaker cannot be drawn anew, so the examples are
            names = [str(index) for index in range(len(examples))]
        number = {name: index for index, name in enumerate(dict.fromkeys(names))}
        inner: list[bool] = []
        punctuated: list[bool] = []
        text: list[str] = []
        for example in examples:
            runs = segment_words(example.text)
            inner.extend(index + 1 < len(runs) for index in range(len(runs)))
            punctuated.extend(word.end > word.core_end for word in runs)
            text.extend(word.core(example.text).lower() for word in runs)
        counts = [len(example.prominence) for example in examples]
        return cls(
            np.array([label for example in examples for label in example.prominence], np.int64),
            np.array([value for example in examples for value in example.emphasis], np.float64),
            np.array([UNKNOWN if b == UNKNOWN else int(b == 2) for e in examples for b in e.boundary], np.int64),
            np.concatenate([mark_labels(example) for example in examples]),
            np.array(inner, bool),
            np.array(punctuated, bool),
            np.repeat(np.arange(len(examples)), counts),
            np.repeat([number[name] for name in names], counts),
            text,
        )


def mark_labels(example: Example) -> NDArray[np.int64]:
    """[n, 7] of 0 and 1 for the marks of marked text; else emphasis where the real-valued prominence is known."""
    labels = np.full((len(example.prominence), len(KINDS)), UNKNOWN, np.int64)
    if example.marks is not None:
        for row, kinds in zip(labels, example.marks, strict=True):
            row[:] = [kind in kinds for kind in KINDS]
    else:
        real = np.array(example.emphasis)
        known = ~np.isnan(real)
        labels[known, KINDS.index("emph")] = real[known] >= SPARSE_EMPHASIS
    return labels


@dataclass(frozen=True, slots=True, eq=False)
class Guess:
    """What is said of the n words by a tagger or a baseline; None where it says nothing.

    Attributes:
        prominence: [n, 3] probabilities of prominence 0, 1 and 2.
        emph: [n] scores of emphasis.
        boundary: [n] scores of a boundary after the word.
        decided: whether the scores of emphasis and boundaries are 0 or 1, decisions to be taken as they stand.
    """

    prominence: Floats | None = None
    emph: Floats | None = None
    boundary: Floats | None = None
    decided: bool = False

    @classmethod
    def of(cls, scores: Scores) -> "Guess":
        return cls(scores.prominence, scores.marks[:, KINDS.index("emph")], scores.boundary)


def score_examples(model: TaggerModel, examples: Sequence[Example], batch_size: int = 64) -> Scores:
    """Score examples one by one, in batches of like length; the scores of all their words one after the other."""
    runs = [segment_words(example.text) for example in examples]
    encoded = encode(model.tokenizer, [example.text for example in examples], runs)
    short = [index for index, item in enumerate(encoded) if len(item.ids) <= model.max_tokens]
    order = sorted(short, key=lambda i: len(encoded[i].ids))
    scores: dict[int, Scores] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        scores.update(zip(chosen, model.score([encoded[i] for i in chosen]), strict=True))
    windowed = ProsodyTagger(model, Thresholds({}, 1.0))
    for index in set(range(len(examples))) - scores.keys():
        scores[index] = windowed.score(examples[index].text)
    parts = [scores[index] for index in range(len(examples))]
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("prominence", "boundary", "marks")))


class WordIdentity:
    """The baseline that knows each word's labels elsewhere and nothing of its place."""

    def __init__(self, truth: Truth, chosen: Bools | None = None) -> None:
        places = np.flatnonzero(np.ones(len(truth.text), bool) if chosen is None else chosen)
        emph = truth.marks[:, KINDS.index("emph")]
        prominence: dict[str, Counter[int]] = defaultdict(Counter)
        stressed: dict[str, Counter[int]] = defaultdict(Counter)
        for place in places:
            if truth.label[place] != UNKNOWN:
                prominence[truth.text[place]][int(truth.label[place])] += 1
            if emph[place] != UNKNOWN:
                stressed[truth.text[place]][int(emph[place])] += 1
        self._prominence = _shares(prominence, 3)
        self._stressed = _shares(stressed, 2)

    def prominence(self, text: Sequence[str]) -> Floats | None:
        return _looked_up(self._prominence, text)

    def emph(self, text: Sequence[str]) -> Floats | None:
        found = _looked_up(self._stressed, text)
        return None if found is None else found[:, 1]


def _shares(counts: dict[str, Counter[int]], classes: int) -> dict[str | None, Floats]:
    """For each word, and under None for all words together, the share of each class."""
    shares: dict[str | None, Floats] = {}
    total = np.zeros(classes)
    for word, count in counts.items():
        array = np.array([count[number] for number in range(classes)], float)
        shares[word] = array / array.sum()
        total += array
    if total.any():
        shares[None] = total / total.sum()
    return shares


def _looked_up(shares: dict[str | None, Floats], text: Sequence[str]) -> Floats | None:
    return np.array([shares.get(word, shares[None]) for word in text]) if shares else None


def tag_nothing(truth: Truth) -> Guess:
    """The baseline that marks no word at all."""
    none = np.zeros(len(truth.text))
    return Guess(np.tile([1.0, 0.0, 0.0], (len(none), 1)), none, none, decided=True)


def word_identity(truth: Truth, elsewhere: Truth | None = None) -> Guess:
    """The baseline of word identity, from the words of ``elsewhere`` or, speaker by speaker, from those of the other speakers."""
    if elsewhere is not None:
        known = WordIdentity(elsewhere)
        return Guess(known.prominence(truth.text), known.emph(truth.text))
    prominence, emph = np.full((len(truth.text), 3), np.nan), np.full(len(truth.text), np.nan)
    fold = truth.speaker % FOLDS
    for number in np.unique(fold):
        inside = fold == number
        known = WordIdentity(truth, ~inside)
        text = [truth.text[place] for place in np.flatnonzero(inside)]
        for whole, part in ((prominence, known.prominence(text)), (emph, known.emph(text))):
            if part is not None:
                whole[inside] = part
    return Guess(None if np.isnan(prominence).any() else prominence, None if np.isnan(emph).any() else emph)


def punctuation_rule(truth: Truth) -> Guess:
    """The baseline that pauses after punctuation, and nowhere else."""
    return Guess(boundary=truth.punctuated.astype(float), decided=True)


def statistics(truth: Truth, guess: Guess) -> dict[str, Statistic]:
    """Those of `MEASURES` for which there are labels and something was said."""
    found: dict[str, Statistic] = {}
    known = truth.label != UNKNOWN
    if guess.prominence is not None and known.any():
        label, speaker = truth.label[known], truth.speaker[known]
        shares = guess.prominence[known]
        found["prominence_2way_accuracy"] = _share((1 - shares[:, 0] > 0.5) == (label > 0), speaker)
        found["prominence_3way_accuracy"] = _share(shares.argmax(1) == label, speaker)
        ranked = _Ranked(shares[:, 2], label == 2, speaker)
        found |= {"emph_ap": ranked.average_precision, "emph_f1_at_density": ranked.f1(guess.decided)}
    real = ~np.isnan(truth.real)
    if guess.emph is not None and real.any():
        ranked = _Ranked(guess.emph[real], truth.real[real] >= SPARSE_EMPHASIS, truth.speaker[real])
        found |= {"sparse_emph_ap": ranked.average_precision, "sparse_emph_f1_at_density": ranked.f1(guess.decided)}
        found["top1_agreement"] = _top1(truth, guess.emph, real)
    known = truth.boundary != UNKNOWN
    if guess.boundary is not None and known.any():
        for name, chosen in {"pause_f1": known, "pause_f1_nonfinal": known & truth.inner}.items():
            ranked = _Ranked(guess.boundary[chosen], truth.boundary[chosen] == 1, truth.speaker[chosen])
            found[name] = ranked.f1(guess.decided)
        free = known & truth.inner & ~truth.punctuated
        ranked = _Ranked(guess.boundary[free], truth.boundary[free] == 1, truth.speaker[free])
        found["pause_ap_unpunctuated"] = ranked.average_precision
    return found


def figures(truth: Truth, guess: Guess) -> dict[str, float | None]:
    """All of `MEASURES`, as fractions; None where nothing can be measured."""
    found = statistics(truth, guess)
    once = np.ones(int(truth.speaker.max()) + 1)
    return {name: _or_none(found[name](once)) if name in found else None for name in MEASURES}


def intervals(truth: Truth, guess: Guess, seed: int = 0) -> dict[str, tuple[float, float] | None]:
    """Of each measure the interval that holds 95 % of its values when the speakers are drawn anew, with replacement."""
    found = statistics(truth, guess)
    count = int(truth.speaker.max()) + 1
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)
    result: dict[str, tuple[float, float] | None] = dict.fromkeys(MEASURES)
    for name, statistic in found.items():
        values = np.array([statistic(draw) for draw in draws])
        values = values[~np.isnan(values)]
        if len(values):
            low, high = np.quantile(values, [0.025, 0.975])
            result[name] = (float(low), float(high))
    return result


def average_precision(scores: Floats, truth: Bools) -> float:
    """Area under the precision-recall curve, as the mean of the precision at each true item; ties share their rank's end."""
    return _Ranked(scores, truth, np.zeros(len(scores), np.int64)).average_precision(np.ones(1))


def f1_at_density(scores: Floats, truth: Bools) -> float:
    """F1 where as many items are chosen as are true; of tied items on the border the expected share."""
    return _Ranked(scores, truth, np.zeros(len(scores), np.int64)).f1_at_density(np.ones(1))


def at_density(scores: Floats, density: float) -> float:
    """The threshold above which the share ``density`` of the scores lies."""
    return float(np.quantile(scores, 1 - density))


def precision_recall(scores: Floats, truth: Bools) -> tuple[Floats, Floats]:
    """Precision and recall at every threshold, from the highest down."""
    ranked = _Ranked(scores, truth, np.zeros(len(scores), np.int64))
    hits, taken = np.cumsum(ranked.hits)[ranked.ends], ranked.ends + 1
    return hits / taken, hits / max(1.0, hits[-1])


class _Ranked:
    """Items from the highest score down, so that a measure of any weighting needs only sums."""

    def __init__(self, scores: Floats, truth: Bools, speaker: NDArray[np.int64]) -> None:
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        self.hits = truth[order].astype(float)
        self.speaker = speaker[order]
        # Items of one score cannot be told apart: they count together, where the last of them stands.
        self.ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(order) else np.zeros(0, np.int64)
        self.chosen = ordered > 0.5

    def _sums(self, weights: Weights) -> tuple[Weights, Weights]:
        """Items, and true items, down to each score."""
        weight = weights[self.speaker]
        return np.cumsum(weight)[self.ends], np.cumsum(weight * self.hits)[self.ends]

    def average_precision(self, weights: Weights) -> float:
        taken, hits = self._sums(weights)
        if not len(hits) or not hits[-1]:
            return float("nan")
        precision = np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)
        return float((precision * np.diff(hits, prepend=0.0)).sum() / hits[-1])

    def f1(self, decided: bool) -> Statistic:
        return self.f1_as_decided if decided else self.f1_at_density

    def f1_at_density(self, weights: Weights) -> float:
        taken, hits = self._sums(weights)
        if not len(hits) or not hits[-1]:
            return float("nan")
        return float(np.interp(hits[-1], np.append(0.0, taken), np.append(0.0, hits)) / hits[-1])

    def f1_as_decided(self, weights: Weights) -> float:
        weight = weights[self.speaker]
        size = float((weight * (self.chosen + self.hits)).sum())
        return 2 * float((weight * self.hits * self.chosen).sum()) / size if size else float("nan")


def _share(right: NDArray[np.floating] | Bools, speaker: NDArray[np.int64]) -> Statistic:
    """The mean of ``right`` over the items."""
    sums, counts = np.bincount(speaker, right), np.bincount(speaker)

    def share(weights: Weights) -> float:
        size = float(weights[: len(counts)] @ counts)
        return float(weights[: len(sums)] @ sums) / size if size else float("nan")

    return share


def _top1(truth: Truth, emph: Floats, known: Bools) -> Statistic:
    """The share of examples whose top-scored word has the highest real prominence; tied words each with their share."""
    right: list[float] = []
    speaker: list[int] = []
    for inside in np.split(np.flatnonzero(known), np.flatnonzero(np.diff(truth.example[known])) + 1):
        top = inside[emph[inside] == emph[inside].max()]
        right.append(float((truth.real[top] == truth.real[inside].max()).mean()))
        speaker.append(int(truth.speaker[inside[0]]))
    return _share(np.array(right), np.array(speaker))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
