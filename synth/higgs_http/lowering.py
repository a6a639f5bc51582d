"""A marked text as a Higgs model may be given it: plain words, and where the model knows tags, its own for the marks.

Every control token of every Higgs model is written ``<|...|>``. So no bar of the user's ever goes out, and no angle bracket that
could open or close a tag; the words within stay.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import regex

from prosody_tagger.markup import Alias, Mark, MarkedText
from prosody_tagger.segment import Word, segment_sentences, segment_words, word_after
from synth.lowering import add_comma, comma_offsets


@dataclass(frozen=True, slots=True)
class Lowered:
    """What is sent, and the marks that it does not carry. ``text`` is empty if there is nothing to speak."""

    text: str
    unrealised: tuple[Mark, ...]


def lower(marked: MarkedText, tags: Mapping[str, str], *, unfinished: bool = False, breaks: Collection[int] = ()) -> Lowered:
    """``marked`` with the model's tags in the place of its marks, as far as a tag does what the mark asks.

    A pause becomes a tag between two words, unless it has a length of its own: a tag has none. Before the first word and after the
    last there is nothing for a tag to part. A tag for the pitch colours its whole sentence, so it stands for a mark only if every
    word of ``marked`` has that mark, and no other mark for the pitch has a tag there.

    Args:
        marked: one piece of a text.
        tags: for each kind of mark that the model has a tag for, the tag.
        unfinished: more of the same sentence follows; a comma at the end keeps the voice up.
        breaks: starts of words before which a pause will be; a comma lets the voice lead up to it.
    """
    if not _WORD.search("".join(_pieces(marked, ()))):
        return Lowered("", marked.marks)
    inserted: list[tuple[int, str]] = []
    unrealised = marked.marks
    if any(mark.kind in tags for mark in marked.marks):
        inserted, unrealised = _tagged(marked, tags)
    inserted += [(offset, ",") for offset in comma_offsets(marked.text, breaks)]
    text = _spaced("".join(_pieces(marked, inserted)))
    return Lowered(add_comma(text) if unfinished else text, unrealised)


def _tagged(marked: MarkedText, tags: Mapping[str, str]) -> tuple[list[tuple[int, str]], tuple[Mark, ...]]:
    """The tags and the offsets where they go, and the marks that they do not stand for."""
    runs = segment_words(marked.text)
    pitch = _pitch(marked, runs, tags)
    obeyed = {mark for mark in marked.marks if mark.kind in tags and mark.ms is None and _is_between(mark, runs)}
    inserted = [(mark.offset, f"{tags[mark.kind]} ") for mark in marked.marks if mark in obeyed]
    if pitch:
        inserted += [(start, tags[pitch]) for start, _ in segment_sentences(marked.text)]
    return inserted, tuple(mark for mark in marked.marks if mark not in obeyed and mark.kind != pitch)


_WORD = regex.compile(r"[\p{L}\p{N}\p{S}%‰&@#§¶--<>]", regex.V1)
_BAR = regex.compile("[|｜]")
_TAG_BRACKET = regex.compile(r"[<＜﹤](?![\s\d=\-])|(?<![\s\d=\-])[>＞﹥]")
# Control characters save white space, format characters that only guide the layout, and halves of surrogate pairs.
_SILENT = regex.compile(
    r"[[\p{Cc}--\s]\p{Cs}\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\x1c-\x1f]", regex.V1
)


def plain_words(text: str) -> str:
    """``text`` without anything that a server could take for a tag or a control token, on one line.

    Bars, and brackets next to a letter, a bar or another bracket, become spaces; "5 < 6" and "->" stay. Wide and small forms are
    treated alike, since a server may fold them.
    """
    return _spaced(_disarmed(text))


def _disarmed(text: str) -> str:
    return _BAR.sub(" ", _TAG_BRACKET.sub(" ", _SILENT.sub("", text)))


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _is_between(mark: Mark, runs: Sequence[Word]) -> bool:
    """Whether it is a pause with a word, or a part of one, on either side."""
    return mark.is_pause and bool(runs) and runs[0].core_start < mark.offset < runs[-1].core_end


def _pitch(marked: MarkedText, runs: Sequence[Word], tags: Mapping[str, str]) -> str | None:
    """The kind of mark for the pitch that every word has, if a tag does just that."""
    bearers: dict[str, set[int | None]] = {}
    for mark in marked.marks:
        if not mark.is_pause and mark.kind in tags:
            bearers.setdefault(mark.kind, set()).add(word_after(runs, mark.offset))
    if len(bearers) != 1:
        return None
    ((kind, words_with_it),) = bearers.items()
    return kind if runs and words_with_it >= set(range(len(runs))) else None


def _pieces(marked: MarkedText, inserted: Sequence[tuple[int, str]]) -> Iterator[str]:
    """The text, harmless, with each alias in the place of what it covers, and the tags ``inserted`` at their offsets."""
    text = marked.text
    edits = [(offset, 0, offset, tag) for offset, tag in inserted]
    edits += [(alias.start, 1, alias.end, _apart(text, alias)) for alias in marked.aliases]
    position = 0
    for start, is_alias, end, replacement in sorted(edits):
        if is_alias and start < position:
            continue  # it overlaps the one before
        yield _disarmed(text[position : max(position, start)])
        yield replacement
        position = max(position, end)
    yield _disarmed(text[position:])


def _apart(text: str, alias: Alias) -> str:
    """What an alias says, apart from letters and digits around it."""
    said = _disarmed(alias.spoken)
    touches = text[max(0, alias.start - 1) : alias.start].isalnum() or text[alias.end : alias.end + 1].isalnum()
    return f" {said} " if touches else said
