"""Marked text, and its inline notation.

A `MarkedText` keeps its marks apart from the text, by offset. The text itself is never edited, so no word can change.

The notation, which `parse` reads and `render` writes:

    It's <emph>only $299 <pause_short>today <pause_long:1200ms>

``\\<`` is a literal ``<`` and ``\\\\`` a literal backslash. A ``<`` that does not begin a tag ("a < b", "<3") needs no escape.
"""

import difflib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from prosody_tagger.errors import MarkupError
from prosody_tagger.segment import Word, segment_words, slot_of

PAUSES = ("pause_short", "pause_long")
PITCHES = ("pitch_high", "pitch_low", "pitch_rising", "pitch_falling")
KINDS = ("emph", *PAUSES, *PITCHES)
"""Every kind of mark. `normalise` puts the pauses of a slot first and keeps this order for the others."""

PAUSE_MS = {"pause_short": 250, "pause_long": 700}
"""Length of a pause without an explicit length, in milliseconds."""

MAX_PAUSE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark in a text.

    Attributes:
        kind: one of `KINDS`.
        offset: position in the text, in code points. emph and pitch marks apply to the word that follows; a pause is a silence at
            its offset.
        ms: explicit length of a pause in whole milliseconds, 0 to `MAX_PAUSE_MS`; None for the default of its kind.

    Raises:
        MarkupError: an unknown kind, a negative offset, or a length that is out of range or not on a pause.
    """

    kind: str
    offset: int
    ms: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise MarkupError(f"unknown mark {self.kind!r}{_nearest(self.kind)}; the marks are {', '.join(KINDS)}")
        if self.offset < 0:
            raise MarkupError(f"a mark cannot be at offset {self.offset}; offsets start at 0")
        if self.ms is None:
            return
        if not self.is_pause:
            raise MarkupError(f"<{self.kind}> takes no length; only pauses do, as in <pause_short:1200ms>")
        if not 0 <= self.ms <= MAX_PAUSE_MS:
            raise MarkupError(f"a pause of {self.ms} ms is out of range; give 0 to {MAX_PAUSE_MS} ms")

    @property
    def is_pause(self) -> bool:
        return self.kind in PAUSES

    def moved(self, by: int) -> "Mark":
        """Return the mark with its offset increased by ``by`` code points."""
        return Mark(self.kind, self.offset + by, self.ms)

    @property
    def silence_ms(self) -> int:
        """The silence that this mark requests, in milliseconds: 0 unless it is a pause."""
        if not self.is_pause:
            return 0
        return PAUSE_MS[self.kind] if self.ms is None else self.ms


def _offset(mark: Mark) -> int:
    return mark.offset


def _word_start(word: Word) -> int:
    return word.start


def _word_end(word: Word) -> int:
    return word.end


@dataclass(frozen=True, slots=True)
class Alias:
    """A spoken form that replaces ``[start, end)`` of the text (SSML's ``sub``)."""

    start: int
    end: int
    spoken: str

    def moved(self, by: int) -> "Alias":
        """Return the alias with its offsets increased by ``by`` code points."""
        return Alias(self.start + by, self.end + by, self.spoken)


@dataclass(frozen=True, slots=True)
class MarkedText:
    """A text and its marks, sorted by offset; marks at the same offset keep the order in which they were given.

    ``aliases`` come only from SSML. The notation of this module cannot express them, so `render` omits them.

    Raises:
        MarkupError: a mark is past the end of the text, or the text holds a lone surrogate.
    """

    text: str
    marks: tuple[Mark, ...] = ()
    aliases: tuple[Alias, ...] = ()
    _words: tuple[Word, ...] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _refuse_surrogates(self.text)
        ordered = tuple(sorted(self.marks, key=_offset))
        if ordered and ordered[-1].offset > len(self.text):
            raise MarkupError(f"<{ordered[-1].kind}> at offset {ordered[-1].offset} is past the text's end, {len(self.text)}")
        object.__setattr__(self, "marks", ordered)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of the text, as `segment_words` finds them; found once and kept."""
        if self._words is None:
            object.__setattr__(self, "_words", tuple(segment_words(self.text)))
            assert self._words is not None
        return self._words

    def with_marks(self, marks: Iterable[Mark]) -> "MarkedText":
        """The same text with other marks."""
        other = MarkedText(self.text, tuple(marks), self.aliases)
        object.__setattr__(other, "_words", self._words)
        return other

    def slice(self, start: int, end: int, *, with_end: bool = False) -> "MarkedText":
        """Return the part ``[start, end)``, with offsets counted from ``start``.

        A mark at ``end`` is included only if ``with_end`` is set; otherwise it belongs to the next part.
        """
        # Bisection, because a text of many sentences is sliced once for each.
        first = bisect_left(self.marks, start, key=_offset)
        last = (bisect_right if with_end else bisect_left)(self.marks, end, key=_offset)
        marks = tuple(mark.moved(-start) for mark in self.marks[first:last])
        aliases = tuple(alias.moved(-start) for alias in self.aliases if start <= alias.start and alias.end <= end)
        part = MarkedText(self.text[start:end], marks, aliases)
        if self._words is not None:
            object.__setattr__(part, "_words", _words_between(self._words, start, end))
        return part


@dataclass(frozen=True, slots=True)
class TaggedText:
    """A marked text with the scores of its marks.

    Attributes:
        scores: for each mark, in order, the tagger's probability; None if the user or a rule set the mark.
        warnings: messages for the user.
    """

    marked: MarkedText
    scores: tuple[float | None, ...] = ()
    warnings: tuple[str, ...] = ()

    def slice(self, start: int, end: int, *, with_end: bool = False) -> "TaggedText":
        """Return the part ``[start, end)``, as `MarkedText.slice` does, with its scores; the part that starts at 0 has the
        warnings."""
        part = self.marked.slice(start, end, with_end=with_end)
        first = bisect_left(self.marked.marks, start, key=_offset)
        return TaggedText(part, self.scores[first : first + len(part.marks)], () if start else self.warnings)


def add_marks(tagged: TaggedText, own: MarkedText) -> TaggedText:
    """Add the user's marks to those of the tagger.

    A pause of the user replaces the tagger's pauses in its slot; of two other marks of one kind in a slot, one is kept. Aliases are
    kept.
    """
    pauses = {mark.offset for mark in own.marks if mark.is_pause}
    given = {(mark.kind, mark.offset) for mark in own.marks}
    scores: list[tuple[Mark, float | None]] = [(mark, None) for mark in own.marks]
    for mark, score in zip(tagged.marked.marks, tagged.scores, strict=True):
        if (mark.kind, mark.offset) not in given and not (mark.is_pause and mark.offset in pauses):
            scores.append((mark, score))
    scores.sort(key=lambda pair: pair[0].offset)
    return TaggedText(own.with_marks(mark for mark, _ in scores), tuple(score for _, score in scores), tagged.warnings)


def concatenate_tagged(parts: Sequence[TaggedText]) -> TaggedText:
    """Return consecutive tagged texts as one; repeated warnings are kept once."""
    return TaggedText(
        concatenate([part.marked for part in parts]),
        tuple(score for part in parts for score in part.scores),
        tuple(dict.fromkeys(warning for part in parts for warning in part.warnings)),
    )


def concatenate(parts: Sequence[MarkedText]) -> MarkedText:
    """Return consecutive marked texts as one; a mark at the end of one stays before a mark at the start of the next."""
    marks: list[Mark] = []
    aliases: list[Alias] = []
    words: list[Word] | None = []
    length = 0
    for part in parts:
        marks.extend(mark.moved(length) for mark in part.marks)
        aliases.extend(alias.moved(length) for alias in part.aliases)
        if words is not None and part._words is not None:
            words.extend(word.moved(length) for word in part._words)
        else:
            words = None
        length += len(part.text)
    whole = MarkedText("".join(part.text for part in parts), tuple(marks), tuple(aliases))
    if words is not None and all(_are_apart(first.text, second.text) for first, second in pairwise(parts)):
        object.__setattr__(whole, "_words", tuple(words))
    return whole


def _are_apart(first: str, second: str) -> bool:
    """Whether white space separates two texts, so that no word of one continues in the other."""
    return not first or not second or first[-1].isspace() or second[0].isspace()


def plain(text: str) -> MarkedText:
    """Return ``text`` as marked text without marks; a literal "<emph>" in it remains text.

    Raises:
        MarkupError: the text holds a lone surrogate, which cannot be encoded.
    """
    return MarkedText(text)


# The alternatives: an escape, a complete tag, or an unclosed tag with the name of a mark. The bound on a tag's length keeps a text
# of a million "<a" linear.
_TOKEN = re.compile(
    r"\\[\\<]"
    r"|<(?P<close>/?)(?P<name>[A-Za-z_][\w.-]{0,63})(?P<rest>[^<>\n]{0,128})>"
    rf"|<(?P<open>{'|'.join(KINDS)})\b"
)
_LENGTH = re.compile(r":\s*(?P<number>[0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(?P<unit>ms|s)\s*")


def parse(source: str) -> MarkedText:
    """Read text in the notation of this module.

    Only tags are removed from the text, and with a tag that has a space on both sides, the space after it.

    Raises:
        MarkupError: a tag is not a mark (the message gives it, its line and column, and the nearest mark), a pause's length cannot
            be read, or the source holds a lone surrogate.
    """
    _refuse_surrogates(source)
    pieces: list[str] = []
    marks: list[Mark] = []
    length = 0
    last = ""
    position = 0

    def take(piece: str) -> None:
        nonlocal length, last
        if piece:
            pieces.append(piece)
            length += len(piece)
            last = piece[-1]

    for token in _TOKEN.finditer(source):
        take(source[position : token.start()])
        position = token.end()
        if token[0][0] == "\\":
            take(token[0][1])
            continue
        marks.append(_mark(source, token, length))
        if last == " " and source.startswith(" ", position):
            # No token starts with a space, so the next one cannot begin at the skipped character.
            position += 1
    take(source[position:])
    return MarkedText("".join(pieces), tuple(marks))


def render(marked: MarkedText) -> str:
    """Return ``marked`` in the notation of this module: ``parse(render(m)) == m`` for every ``m`` without aliases."""
    text = marked.text
    pieces: list[str] = []
    position = 0
    for index, mark in enumerate(marked.marks):
        pieces.append(_escape(text[position : mark.offset]))
        position = mark.offset
        length = "" if mark.ms is None else f":{mark.ms}ms"
        pieces.append(f"<{mark.kind}{length}>")
        is_last_here = index + 1 == len(marked.marks) or marked.marks[index + 1].offset > mark.offset
        if is_last_here and text[position - 1 : position] == " " == text[position : position + 1]:
            pieces.append(" ")  # parse removes one space after the tag
    pieces.append(_escape(text[position:]))
    return "".join(pieces)


def normalise(marked: MarkedText) -> MarkedText:
    """Return the marks in the canonical form that the tagger emits.

    Every mark is at the start of its word. A slot has at most one mark of each kind, in the order pauses, emph, pitch. There is no
    pause after the last word. Of several pauses of one kind in a slot, the longest is kept.
    """
    runs = marked.words
    kept: dict[tuple[int, str], Mark] = {}
    for mark in marked.marks:
        slot = slot_of(runs, mark.offset, len(marked.text))
        if mark.is_pause and slot == len(marked.text):
            continue
        key = (slot, mark.kind)
        if key not in kept or mark.silence_ms > kept[key].silence_ms:
            kept[key] = Mark(mark.kind, slot, mark.ms)
    order = (*PAUSES, "emph", *PITCHES)
    marks = sorted(kept.values(), key=lambda mark: (mark.offset, order.index(mark.kind)))
    return marked.with_marks(marks)


def line_column(source: str, offset: int) -> str:
    """Return a position such as "line 2, column 7" for an offset into ``source``, both counted from 1."""
    line = source.count("\n", 0, offset) + 1
    return f"line {line}, column {offset - source.rfind(chr(10), 0, offset)}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the member of ``known`` most similar to ``name``, or None if none is similar."""
    return next(iter(difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)), None)


def _mark(source: str, token: re.Match[str], offset: int) -> Mark:
    """Return the mark of a tag at ``offset`` of the text without tags."""

    def where() -> str:  # computed only for errors; for every mark it would make parse quadratic
        return line_column(source, token.start())

    if token["open"]:
        raise MarkupError(f"<{token['open']} at {where()} is not closed; write <{token['open']}>, or \\< for a literal <")
    name, rest = token["name"], token["rest"]
    if token["close"] or name not in KINDS:
        raise MarkupError(
            f"unknown mark {token[0]!r} at {where()}{_nearest(name)}; write \\< for a literal <. The marks are {', '.join(KINDS)}"
        )
    ms = None
    if rest.strip():
        length = _LENGTH.fullmatch(rest)
        if name not in PAUSES or length is None:
            raise MarkupError(f"cannot read {token[0]!r} at {where()}; a mark is <{name}>, a timed pause <pause_short:1200ms>")
        ms = round(float(length["number"]) * (1000 if length["unit"] == "s" else 1))
    try:
        return Mark(name, offset, ms)
    except MarkupError as error:
        raise MarkupError(f"{error} ({where()})") from None


def _words_between(words: Sequence[Word], start: int, end: int) -> tuple[Word, ...] | None:
    """The words of ``[start, end)`` with offsets from ``start``; None if a bound is within a word."""
    first = bisect_right(words, start, key=_word_end)
    last = bisect_left(words, end, key=_word_start)
    if first < last and (words[first].start < start or words[last - 1].end > end):
        return None
    return tuple(word.moved(-start) for word in words[first:last])


def _nearest(name: str) -> str:
    nearest = closest(name, KINDS)
    return f"; did you mean <{nearest}>?" if nearest else ""


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("<", "\\<")


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise MarkupError(f"lone surrogate {code} at {line_column(text, error.start)}; the text is not valid Unicode") from None
