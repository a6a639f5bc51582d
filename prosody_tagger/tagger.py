"""From a text to its marks: windows over long texts, and thresholds over the model's scores.

tagger = ProsodyTagger.load()
render(tagger.mark("It costs only nine dollars today."))
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput, ModelError
from prosody_tagger.markup import KINDS, Mark, MarkedText, normalise, plain
from prosody_tagger.model import SHIPPED_ADAPTER, Encoded, Scores, TaggerModel, encode
from prosody_tagger.segment import Word, sentences, words

INTENSITIES = ("low", "medium", "high")

Span = tuple[int, int]
"""A part ``[start, end)`` of a text, as offsets in code points."""

BODY_TOKENS = 176
"""A long text is scored in windows of whole sentences of about this many tokens ..."""
CONTEXT_TOKENS = 36
"""... which see so many tokens of the text on either side."""
BATCH_TOKENS = 2048
"""Padded tokens of one forward pass over several windows."""

SHORTEST_STRESSED = 4
"""A sentence of so many words gets an emphasis at medium and high intensity, whatever the threshold says."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """Marked text, and the model's score for each of its marks in the same order: a probability."""

    marked: MarkedText
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from which a word is stressed, for each intensity, and from which a pause follows it."""

    emph: dict[str, float]
    pause: float

    @classmethod
    def load(cls, path: Path) -> "Thresholds":
        """Read ``thresholds.json``.

        Raises:
            ModelError: it is missing, or not in that form.
        """
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            return cls({name: float(data["emph"][name]) for name in INTENSITIES}, float(data["pause"]))
        except OSError:
            raise ModelError(f"{path} is missing: the adapter was trained without thresholds; train it anew") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is broken ({type(error).__name__}: {error}); restore the folder or train it anew") from None


class ProsodyTagger:
    """Marks where a text wants stress and pauses. It never changes a word: the text that goes in is the text that comes out."""

    def __init__(self, model: TaggerModel, thresholds: Thresholds) -> None:
        self.model = model
        self.thresholds = thresholds

    @classmethod
    def load(cls, path: str | Path | None = None, *, base: str | None = None) -> "ProsodyTagger":
        """Load an adapter folder, by default the one that ships.

        Args:
            path: folder of a PEFT adapter with its tokenizer and thresholds.
            base: folder or hub name of the GPT-2 under it; by default the one that the adapter names.

        Raises:
            ModelError: the folder is missing, broken, or was trained over another base.
        """
        folder = SHIPPED_ADAPTER if path is None else Path(path)
        model = TaggerModel.load(folder, base)
        return cls(model, Thresholds.load(folder / "thresholds.json"))

    def mark(self, text: str, intensity: str = "medium") -> MarkedText:
        """``text`` with the marks that it wants, in the form of `markup.normalise`.

        Raises:
            MarkupError: the text holds a lone surrogate.
            BadInput: an intensity that is not low, medium or high.
        """
        return self.tag(text, intensity).marked

    def mark_batch(self, texts: Sequence[str], intensity: str = "medium") -> list[MarkedText]:
        """Mark several texts, together in as few passes as they fit in."""
        return [tagged.marked for tagged in self.tag_batch(texts, intensity)]

    def tag(self, text: str, intensity: str = "medium", focus: Sequence[Span] = ()) -> Tagged:
        """Like `mark`, with the score of each mark.

        Args:
            text: the text to mark.
            intensity: how many words are stressed.
            focus: spans ``[start, end)`` of the text that carry what it is said for; each of them gets an emphasis.
        """
        return self.tag_batch([text], intensity, [focus])[0]

    def tag_batch(
        self, texts: Sequence[str], intensity: str = "medium", focuses: Sequence[Sequence[Span]] | None = None
    ) -> list[Tagged]:
        """Like `mark_batch`, with the score of each mark; ``focuses`` gives each text its focus, as in `tag`."""
        if intensity not in INTENSITIES:
            raise BadInput(f"unknown intensity {intensity!r}; give one of {', '.join(INTENSITIES)}")
        for text in texts:
            plain(text)
        runs = [words(text) for text in texts]
        spans = [sentences(text) for text in texts]
        scores = self._score(texts, runs, spans)
        items = zip(texts, runs, spans, scores, focuses or [()] * len(texts), strict=True)
        return [self._decide(*item, intensity) for item in items]

    def _score(self, texts: Sequence[str], runs: Sequence[Sequence[Word]], spans: Sequence[Sequence[Span]]) -> list[Scores]:
        """Scores of every word of every text."""
        windows: list[_Window] = []
        encoded = encode(self.model.tokenizer, texts, runs)
        for index, (item, text_words, text_spans) in enumerate(zip(encoded, runs, spans, strict=True)):
            windows.extend(_windows(index, item, text_words, text_spans, self.model.max_tokens))
        results = [
            Scores(np.zeros((len(r), 3), np.float32), np.zeros(len(r), np.float32), np.zeros((len(r), len(KINDS)), np.float32))
            for r in runs
        ]
        for batch in _batches(windows):
            for window, scores in zip(batch, self.model.score([window.encoded for window in batch]), strict=True):
                place = slice(window.first_word, window.first_word + len(window.encoded.last))
                result = results[window.text]
                result.prominence[place], result.boundary[place], result.marks[place] = (
                    scores.prominence,
                    scores.boundary,
                    scores.marks,
                )
        return results

    def _decide(
        self,
        text: str,
        runs: Sequence[Word],
        spans: Sequence[Span],
        scores: Scores,
        focus: Sequence[Span],
        intensity: str,
    ) -> Tagged:
        """Thresholds over the scores."""
        last_of_sentence = _last_words(runs, spans)
        emph = scores.marks[:, KINDS.index("emph")]
        marks: dict[Mark, float] = {}
        for index in np.flatnonzero(scores.boundary >= self.thresholds.pause).tolist():
            if index + 1 < len(runs):
                kind = "pause_long" if index in last_of_sentence else "pause_short"
                marks[Mark(kind, runs[index + 1].start)] = float(scores.boundary[index])
        stressed = {int(index) for index in np.flatnonzero(emph >= self.thresholds.emph[intensity])}
        for span in focus:
            inside = [i for i, word in enumerate(runs) if span[0] <= word.core_start < span[1]]
            _stress_one(inside, emph, stressed)
        if intensity == "low":
            stressed = _without_neighbours(emph, stressed)
        else:
            for first, last in pairwise([-1, *sorted(last_of_sentence)]):
                if last - first >= SHORTEST_STRESSED:
                    _stress_one(range(first + 1, last + 1), emph, stressed)
        for index in stressed:
            marks[Mark("emph", runs[index].start)] = float(emph[index])
        marked = normalise(MarkedText(text, tuple(marks)))
        return Tagged(marked, tuple(round(marks[mark], 4) for mark in marked.marks))


def _stress_one(words_of: Sequence[int], scores: NDArray[np.float32], stressed: set[int]) -> None:
    """See that at least one of these words is stressed: the likeliest, if none is."""
    if words_of and stressed.isdisjoint(words_of):
        stressed.add(max(words_of, key=lambda index: float(scores[index])))


def _without_neighbours(scores: NDArray[np.float32], stressed: set[int]) -> set[int]:
    """The stressed words, less the weaker of any two that stand side by side."""
    kept: list[int] = []
    for index in sorted(stressed):
        if kept and kept[-1] == index - 1:
            if scores[index] <= scores[kept[-1]]:
                continue
            kept.pop()
        kept.append(index)
    return set(kept)


def _last_words(runs: Sequence[Word], spans: Sequence[Span]) -> set[int]:
    """Indices of the words that end a sentence."""
    ends = np.searchsorted([word.start for word in runs], [end for _, end in spans], side="left") - 1
    return {int(index) for index in ends if index >= 0}


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of a text to score: its tokens, with context, and the words in its body."""

    text: int
    first_word: int
    encoded: Encoded


def _windows(text: int, encoded: Encoded, runs: Sequence[Word], spans: Sequence[Span], max_tokens: int) -> Iterator[_Window]:
    """The whole text where it fits, else groups of sentences with context on either side."""
    if not runs:
        return
    if len(encoded.ids) <= max_tokens:
        yield _Window(text, 0, encoded)
        return
    body = min(BODY_TOKENS, max_tokens // 2)
    context = min(CONTEXT_TOKENS, (max_tokens - body) // 2)
    last_word_of = sorted(_last_words(runs, spans))
    first = 0
    while first < len(runs):
        start = encoded.last[first - 1] + 1 if first else 0
        end = _body_end(encoded.last, first, last_word_of, start + body)
        # A word longer than a whole window is scored by its last tokens.
        begin = max(0, start - context, encoded.last[end - 1] + 1 - body - context)
        stop = min(len(encoded.ids), encoded.last[end - 1] + 1 + context)
        yield _Window(text, first, Encoded(encoded.ids[begin:stop], [place - begin for place in encoded.last[first:end]]))
        first = end


def _body_end(last: Sequence[int], first: int, sentence_ends: Sequence[int], limit: int) -> int:
    """Index past the last word of a body from word ``first`` to below token ``limit``: at the end of a sentence if it holds one."""
    fitting = int(np.searchsorted(last, limit, side="left"))
    if fitting <= first:
        return first + 1
    at = int(np.searchsorted(sentence_ends, fitting - 1, side="right")) - 1
    return sentence_ends[at] + 1 if at >= 0 and sentence_ends[at] >= first else fitting


def _batches(windows: Sequence[_Window]) -> Iterator[list[_Window]]:
    """Windows of like length together, so that little is padded."""
    batch: list[_Window] = []
    for window in sorted(windows, key=lambda window: len(window.encoded.ids)):
        if batch and (len(batch) + 1) * (2 * len(window.encoded.ids) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
