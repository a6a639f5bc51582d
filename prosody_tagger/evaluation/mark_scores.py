"""How many of the marks that stand in a text a tagger finds, each in its place or within one word of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prosody_tagger.corpus.examples import Example, from_marked
from prosody_tagger.markup import KINDS, MarkedText


@dataclass(slots=True)
class Found:
    """Counts of one kind of mark: how many stand in the text, were set, and agree."""

    there: int = 0
    set: int = 0
    exact: int = 0
    near: int = 0

    def add(self, there: Sequence[int], found: Sequence[int]) -> None:
        """Add the marks of one text, as indices of words in order."""
        self.there += len(there)
        self.set += len(found)
        self.exact += len(set(there) & set(found))
        self.near += _matched(there, found)

    def as_dict(self) -> dict[str, Any]:
        return {"there": self.there, "set": self.set, "exact": self._rates(self.exact), "within_one_word": self._rates(self.near)}

    def _rates(self, right: int) -> dict[str, float | None]:
        """None where there is nothing to divide by."""
        return {
            "precision": right / self.set if self.set else None,
            "recall": right / self.there if self.there else None,
            "f1": 2 * right / (self.set + self.there) if self.set + self.there else None,
        }


@dataclass(slots=True)
class MarkScores:
    """Counts for every kind of mark that was there or was set."""

    kinds: dict[str, Found] = field(default_factory=lambda: {kind: Found() for kind in KINDS})

    def add(self, example: Example, marked: MarkedText) -> None:
        """Compare the marks of ``example`` with those that were set in its text."""
        found = from_marked(marked).marks or ()
        for kind, counts in self.kinds.items():
            counts.add(_places(example.marks or (), kind), _places(found, kind))

    def as_dict(self) -> dict[str, dict[str, Any]]:
        return {kind: counts.as_dict() for kind, counts in self.kinds.items() if counts.there or counts.set}


def _places(marks: Sequence[frozenset[str]], kind: str) -> list[int]:
    return [index for index, kinds in enumerate(marks) if kind in kinds]


def _matched(there: Sequence[int], found: Sequence[int]) -> int:
    """The most pairs of one mark each, no more than a word apart. From left to right, the first that fits is as good as any."""
    count = first = second = 0
    while first < len(there) and second < len(found):
        if abs(there[first] - found[second]) <= 1:
            count, first, second = count + 1, first + 1, second + 1
        elif there[first] < found[second]:
            first += 1
        else:
            second += 1
    return count
