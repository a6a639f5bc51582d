"""Labelled sentences, and the columns of the Helsinki Prosody Corpus. `reading` reads files of every form.

The corpus (Talman et al., NoDaLiDa 2019, CC BY 4.0) has one token a line, tab-separated: token, prominence 0/1/2, boundary 0/1/2
and, in its released labelling, both as real numbers. Punctuation carries NA. A sentence starts with ``<file>`` and its name, whose
first number is the speaker.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from prosody_tagger.errors import DataError
from prosody_tagger.markup import MarkedText
from prosody_tagger.segment import Word, segment_words, word_after

UNKNOWN = -100
"""The label of a word that has none: cross-entropy passes it over."""

Labelling = Literal["v1", "v3", "marked"]
"""The corpus's older labelling (three columns), its released one (five), or marks in the text."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text and one label a word of `segment_words`; `UNKNOWN` where the data give none.

    Attributes:
        source: what it was taken from, "" where nobody says.
        prominence: 0, 1 or 2.
        boundary: 0, 1 or 2, of the slot after the word. In marked text a pause is 2.
        emphasis: the real-valued prominence, nan where unknown.
        marks: of marked text, the kinds of mark on each word and the pauses after it; None for text without marks.
        reader: who speaks or wrote it, where the source does not say.
    """

    source: str
    text: str
    prominence: tuple[int, ...]
    boundary: tuple[int, ...]
    emphasis: tuple[float, ...]
    marks: tuple[frozenset[str], ...] | None = None
    reader: str = ""

    @property
    def speaker(self) -> str:
        """Who reads it; where that is unknown its source, and "" where that is unknown as well."""
        named = _HELSINKI_SOURCE.match(self.source)
        return self.reader or (named[1] if named else self.source)

    @property
    def labelling(self) -> Labelling:
        if self.marks is not None:
            return "marked"
        return "v1" if all(map(math.isnan, self.emphasis)) else "v3"


_HELSINKI_SOURCE = re.compile(r"(\d+)_\d+_")


def unlabelled(text: str, source: str = "") -> Example:
    """A text of which nothing is known."""
    count = len(segment_words(text))
    return Example(source, text, (UNKNOWN,) * count, (UNKNOWN,) * count, (math.nan,) * count)


def from_marked(marked: MarkedText, source: str = "", reader: str = "") -> Example:
    """Marked text as an example. A pause belongs to the word before it; one before the first word to none.

    Raises:
        DataError: the text has no word, or a mark no word to stand on.
    """
    runs = segment_words(marked.text)
    if not runs:
        raise DataError("there is no word in it")
    kinds: list[set[str]] = [set() for _ in runs]
    for mark in marked.marks:
        index = word_after(runs, mark.offset)
        if mark.is_pause:
            before = _word_before(runs, mark.offset)
            if before is not None:
                kinds[before].add(mark.kind)
        elif index is None:
            raise DataError(f"no word follows the last <{mark.kind}>; a mark stands before its word")
        else:
            kinds[index].add(mark.kind)
    boundary = [2 if any(kind.startswith("pause") for kind in found) else 0 for found in kinds]
    if boundary[-1] == 0:
        boundary[-1] = UNKNOWN  # nobody writes a pause at the end, and the tagger sets none there
    count = len(runs)
    return Example(
        source,
        marked.text,
        (UNKNOWN,) * count,
        tuple(boundary),
        (math.nan,) * count,
        tuple(frozenset(found) for found in kinds),
        reader,
    )


def _word_before(runs: Sequence[Word], offset: int) -> int | None:
    after = word_after(runs, offset)
    index = (len(runs) if after is None else after) - 1
    return None if index < 0 else index


def wrong_in_columns(fields: Sequence[str]) -> str | None:
    """What is wrong with the fields of a line of the corpus; None if nothing is."""
    if len(fields) not in (3, 5):
        return f"expected a token with its labels in 3 or 5 columns, got {len(fields)}: {chr(9).join(fields)[:60]!r}"
    for label in fields[1:3]:
        if label not in {"0", "1", "2", "NA"}:
            return f"a label is 0, 1, 2 or NA, got {label[:20]!r}"
    for real in fields[3:]:
        if real != "NA" and not _REAL.fullmatch(real):
            return f"a real-valued label is a number or NA, got {real[:20]!r}"
    return None


_REAL = re.compile(r"-?\d{1,9}(\.\d{1,18})?")


def with_boundaries(examples: Sequence[Example], others: Sequence[Example]) -> list[Example]:
    """``examples`` with the boundaries of ``others`` where both have the sentence; unknown where they do not.

    The boundaries of the released labelling differ from split to split, the older labelling's do not.
    """
    by_source = {other.source: other for other in others}
    merged = []
    for example in examples:
        other = by_source.get(example.source)
        same = other is not None and other.text == example.text
        boundary = other.boundary if other is not None and same else (UNKNOWN,) * len(example.boundary)
        merged.append(replace(example, boundary=boundary))
    return merged


def speaker_fold(examples: Sequence[Example], fold: int, folds: int = 5) -> tuple[list[Example], list[Example]]:
    """Training and held-out sentences; the latter are all those of every ``folds``-th speaker, in the order of their names."""
    speakers = sorted({example.speaker for example in examples}, key=lambda name: (len(name), name))
    chosen = set(speakers[fold::folds])
    return [e for e in examples if e.speaker not in chosen], [e for e in examples if e.speaker in chosen]


def from_columns(source: str, rows: Sequence[Sequence[str]]) -> Example:
    """Put the tokens back together as a text, and the labels on its words."""
    text = ""
    labels: list[tuple[int, int, float]] = []
    at: list[int] = []
    for row in rows:
        token = row[0]
        is_word = any(character.isalnum() for character in token)
        if text and (is_word or token in {"(", "["}):
            text += " "
        if is_word:
            at.append(len(text))
            prominence, boundary = (UNKNOWN if field == "NA" else int(field) for field in row[1:3])
            real = float(row[3]) if len(row) == 5 and row[3] != "NA" else float("nan")
            labels.append((prominence, boundary, real))
        text += token
    by_offset = dict(zip(at, labels, strict=True))
    aligned = list(_align(text, by_offset))
    return Example(source, text, tuple(a[0] for a in aligned), tuple(a[1] for a in aligned), tuple(a[2] for a in aligned))


def _align(text: str, by_offset: dict[int, tuple[int, int, float]]) -> Iterator[tuple[int, int, float]]:
    for word in segment_words(text):
        inside = [by_offset[offset] for offset in range(word.start, word.end) if offset in by_offset]
        yield inside[-1] if inside else (UNKNOWN, UNKNOWN, float("nan"))
