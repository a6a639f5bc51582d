"""Training batches of labelled text. The order of the texts depends on the seed and the epoch alone.

A resumed run therefore continues with the same batches, and several processes share one batch without communication.
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

from prosody_tagger.corpus.examples import UNKNOWN, LabelledText
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
    token_id,
)
from prosody_tagger.segment import segment_words
from prosody_tagger.training.torch_network import lay_out

RARE_COUNT = 3
"""A token that occurs at most this often is rare; half of its occurrences are replaced by tokens that never occur in the data, so
that the model learns to treat unknown words like rare ones. Not tuned."""
JOINED_SHARE = 0.5
"""Share of the texts that are joined from two to four consecutive examples of one speaker; the others are single examples."""
LENGTH_NOISE = 8
"""Batches group texts of similar length: the sort key is the length plus noise of up to this many tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledTokens:
    """A text as tokens, and the labels of its n words, [n, groups] in the columns of `label_groups`."""

    encoded: Encoded
    labels: NDArray[np.int64]
    speaker: str


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Several texts as tensors, each as ``text <SEP> text``.

    Attributes:
        inputs: [texts, width] token ids, padded on the right.
        positions: [texts, width] position of each token.
        rows, columns: [n] index of the last token of each word of the copies.
        labels: [n, groups].
        texts: the tokens of the texts themselves.
    """

    inputs: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    labels: torch.Tensor
    texts: list[Encoded]

    def to(self, device: torch.device) -> "TokenBatch":
        """Return the batch with its tensors on ``device``."""
        names = ("inputs", "positions", "rows", "columns", "labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def label_groups(tokenizer: Tokenizer) -> list[list[int]]:
    """Return the token ids that compete in each label column: prominence, boundary, and each mark against no mark."""
    none = token_id(tokenizer, NONE)
    return [
        [token_id(tokenizer, token) for token in PROMINENCE],
        [token_id(tokenizer, token) for token in BOUNDARY],
        *([none, token_id(tokenizer, mark)] for mark in MARKS),
    ]


def group_labels(examples: Sequence[LabelledText]) -> list[NDArray[np.int64]]:
    """Return for each example its labels in the columns of `label_groups`, [words, groups], with `UNKNOWN` for missing ones.

    A kind of mark that occurs in no example is unknown everywhere. If the data have neither real-valued prominence nor marks,
    prominence 2 counts as emphasis.
    """
    labels_of_examples = []
    for example in examples:
        boundary = [UNKNOWN if label == UNKNOWN else int(label == 2) for label in example.boundary]
        labels_of_examples.append(np.column_stack([np.array(example.prominence), np.array(boundary), mark_labels(example)]))
    all_labels = np.concatenate(labels_of_examples)
    absent = [2 + column for column in range(len(KINDS)) if not (all_labels[:, 2 + column] == 1).any()]
    emphasis = 2 + KINDS.index("emph")
    use_prominence = (all_labels[:, emphasis] == UNKNOWN).all()
    for labels in labels_of_examples:
        labels[:, absent] = UNKNOWN
        if use_prominence:
            labels[:, emphasis] = np.where(labels[:, 0] == UNKNOWN, UNKNOWN, labels[:, 0] == 2)
    return labels_of_examples


class BatchBuilder:
    """Builds the batches of each epoch.

    Args:
        tokenizer: the base's tokenizer, with our tokens.
        examples: the training data.
        max_tokens: length limit of a text, in tokens; longer texts are split between words.
        batch_size: maximum number of texts in a batch.
        batch_tokens: maximum number of tokens in a batch, padding included.
        swap_rare: replace rare tokens by tokens that never occur in the data; see `RARE_COUNT`.
        seed: determines the plan of each epoch and the replaced tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        examples: Sequence[LabelledText],
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
            for item, labels, example in zip(encoded, group_labels(examples), examples, strict=True)
            if item.ids
            for piece in _split_long(LabelledTokens(item, labels, example.speaker), max_tokens)
        ]
        counts = Counter(i for item in self.items for i in item.encoded.ids)
        self.unseen = [i for i in range(tokenizer.get_vocab_size() - len(ADDED_TOKENS)) if counts[i] == 0]
        self.rare = {i for i, count in counts.items() if count <= RARE_COUNT} if swap_rare and self.unseen else set()

    def plan(self, epoch: int) -> list[list[range]]:
        """Return the batches of an epoch; each text of a batch is a range of indices of items that are joined."""
        order = random.Random(f"plan {self.seed} {epoch}")
        texts: list[range] = []
        index = 0
        while index < len(self.items):
            wanted = 1 if order.random() < 1 - JOINED_SHARE else order.randint(2, 4)
            stop, length = index + 1, len(self.items[index].encoded.ids)
            while stop < min(index + wanted, len(self.items)) and self.items[stop].speaker == self.items[index].speaker:
                length += len(self.items[stop].encoded.ids)
                if length > self.max_tokens:
                    break
                stop += 1
            texts.append(range(index, stop))
            index = stop
        lengths = {text: sum(len(self.items[i].encoded.ids) for i in text) for text in texts}
        texts.sort(key=lambda text: lengths[text] + order.random() * LENGTH_NOISE)
        batches: list[list[range]] = [[]]
        for text in texts:
            size = len(batches[-1])
            if size and (size == self.batch_size or (size + 1) * (2 * lengths[text] + 1) > self.batch_tokens):
                batches.append([])
            batches[-1].append(text)
        order.shuffle(batches)
        return batches

    def parts(self, texts: Sequence[range], count: int, epoch: int) -> list[TokenBatch]:
        """Return a batch of the plan in ``count`` parts of similar size, or fewer if it has fewer texts."""
        size = min(count, len(texts))
        bounds = [len(texts) * part // size for part in range(size + 1)]
        return [self._tensors(texts[first:last], epoch) for first, last in pairwise(bounds)]

    def _tensors(self, texts: Sequence[range], epoch: int) -> TokenBatch:
        joined = [self._join(text, epoch) for text in texts]
        inputs, positions, rows, columns = lay_out(joined, self.sep)
        return TokenBatch(inputs, positions, torch.tensor(rows), torch.tensor(columns), self._labels(texts), joined)

    def _labels(self, texts: Sequence[range]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([self.items[index].labels for text in texts for index in text]))

    def _join(self, text: range, epoch: int) -> Encoded:
        """Join the items of a text, with rare tokens replaced."""
        swap = random.Random(f"swap {self.seed} {epoch} {text.start}")
        ids: list[int] = []
        last: list[int] = []
        for item in (self.items[index].encoded for index in text):
            last.extend(len(ids) + position for position in item.last)
            ids.extend(swap.choice(self.unseen) if i in self.rare and swap.random() < 0.5 else i for i in item.ids)
        return Encoded(ids, last)


def _split_long(item: LabelledTokens, max_tokens: int) -> Iterator[LabelledTokens]:
    """Yield the item in pieces of whole words of at most ``max_tokens`` tokens; a longer word keeps its last tokens only."""
    ids, ends = item.encoded.ids, item.encoded.last
    first = 0
    while first < len(ends):
        start = ends[first - 1] + 1 if first else 0
        end = max(first + 1, int(np.searchsorted(ends, start + max_tokens, side="left")))
        stop = ends[end - 1] + 1
        start = min(max(start, stop - max_tokens), stop - 1)
        last = [max(position - start, 0) for position in ends[first:end]]
        yield LabelledTokens(Encoded(ids[start:stop], last), item.labels[first:end], item.speaker)
        first = end
