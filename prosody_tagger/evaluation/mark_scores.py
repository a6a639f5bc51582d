"""Precision and recall of the marks that a tagger sets in marked text, at the exact word and within one word."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prosody_tagger.corpus.examples import LabelledText, from_marked_text
from prosody_tagger.markup import KINDS, MarkedText


@dataclass(slots=True)
class MarkCounts:
    """Counts for one kind of mark.

    Attributes:
        reference: marks in the reference text.
        predicted: marks that the tagger set.
        exact: predicted marks on the same word as a reference mark.
        near: pairs of a predicted and a reference mark at most one word apart.
    """

    reference: int = 0
    predicted: int = 0
    exact: int = 0
    near: int = 0

    def add(self, reference: Sequence[int], predicted: Sequence[int]) -> None:
        """Add the marks of one text, given as ascending indices of words."""
        self.reference += len(reference)
        self.predicted += len(predicted)
        self.exact += len(set(reference) & set(predicted))
        self.near += _count_near_pairs(reference, predicted)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and rates under the JSON keys of `evaluate-tagger`."""
        return {
            "there": self.reference,
            "set": self.predicted,
            "exact": self._rates(self.exact),
            "within_one_word": self._rates(self.near),
        }

    def _rates(self, correct: int) -> dict[str, float | None]:
        """Return precision, recall and F1; None where the divisor is zero."""
        total = self.predicted + self.reference
        return {
            "precision": correct / self.predicted if self.predicted else None,
            "recall": correct / self.reference if self.reference else None,
            "f1": 2 * correct / total if total else None,
        }


@dataclass(slots=True)
class MarkScores:
    """Counts for every kind of mark, over any number of texts."""

    kinds: dict[str, MarkCounts] = field(default_factory=lambda: {kind: MarkCounts() for kind in KINDS})

    def add(self, example: LabelledText, marked: MarkedText) -> None:
        """Compare the marks of ``example`` with those that a tagger set in the same text."""
        predicted = from_marked_text(marked).marks or ()
        for kind, counts in self.kinds.items():
            counts.add(_words_with(example.marks or (), kind), _words_with(predicted, kind))

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return `MarkCounts.as_dict` for each kind of mark that the reference or the tagger contains."""
        return {kind: counts.as_dict() for kind, counts in self.kinds.items() if counts.reference or counts.predicted}


def _words_with(marks: Sequence[frozenset[str]], kind: str) -> list[int]:
    return [index for index, kinds in enumerate(marks) if kind in kinds]


def _count_near_pairs(reference: Sequence[int], predicted: Sequence[int]) -> int:
    """Return the maximum number of disjoint pairs at most one word apart. Pairing greedily from left to right is optimal."""
    count = first = second = 0
    while first < len(reference) and second < len(predicted):
        if abs(reference[first] - predicted[second]) <= 1:
            count, first, second = count + 1, first + 1, second + 1
        elif reference[first] < predicted[second]:
            first += 1
        else:
            second += 1
    return count
