"""Conversion of marked text to what a Higgs server may be sent: plain words, and the model's control tags for some marks.

Control tokens of every Higgs model are written ``<|...|>``. A user's text is therefore sent without vertical bars and without angle
brackets that could open or close a tag; its words stay.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import regex

from prosody_tagger.markup import Alias, Mark, MarkedText
from prosody_tagger.segment import Word, segment_sentences, word_after
from synth.lowering import add_comma, comma_offsets


@dataclass(frozen=True, slots=True)
class ServerText:
    """The text to send and the marks that it does not express. ``text`` is empty if there are no words to speak."""

    text: str
    unrealised: tuple[Mark, ...]


def to_server_text(
    marked: MarkedText, tags: Mapping[str, str], *, unfinished: bool = False, breaks: Collection[int] = ()
) -> ServerText:
    """Replace marks by the model's control tags, where a tag has the effect of the mark.

    A pause becomes a tag if it is between two words and has no explicit length, since tags have fixed lengths. A pitch tag
    changes the pitch of a whole sentence; it is used only if every word of ``marked`` has that mark, and no word has another mark
    for pitch with a tag.

    Args:
        marked: a sentence or a part of one; several sentences are allowed.
        tags: the control tag for each kind of mark that the model has one for.
        unfinished: whether more of the same sentence follows; a comma at the end then keeps the intonation from falling.
        breaks: starts of words before which a pause will be cut in; a comma makes the model phrase for it.
    """
    if not _WORD.search("".join(_segments(marked, ()))):
        return ServerText("", marked.marks)
    insertions: list[tuple[int, str]] = []
    unrealised = marked.marks
    if any(mark.kind in tags for mark in marked.marks):
        insertions, unrealised = _tag_insertions(marked, tags)
    insertions += [(offset, ",") for offset in comma_offsets(marked.text, breaks)]
    text = _single_spaced("".join(_segments(marked, insertions)))
    return ServerText(add_comma(text) if unfinished else text, unrealised)


def _tag_insertions(marked: MarkedText, tags: Mapping[str, str]) -> tuple[list[tuple[int, str]], tuple[Mark, ...]]:
    """Return the tags with their offsets, and the marks that no tag expresses."""
    words = marked.words
    pitch = _pitch_of_all(marked, words, tags)
    tagged = {mark for mark in marked.marks if mark.kind in tags and mark.ms is None and _is_between_words(mark, words)}
    insertions = [(mark.offset, f"{tags[mark.kind]} ") for mark in marked.marks if mark in tagged]
    if pitch:
        insertions += [(start, tags[pitch]) for start, _ in segment_sentences(marked.text)]
    return insertions, tuple(mark for mark in marked.marks if mark not in tagged and mark.kind != pitch)


_WORD = regex.compile(r"[\p{L}\p{N}\p{S}%‰&@#§¶--<>]", regex.V1)
_BAR = regex.compile("[|｜]")
_TAG_BRACKET = regex.compile(r"[<＜﹤](?![\s\d=\-])|(?<![\s\d=\-])[>＞﹥]")
# Control characters except white space, invisible format characters, and lone surrogates.
_SILENT = regex.compile(
    r"[[\p{Cc}--\s]\p{Cs}\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\x1c-\x1f]", regex.V1
)


def plain_words(text: str) -> str:
    """Return ``text`` on one line, without anything that a server could read as a tag or a control token.

    Bars become spaces, and so do brackets next to a letter, a bar or another bracket; "5 < 6" and "->" stay. Full-width and small
    variants are treated alike, since a server may normalise them to ASCII.
    """
    return _single_spaced(_without_tags(text))


def _without_tags(text: str) -> str:
    return _BAR.sub(" ", _TAG_BRACKET.sub(" ", _SILENT.sub("", text)))


def _single_spaced(text: str) -> str:
    return " ".join(text.split())


def _is_between_words(mark: Mark, words: Sequence[Word]) -> bool:
    """Return whether ``mark`` is a pause with at least a part of a word on either side."""
    return mark.is_pause and bool(words) and words[0].core_start < mark.offset < words[-1].core_end


def _pitch_of_all(marked: MarkedText, words: Sequence[Word], tags: Mapping[str, str]) -> str | None:
    """Return the kind of pitch mark that every word has, if it has a tag and is the only such kind."""
    marked_words: dict[str, set[int | None]] = {}
    for mark in marked.marks:
        if not mark.is_pause and mark.kind in tags:
            marked_words.setdefault(mark.kind, set()).add(word_after(words, mark.offset))
    if len(marked_words) != 1:
        return None
    ((kind, words_with_it),) = marked_words.items()
    return kind if words and words_with_it >= set(range(len(words))) else None


def _segments(marked: MarkedText, insertions: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Yield the text without tags of the user's, with aliases in place of the words they cover, and with ``insertions``."""
    text = marked.text
    edits = [(offset, 0, offset, tag) for offset, tag in insertions]
    edits += [(alias.start, 1, alias.end, _spoken_alias(text, alias)) for alias in marked.aliases]
    position = 0
    for start, is_alias, end, replacement in sorted(edits):
        if is_alias and start < position:
            continue  # it overlaps the alias before it
        yield _without_tags(text[position : max(position, start)])
        yield replacement
        position = max(position, end)
    yield _without_tags(text[position:])


def _spoken_alias(text: str, alias: Alias) -> str:
    """Return what is spoken for ``alias``, with spaces around it if letters or digits adjoin it."""
    spoken = _without_tags(alias.spoken)
    adjoins_word = text[max(0, alias.start - 1) : alias.start].isalnum() or text[alias.end : alias.end + 1].isalnum()
    return f" {spoken} " if adjoins_word else spoken
