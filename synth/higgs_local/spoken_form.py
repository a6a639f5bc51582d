"""A piece of text as it is read aloud: aliases in their places, commas where a pause will be, white space evened out."""

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import replace

import regex

from prosody_tagger.markup import MarkedText
from synth.lowering import add_comma, comma_offsets

_SPACE = regex.compile(r"\s++")


def spoken_form(marked: MarkedText, *, unfinished: bool = False, breaks: Collection[int] = ()) -> MarkedText:
    """``marked`` as the model is given it, each mark where its word or its gap now is.

    Args:
        marked: one piece of a text.
        unfinished: more of the same sentence follows; a comma at the end keeps the voice up.
        breaks: starts of words before which a pause will be; a comma lets the voice lead up to it.
    """
    text = marked.text
    edits = [(alias.start, alias.end, _apart(text, alias.start, alias.end, alias.spoken)) for alias in marked.aliases]
    edits += [(offset, offset, ",") for offset in comma_offsets(text, breaks)]
    pieces: list[str] = []
    starts, moved = [0], [0]  # where a stretch that is kept begins: in the text, and in what is read
    position = length = 0
    edits += [
        (match.start(), match.end(), " " if match.start() > 0 and match.end() < len(text) else "")
        for match in _SPACE.finditer(text)
    ]
    for start, end, replacement in sorted(edits):
        if start < position:
            continue  # it overlaps the one before
        pieces += [text[position:start], replacement]
        length += start - position + len(replacement)
        position = end
        starts.append(end)
        moved.append(length)
    pieces.append(text[position:])
    read = "".join(pieces)

    def place(offset: int) -> int:
        stretch = bisect_right(starts, offset) - 1
        at = moved[stretch] + offset - starts[stretch]
        return min(at, moved[stretch + 1] if stretch + 1 < len(moved) else len(read))

    marks = tuple(replace(mark, offset=place(mark.offset)) for mark in marked.marks)
    return MarkedText(add_comma(read) if unfinished else read, marks)


def _apart(text: str, start: int, end: int, spoken: str) -> str:
    """What an alias says, apart from letters and digits around it."""
    touches = text[max(0, start - 1) : start].isalnum() or text[end : end + 1].isalnum()
    said = " ".join(spoken.split())
    return f" {said} " if touches else said
