"""Training and evaluation kept apart: by source, and where nobody says the source by what the texts share.

Windows of one transcript that overlap share runs of words, so texts without a source belong together where they share
`SHARED_WORDS` words in a row, or are the same.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prosody_tagger.corpus.examples import Example
from prosody_tagger.errors import DataError
from prosody_tagger.segment import segment_words

SHARED_WORDS = 6
"""So many words in a row are seldom the same by chance."""


@dataclass(frozen=True, slots=True)
class Split:
    """The two sides, and what was done to keep them apart, in words."""

    train: list[Example]
    held_out: list[Example]
    notes: list[str]


def without_repeats(examples: Sequence[Example]) -> tuple[list[Example], int]:
    """The examples less those that say again what one without a source said, mark for mark; and how many those are."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for example in examples:
        key = (example.text, example.marks, example.prominence, example.boundary)
        if example.speaker or key not in seen:
            kept.append(example)
        seen.add(key)
    return kept, len(examples) - len(kept)


def split(examples: Sequence[Example], fraction: float, seed: int) -> Split:
    """Hold out about ``fraction`` of the examples, whole groups of them: speakers, or texts that overlap.

    Where one group is too large for that, the end of it is held out, and what overlaps with that is left out of training.

    Raises:
        DataError: nothing is left for one of the sides.
    """
    wanted = max(1, round(fraction * len(examples)))
    groups = _groups(examples)
    overlapping = sum(len(group) for group in groups if len(group) > 1 and not all(examples[i].speaker for i in group))
    random.Random(seed).shuffle(groups)
    chosen: set[int] = set()
    for group in groups:
        if len(chosen) + len(group) <= wanted * 1.2:
            chosen.update(group)
    notes: list[str] = []
    if overlapping:
        notes.append(f"{overlapping} examples repeat or overlap one another; each such group is kept on one side")
    if len(chosen) < wanted / 2:
        largest = max(groups, key=len)
        chosen.update(largest[len(largest) - (wanted - len(chosen)) :])
        notes.append(
            f"{len(largest)} of {len(examples)} examples come from one source or overlap with one another; the last of them are "
            "held out, so the evaluation is of texts like those trained on"
        )
    held_out = [example for index, example in enumerate(examples) if index in chosen]
    return keep_apart([example for index, example in enumerate(examples) if index not in chosen], held_out, notes)


def keep_apart(train: Sequence[Example], held_out: Sequence[Example], notes: Sequence[str] = ()) -> Split:
    """Leave out of training what the evaluation has as well: the same source, the same words, or an overlap without a source.

    Raises:
        DataError: nothing is left for one of the sides.
    """
    sources = {example.source for example in held_out if example.source}
    texts = {_spoken(example) for example in held_out}
    shared_with_any = {run for example in held_out for run in _runs(example)}
    shared_with_unsourced = {run for example in held_out if not example.speaker for run in _runs(example)}
    kept = []
    for example in train:
        shared = shared_with_unsourced if example.speaker else shared_with_any
        if example.source not in sources and _spoken(example) not in texts and shared.isdisjoint(_runs(example)):
            kept.append(example)
    left_out = len(train) - len(kept)
    said = list(notes)
    if left_out:
        said.append(f"{left_out} examples were left out of training: the evaluation has them, or a part of them, as well")
    if not kept or not held_out:
        raise DataError(
            f"{len(kept)} examples are left to train on and {len(held_out)} to evaluate on, of {len(train) + len(held_out)}, once "
            "those that repeat or overlap one another are on one side; give more text, or --eval-data of another source"
        )
    return Split(kept, list(held_out), said)


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """Indices of the examples that must stay together, in order."""
    parent = list(range(len(examples)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_of: dict[object, int] = {}
    unsourced = any(not example.speaker for example in examples)
    for index, example in enumerate(examples):
        keys: list[object] = [("speaker", example.speaker)] if example.speaker else []
        for key in keys:
            parent[find(index)] = find(first_of.setdefault(key, index))
        if unsourced:
            for run in (_spoken(example), *_runs(example)):
                other = first_of.setdefault(run, index)
                if not (example.speaker and examples[other].speaker):
                    parent[find(index)] = find(other)
    together: dict[int, list[int]] = defaultdict(list)
    for index in range(len(examples)):
        together[find(index)].append(index)
    return list(together.values())


def _spoken(example: Example) -> tuple[str, ...]:
    """The words without case and outer punctuation."""
    return tuple(word.core(example.text).casefold() for word in segment_words(example.text))


def _runs(example: Example) -> Iterable[tuple[str, ...]]:
    spoken = _spoken(example)
    return (spoken[start : start + SHARED_WORDS] for start in range(len(spoken) - SHARED_WORDS + 1))
