"""Emphasis density: how many words of a text are stressed, and which of them.

Words are chosen by the rank of their scores within the text, starting from a calibrated threshold. A long text is processed in
parts. An `EmphasisBudget` carries the scores seen and the number of words stressed from part to part, so a later part compensates
for too many or too few emphases in an earlier one.
"""

from collections.abc import Mapping, Sequence
from math import exp, isfinite, log
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput

Level = Literal["low", "medium", "high"]
"""A named density."""

Density = Level | float
"""Emphases per word: a name, or a number from 0 (none) to 1 (every word)."""

DENSITIES: dict[Level, float] = {"low": 0.05, "medium": 0.09, "high": 0.18}
"""Target of each named density, in emphases per word."""

SHORTEST_STRESSED = 4
"""Words. At medium density and above, a sentence of at least this length gets an emphasis, whatever its scores."""

SCORE_STEPS = 1000
"""Scores are rounded to 1/1000 before ranking, ties by position, so that rounding errors of the model never change a mark."""

PRIOR_WORDS = 100
"""Weight of the calibrated threshold against the text's own, in words of text."""

SLACK, SLACK_WORDS = 0.02, 20
"""Tolerated deviation from the target after n words, as a fraction of the target: ``SLACK + SLACK_WORDS / n``, which is 4 % after
1,000 words and leaves short texts to their scores."""

_MIN_PROBABILITY = 1e-4  # scores are kept this far from 0 and 1, where log-odds are infinite


def density_of(density: Density) -> float:
    """Return a density as a number of emphases per word, 0 to 1.

    Raises:
        BadInput: an unknown name, or a number outside 0 to 1.
    """
    if isinstance(density, str):
        if density in DENSITIES:
            return DENSITIES[density]
    elif not isinstance(density, bool) and isfinite(density) and 0 <= density <= 1:
        return float(density)
    raise BadInput(f"unknown density {density!r}; give one of {', '.join(DENSITIES)}, or emphases a word as a number from 0 to 1")


def nearest_level(density: Density) -> Level:
    """Return the named density that is nearest to ``density``.

    Raises:
        BadInput: an unknown name, or a number outside 0 to 1.
    """
    wanted = density_of(density)
    return min(DENSITIES, key=lambda name: abs(DENSITIES[name] - wanted))


def threshold_at(density: float, calibrated: Mapping[str, float]) -> float:
    """Return the score above which words are stressed at a density.

    Interpolates and extrapolates the calibrated thresholds of the named densities, linearly in the log-odds of the score over the
    logarithm of the density.
    """
    if not 0 < density < 1:
        return 1.0 - density
    log_densities = np.array([log(share) for share in DENSITIES.values()])
    odds = np.array([_log_odds(calibrated[name]) for name in DENSITIES])
    first = int(np.clip(np.searchsorted(log_densities, log(density)) - 1, 0, len(log_densities) - 2))
    slope = (odds[first + 1] - odds[first]) / (log_densities[first + 1] - log_densities[first])
    return _probability(float(odds[first] + slope * (log(density) - log_densities[first])))


class EmphasisBudget:
    """Chooses the words of one text to stress, part by part.

    Args:
        density: target, in emphases per word, 0 to 1.
        calibrated: calibrated threshold of each named density (see `threshold_at`).

    Attributes:
        density: the target.
    """

    def __init__(self, density: float, calibrated: Mapping[str, float]) -> None:
        self.density = density
        self._prior = threshold_at(density, calibrated)
        self._seen = np.zeros(SCORE_STEPS + 1, np.int64)
        self._words = self._stressed = 0
        self._last = -2

    @property
    def stresses_sentences(self) -> bool:
        """Whether every sentence of `SHORTEST_STRESSED` words gets an emphasis. If not, no two adjacent words are stressed."""
        return self.density >= DENSITIES["medium"]

    def choose(
        self,
        scores: NDArray[np.float32],
        known: NDArray[np.bool_],
        sentences: Sequence[range],
        emphasis_spans: Sequence[Sequence[int]],
    ) -> list[int]:
        """Return the indices of the words to stress in the next part of the text, in order.

        Args:
            scores: emphasis score of each word, shape [n], 0 to 1.
            known: whether each word may be stressed, shape [n]; other words do not count towards the density.
            sentences: the sentences of this part, as ranges of word indices.
            emphasis_spans: groups of word indices; each group gets at least one emphasis.
        """
        level = np.rint(np.where(known, scores, 0) * SCORE_STEPS).astype(np.int64)
        order = [int(index) for index in np.argsort(-level, kind="stable") if known[index]]
        rank = {index: position for position, index in enumerate(order)}
        self._words += len(order)
        self._seen += np.bincount(level[known], minlength=SCORE_STEPS + 1)
        chosen: set[int] = set()
        groups: list[Sequence[int]] = list(emphasis_spans)
        if self.stresses_sentences:
            groups += [sentence for sentence in sentences if len(sentence) >= SHORTEST_STRESSED]
        for group in groups:
            if chosen.isdisjoint(group):
                self._add(sorted((index for index in group if known[index]), key=rank.__getitem__), 1, chosen)
        above = int(np.count_nonzero(level[known] >= self._threshold() * SCORE_STEPS))
        wanted = self._wanted(len(chosen.union(order[:above])))
        self._add(order, wanted - len(chosen), chosen)
        self._stressed += len(chosen)
        self._last = max(chosen, default=self._last) - len(scores)
        return sorted(chosen)

    def _add(self, order: Sequence[int], count: int, chosen: set[int]) -> None:
        """Add ``count`` words to ``chosen``, the best first; below medium density, none adjacent to another."""
        for index in order:
            if count <= 0:
                return
            adjacent = {index - 1, index + 1}
            if index in chosen or (not self.stresses_sentences and (self._last in adjacent or not chosen.isdisjoint(adjacent))):
                continue
            chosen.add(index)
            count -= 1

    def _threshold(self) -> float:
        """Return a weighted mean of the calibrated threshold and the text's own, which counts more the longer the text is."""
        above = np.cumsum(self._seen[::-1])[::-1]  # number of words with at least each score
        own = int(np.searchsorted(-above, -self.density * self._words, side="left")) / SCORE_STEPS
        weight = self._words / (self._words + PRIOR_WORDS)
        return _probability(weight * _log_odds(own) + (1 - weight) * _log_odds(self._prior))

    def _wanted(self, proposed: int) -> int:
        """Return how many words of this part to stress: ``proposed``, limited so that the text stays close to its density."""
        aim = self.density * self._words
        slack = SLACK * aim + SLACK_WORDS * self.density
        lower, upper = round(aim - slack), round(aim + slack)
        return min(max(self._stressed + proposed, lower), max(upper, lower)) - self._stressed


def _log_odds(probability: float) -> float:
    clipped = min(max(probability, _MIN_PROBABILITY), 1 - _MIN_PROBABILITY)
    return log(clipped / (1 - clipped))


def _probability(log_odds: float) -> float:
    return 1 / (1 + exp(-log_odds))
