"""SSML (W3C Speech Synthesis Markup Language 1.0 and 1.1) to and from `MarkedText`.

What `from_ssml` reads, with or without SSML's namespace:

    <speak>             the root; xml:space="preserve" keeps white space as it is, else it becomes single spaces
    <p> <s>             a paragraph, a sentence: each ends a sentence for `segment.segment_sentences`
    <break>             strength none, x-weak: nothing; weak, medium or none given: pause_short; strong, x-strong: pause_long.
                        With time, a pause of just that length; its kind is the strength's, else the one whose length is nearest
    <emphasis>          level strong, moderate or none given: emph on every word within; reduced, none: none there
    <prosody>           pitch high, x-high, +10%, +2st: pitch_high on every word within; low, x-low, -10%: pitch_low; +0%: nothing;
                        medium, default: none there. contour: pitch_rising or pitch_falling on the last word within
    <sub alias="...">   the alias is said aloud, the text stays the text
    <say-as>            its text; what it says of the text is not used

Of elements inside one another, emphasis and changes of pitch add up, while a label such as "low" replaces the pitch around it.
An element wraps a word if it wraps any part of the word's core. Comments and processing instructions are passed over. A DTD is
refused, and with it every entity but XML's own five. The language is not carried; a document has one.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple
from xml.parsers import expat

from prosody_tagger.errors import MarkupError
from prosody_tagger.markup import KINDS, MAX_PAUSE_MS, PAUSE_MS, PAUSES, Alias, Mark, MarkedText, closest, line_column, plain
from prosody_tagger.segment import Word, segment_sentences, segment_words, word_after

NAMESPACE = "http://www.w3.org/2001/10/synthesis"

MAX_DEPTH = 100
"""How deep elements may stand inside one another."""


def from_ssml(source: str) -> MarkedText:
    """Read an SSML document. An encoding that it declares is passed over: the string is decoded already.

    emph and pitch marks stand at the start of their word's run, one of each kind a word; a pause stands where the text after it
    starts. In one place pauses come first, then emph, then pitch.

    Raises:
        MarkupError: the source is not well-formed, has a DTD, goes deeper than `MAX_DEPTH`, holds an element, attribute or value
            that is not read here, or an emphasis or prosody without a word. The message gives line and column.
    """
    return _Reader().read(source)


def to_ssml(marked: MarkedText) -> str:
    """Write an SSML document, white space preserved.

    ``from_ssml(to_ssml(m)) == m`` if m's emph and pitch marks are as `normalise` puts them (at the start of a word's run, one of
    each kind a word, after the pauses of that place) and its aliases in order. Pauses keep their kind, offset, length and order
    wherever they stand. Other emph and pitch marks come back in that form.

    Raises:
        MarkupError: the text or an alias holds a character that XML cannot carry, an emph or pitch mark has no word after it, or
            an alias is empty, overlaps another or lies outside the text.
    """
    text = marked.text
    _refuse_characters(text, "the text")
    pieces = [f'<speak version="1.1" xmlns="{NAMESPACE}" xml:space="preserve">']
    position = 0
    for offset, tag in _tags(marked):
        pieces += text[position:offset].translate(_TEXT_ESCAPES), tag
        position = offset
    pieces += text[position:].translate(_TEXT_ESCAPES), "</speak>"
    return "".join(pieces)


# ---------------------------------------------------------------------------------------------------------------- reading

_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "speak": ("version", "xml:lang", "xml:space", "xsi:schemaLocation"),
    "p": ("xml:lang",),
    "s": ("xml:lang",),
    "break": ("time", "strength"),
    "emphasis": ("level",),
    "prosody": ("pitch", "contour"),
    "sub": ("alias",),
    "say-as": ("interpret-as", "format", "detail"),
}
_NEVER_WITHIN: Mapping[str, tuple[str, ...]] = {
    "speak": ("speak",),
    "p": ("p", "s", "sub"),
    "s": ("s", "sub"),
    "sub": ("sub",),
}
_STRENGTHS: Mapping[str, str | None] = {
    "none": None,
    "x-weak": None,
    "weak": "pause_short",
    "medium": "pause_short",
    "strong": "pause_long",
    "x-strong": "pause_long",
}
_EMPHASISED: Mapping[str, bool] = {"strong": True, "moderate": True, "reduced": False, "none": False}
_PITCHES: Mapping[str, int] = {"x-low": -2, "low": -1, "medium": 0, "default": 0, "high": 1, "x-high": 2}
_LEVELS = frozenset(("pitch_high", "pitch_low"))
_PROSODY_ADVICE: Mapping[str, str] = {
    "rate": "set the speed for the whole text instead",
    "duration": "set the speed for the whole text instead",
    "volume": "leave it out, or make words stand out with <emphasis>",
    "range": "leave it out, or move words with pitch",
}
_XML_ADVICE: Mapping[str, str] = {
    expat.errors.XML_ERROR_INVALID_TOKEN: "write a literal & as &amp; and a literal < as &lt;, and take out control characters",
    expat.errors.XML_ERROR_UNDEFINED_ENTITY: "write the character itself, or its number as in &#160;",
    expat.errors.XML_ERROR_TAG_MISMATCH: "close each element by its own name, the inner one first",
}

_PREFIXES: Mapping[str, str] = {
    NAMESPACE: "",
    "http://www.w3.org/XML/1998/namespace": "xml:",
    "http://www.w3.org/2001/XMLSchema-instance": "xsi:",
}

_SPACE = re.compile(r"[ \t\r\n]+")
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9}"
_TIME = re.compile(rf"\+?(?P<number>{_NUMBER})(?P<unit>ms|s)")
_PITCH = re.compile(rf"(?P<sign>[+-]?)(?P<number>{_NUMBER})(?P<unit>%|st|Hz)")
_POINT = re.compile(rf"\s*\(\s*(?P<time>{_NUMBER})%\s*,\s*(?P<pitch>[^\s()]{{1,32}})\s*\)\s*")


@dataclass(slots=True)
class _Element:
    """An element that is open. ``start`` is where its text starts, None until there is some."""

    name: str
    where: str
    kinds: frozenset[str]
    turn: str | None = None
    alias: str = ""
    start: int | None = None


class _Span(NamedTuple):
    """The text ``[start, end)`` of an element that wants a word, and the turn of pitch on its last one if there is one."""

    name: str
    where: str
    turn: str | None
    start: int
    end: int


class _Part(NamedTuple):
    """A paragraph or sentence ("p" or "s") whose text starts at ``start``; a blank line to set it apart would go to ``cut``."""

    name: str
    cut: int
    start: int


class _Moves(NamedTuple):
    """Where offsets go when at each cut the text grows by ``by``: a start at a cut goes along, an end does not."""

    cuts: list[int]
    by: int

    def start(self, offset: int) -> int:
        return offset + self.by * bisect_right(self.cuts, offset)

    def end(self, offset: int) -> int:
        return offset + self.by * bisect_left(self.cuts, offset)


class _Reader:
    """Collects the text, and beside it what the elements say of it."""

    def __init__(self) -> None:
        # Names come as "namespace name prefix", so that a prefix means what the document says that it means.
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.namespace_prefixes = True
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._stack: list[_Element] = []
        self._language: str | None = None
        self._preserve = False
        self._pieces: list[str] = []
        self._length = 0
        self._spoken = False
        # What was met since the last text, and takes effect where the next one starts.
        self._space = False
        self._part: str | None = None
        self._part_at = 0
        self._breaks: list[tuple[str, int | None]] = []
        # What was found, by offset.
        self._parts: list[_Part] = []
        self._pauses: list[Mark] = []
        self._stretches: list[tuple[str, int, int]] = []
        self._spans: list[_Span] = []
        self._aliases: list[Alias] = []

    def read(self, source: str) -> MarkedText:
        plain(source)  # refuses lone surrogates
        try:
            self._parser.Parse(source, True)
        except expat.ExpatError as error:
            what = expat.ErrorString(error.code)
            advice = _XML_ADVICE.get(what, "an SSML document is <speak>...</speak>")
            where = _where(error.lineno, error.offset)
            raise MarkupError(f"the SSML is not well-formed at {where}: {what}; {advice}") from None
        self._place_breaks()
        return self._marked()

    # What expat calls. ------------------------------------------------------------------------------------------------

    def _doctype(self, name: str, *_: object) -> None:
        raise self._error(f"a DTD (<!DOCTYPE {_short(name)}>) is not read", "take it out; SSML needs none")

    def _start(self, tag: str, given: dict[str, str]) -> None:
        name = _name(tag)
        self._check_element(name)
        attributes = {_name(attribute): value for attribute, value in given.items()}
        self._check_attributes(name, attributes)
        kinds = self._stack[-1].kinds if self._stack else frozenset()
        element = _Element(name, self._here(), kinds)
        self._stack.append(element)
        match name:
            case "speak":
                self._preserve = self._one_of("xml:space", attributes, ("default", "preserve"), "default") == "preserve"
            case "p" | "s":
                self._bound_part(name)
            case "break":
                self._break(attributes)
            case "emphasis":
                emphasised = _EMPHASISED[self._one_of("level", attributes, _EMPHASISED, "moderate")]
                element.kinds = kinds | {"emph"} if emphasised else kinds - {"emph"}
            case "prosody":
                self._prosody(element, attributes)
            case "sub":
                if "alias" not in attributes:
                    raise self._error("<sub> has no alias", 'give what is said in place of its text, as in <sub alias="...">')
                element.alias = attributes["alias"]

    def _end(self, tag: str) -> None:
        element = self._stack.pop()
        start = self._length if element.start is None else element.start
        if element.name in ("p", "s"):
            self._bound_part(element.name)
        elif element.name in ("emphasis", "prosody"):
            self._spans.append(_Span(element.name, element.where, element.turn, start, self._length))
        elif element.name == "sub":
            if element.start is None:
                raise MarkupError(f"<sub> at {element.where} has no text; give it the text that its alias stands for")
            self._aliases.append(Alias(start, self._length, element.alias))

    def _characters(self, data: str) -> None:
        if self._stack[-1].name == "break":
            raise self._in_break("text")
        if self._preserve:
            self._add(data)
            return
        data = _SPACE.sub(" ", data)
        text = data.strip(" ")
        self._space |= data.startswith(" ")
        if text:
            self._add(text)
            self._space = data.endswith(" ")

    # What the elements mean. ------------------------------------------------------------------------------------------

    def _bound_part(self, name: str) -> None:
        if self._part is None:
            self._part_at = self._length
        self._part = "p" if self._part == "p" else name

    def _break(self, attributes: Mapping[str, str]) -> None:
        kind = _STRENGTHS[self._one_of("strength", attributes, _STRENGTHS, "medium")]
        time = attributes.get("time")
        if time is None:
            if kind:
                self._breaks.append((kind, None))
            return
        length = _TIME.fullmatch(time)
        if length is None:
            raise self._error(f"cannot read time={_short(time)}", 'write it as time="500ms" or time="1.5s"')
        ms = round(float(length["number"]) * (1000 if length["unit"] == "s" else 1))
        if ms > MAX_PAUSE_MS:
            raise self._error(f"a pause of {ms} ms is too long", f"give at most {MAX_PAUSE_MS} ms")
        if kind is None or "strength" not in attributes:
            kind = _nearest_pause(ms)
        self._breaks.append((kind, ms))

    def _prosody(self, element: _Element, attributes: Mapping[str, str]) -> None:
        if not attributes:
            raise self._error("<prosody> says nothing", 'give it a pitch, as in <prosody pitch="high">')
        if "pitch" in attributes:
            value = attributes["pitch"]
            pitch = _height(value)
            if pitch is None or pitch[0].startswith("absolute"):
                advice = f"{_like(value, _PITCHES)}give one of {', '.join(_PITCHES)}, or a change such as +10% or -2st"
                raise self._error(f"cannot read pitch={_short(value)}", advice)
            unit, height = pitch
            around = element.kinds - _LEVELS if unit == "label" else element.kinds
            element.kinds = around | {"pitch_high" if height > 0 else "pitch_low"} if height else around
        if "contour" in attributes:
            value = attributes["contour"]
            element.turn = _turn(value)
            if element.turn is None:
                advice = 'give one that does, as in contour="(0%,+0%) (100%,+20%)"'
                raise self._error(f"contour={_short(value)} neither rises nor falls throughout", advice)

    def _add(self, text: str) -> None:
        """Take text that is not white space alone, or any text where white space is preserved."""
        if not self._preserve and self._length and (self._space or self._part):
            self._pieces.append(" ")
            self._length += 1
        self._space = False
        lead = len(text) - len(text.lstrip()) if self._preserve else 0
        if lead < len(text):
            if self._part and self._spoken:
                cut = self._part_at if self._preserve else self._length
                self._parts.append(_Part(self._part, cut, self._length + lead))
            self._part = None
            self._spoken = True
        self._place_breaks()
        start = self._length
        self._pieces.append(text)
        self._length += len(text)
        for element in reversed(self._stack):
            if element.start is not None:
                break
            element.start = start
        self._stretches += ((kind, start, self._length) for kind in self._stack[-1].kinds)

    def _place_breaks(self) -> None:
        self._pauses += (Mark(kind, self._length, ms) for kind, ms in self._breaks)
        self._breaks.clear()

    # From all that to marked text. ------------------------------------------------------------------------------------

    def _marked(self) -> MarkedText:
        text, moves = _end_parts("".join(self._pieces), self._parts, self._preserve)
        runs = segment_words(text)
        marked: set[tuple[str, int]] = set()
        for span in self._spans:
            within = _within(runs, moves.start(span.start), moves.end(span.end))
            if not within:
                raise MarkupError(f"<{span.name}> at {span.where} has no word in it; put it around one, or take it out")
            if span.turn:
                marked.add((span.turn, within[-1]))
        for kind, start, end in self._stretches:
            marked.update((kind, index) for index in _within(runs, moves.start(start), moves.end(end)))
        pauses = (Mark(pause.kind, moves.start(pause.offset), pause.ms) for pause in self._pauses)
        bound = (Mark(kind, runs[index].start) for kind, index in sorted(marked, key=lambda mark: KINDS.index(mark[0])))
        aliases = (Alias(moves.start(alias.start), moves.end(alias.end), alias.spoken) for alias in self._aliases)
        return MarkedText(text, (*pauses, *bound), tuple(aliases))

    # Faults. ----------------------------------------------------------------------------------------------------------

    def _here(self) -> str:
        return _where(self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber)

    def _error(self, what: str, advice: str) -> MarkupError:
        return MarkupError(f"{what} at {self._here()}; {advice}")

    def _in_break(self, what: str) -> MarkupError:
        return MarkupError(f"<break> at {self._stack[-1].where} holds {what}; write <break/>, and what comes next after it")

    def _check_element(self, name: str) -> None:
        if name not in _ATTRIBUTES:
            known = ", ".join(f"<{known}>" for known in _ATTRIBUTES)
            raise self._error(f"unknown element <{_cut(name)}>", f"{_like(name, _ATTRIBUTES, '<{}>')}the elements read are {known}")
        if not self._stack and name != "speak":
            raise self._error(f"the document is a <{name}>", "put it in <speak>...</speak>")
        if len(self._stack) == MAX_DEPTH:
            raise self._error(f"<{name}> stands deeper than {MAX_DEPTH} elements", "take out elements that say nothing new")
        if self._stack and self._stack[-1].name == "break":
            raise self._in_break(f"<{name}>")
        never = _NEVER_WITHIN.get(name, ())
        outer = next((outer for outer in self._stack if outer.name in never), None) if never else None
        if outer:
            raise self._error(f"<{name}> stands within <{outer.name}> ({outer.where})", f"close the <{outer.name}> before it")

    def _check_attributes(self, name: str, attributes: Mapping[str, str]) -> None:
        for attribute, value in attributes.items():
            if attribute not in _ATTRIBUTES[name]:
                raise self._error(f"<{name}> cannot take {_cut(attribute)}={_short(value)}", _attribute_advice(name, attribute))
        language = attributes.get("xml:lang", self._language)
        if language is not None and self._language is not None and _primary(language) != _primary(self._language):
            what = f"<{name}> changes the language from {_short(self._language)} to {_short(language)}"
            raise self._error(what, "speak each language as a text of its own")
        self._language = language

    def _one_of(self, attribute: str, attributes: Mapping[str, str], known: Iterable[str], default: str) -> str:
        value = attributes.get(attribute, default)
        if value not in known:
            raise self._error(f"cannot read {attribute}={_short(value)}", f"{_like(value, known)}the values are {', '.join(known)}")
        return value


def _end_parts(text: str, parts: Sequence[_Part], preserve: bool) -> tuple[str, _Moves]:
    """The text with a blank line wherever a part begins that is no sentence's start by itself, and where offsets went.

    Of collapsed text the blank line takes the place of the space before the part, and is put before every paragraph.
    """
    starts = {start for start, _ in segment_sentences(text)}
    cuts = [part.cut for part in parts if part.start not in starts or (part.name == "p" and not preserve)]
    taken = 0 if preserve else 1
    pieces = [text[start : end - taken] for start, end in pairwise((0, *cuts))]
    return "\n\n".join((*pieces, text[cuts[-1] if cuts else 0 :])), _Moves(cuts, 2 - taken)


def _within(runs: Sequence[Word], start: int, end: int) -> range:
    """Indices of the words whose core holds some of the text ``[start, end)``."""
    first = bisect_right(runs, start, key=lambda word: word.core_end)
    return range(first, bisect_left(runs, end, lo=first, key=lambda word: word.core_start))


def _height(value: str) -> tuple[str, float] | None:
    """A pitch as (unit, height): a label, or a number in a unit that says whether it is a change. None if it cannot be read."""
    if value in _PITCHES:
        return "label", _PITCHES[value]
    pitch = _PITCH.fullmatch(value)
    if pitch is None:
        return None
    return f"{'change' if pitch['sign'] else 'absolute'} {pitch['unit']}", float(pitch["sign"] + pitch["number"])


def _turn(contour: str) -> str | None:
    """The mark for a contour that rises, or falls, from each point to the next or stays; None for any other."""
    points: list[tuple[float, float]] = []
    units: set[str] = set()
    position = 0
    while position < len(contour):
        point = _POINT.match(contour, position)
        pitch = _height(point["pitch"]) if point else None
        if point is None or pitch is None:
            return None
        units.add(pitch[0])
        points.append((float(point["time"]), pitch[1]))
        position = point.end()
    steps = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(points)]
    if len(units) != 1 or any(time <= 0 for time, _ in steps):
        return None
    rises, falls = any(step > 0 for _, step in steps), any(step < 0 for _, step in steps)
    if rises == falls:
        return None
    return "pitch_rising" if rises else "pitch_falling"


def _nearest_pause(ms: int) -> str:
    return min(PAUSES, key=lambda kind: abs(PAUSE_MS[kind] - ms))


def _primary(language: str) -> str:
    return language.split("-")[0].lower()


def _name(expanded: str) -> str:
    """The name of an element or attribute, from expat's "namespace name prefix"; SSML's own has no prefix."""
    if " " not in expanded:
        return expanded
    namespace, name, *prefix = expanded.split(" ")
    known = _PREFIXES.get(namespace)
    if known is None:
        known = f"{prefix[0]}:" if prefix else f"{{{namespace}}}"
    return known + name


def _attribute_advice(element: str, attribute: str) -> str:
    if element == "prosody" and attribute in _PROSODY_ADVICE:
        return _PROSODY_ADVICE[attribute]
    known = _ATTRIBUTES[element]
    return f"{_like(attribute, known)}its attributes are {', '.join(known)}"


def _like(value: str, known: Iterable[str], form: str = "{}") -> str:
    nearest = closest(_cut(value), known)
    return f"did you mean {form.format(nearest)}? " if nearest else ""


def _cut(value: str) -> str:
    """A name or value from the source, short enough for a message."""
    return value if len(value) <= 40 else value[:40] + "…"


def _short(value: str) -> str:
    return f'"{_cut(value)}"'


def _where(line: int, column: int) -> str:
    """Where expat is: it counts lines from 1 and columns from 0."""
    return f"line {line}, column {column + 1}"


# ---------------------------------------------------------------------------------------------------------------- writing

_TEXT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
_VALUE_ESCAPES = _TEXT_ESCAPES | str.maketrans({'"': "&quot;", "\n": "&#10;", "\t": "&#9;"})
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Changes of pitch, not labels: they add up, so a word can carry more than one.
_ELEMENTS: Mapping[str, tuple[str, str]] = {
    "emph": ("emphasis", 'level="strong"'),
    "pitch_high": ("prosody", 'pitch="+20%"'),
    "pitch_low": ("prosody", 'pitch="-20%"'),
    "pitch_rising": ("prosody", 'contour="(0%,+0%) (100%,+20%)"'),
    "pitch_falling": ("prosody", 'contour="(0%,+0%) (100%,-20%)"'),
}
_STRENGTH_OF: Mapping[str, str] = {"pause_short": "medium", "pause_long": "strong"}


class _Tagged(NamedTuple):
    """Text ``[start, end)`` that an element goes around. Of two around the same text the one of lower rank is the outer."""

    start: int
    end: int
    rank: int
    name: str
    attribute: str


def _tags(marked: MarkedText) -> list[tuple[int, str]]:
    """Every tag with its offset, in the order in which they are written."""
    tagged = [*_around_words(marked), *_around_aliases(marked)]
    # In one place: what ends there, inner first; then pauses; then what starts there, outer first.
    tags = [
        *(((item.end, 0, -item.start, -item.rank), f"</{item.name}>") for item in tagged),
        *(((mark.offset, 1, index, 0), _break_tag(mark)) for index, mark in enumerate(marked.marks) if mark.is_pause),
        *(((item.start, 2, -item.end, item.rank), f"<{item.name} {item.attribute}>") for item in tagged),
    ]
    return [(order[0], tag) for order, tag in sorted(tags)]


def _around_words(marked: MarkedText) -> list[_Tagged]:
    runs = segment_words(marked.text)
    bound: set[tuple[int, str]] = set()
    for mark in marked.marks:
        if mark.is_pause:
            continue
        index = word_after(runs, mark.offset)
        if index is None:
            raise MarkupError(f"<{mark.kind}> at offset {mark.offset} has no word after it; put it before one, or take it out")
        bound.add((index, mark.kind))
    # Elements must not cross: an element ends where an alias begins or ends within its word, and part of a word stands for it.
    borders = sorted(border for alias in marked.aliases for border in (alias.start, alias.end))
    tagged = []
    for index, kind in bound:
        word = runs[index]
        border = bisect_right(borders, word.core_start)
        end = min(word.core_end, borders[border]) if border < len(borders) else word.core_end
        tagged.append(_Tagged(word.core_start, end, KINDS.index(kind), *_ELEMENTS[kind]))
    return tagged


def _around_aliases(marked: MarkedText) -> list[_Tagged]:
    tagged: list[_Tagged] = []
    free = 0
    for alias in sorted(marked.aliases, key=lambda alias: alias.start):
        what = f"the alias for {alias.start} to {alias.end} of the text"
        if not free <= alias.start < alias.end <= len(marked.text):
            advice = "give each some text of its own"
            raise MarkupError(f"{what} is empty, overlaps another or lies outside the text's 0 to {len(marked.text)}; {advice}")
        free = alias.end
        _refuse_characters(alias.spoken, what)
        tagged.append(_Tagged(alias.start, alias.end, len(KINDS), "sub", f'alias="{alias.spoken.translate(_VALUE_ESCAPES)}"'))
    return tagged


def _break_tag(mark: Mark) -> str:
    """Time says the length, and the kind too where that is the nearest by length."""
    strength = f' strength="{_STRENGTH_OF[mark.kind]}"'
    if mark.ms is None:
        return f"<break{strength}/>"
    return f'<break{"" if _nearest_pause(mark.ms) == mark.kind else strength} time="{mark.ms}ms"/>'


def _refuse_characters(text: str, what: str) -> None:
    found = _NOT_XML.search(text)
    if found:
        where = line_column(text, found.start())
        raise MarkupError(f"{what} holds U+{ord(found[0]):04X} at {where}, which XML 1.0 cannot carry; take the character out")
