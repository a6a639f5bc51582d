"""From a speech request to the text that the model reads: trained marks, aliases, commas before pauses, single spaces."""

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import replace

import regex

from prosody_tagger.markup import PAUSE_MS, Mark, MarkedText
from synth.base import SpeechRequest
from synth.lowering import add_comma, comma_offsets

_SPACE = regex.compile(r"\s++")
_MIN_BREAK_MS = PAUSE_MS["pause_short"]  # shorter pauses get no comma, because a comma's own pause is about this long


def to_model_text(request: SpeechRequest, trained: Collection[str]) -> tuple[MarkedText, tuple[Mark, ...]]:
    """Return the text for the model, and the marks that remain unrealised.

    The model receives marks of the kinds in ``trained``, except pauses of a given length and pauses outside the text's words. Other
    pauses get a comma, because they are inserted into the audio afterwards. Every pause remains unrealised: the model decides how
    long its own pauses are.

    Args:
        request: the text, its marks and breaks.
        trained: kinds of marks that the adapter was trained on.
    """
    words = request.text.words
    first = words[0].core_start if words else 0
    last = words[-1].core_end if words else 0
    given, unrealised, breaks = [], [], set(request.breaks)
    for mark in request.text.marks:
        inside = not mark.is_pause or first < mark.offset < last
        if mark.kind in trained and mark.ms is None and inside:
            given.append(mark)
        elif mark.is_pause and mark.silence_ms >= _MIN_BREAK_MS:
            breaks.add(mark.offset)
        if mark not in given or mark.is_pause:
            unrealised.append(mark)
    marked = MarkedText(request.text.text, tuple(given), request.text.aliases)
    return spoken_text(marked, unfinished=request.unfinished, breaks=breaks), tuple(unrealised)


def spoken_text(marked: MarkedText, *, unfinished: bool = False, breaks: Collection[int] = ()) -> MarkedText:
    """Return ``marked`` with aliases in place of the words that they replace, and every mark at its new offset.

    Args:
        marked: part of a text.
        unfinished: whether the sentence continues after it; then a comma at the end keeps the pitch up.
        breaks: starts of the words before which a pause will be inserted; a comma leads up to each.
    """
    text = marked.text
    edits = [(alias.start, alias.end, _padded(text, alias.start, alias.end, alias.spoken)) for alias in marked.aliases]
    edits += [(offset, offset, ",") for offset in comma_offsets(text, breaks)]
    edits += [
        (match.start(), match.end(), " " if match.start() > 0 and match.end() < len(text) else "")
        for match in _SPACE.finditer(text)
    ]
    parts: list[str] = []
    old_starts, new_starts = [0], [0]  # start of each unchanged span, in the old and in the new text
    position = length = 0
    for start, end, replacement in sorted(edits):
        if start < position:
            continue  # it overlaps the edit before
        parts += [text[position:start], replacement]
        length += start - position + len(replacement)
        position = end
        old_starts.append(end)
        new_starts.append(length)
    parts.append(text[position:])
    result = "".join(parts)

    def new_offset(offset: int) -> int:
        span = bisect_right(old_starts, offset) - 1
        moved = new_starts[span] + offset - old_starts[span]
        return min(moved, new_starts[span + 1] if span + 1 < len(new_starts) else len(result))

    marks = tuple(replace(mark, offset=new_offset(mark.offset)) for mark in marked.marks)
    return MarkedText(add_comma(result) if unfinished else result, marks)


def _padded(text: str, start: int, end: int, spoken: str) -> str:
    """Return the spoken form of an alias, with spaces around it if it would touch letters or digits."""
    touches = text[max(0, start - 1) : start].isalnum() or text[end : end + 1].isalnum()
    words = " ".join(spoken.split())
    return f" {words} " if touches else words
