"""Divide a text for the tagger into passages to tokenise, windows of tokens to score, and blocks to mark.

A text of a few sentences is one passage with one window and one block. Long texts are divided between sentences, so that the first
sentences are tagged before the rest is tokenised, and no window is longer than the model's limit.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.language import Verdict, known_words
from prosody_tagger.markup import plain
from prosody_tagger.model import SCORE_COLUMNS, Encoded, Scores, TaggerModel, encode
from prosody_tagger.segment import Word, segment_sentences

Span = tuple[int, int]
"""A part ``[start, end)`` of a text, as offsets in code points."""

BODY_TOKENS = 176
"""Tokens of whole sentences in one window of a long text."""
CONTEXT_TOKENS = 36
"""Tokens of context on either side of them."""

PASSAGE_CHARS = 5000
"""Characters of whole sentences in one passage of a long text."""

BATCH_TOKENS = 2048
"""Padded tokens of one forward pass over several windows."""

BLOCK_WINDOWS = 8
"""Windows in one block of a long text, after a first block of one window."""


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a passage to score: its tokens with context, and the words in its body."""

    first_word: int
    encoded: Encoded

    @property
    def words(self) -> slice:
        """The words of the body, as a slice of the passage's words."""
        return slice(self.first_word, self.first_word + len(self.encoded.last))


@dataclass(frozen=True, slots=True)
class Block:
    """Whole sentences of a passage, ``[start, end)``; their words are ``[first_word, last_word)``, scored by ``windows``."""

    start: int
    end: int
    first_word: int
    last_word: int
    windows: Sequence[Window]


class Passage:
    """Whole sentences of a text: their words, windows, blocks and scores.

    Attributes:
        marked: the passage without marks; it caches its words.
        before: the previous passage of the text; None once `pause_before` is set.
        focus: spans of the whole text, as offsets into this passage.
        scores: of each word; zero until `fill` is called for its window.
    """

    def __init__(
        self, text: str, focus: Sequence[Span], model: TaggerModel, before: "Passage | None", languages: Sequence[str] | None
    ) -> None:
        self.before = before
        self.pause_before: tuple[str, float | None] | None = None
        self.text = text
        self.focus = focus
        self.marked = plain(text)
        self.words = self.marked.words
        sentences = segment_sentences(text)
        self.verdict: Verdict = known_words(text, self.words, sentences, languages, None if before is None else before.verdict)
        self.sentence_ends = _last_words(self.words, sentences)
        encoded = encode(model.tokenizer, [text], [self.words])[0]
        self.windows = list(_windows(encoded, self.words, self.sentence_ends, model.max_tokens))
        self.blocks = list(_blocks(text, self.words, sentences, self.sentence_ends, self.windows))
        self._table = np.zeros((len(self.words), SCORE_COLUMNS), np.float32)
        self.scores = Scores.of(self._table)

    def to_score(self, windows: Sequence[Window]) -> "list[tuple[Passage, Window]]":
        """Return those of ``windows`` that contain a word in a supported language."""
        return [(self, window) for window in windows if self.verdict.known[window.words].any()]

    def fill(self, window: Window, table: NDArray[np.float32]) -> None:
        """Store the scores of a window, shape [words of its body, `SCORE_COLUMNS`]."""
        self._table[window.words] = table


class Batch:
    """Windows for one forward pass.

    Attributes:
        tokens: the ids of each window.
        ends: for each window the index of the last token of each of its words.
    """

    def __init__(self, windows: "Sequence[tuple[Passage, Window]]") -> None:
        self.tokens = [window.encoded.ids for _, window in windows]
        self.ends = [window.encoded.last for _, window in windows]
        self._windows = windows

    def fill(self, tables: Sequence[NDArray[np.float32]]) -> None:
        """Store the scores of each window in its passage; the tables have shape [words, `SCORE_COLUMNS`]."""
        for (passage, window), table in zip(self._windows, tables, strict=True):
            passage.fill(window, table)


def batches(windows: "Sequence[tuple[Passage, Window]]") -> Iterator[Batch]:
    """Group windows of similar length into batches, so that there is little padding."""
    batch: list[tuple[Passage, Window]] = []
    for passage, window in sorted(windows, key=lambda pair: len(pair[1].encoded.ids)):
        if batch and (len(batch) + 1) * (2 * len(window.encoded.ids) + 1) > BATCH_TOKENS:
            yield Batch(batch)
            batch = []
        batch.append((passage, window))
    if batch:
        yield Batch(batch)


def passages(text: str, focus: Sequence[Span], model: TaggerModel, languages: Sequence[str] | None) -> Iterator[Passage]:
    """Yield the passages of a text, created lazily; each refers to the previous one."""
    before: Passage | None = None
    for start, end in _passage_spans(text):
        before = Passage(text[start:end], [(a - start, b - start) for a, b in focus], model, before, languages)
        yield before


def _passage_spans(text: str) -> Iterator[Span]:
    start, size = 0, PASSAGE_CHARS
    while start + size < len(text):
        spans = segment_sentences(text[start : start + size])
        end = spans[-1][0] if spans else size  # the last sentence may continue past the end
        if end == 0:
            size *= 2
            continue
        yield start, start + end
        start, size = start + end, PASSAGE_CHARS
    yield start, len(text)


def _last_words(words: Sequence[Word], sentences: Sequence[Span]) -> set[int]:
    """Indices of the words that end a sentence."""
    ends = np.searchsorted([word.start for word in words], [end for _, end in sentences], side="left") - 1
    return {int(index) for index in ends if index >= 0}


def _windows(encoded: Encoded, words: Sequence[Word], sentence_ends: Collection[int], max_tokens: int) -> Iterator[Window]:
    """Yield one window for the whole passage if it fits, else groups of sentences with context on either side."""
    if not words:
        return
    if len(encoded.ids) <= max_tokens:
        yield Window(0, encoded)
        return
    body = min(BODY_TOKENS, max_tokens // 2)
    context = min(CONTEXT_TOKENS, (max_tokens - body) // 2)
    ends = sorted(sentence_ends)
    first = 0
    while first < len(words):
        start = encoded.last[first - 1] + 1 if first else 0
        end = _body_end(encoded.last, first, ends, start + body)
        # A word longer than a whole window is scored by its last tokens.
        begin = max(0, start - context, encoded.last[end - 1] + 1 - body - context)
        stop = min(len(encoded.ids), encoded.last[end - 1] + 1 + context)
        yield Window(first, Encoded(encoded.ids[begin:stop], [max(0, last - begin) for last in encoded.last[first:end]]))
        first = end


def _blocks(
    text: str, words: Sequence[Word], sentences: Sequence[Span], sentence_ends: Collection[int], windows: Sequence[Window]
) -> Iterator[Block]:
    """Group the windows into blocks that end with a sentence: the first as small as possible, the others `BLOCK_WINDOWS` or
    more."""
    bounds = [end for _, end in sentences]
    start = first = 0
    for number, window in enumerate(windows):
        last_word = window.first_word + len(window.encoded.last)
        enough = not first or number + 1 - first >= BLOCK_WINDOWS
        if number + 1 == len(windows):
            yield Block(start, len(text), windows[first].first_word, last_word, windows[first:])
        elif enough and last_word - 1 in sentence_ends:
            end = bounds[bisect_right(bounds, words[last_word - 1].core_start)]
            yield Block(start, end, windows[first].first_word, last_word, windows[first : number + 1])
            start, first = end, number + 1
    if not windows:
        yield Block(0, len(text), 0, 0, ())


def _body_end(last: Sequence[int], first: int, sentence_ends: Sequence[int], limit: int) -> int:
    """Return the end of a body that starts with word ``first`` and stays below token ``limit``: after its last complete sentence,
    if any."""
    fitting = int(np.searchsorted(last, limit, side="left"))
    if fitting <= first:
        return first + 1
    at = int(np.searchsorted(sentence_ends, fitting - 1, side="right")) - 1
    return sentence_ends[at] + 1 if at >= 0 and sentence_ends[at] >= first else fitting
