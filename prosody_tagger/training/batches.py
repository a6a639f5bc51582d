"""Batches of labelled text for training: which texts come when is a function of the seed and the epoch alone.

So a run that was cut off goes on where it was, and several processes share one batch without talking about it.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from prosody_tagger.corpus.examples import UNKNOWN, Example
from prosody_tagger.evaluation.metrics import mark_labels
from prosody_tagger.markup import KINDS
from prosody_tagger.model import (
    ADDED_TOKENS,
    BOUNDARY,
    MARKS,
    NONE,
    PROMINENCE,
    SEP,
    Encoded,
    encode,
    lay_out,
    token_id,
)
from prosody_tagger.segment import segment_words

RARE_COUNT = 3
"""A word seen at most so often may be swapped for tokens never seen, so that unseen words are known to be rare words."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A text as tokens, and the labels of its n words, [n, groups]."""

    encoded: Encoded
    labels: NDArray[np.int64]
    speaker: str


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Texts side by side, ``text <SEP> text`` each.

    Attributes:
        inputs: [texts, width] tokens, padded on the right.
        positions: [texts, width], of each token.
        rows, columns: [n] where the words of the copies end.
        labels: [n, groups].
        texts: the texts themselves.
    """

    inputs: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    labels: torch.Tensor
    texts: list[Encoded]

    def to(self, device: torch.device) -> "Batch":
        names = ("inputs", "positions", "rows", "columns", "labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def label_groups(tokenizer: Tokenizer) -> list[list[int]]:
    """For each column of the labels the tokens to choose among: prominence, boundary, and each mark against none."""
    none = token_id(tokenizer, NONE)
    return [
        [token_id(tokenizer, token) for token in PROMINENCE],
        [token_id(tokenizer, token) for token in BOUNDARY],
        *([none, token_id(tokenizer, mark)] for mark in MARKS),
    ]


def labels_of(examples: Sequence[Example]) -> list[NDArray[np.int64]]:
    """Labels for each column of `label_groups`.

    A mark that no example has says nothing. Where there are neither real-valued labels nor marks, class 2 is emphasis.
    """
    found = []
    for example in examples:
        boundary = [UNKNOWN if label == UNKNOWN else int(label == 2) for label in example.boundary]
        found.append(np.column_stack([np.array(example.prominence), np.array(boundary), mark_labels(example)]))
    together = np.concatenate(found)
    absent = [2 + column for column in range(len(KINDS)) if not (together[:, 2 + column] == 1).any()]
    emph = 2 + KINDS.index("emph")
    by_class = (together[:, emph] == UNKNOWN).all()
    for labels in found:
        labels[:, absent] = UNKNOWN
        if by_class:
            labels[:, emph] = np.where(labels[:, 0] == UNKNOWN, UNKNOWN, labels[:, 0] == 2)
    return found


class Batches:
    """The batches of each epoch.

    Args:
        max_tokens: the longest text that fits, in tokens; longer ones are cut between words.
        batch_size: texts in a batch.
        batch_tokens: padded tokens in a batch, at most.
        swap_rare: whether to swap rare words for tokens never seen.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        examples: Sequence[Example],
        *,
        max_tokens: int,
        batch_size: int,
        batch_tokens: int,
        swap_rare: bool,
        seed: int,
    ) -> None:
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.sep = token_id(tokenizer, SEP)
        texts = [example.text for example in examples]
        encoded = encode(tokenizer, texts, [segment_words(text) for text in texts])
        self.items = [
            piece
            for item, labels, example in zip(encoded, labels_of(examples), examples, strict=True)
            if item.ids
            for piece in _cut(Item(item, labels, example.speaker), max_tokens)
        ]
        counts = Counter(i for item in self.items for i in item.encoded.ids)
        self.unseen = [i for i in range(tokenizer.get_vocab_size() - len(ADDED_TOKENS)) if counts[i] == 0]
        self.rare = {i for i, count in counts.items() if count <= RARE_COUNT} if swap_rare and self.unseen else set()

    def plan(self, epoch: int) -> list[list[range]]:
        """The batches of an epoch, as ranges of items that make one text each: an item alone or a few in a row."""
        order = random.Random(f"plan {self.seed} {epoch}")
        texts: list[range] = []
        index = 0
        while index < len(self.items):
            wanted = 1 if order.random() < 0.5 else order.randint(2, 4)
            stop, length = index + 1, len(self.items[index].encoded.ids)
            while stop < min(index + wanted, len(self.items)) and self.items[stop].speaker == self.items[index].speaker:
                length += len(self.items[stop].encoded.ids)
                if length > self.max_tokens:
                    break
                stop += 1
            texts.append(range(index, stop))
            index = stop
        lengths = {text: sum(len(self.items[i].encoded.ids) for i in text) for text in texts}
        texts.sort(key=lambda text: lengths[text] + order.random() * 8)
        batches: list[list[range]] = [[]]
        for text in texts:
            size = len(batches[-1])
            if size and (size == self.batch_size or (size + 1) * (2 * lengths[text] + 1) > self.batch_tokens):
                batches.append([])
            batches[-1].append(text)
        order.shuffle(batches)
        return batches

    def parts(self, texts: Sequence[range], count: int, epoch: int) -> list[Batch]:
        """A batch of the plan in ``count`` parts of like size, or fewer if it has fewer texts."""
        size = min(count, len(texts))
        bounds = [len(texts) * part // size for part in range(size + 1)]
        return [self._tensors(texts[first:last], epoch) for first, last in pairwise(bounds)]

    def _tensors(self, texts: Sequence[range], epoch: int) -> Batch:
        joined = [self._joined(text, epoch) for text in texts]
        inputs, positions, rows, columns = lay_out(joined, self.sep)
        return Batch(inputs, positions, torch.tensor(rows), torch.tensor(columns), self._labels(texts), joined)

    def _labels(self, texts: Sequence[range]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([self.items[index].labels for text in texts for index in text]))

    def _joined(self, text: range, epoch: int) -> Encoded:
        swap = random.Random(f"swap {self.seed} {epoch} {text.start}")
        ids: list[int] = []
        last: list[int] = []
        for item in (self.items[index].encoded for index in text):
            last.extend(len(ids) + place for place in item.last)
            ids.extend(swap.choice(self.unseen) if i in self.rare and swap.random() < 0.5 else i for i in item.ids)
        return Encoded(ids, last)


def _cut(item: Item, max_tokens: int) -> Iterator[Item]:
    """The item in pieces of whole words that fit; of a word that does not fit, its last tokens."""
    ids, ends = item.encoded.ids, item.encoded.last
    first = 0
    while first < len(ends):
        start = ends[first - 1] + 1 if first else 0
        end = max(first + 1, int(np.searchsorted(ends, start + max_tokens, side="left")))
        stop = ends[end - 1] + 1
        start = min(max(start, stop - max_tokens), stop - 1)
        last = [max(place - start, 0) for place in ends[first:end]]
        yield Item(Encoded(ids[start:stop], last), item.labels[first:end], item.speaker)
        first = end
