"""How many words of a text are stressed, and which: by rank within the text, with a calibrated threshold to start from.

A text is decided in portions, as it is read. An `EmphasisBudget` goes along: it knows the scores that it has seen and how many
words it has stressed, so that what one portion owes or overspends the next makes good.
"""

from collections.abc import Mapping, Sequence
from math import exp, isfinite, log
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput

Level = Literal["low", "medium", "high"]
"""A density by name."""

Density = Level | float
"""Emphases per word: by name, or a number from 0 to 1."""

DENSITIES: dict[Level, float] = {"low": 0.05, "medium": 0.09, "high": 0.18}
"""Emphases a word that each level aims at."""

SHORTEST_STRESSED = 4
"""A sentence of so many words gets an emphasis at medium density and above, whatever its scores."""

SCORE_STEPS = 1000
"""Scores are ranked in steps of 1/1000, and by their place within a step: rounding in the last digits never changes a mark."""

PRIOR_WORDS = 100
"""The calibrated threshold counts as much as so many words of the text."""

SLACK, SLACK_WORDS = 0.02, 20
"""After n words the share of emphases may be off by ``SLACK + SLACK_WORDS / n``, as a fraction of what is wanted: by 4 % after
1,000 words, and by anything within a short sentence."""

_FARTHEST = 1e-4


def density_of(density: Density) -> float:
    """Emphases a word, of a name or a number.

    Raises:
        BadInput: another name, or no number from 0 to 1.
    """
    if isinstance(density, str):
        if density in DENSITIES:
            return DENSITIES[density]
    elif not isinstance(density, bool) and isfinite(density) and 0 <= density <= 1:
        return float(density)
    raise BadInput(f"unknown density {density!r}; give one of {', '.join(DENSITIES)}, or emphases a word as a number from 0 to 1")


def nearest_level(density: Density) -> Level:
    """The name whose density is nearest.

    Raises:
        BadInput: another name, or no number from 0 to 1.
    """
    wanted = density_of(density)
    return min(DENSITIES, key=lambda name: abs(DENSITIES[name] - wanted))


def threshold_at(density: float, calibrated: Mapping[str, float]) -> float:
    """The score from which words are stressed at a density, by the thresholds of the named ones.

    Between and beyond them, log-odds of the score go in a line with the logarithm of the density.
    """
    if not 0 < density < 1:
        return 1.0 - density
    places = np.array([log(share) for share in DENSITIES.values()])
    odds = np.array([_log_odds(calibrated[name]) for name in DENSITIES])
    place = log(density)
    first = int(np.clip(np.searchsorted(places, place) - 1, 0, len(places) - 2))
    slope = (odds[first + 1] - odds[first]) / (places[first + 1] - places[first])
    return _probability(float(odds[first] + slope * (place - places[first])))


class EmphasisBudget:
    """What one text has been given so far.

    Attributes:
        density: emphases a word that the text is to have.
    """

    def __init__(self, density: float, calibrated: Mapping[str, float]) -> None:
        self.density = density
        self._prior = threshold_at(density, calibrated)
        self._seen = np.zeros(SCORE_STEPS + 1, np.int64)
        self._words = self._stressed = 0
        self._last = -2

    @property
    def stresses_sentences(self) -> bool:
        """Whether a sentence that is long enough gets an emphasis; where not, no two neighbours are stressed."""
        return self.density >= DENSITIES["medium"]

    def choose(
        self,
        scores: NDArray[np.float32],
        known: NDArray[np.bool_],
        sentences: Sequence[range],
        focus: Sequence[Sequence[int]],
    ) -> list[int]:
        """The words of the next portion that are stressed.

        Args:
            scores: [n] of emphasis.
            known: [n] whether a word may be stressed; the others do not count.
            sentences: the portion's sentences, as ranges of its words.
            focus: groups of words, in each of which one is stressed.
        """
        level = np.rint(np.where(known, scores, 0) * SCORE_STEPS).astype(np.int64)
        order = [int(index) for index in np.argsort(-level, kind="stable") if known[index]]
        rank = {index: place for place, index in enumerate(order)}
        self._words += len(order)
        self._seen += np.bincount(level[known], minlength=SCORE_STEPS + 1)
        chosen: set[int] = set()
        groups: list[Sequence[int]] = list(focus)
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
        """Choose so many more, the best first; below medium density none beside another."""
        for index in order:
            if count <= 0:
                return
            beside = {index - 1, index + 1}
            if index in chosen or (not self.stresses_sentences and (self._last in beside or not chosen.isdisjoint(beside))):
                continue
            chosen.add(index)
            count -= 1

    def _threshold(self) -> float:
        """Between the calibrated one and that of the text so far; the longer the text, the nearer to its own."""
        above = np.cumsum(self._seen[::-1])[::-1]  # how many words score each level or more
        own = int(np.searchsorted(-above, -self.density * self._words, side="left")) / SCORE_STEPS
        weight = self._words / (self._words + PRIOR_WORDS)
        return _probability(weight * _log_odds(own) + (1 - weight) * _log_odds(self._prior))

    def _wanted(self, proposed: int) -> int:
        """How many words of this portion to stress: as many as proposed, unless that takes the text too far from its density."""
        aim = self.density * self._words
        slack = SLACK * aim + SLACK_WORDS * self.density
        fewest, most = round(aim - slack), round(aim + slack)
        return min(max(self._stressed + proposed, fewest), max(most, fewest)) - self._stressed


def _log_odds(probability: float) -> float:
    kept = min(max(probability, _FARTHEST), 1 - _FARTHEST)
    return log(kept / (1 - kept))


def _probability(log_odds: float) -> float:
    return 1 / (1 + exp(-log_odds))
