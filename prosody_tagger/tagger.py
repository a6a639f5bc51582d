"""From a text to its marks: windows over long texts, thresholds over the model's scores, and as much emphasis as is asked for.

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

from prosody_tagger.density import DENSITIES, Density, EmphasisBudget, density_of
from prosody_tagger.errors import ModelError
from prosody_tagger.language import Verdict, known_words, primary_language
from prosody_tagger.markup import KINDS, PITCHES, Mark, MarkedText, normalise, plain
from prosody_tagger.model import SHIPPED_ADAPTER, Encoded, Scores, TaggerModel, encode
from prosody_tagger.segment import Word, pause_after, segment_sentences, segment_words

INTENSITIES = tuple(DENSITIES)
Intensity = Density

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


@dataclass(frozen=True, slots=True)
class Tagged:
    """Marked text, and how it came about.

    Attributes:
        scores: the model's for each mark in the same order, a probability; None where a rule set the mark.
        warnings: what was not done, in words.
    """

    marked: MarkedText
    scores: tuple[float | None, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from which a word is stressed, for each intensity, and from which a pause follows it.

    Attributes:
        emph: where a text begins; as it goes on, its own scores count more and more (`density.EmphasisBudget`).
        pause_long: score from which a pause is long; None lets it be long between sentences and short within.
        pitch: score of each pitch mark that is set, none of them by a tagger that was shown none.
        languages: tags, such as "en", of the languages that the tagger knows; None where it takes every text.
    """

    emph: dict[str, float]
    pause: float
    pause_long: float | None = None
    pitch: dict[str, float] = field(default_factory=dict)
    languages: tuple[str, ...] | None = None

    @classmethod
    def load(cls, path: Path) -> "Thresholds":
        """Read ``thresholds.json``.

        Raises:
            ModelError: it is missing, or not in that form.
        """
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                {name: float(data["emph"][name]) for name in DENSITIES},
                float(data["pause"]),
                None if data.get("pause_long") is None else float(data["pause_long"]),
                {PITCHES[PITCHES.index(kind)]: float(score) for kind, score in data.get("pitch", {}).items()},
                None if data.get("languages") is None else tuple(primary_language(tag) for tag in data["languages"]),
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

    def mark(self, text: str, intensity: Intensity = "medium") -> MarkedText:
        """``text`` with the marks that it wants, in the form of `markup.normalise`.

        Raises:
            MarkupError: the text holds a lone surrogate.
            BadInput: an intensity that is not low, medium or high, nor a number from 0 to 1.
        """
        return self.tag(text, intensity).marked

    def mark_batch(self, texts: Sequence[str], intensity: Intensity = "medium") -> list[MarkedText]:
        """Mark several texts, together in as few passes as they fit in."""
        return [tagged.marked for tagged in self.tag_batch(texts, intensity)]

    def tag(self, text: str, intensity: Intensity = "medium", focus: Sequence[Span] = ()) -> Tagged:
        """Like `mark`, with the score of each mark.

        Args:
            text: the text to mark.
            intensity: how many words are stressed: of a text of 1,000 words or more that share to within 10 %, of a short one what
                its scores say. At medium and above, a sentence of four words gets an emphasis, counted with the others; below, no
                two neighbours do.
            focus: spans ``[start, end)`` of the text that carry what it is said for; each of them gets an emphasis.

        What is in a language that the tagger does not know gets pauses at its punctuation and no emphasis, and a warning.
        """
        return self.tag_batch([text], intensity, [focus])[0]

    def tag_batch(
        self,
        texts: Sequence[str],
        intensity: Intensity | Sequence[Intensity] = "medium",
        focuses: Sequence[Sequence[Span]] | None = None,
    ) -> list[Tagged]:
        """Like `mark_batch`, with the score of each mark.

        Args:
            texts: the texts to mark.
            intensity: one for all, or one for each.
            focuses: for each text its focus, as in `tag`.
        """
        each = [intensity] * len(texts) if isinstance(intensity, str | float | int) else intensity
        accounts = [self._account(one) for one in each]
        spans = focuses or [()] * len(texts)
        stretches = [
            list(self._stretches(text, focus, self.thresholds.languages)) for text, focus in zip(texts, spans, strict=True)
        ]
        self._score([(stretch, window) for text in stretches for stretch in text for window in stretch.windows])
        return [
            _joined([self._decide(stretch, portion, account) for stretch in text for portion in stretch.portions])
            for text, account in zip(stretches, accounts, strict=True)
        ]

    def tag_in_portions(self, text: str, intensity: Intensity = "medium", focus: Sequence[Span] = ()) -> Iterator[Tagged]:
        """What `tag` gives, in portions of whole sentences, each worked out when it is asked for.

        A short text is one portion. The first of a long text takes as long as any other text's first.
        """
        account = self._account(intensity)
        for stretch in self._stretches(text, focus, self.thresholds.languages):
            for portion in stretch.portions:
                self._score([(stretch, window) for window in portion.windows])
                yield self._decide(stretch, portion, account)

    def score(self, text: str) -> Scores:
        """The model's scores for each word of ``text``, of `segment_words`."""
        stretches = list(self._stretches(text, (), None))
        self._score([(stretch, window) for stretch in stretches for window in stretch.windows])
        parts = [stretch.scores for stretch in stretches]
        return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("prominence", "boundary", "marks")))

    def _account(self, intensity: Intensity) -> EmphasisBudget:
        return EmphasisBudget(density_of(intensity), self.thresholds.emph)

    def _stretches(self, text: str, focus: Sequence[Span], languages: Sequence[str] | None) -> Iterator["_Stretch"]:
        """The stretches of a text, each made when it is asked for, and told of the one before."""
        plain(text)
        before: _Stretch | None = None
        for start, end in _stretches(text):
            before = _Stretch(text[start:end], [(a - start, b - start) for a, b in focus], self.model, before, languages)
            yield before

    def _score(self, windows: Sequence[tuple["_Stretch", "_Window"]]) -> None:
        """Have the words of these windows scored, together in as few passes as they fit in; none where no language is known."""
        for batch in _batches([(item, window) for item, window in windows if item.verdict.known[window.words].any()]):
            for (item, window), scores in zip(batch, self.model.score([window.encoded for _, window in batch]), strict=True):
                item.scores.prominence[window.words] = scores.prominence
                item.scores.boundary[window.words] = scores.boundary
                item.scores.marks[window.words] = scores.marks

    def _decide(self, item: "_Stretch", portion: "_Portion", account: EmphasisBudget) -> Tagged:
        """The marks of a portion, by its scores. A pause after its last word stands at the start of the next."""
        runs, first, last = item.runs, portion.first_word, portion.last_word
        inside = slice(first, last)
        known = item.verdict.known[inside]
        marks: dict[Mark, float | None] = {}
        for index in range(first - 1, min(last, len(runs) - 1)):
            at = runs[index + 1].start
            pause = self._pause_after(item, index) if portion.start <= at < portion.end else None
            if pause is not None:
                marks[Mark(pause[0], at)] = pause[1]
        emph = item.scores.marks[inside, KINDS.index("emph")]
        ends = [index for index in sorted(item.sentence_ends) if first <= index < last]
        parts = [range(before + 1 - first, end + 1 - first) for before, end in pairwise([first - 1, *ends])]
        focus = [[i for i in range(last - first) if a <= runs[first + i].core_start < b] for a, b in item.focus]
        for index in account.choose(emph, known & item.verdict.writable[inside], parts, focus):
            marks[Mark("emph", runs[first + index].start)] = float(emph[index])
        for kind, threshold in self.thresholds.pitch.items():
            pitch = item.scores.marks[inside, KINDS.index(kind)]
            for index in np.flatnonzero(known & (pitch >= threshold)).tolist():
                marks[Mark(kind, runs[first + index].start)] = float(pitch[index])
        moved = {replace(mark, offset=mark.offset - portion.start): score for mark, score in marks.items()}
        marked = normalise(MarkedText(item.text[portion.start : portion.end], tuple(moved)))
        warnings = () if known.all() else (_unknown(self.thresholds.languages or (), item.verdict.found),)
        return Tagged(marked, tuple(_rounded(moved[mark]) for mark in marked.marks), warnings)

    def _pause_after(self, item: "_Stretch", index: int) -> tuple[str, float | None] | None:
        """The pause after a word, and its score; after word -1 that of the last word of the stretch before."""
        if index < 0:
            if item.before is not None:
                item.pause_before = self._pause_after(item.before, len(item.before.runs) - 1)
                item.before = None
            return item.pause_before
        if not item.verdict.known[index]:
            kind = pause_after(item.text, item.runs, index, ends_sentence=index in item.sentence_ends)
            return None if kind is None else (kind, None)
        score = float(item.scores.boundary[index])
        if score < self.thresholds.pause:
            return None
        return "pause_long" if self._is_long(item, index) else "pause_short", score

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

    @property
    def words(self) -> slice:
        """The words of its body."""
        return slice(self.first_word, self.first_word + len(self.encoded.last))


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

    def __init__(
        self,
        text: str,
        focus: Sequence[Span],
        model: TaggerModel,
        before: "_Stretch | None",
        languages: Sequence[str] | None,
    ) -> None:
        self.before = before
        self.pause_before: tuple[str, float | None] | None = None
        self.text = text
        self.focus = focus
        self.runs = segment_words(text)
        spans = segment_sentences(text)
        self.verdict: Verdict = known_words(text, self.runs, spans, languages, None if before is None else before.verdict)
        self.sentence_ends = _last_words(self.runs, spans)
        self.windows = list(
            _windows(encode(model.tokenizer, [text], [self.runs])[0], self.runs, self.sentence_ends, model.max_tokens)
        )
        self.portions = list(_portions(text, self.runs, spans, self.sentence_ends, self.windows))
        count = len(self.runs)
        self.scores = Scores(
            np.zeros((count, 3), np.float32), np.zeros(count, np.float32), np.zeros((count, len(KINDS)), np.float32)
        )


def _stretches(text: str) -> Iterator[Span]:
    """A text in parts of whole sentences, found one after the other, so that nothing of the first waits for the rest."""
    start, size = 0, STRETCH_CHARS
    while start + size < len(text):
        spans = segment_sentences(text[start : start + size])
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
        marks.extend(mark.moved(offset) for mark in tagged.marked.marks)
        offset += len(tagged.marked.text)
    text = "".join(tagged.marked.text for tagged in portions)
    scores = tuple(score for tagged in portions for score in tagged.scores)
    warnings = dict.fromkeys(warning for tagged in portions for warning in tagged.warnings)
    return Tagged(MarkedText(text, tuple(marks)), scores, tuple(warnings))


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


def _unknown(languages: Sequence[str], found: Sequence[str]) -> str:
    """What to say of text in a language that the tagger does not know."""
    looks = f" (it looks like {', '.join(found)})" if found else ""
    return (
        f"no emphasis where the text is not in a language that the tagger knows, {', '.join(languages)}{looks}: it has pauses at "
        "its punctuation; for emphasis give a tagger trained on that language, with --tagger or PROSODY_TAGGER__ADAPTER"
    )


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
        yield _Window(first, Encoded(encoded.ids[begin:stop], [max(0, place - begin) for place in encoded.last[first:end]]))
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
