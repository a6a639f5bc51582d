"""Writes SSML."""

import re
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

from prosody_tagger.errors import MarkupError
from prosody_tagger.markup import KINDS, Mark, MarkedText, line_column
from prosody_tagger.segment import word_after
from prosody_tagger.ssml.elements import NAMESPACE, nearest_pause

_TEXT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
_ATTRIBUTE_ESCAPES = _TEXT_ESCAPES | str.maketrans({'"': "&quot;", "\n": "&#10;", "\t": "&#9;"})
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Relative changes of pitch, not labels: they accumulate, so a word can carry several.
_MARK_ELEMENTS: Mapping[str, tuple[str, str]] = {
    "emph": ("emphasis", 'level="strong"'),
    "pitch_high": ("prosody", 'pitch="+20%"'),
    "pitch_low": ("prosody", 'pitch="-20%"'),
    "pitch_rising": ("prosody", 'contour="(0%,+0%) (100%,+20%)"'),
    "pitch_falling": ("prosody", 'contour="(0%,+0%) (100%,-20%)"'),
}
_PAUSE_STRENGTHS: Mapping[str, str] = {"pause_short": "medium", "pause_long": "strong"}


def to_ssml(marked: MarkedText) -> str:
    """Return ``marked`` as an SSML document with its white space preserved.

    ``from_ssml(to_ssml(m)) == m`` if m's emph and pitch marks are in the form of `normalise` (at the start of a word's run, one of
    each kind a word, after the pauses at that offset) and its aliases are in order. Pauses keep their kind, offset, length and
    order in any case. Other emph and pitch marks come back in that form.

    Raises:
        MarkupError: the text or an alias holds a character that XML cannot represent, an emph or pitch mark has no word after it,
            or an alias is empty, overlaps another or lies outside the text.
    """
    text = marked.text
    _check_characters(text, "the text")
    pieces = [f'<speak version="1.1" xmlns="{NAMESPACE}" xml:space="preserve">']
    position = 0
    for offset, tag in _tags(marked):
        pieces += text[position:offset].translate(_TEXT_ESCAPES), tag
        position = offset
    pieces += text[position:].translate(_TEXT_ESCAPES), "</speak>"
    return "".join(pieces)


class _WrittenElement(NamedTuple):
    """An element around the text ``[start, end)``. Of two around the same text, the one of lower rank is the outer."""

    start: int
    end: int
    rank: int
    name: str
    attribute: str


def _tags(marked: MarkedText) -> list[tuple[int, str]]:
    """Return every tag with its offset, in the order in which they are written."""
    elements = [*_mark_elements(marked), *_alias_elements(marked)]
    # At one offset: first the end tags, inner elements first; then the pauses; then the start tags, outer elements first.
    tags = [
        *(((item.end, 0, -item.start, -item.rank), f"</{item.name}>") for item in elements),
        *(((mark.offset, 1, index, 0), _break_tag(mark)) for index, mark in enumerate(marked.marks) if mark.is_pause),
        *(((item.start, 2, -item.end, item.rank), f"<{item.name} {item.attribute}>") for item in elements),
    ]
    return [(order[0], tag) for order, tag in sorted(tags)]


def _mark_elements(marked: MarkedText) -> list[_WrittenElement]:
    runs = marked.words
    bound: set[tuple[int, str]] = set()
    for mark in marked.marks:
        if mark.is_pause:
            continue
        index = word_after(runs, mark.offset)
        if index is None:
            raise MarkupError(f"<{mark.kind}> at offset {mark.offset} has no word after it; put it before one, or remove it")
        bound.add((index, mark.kind))
    # Elements must not cross: an element ends where an alias starts or ends inside its word. A mark on part of a word marks it all.
    borders = sorted(border for alias in marked.aliases for border in (alias.start, alias.end))
    elements = []
    for index, kind in bound:
        word = runs[index]
        border = bisect_right(borders, word.core_start)
        end = min(word.core_end, borders[border]) if border < len(borders) else word.core_end
        elements.append(_WrittenElement(word.core_start, end, KINDS.index(kind), *_MARK_ELEMENTS[kind]))
    return elements


def _alias_elements(marked: MarkedText) -> list[_WrittenElement]:
    elements: list[_WrittenElement] = []
    previous_end = 0
    for alias in sorted(marked.aliases, key=lambda alias: alias.start):
        name = f"the alias for {alias.start} to {alias.end} of the text"
        if not previous_end <= alias.start < alias.end <= len(marked.text):
            advice = "give each its own text"
            raise MarkupError(f"{name} is empty, overlaps another or lies outside the text's 0 to {len(marked.text)}; {advice}")
        previous_end = alias.end
        _check_characters(alias.spoken, name)
        attribute = f'alias="{alias.spoken.translate(_ATTRIBUTE_ESCAPES)}"'
        elements.append(_WrittenElement(alias.start, alias.end, len(KINDS), "sub", attribute))
    return elements


def _break_tag(mark: Mark) -> str:
    """Return the tag of a pause. A time implies the kind of pause with the nearest length, so the strength may be omitted."""
    strength = f' strength="{_PAUSE_STRENGTHS[mark.kind]}"'
    if mark.ms is None:
        return f"<break{strength}/>"
    return f'<break{"" if nearest_pause(mark.ms) == mark.kind else strength} time="{mark.ms}ms"/>'


def _check_characters(text: str, name: str) -> None:
    found = _NOT_XML.search(text)
    if found:
        where = line_column(text, found.start())
        raise MarkupError(f"{name} holds U+{ord(found[0]):04X} at {where}, which XML 1.0 cannot represent; remove the character")
