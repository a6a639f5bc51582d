"""Labelled texts, and the column format of the Helsinki Prosody Corpus. `readers` reads files of every format.

The corpus (Talman et al., NoDaLiDa 2019, CC BY 4.0) has one token per line, tab-separated: token, prominence 0/1/2, boundary 0/1/2
and, in its released labelling, both as real numbers. Punctuation has NA as its labels. A sentence starts with ``<file>`` and a file
name, whose first number identifies the speaker.
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
"""Label of a word that has none; PyTorch's cross-entropy ignores it by default."""

Labelling = Literal["v1", "v3", "marked"]
"""Source of the labels: the corpus's older labelling (three columns), its released one (five columns), or marks in the text."""


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text with one label per word of `segment_words`; `UNKNOWN` where the data give none.

    Attributes:
        source: file or recording that the text comes from; "" if unknown.
        prominence: 0, 1 or 2 for each word.
        boundary: 0, 1 or 2 for the slot after each word. In marked text a pause is 2.
        real_prominence: the real-valued prominence of each word; nan where unknown.
        marks: for marked text, the kinds of the marks on each word and of the pauses after it; None for text without marks.
        speaker_name: speaker or author as the data name them; "" if they do not.
    """

    source: str
    text: str
    prominence: tuple[int, ...]
    boundary: tuple[int, ...]
    real_prominence: tuple[float, ...]
    marks: tuple[frozenset[str], ...] | None = None
    speaker_name: str = ""

    @property
    def speaker(self) -> str:
        """The speaker: as named, else from a Helsinki file name, else the source; "" if all are unknown."""
        match = _HELSINKI_SOURCE.match(self.source)
        return self.speaker_name or (match[1] if match else self.source)

    @property
    def labelling(self) -> Labelling:
        """Where the labels come from; a text without any counts as "v1"."""
        if self.marks is not None:
            return "marked"
        return "v1" if all(map(math.isnan, self.real_prominence)) else "v3"


_HELSINKI_SOURCE = re.compile(r"(\d+)_\d+_")


def unlabelled_text(text: str, source: str = "") -> LabelledText:
    """Return a text with unknown labels for all words."""
    count = len(segment_words(text))
    return LabelledText(source, text, (UNKNOWN,) * count, (UNKNOWN,) * count, (math.nan,) * count)


def from_marked_text(marked: MarkedText, source: str = "", speaker_name: str = "") -> LabelledText:
    """Return marked text with its marks as labels.

    A pause belongs to the word before it; a pause before the first word is dropped.

    Raises:
        DataError: the text has no word, or no word follows a mark that needs one.
    """
    words = marked.words
    if not words:
        raise DataError("it contains no word")
    kinds: list[set[str]] = [set() for _ in words]
    for mark in marked.marks:
        index = word_after(words, mark.offset)
        if mark.is_pause:
            before = _word_before(words, mark.offset)
            if before is not None:
                kinds[before].add(mark.kind)
        elif index is None:
            raise DataError(f"no word follows the last <{mark.kind}>; put the mark before its word")
        else:
            kinds[index].add(mark.kind)
    boundary = [2 if any(kind.startswith("pause") for kind in of_word) else 0 for of_word in kinds]
    if boundary[-1] == 0:
        boundary[-1] = UNKNOWN  # texts are not marked with a pause at their end, and the tagger sets none there
    count = len(words)
    return LabelledText(
        source,
        marked.text,
        (UNKNOWN,) * count,
        tuple(boundary),
        (math.nan,) * count,
        tuple(frozenset(of_word) for of_word in kinds),
        speaker_name,
    )


def _word_before(words: Sequence[Word], offset: int) -> int | None:
    after = word_after(words, offset)
    index = (len(words) if after is None else after) - 1
    return None if index < 0 else index


def column_error(fields: Sequence[str]) -> str | None:
    """Return why the fields of a line of the corpus are invalid; None if they are valid."""
    if len(fields) not in (3, 5):
        return f"expected a token with its labels in 3 or 5 columns, got {len(fields)}: {chr(9).join(fields)[:60]!r}"
    for label in fields[1:3]:
        if label not in {"0", "1", "2", "NA"}:
            return f"a label must be 0, 1, 2 or NA, got {label[:20]!r}"
    for real in fields[3:]:
        if real != "NA" and not _REAL.fullmatch(real):
            return f"a real-valued label must be a number or NA, got {real[:20]!r}"
    return None


_REAL = re.compile(r"-?\d{1,9}(\.\d{1,18})?")


def with_boundaries_from(examples: Sequence[LabelledText], others: Sequence[LabelledText]) -> list[LabelledText]:
    """Return ``examples`` with the boundary labels of the same sentences in ``others``, `UNKNOWN` for sentences that are not there.

    The released labelling marks boundaries by a rule that differs between its splits; the older labelling uses one rule.
    """
    by_source = {other.source: other for other in others}
    merged = []
    for example in examples:
        other = by_source.get(example.source)
        is_same = other is not None and other.text == example.text
        boundary = other.boundary if other is not None and is_same else (UNKNOWN,) * len(example.boundary)
        merged.append(replace(example, boundary=boundary))
    return merged


def speaker_fold(examples: Sequence[LabelledText], fold: int, folds: int = 5) -> tuple[list[LabelledText], list[LabelledText]]:
    """Split by speaker for cross-validation.

    Args:
        examples: the sentences of all speakers.
        fold: which fold to hold out, from 0 to ``folds`` - 1: every ``folds``-th speaker in the order of their names.
        folds: number of folds.

    Returns:
        The training sentences and the held-out ones.
    """
    speakers = sorted({example.speaker for example in examples}, key=lambda name: (len(name), name))
    chosen = set(speakers[fold::folds])
    return [e for e in examples if e.speaker not in chosen], [e for e in examples if e.speaker in chosen]


def from_columns(source: str, rows: Sequence[Sequence[str]]) -> LabelledText:
    """Join the tokens of a sentence into a text, and assign the labels to its words.

    Args:
        source: file name of the sentence.
        rows: the fields of each line, checked by `column_error`.
    """
    text = ""
    labels: list[tuple[int, int, float]] = []
    offsets: list[int] = []
    for row in rows:
        token = row[0]
        is_word = any(character.isalnum() for character in token)
        if text and (is_word or token in {"(", "["}):
            text += " "
        if is_word:
            offsets.append(len(text))
            prominence, boundary = (UNKNOWN if field == "NA" else int(field) for field in row[1:3])
            real = float(row[3]) if len(row) == 5 and row[3] != "NA" else float("nan")
            labels.append((prominence, boundary, real))
        text += token
    by_offset = dict(zip(offsets, labels, strict=True))
    aligned = list(_labels_of_words(text, by_offset))
    return LabelledText(source, text, tuple(a[0] for a in aligned), tuple(a[1] for a in aligned), tuple(a[2] for a in aligned))


def _labels_of_words(text: str, by_offset: dict[int, tuple[int, int, float]]) -> Iterator[tuple[int, int, float]]:
    """Yield for each word the labels of the last token that starts in it."""
    for word in segment_words(text):
        inside = [by_offset[offset] for offset in range(word.start, word.end) if offset in by_offset]
        yield inside[-1] if inside else (UNKNOWN, UNKNOWN, float("nan"))
