"""From a text to its marks: windows over long texts, and thresholds over the model's scores.

tagger = ProsodyTagger.load()
render(tagger.mark("It costs only nine dollars today."))
"""

import json
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput, ModelError
from prosody_tagger.markup import KINDS, PITCHES, Mark, MarkedText, normalise, plain
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

STRETCH_CHARS = 5000
"""A longer text is read in stretches of whole sentences of about this many characters."""

PORTION_WINDOWS = 8
"""A long text is tagged so many windows at a time, after a first one."""

SHORTEST_STRESSED = 4
"""A sentence of so many words gets an emphasis at medium and high intensity, whatever the threshold says."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """Marked text, and the model's score for each of its marks in the same order: a probability."""

    marked: MarkedText
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from which a word is stressed, for each intensity, and from which a pause follows it.

    Attributes:
        pause_long: score from which a pause is long; None lets it be long between sentences and short within.
        pitch: score of each pitch mark that is set, none of them by a tagger that was shown none.
    """

    emph: dict[str, float]
    pause: float
    pause_long: float | None = None
    pitch: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Thresholds":
        """Read ``thresholds.json``.

        Raises:
            ModelError: it is missing, or not in that form.
        """
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                {name: float(data["emph"][name]) for name in INTENSITIES},
                float(data["pause"]),
                None if data.get("pause_long") is None else float(data["pause_long"]),
                {PITCHES[PITCHES.index(kind)]: float(score) for kind, score in data.get("pitch", {}).items()},
            )
        except OSError:
            raise ModelError(f"{path} is missing: the adapter was trained without thresholds; train it anew") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
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
        self,
        texts: Sequence[str],
        intensity: str | Sequence[str] = "medium",
        focuses: Sequence[Sequence[Span]] | None = None,
    ) -> list[Tagged]:
        """Like `mark_batch`, with the score of each mark.

        Args:
            texts: the texts to mark.
            intensity: one for all, or one for each.
            focuses: for each text its focus, as in `tag`.
        """
        each = [intensity] * len(texts) if isinstance(intensity, str) else intensity
        stretches = [list(self._stretches(*item)) for item in zip(texts, each, focuses or [()] * len(texts), strict=True)]
        self._score([(stretch, window) for text in stretches for stretch in text for window in stretch.windows])
        return [_joined([tagged for stretch in text for tagged in self._decided(stretch)]) for text in stretches]

    def tag_in_portions(self, text: str, intensity: str = "medium", focus: Sequence[Span] = ()) -> Iterator[Tagged]:
        """What `tag` gives, in portions of whole sentences, each worked out when it is asked for.

        A short text is one portion. The first of a long text takes as long as any other text's first.
        """
        for stretch in self._stretches(text, intensity, focus):
            for portion in stretch.portions:
                self._score([(stretch, window) for window in portion.windows])
                yield self._decide(stretch, portion)

    def score(self, text: str) -> Scores:
        """The model's scores for each word of ``text``, of `segment.words`."""
        stretches = list(self._stretches(text, "medium", ()))
        self._score([(stretch, window) for stretch in stretches for window in stretch.windows])
        parts = [stretch.scores for stretch in stretches]
        return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("prominence", "boundary", "marks")))

    def _stretches(self, text: str, intensity: str, focus: Sequence[Span]) -> Iterator["_Stretch"]:
        """The stretches of a text, each made when it is asked for, and told of the one before."""
        if intensity not in INTENSITIES:
            raise BadInput(f"unknown intensity {intensity!r}; give one of {', '.join(INTENSITIES)}")
        plain(text)
        before: _Stretch | None = None
        for start, end in _stretches(text):
            before = _Stretch(text[start:end], intensity, [(a - start, b - start) for a, b in focus], self.model, before)
            yield before

    def _decided(self, stretch: "_Stretch") -> Iterator[Tagged]:
        for portion in stretch.portions:
            yield self._decide(stretch, portion)

    def _score(self, windows: Sequence[tuple["_Stretch", "_Window"]]) -> None:
        """Have the words of these windows scored, together in as few passes as they fit in."""
        for batch in _batches(windows):
            for (item, window), scores in zip(batch, self.model.score([window.encoded for _, window in batch]), strict=True):
                place = slice(window.first_word, window.first_word + len(window.encoded.last))
                item.scores.prominence[place] = scores.prominence
                item.scores.boundary[place] = scores.boundary
                item.scores.marks[place] = scores.marks

    def _decide(self, item: "_Stretch", portion: "_Portion") -> Tagged:
        """Thresholds over the scores of a portion. A pause after its last word stands at the start of the next."""
        runs, first, last = item.runs, portion.first_word, portion.last_word
        if first == 0 and item.before is not None:
            self._go_on(item, item.before)
        emph = item.scores.marks[:, KINDS.index("emph")]
        boundary = item.scores.boundary
        marks: dict[Mark, float] = {}
        if first == 0 and runs and item.pause_before is not None:
            kind, score = item.pause_before
            marks[Mark(kind, runs[0].start)] = score
        for index in range(max(0, first - 1), min(last, len(runs) - 1)):
            at = runs[index + 1].start
            if boundary[index] >= self.thresholds.pause and portion.start <= at < portion.end:
                marks[Mark("pause_long" if self._is_long(item, index) else "pause_short", at)] = float(boundary[index])
        stressed = {first + int(index) for index in np.flatnonzero(emph[first:last] >= self.thresholds.emph[item.intensity])}
        for span in item.focus:
            inside = [i for i in range(first, last) if span[0] <= runs[i].core_start < span[1]]
            _stress_one(inside, emph, stressed)
        if item.intensity == "low":
            stressed = _without_neighbours(emph, stressed, item.last_stressed)
            item.last_stressed = max(stressed, default=item.last_stressed)
        else:
            ends = [index for index in sorted(item.sentence_ends) if first <= index < last]
            for before, end in pairwise([first - 1, *ends]):
                if end - before >= SHORTEST_STRESSED:
                    _stress_one(range(before + 1, end + 1), emph, stressed)
        for index in stressed:
            marks[Mark("emph", runs[index].start)] = float(emph[index])
        for kind, threshold in self.thresholds.pitch.items():
            pitch = item.scores.marks[:, KINDS.index(kind)]
            for index in range(first, last):
                if pitch[index] >= threshold:
                    marks[Mark(kind, runs[index].start)] = float(pitch[index])
        moved = {replace(mark, offset=mark.offset - portion.start): score for mark, score in marks.items()}
        marked = normalise(MarkedText(item.text[portion.start : portion.end], tuple(moved)))
        return Tagged(marked, tuple(round(moved[mark], 4) for mark in marked.marks))

    def _go_on(self, item: "_Stretch", before: "_Stretch") -> None:
        """Take over what the stretch before means for this one."""
        item.before = None
        item.pause_before, item.last_stressed = before.pause_before, before.last_stressed
        if before.runs:
            score = float(before.scores.boundary[-1])
            long = self._is_long(before, len(before.runs) - 1)
            item.pause_before = ("pause_long" if long else "pause_short", score) if score >= self.thresholds.pause else None
            item.last_stressed -= len(before.runs)

    def _is_long(self, item: "_Stretch", index: int) -> bool:
        """Whether the pause after a word is a long one."""
        if self.thresholds.pause_long is None:
            return index in item.sentence_ends
        return bool(item.scores.marks[index, KINDS.index("pause_long")] >= self.thresholds.pause_long)


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of a text to score: its tokens, with context, and the words in its body."""

    first_word: int
    encoded: Encoded


@dataclass(frozen=True, slots=True)
class _Portion:
    """Whole sentences of a text, ``[start, end)``, whose words ``[first_word, last_word)`` are scored in windows of their own."""

    start: int
    end: int
    first_word: int
    last_word: int
    windows: Sequence[_Window]


class _Stretch:
    """Sentences of a text on their way: their words, the windows they are scored in, and their scores as they come in."""

    def __init__(self, text: str, intensity: str, focus: Sequence[Span], model: TaggerModel, before: "_Stretch | None") -> None:
        self.before = before
        self.pause_before: tuple[str, float] | None = None
        self.text = text
        self.intensity = intensity
        self.focus = focus
        self.runs = words(text)
        spans = sentences(text)
        self.sentence_ends = _last_words(self.runs, spans)
        self.windows = list(
            _windows(encode(model.tokenizer, [text], [self.runs])[0], self.runs, self.sentence_ends, model.max_tokens)
        )
        self.portions = list(_portions(text, self.runs, spans, self.sentence_ends, self.windows))
        count = len(self.runs)
        self.scores = Scores(
            np.zeros((count, 3), np.float32), np.zeros(count, np.float32), np.zeros((count, len(KINDS)), np.float32)
        )
        self.last_stressed = -2


def _stretches(text: str) -> Iterator[Span]:
    """A text in parts of whole sentences, found one after the other, so that nothing of the first waits for the rest."""
    start, size = 0, STRETCH_CHARS
    while start + size < len(text):
        spans = sentences(text[start : start + size])
        end = spans[-1][0] if spans else size  # the last may go on
        if end == 0:
            size *= 2
            continue
        yield start, start + end
        start, size = start + end, STRETCH_CHARS
    yield start, len(text)


def _joined(portions: Sequence[Tagged]) -> Tagged:
    """The portions of a text, put together."""
    marks: list[Mark] = []
    offset = 0
    for tagged in portions:
        marks.extend(replace(mark, offset=mark.offset + offset) for mark in tagged.marked.marks)
        offset += len(tagged.marked.text)
    text = "".join(tagged.marked.text for tagged in portions)
    return Tagged(MarkedText(text, tuple(marks)), tuple(score for tagged in portions for score in tagged.scores))


def _stress_one(words_of: Sequence[int], scores: NDArray[np.float32], stressed: set[int]) -> None:
    """See that at least one of these words is stressed: the likeliest, if none is."""
    if words_of and stressed.isdisjoint(words_of):
        stressed.add(max(words_of, key=lambda index: float(scores[index])))


def _without_neighbours(scores: NDArray[np.float32], stressed: set[int], before: int) -> set[int]:
    """The stressed words, less the weaker of any two that stand side by side; ``before`` is stressed already, and stays."""
    kept: list[int] = []
    for index in sorted(stressed - {before + 1}):
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


def _windows(encoded: Encoded, runs: Sequence[Word], sentence_ends: Collection[int], max_tokens: int) -> Iterator[_Window]:
    """The whole text where it fits, else groups of sentences with context on either side."""
    if not runs:
        return
    if len(encoded.ids) <= max_tokens:
        yield _Window(0, encoded)
        return
    body = min(BODY_TOKENS, max_tokens // 2)
    context = min(CONTEXT_TOKENS, (max_tokens - body) // 2)
    ends = sorted(sentence_ends)
    first = 0
    while first < len(runs):
        start = encoded.last[first - 1] + 1 if first else 0
        end = _body_end(encoded.last, first, ends, start + body)
        # A word longer than a whole window is scored by its last tokens.
        begin = max(0, start - context, encoded.last[end - 1] + 1 - body - context)
        stop = min(len(encoded.ids), encoded.last[end - 1] + 1 + context)
        yield _Window(first, Encoded(encoded.ids[begin:stop], [place - begin for place in encoded.last[first:end]]))
        first = end


def _portions(
    text: str, runs: Sequence[Word], spans: Sequence[Span], sentence_ends: Collection[int], windows: Sequence[_Window]
) -> Iterator[_Portion]:
    """The windows in groups that end with a sentence: the first as small as may be, the others of `PORTION_WINDOWS` or more."""
    span_ends = [end for _, end in spans]
    start = first = 0
    for number, window in enumerate(windows):
        last_word = window.first_word + len(window.encoded.last)
        enough = not first or number + 1 - first >= PORTION_WINDOWS
        if number + 1 == len(windows):
            yield _Portion(start, len(text), windows[first].first_word, last_word, windows[first:])
        elif enough and last_word - 1 in sentence_ends:
            end = span_ends[bisect_right(span_ends, runs[last_word - 1].core_start)]
            yield _Portion(start, end, windows[first].first_word, last_word, windows[first : number + 1])
            start, first = end, number + 1
    if not windows:
        yield _Portion(0, len(text), 0, 0, ())


def _body_end(last: Sequence[int], first: int, sentence_ends: Sequence[int], limit: int) -> int:
    """Index past the last word of a body from word ``first`` to below token ``limit``: at the end of a sentence if it holds one."""
    fitting = int(np.searchsorted(last, limit, side="left"))
    if fitting <= first:
        return first + 1
    at = int(np.searchsorted(sentence_ends, fitting - 1, side="right")) - 1
    return sentence_ends[at] + 1 if at >= 0 and sentence_ends[at] >= first else fitting


def _batches(windows: Sequence[tuple[_Stretch, _Window]]) -> Iterator[list[tuple[_Stretch, _Window]]]:
    """Windows of like length together, so that little is padded."""
    batch: list[tuple[_Stretch, _Window]] = []
    for item, window in sorted(windows, key=lambda entry: len(entry[1].encoded.ids)):
        if batch and (len(batch) + 1) * (2 * len(window.encoded.ids) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append((item, window))
    if batch:
        yield batch
