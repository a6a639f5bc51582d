"""Split examples into training and evaluation data without overlap.

Examples of one speaker stay together. Without a known speaker or source, examples that are equal or share `OVERLAP_WORDS`
consecutive words stay together, for example overlapping windows of one transcript.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prosody_tagger.corpus.examples import LabelledText
from prosody_tagger.errors import DataError
from prosody_tagger.segment import segment_words

OVERLAP_WORDS = 6
"""Number of consecutive words that two texts must share to count as overlapping; a run this long is rarely shared by chance."""
LARGEST_EXCESS = 1.2
"""Hold out at most this multiple of the wanted number of examples, because groups are held out whole."""


@dataclass(frozen=True, slots=True)
class Split:
    """Training and evaluation data, and notes for the user on how they were separated."""

    train: list[LabelledText]
    held_out: list[LabelledText]
    notes: list[str]


def drop_repeats(examples: Sequence[LabelledText]) -> tuple[list[LabelledText], int]:
    """Drop examples without a known speaker that repeat an earlier one, including its labels.

    Returns:
        The remaining examples, and the number of those dropped.
    """
    seen: set[tuple[object, ...]] = set()
    kept = []
    for example in examples:
        key = (example.text, example.marks, example.prominence, example.boundary)
        if example.speaker or key not in seen:
            kept.append(example)
        seen.add(key)
    return kept, len(examples) - len(kept)


def hold_out(examples: Sequence[LabelledText], fraction: float, seed: int) -> Split:
    """Hold out about ``fraction`` of the examples, in whole groups: speakers, or texts that overlap.

    If the groups are too large for that, the end of the largest one is held out as well, and training examples that overlap with it
    are dropped.

    Args:
        examples: all examples.
        fraction: share to hold out, between 0 and 1.
        seed: determines which groups are held out.

    Raises:
        DataError: one of the sides would be empty.
    """
    wanted = max(1, round(fraction * len(examples)))
    groups = _group_overlapping(examples)
    overlapping = sum(len(group) for group in groups if len(group) > 1 and not all(examples[i].speaker for i in group))
    random.Random(seed).shuffle(groups)
    chosen: set[int] = set()
    for group in groups:
        if len(chosen) + len(group) <= wanted * LARGEST_EXCESS:
            chosen.update(group)
    notes: list[str] = []
    if overlapping:
        notes.append(f"{overlapping} examples repeat or overlap one another; each such group is kept on one side")
    if len(chosen) < wanted / 2:
        largest = max(groups, key=len)
        chosen.update(largest[len(largest) - (wanted - len(chosen)) :])
        notes.append(
            f"{len(largest)} of {len(examples)} examples come from one source or overlap one another; the last of them are held "
            "out, so the evaluation text is similar to the training text"
        )
    held_out = [example for index, example in enumerate(examples) if index in chosen]
    return remove_overlap([example for index, example in enumerate(examples) if index not in chosen], held_out, notes)


def remove_overlap(train: Sequence[LabelledText], held_out: Sequence[LabelledText], notes: Sequence[str] = ()) -> Split:
    """Drop training examples that have a source or text in common with the held-out ones, or overlap with them.

    Overlap counts unless both examples have a known speaker.

    Args:
        train: the training examples.
        held_out: the evaluation examples, which stay complete.
        notes: earlier notes, which the result repeats.

    Raises:
        DataError: one of the sides would be empty.
    """
    sources = {example.source for example in held_out if example.source}
    texts = {_normalised_words(example) for example in held_out}
    runs_of_any = {run for example in held_out for run in _word_runs(example)}
    runs_of_unknown_speakers = {run for example in held_out if not example.speaker for run in _word_runs(example)}
    kept = []
    for example in train:
        runs = runs_of_unknown_speakers if example.speaker else runs_of_any
        is_repeat = example.source in sources or _normalised_words(example) in texts
        if not is_repeat and runs.isdisjoint(_word_runs(example)):
            kept.append(example)
    dropped = len(train) - len(kept)
    all_notes = list(notes)
    if dropped:
        all_notes.append(f"{dropped} examples were left out of training: the evaluation data contain them or a part of them")
    if not kept or not held_out:
        raise DataError(
            f"{len(kept)} examples are left to train on and {len(held_out)} to evaluate on, of {len(train) + len(held_out)}, after "
            "repeated and overlapping ones were put on one side; give more text, or --eval-data from another source"
        )
    return Split(kept, list(held_out), all_notes)


def _group_overlapping(examples: Sequence[LabelledText]) -> list[list[int]]:
    """Return groups of indices of examples that must stay together, by union-find over speakers and shared runs of words."""
    parent = list(range(len(examples)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_of: dict[object, int] = {}
    compare_text = any(not example.speaker for example in examples)
    for index, example in enumerate(examples):
        if example.speaker:
            parent[find(index)] = find(first_of.setdefault(("speaker", example.speaker), index))
        if compare_text:
            for run in (_normalised_words(example), *_word_runs(example)):
                other = first_of.setdefault(run, index)
                if not (example.speaker and examples[other].speaker):
                    parent[find(index)] = find(other)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(examples)):
        groups[find(index)].append(index)
    return list(groups.values())


def _normalised_words(example: LabelledText) -> tuple[str, ...]:
    """Return the words, case-folded and without outer punctuation."""
    return tuple(word.core(example.text).casefold() for word in segment_words(example.text))


def _word_runs(example: LabelledText) -> Iterable[tuple[str, ...]]:
    words = _normalised_words(example)
    return (words[start : start + OVERLAP_WORDS] for start in range(len(words) - OVERLAP_WORDS + 1))
