"""Split a sentence into chunks to speak: at its pauses, and at the maximum length of a request."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import regex

from prosody_tagger.markup import Mark, MarkedText
from prosody_tagger.segment import Word, slot_of, word_after


@dataclass(frozen=True, slots=True)
class Chunks:
    """Spans of a sentence to speak, and the silence before, between and after them.

    Attributes:
        spans: n spans ``[start, end)``, each with a word in it.
        gaps: n + 1 pauses in milliseconds; None where there is no pause mark.
    """

    spans: tuple[tuple[int, int], ...]
    gaps: tuple[int | None, ...]


def at_slots(marked: MarkedText) -> MarkedText:
    """Move each mark to its slot, except a pause inside a word."""
    words = marked.words

    def slot(mark: Mark) -> int:
        index = word_after(words, mark.offset)
        if mark.is_pause and index is not None and words[index].core_start < mark.offset:
            return mark.offset
        return slot_of(words, mark.offset, len(marked.text))

    return marked.with_marks(replace(mark, offset=slot(mark)) for mark in marked.marks)


def is_at_edge(pause: Mark, words: Sequence[Word]) -> bool:
    """Whether a pause is before the first word of a sentence or after its last."""
    return not words or pause.offset <= words[0].core_start or word_after(words, pause.offset) is None


def split_chunks(sentence: MarkedText, max_chars: int) -> Chunks:
    """Split a sentence at its pauses, which are at slots; pauses in one slot add up. No span is longer than ``max_chars``."""
    words = sentence.words
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
        if any(word.core_end > start and word.core_start < end for word in words):
            for number, span in enumerate(_parts(sentence.text, words, start, end, max_chars)):
                spans.append(span)
                gaps.append(None if number else waiting)
            waiting = None
    return Chunks(tuple(spans), (*gaps, waiting))


_CLAUSE_END = regex.compile(r"[,;:،、；：\p{Pd}][\p{Pe}\p{Pf}\"']*\s*$")


def _parts(text: str, words: Sequence[Word], start: int, end: int, max_chars: int) -> Iterator[tuple[int, int]]:
    """Split a span into parts of at most ``max_chars``: after a clause that ends in the second half, else at a word, else
    anywhere."""
    while end - start > max_chars:
        starts = [word.start for word in words if start < word.start <= start + max_chars]
        clauses = [at for at in starts if at > start + max_chars // 2 and _CLAUSE_END.search(text, start, at)]
        bound = (clauses or starts or [start + max_chars])[-1]
        yield start, bound
        start = bound
    yield start, end
