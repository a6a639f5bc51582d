"""Readers of labelled text: the Helsinki Prosody Corpus.

The corpus (Talman et al., NoDaLiDa 2019, CC BY 4.0) has one token a line, tab-separated: token, prominence 0/1/2, boundary 0/1/2
and, in its released labelling, both as real numbers. Punctuation carries NA. A sentence starts with ``<file>`` and its name, whose
first number is the speaker.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prosody_tagger.errors import DataError
from prosody_tagger.segment import words

UNKNOWN = -100
"""The label of a word that has none: cross-entropy passes it over."""


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence and one label a word of `segment.words`; `UNKNOWN` where the corpus gives none.

    Attributes:
        prominence: 0, 1 or 2.
        boundary: 0, 1 or 2, of the slot after the word.
        emphasis: the real-valued prominence, nan where unknown.
    """

    source: str
    text: str
    prominence: tuple[int, ...]
    boundary: tuple[int, ...]
    emphasis: tuple[float, ...]

    @property
    def speaker(self) -> str:
        return self.source.split("_", 1)[0]


def read_helsinki(path: Path) -> list[Example]:
    """The sentences of one file of the corpus.

    Raises:
        DataError: the file is not in the corpus's form; every bad line is named.
    """
    examples: list[Example] = []
    source = ""
    rows: list[list[str]] = []
    bad: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if fields[0] == "<file>" and len(fields) == 2:
            if rows:
                examples.append(_example(source, rows))
            source, rows = fields[1], []
        elif len(fields) in (3, 5) and all(field in {"0", "1", "2", "NA"} for field in fields[1:3]):
            rows.append(fields)
        elif line.strip():
            bad.append(f"{path}:{number}: expected a token with its labels, got {line[:60]!r}")
    if rows:
        examples.append(_example(source, rows))
    if bad:
        raise DataError("\n".join(bad))
    return examples


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


def split_by_speaker(examples: Sequence[Example], held_out: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out sentences; the latter are all those of ``held_out`` speakers, spread evenly over the sorted names."""
    speakers = sorted({example.speaker for example in examples}, key=lambda name: (len(name), name))
    step = len(speakers) / held_out
    chosen = {speakers[int(index * step)] for index in range(held_out)}
    return [e for e in examples if e.speaker not in chosen], [e for e in examples if e.speaker in chosen]


def join(examples: Sequence[Example]) -> Example:
    """Consecutive sentences as one text."""
    return Example(
        examples[0].source,
        " ".join(example.text for example in examples),
        tuple(label for example in examples for label in example.prominence),
        tuple(label for example in examples for label in example.boundary),
        tuple(label for example in examples for label in example.emphasis),
    )


def _example(source: str, rows: Sequence[Sequence[str]]) -> Example:
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
    return (
        Example(source, text, *(tuple(column) for column in zip(*aligned, strict=True)))
        if aligned
        else Example(source, text, (), (), ())
    )


def _align(text: str, by_offset: dict[int, tuple[int, int, float]]) -> Iterator[tuple[int, int, float]]:
    for word in words(text):
        inside = [by_offset[offset] for offset in range(word.start, word.end) if offset in by_offset]
        yield inside[-1] if inside else (UNKNOWN, UNKNOWN, float("nan"))
