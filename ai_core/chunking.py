"""What is spoken in one go: a text cut at its pauses, and at what a backend can take."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import regex

from prosody_tagger.markup import Mark, MarkedText
from prosody_tagger.segment import Word, segment_words, slot_of, word_after


@dataclass(frozen=True, slots=True)
class Cut:
    """A sentence as spans of its text to speak, and the silence before, between and after them.

    Attributes:
        spans: n spans ``[start, end)``, each with a word in it.
        gaps: n + 1 pauses in milliseconds; None where no mark asks for one.
    """

    spans: tuple[tuple[int, int], ...]
    gaps: tuple[int | None, ...]


def at_slots(marked: MarkedText) -> MarkedText:
    """The same marks, each at its slot, save a pause inside a word, which stays there."""
    runs = segment_words(marked.text)

    def slot(mark: Mark) -> int:
        index = word_after(runs, mark.offset)
        if mark.is_pause and index is not None and runs[index].core_start < mark.offset:
            return mark.offset
        return slot_of(runs, mark.offset, len(marked.text))

    return replace(marked, marks=tuple(replace(mark, offset=slot(mark)) for mark in marked.marks))


def cut(sentence: MarkedText, max_chars: int) -> Cut:
    """Cut a sentence, whose marks stand at slots, at its pauses; two pauses in one slot add up. No span is over ``max_chars``."""
    runs = segment_words(sentence.text)
    pauses: dict[int, int] = {}
    for mark in sentence.marks:
        if mark.silence_ms:
            pauses[mark.offset] = pauses.get(mark.offset, 0) + mark.silence_ms
    spans: list[tuple[int, int]] = []
    gaps: list[int | None] = []
    waiting: int | None = None
    bounds = sorted({0, *pauses, len(sentence.text)})
    for start, end in zip(bounds, [*bounds[1:], len(sentence.text)], strict=True):
        if start in pauses:
            waiting = pauses[start] + (waiting or 0)
        if any(word.core_end > start and word.core_start < end for word in runs):
            for number, span in enumerate(_portions(sentence.text, runs, start, end, max_chars)):
                spans.append(span)
                gaps.append(None if number else waiting)
            waiting = None
    return Cut(tuple(spans), (*gaps, waiting))


_CLAUSE_END = regex.compile(r"[,;:،、；：\p{Pd}][\p{Pe}\p{Pf}\"']*\s*$")


def _portions(text: str, runs: list[Word], start: int, end: int, max_chars: int) -> Iterator[tuple[int, int]]:
    """A span in portions of at most ``max_chars``: after a clause if one ends in the second half, else at a word, else anywhere."""
    while end - start > max_chars:
        starts = [word.start for word in runs if start < word.start <= start + max_chars]
        clauses = [at for at in starts if at > start + max_chars // 2 and _CLAUSE_END.search(text, start, at)]
        bound = (clauses or starts or [start + max_chars])[-1]
        yield start, bound
        start = bound
    yield start, end
