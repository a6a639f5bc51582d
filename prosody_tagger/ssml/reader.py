"""Reads SSML."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple
from xml.parsers import expat

from prosody_tagger.errors import MarkupError
from prosody_tagger.markup import KINDS, MAX_PAUSE_MS, Alias, Mark, MarkedText, closest, plain
from prosody_tagger.segment import Word, segment_sentences, segment_words
from prosody_tagger.ssml.elements import (
    ATTRIBUTES,
    BREAK_STRENGTHS,
    EMPHASIS_LEVELS,
    NOT_INSIDE,
    PITCH_LABELS,
    PROSODY_ADVICE,
    contour_mark,
    nearest_pause,
    parse_milliseconds,
    parse_pitch,
    prefixed_name,
)

MAX_DEPTH = 100
"""The deepest nesting of elements that is accepted."""

_XML_ADVICE: Mapping[str, str] = {
    expat.errors.XML_ERROR_INVALID_TOKEN: "write a literal & as &amp; and a literal < as &lt;, and remove control characters",
    expat.errors.XML_ERROR_UNDEFINED_ENTITY: "write the character itself, or its number as in &#160;",
    expat.errors.XML_ERROR_TAG_MISMATCH: "close each element by its own name, the inner one first",
}
_PITCH_LEVELS = frozenset(("pitch_high", "pitch_low"))
_SPACE = re.compile(r"[ \t\r\n]+")


def from_ssml(source: str) -> MarkedText:
    """Read an SSML document. A declared encoding is ignored, because the string is already decoded.

    emph and pitch marks are placed at the start of their word's run, one of each kind a word; a pause is placed where the text
    after it starts. At one offset pauses come first, then emph, then pitch.

    Raises:
        MarkupError: the source is not well-formed, has a DTD, is nested deeper than `MAX_DEPTH`, holds an unsupported element,
            attribute or value, or an emphasis or prosody element without a word. The message gives line and column.
    """
    return _SsmlReader().read(source)


@dataclass(slots=True)
class _OpenElement:
    """An element whose end tag has not been read yet.

    Attributes:
        name: the element's name.
        position: line and column of its start tag.
        kinds: kinds of mark that apply to the words inside.
        contour: mark for the last word inside, from a pitch contour.
        alias: spoken form of its text, for <sub>.
        start: offset of its text; None until the first text.
    """

    name: str
    position: str
    kinds: frozenset[str]
    contour: str | None = None
    alias: str = ""
    start: int | None = None


class _MarkedSpan(NamedTuple):
    """The text ``[start, end)`` of an element that must contain a word, and the contour mark for its last word."""

    name: str
    position: str
    contour: str | None
    start: int
    end: int


class _PartStart(NamedTuple):
    """The start of a paragraph or sentence ("p" or "s"). A blank line that separates it would be inserted at ``cut``."""

    name: str
    cut: int
    start: int


class _OffsetShift(NamedTuple):
    """Maps offsets across insertions of ``by`` characters at each of ``cuts``.

    The start of a span at a cut moves with the text after it, the end of a span does not.
    """

    cuts: list[int]
    by: int

    def start(self, offset: int) -> int:
        return offset + self.by * bisect_right(self.cuts, offset)

    def end(self, offset: int) -> int:
        return offset + self.by * bisect_left(self.cuts, offset)


class _SsmlReader:
    """Collects the text of one document, and the spans, pauses and aliases of its elements."""

    def __init__(self) -> None:
        # Names arrive as "namespace name prefix", so a prefix means what the document declares it to mean.
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.namespace_prefixes = True
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._stack: list[_OpenElement] = []
        self._language: str | None = None
        self._preserve = False
        self._pieces: list[str] = []
        self._length = 0
        self._has_words = False
        # Read since the last text; takes effect at the start of the next text.
        self._pending_space = False
        self._pending_part: str | None = None
        self._pending_part_offset = 0
        self._pending_breaks: list[tuple[str, int | None]] = []
        # Results, by offset.
        self._parts: list[_PartStart] = []
        self._pauses: list[Mark] = []
        self._kind_spans: list[tuple[str, int, int]] = []
        self._marked_spans: list[_MarkedSpan] = []
        self._aliases: list[Alias] = []

    def read(self, source: str) -> MarkedText:
        plain(source)  # rejects lone surrogates
        try:
            self._parser.Parse(source, True)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            advice = _XML_ADVICE.get(reason, "an SSML document is <speak>...</speak>")
            position = _line_column(error.lineno, error.offset)
            raise MarkupError(f"the SSML is not well-formed at {position}: {reason}; {advice}") from None
        self._add_pending_breaks()
        return self._marked_text()

    # Handlers that expat calls ----------------------------------------------------------------------------------------

    def _doctype(self, name: str, *_: object) -> None:
        raise self._error(f"a DTD (<!DOCTYPE {_quoted(name)}>) is not read", "remove it; SSML needs none")

    def _start(self, tag: str, expanded: dict[str, str]) -> None:
        name = prefixed_name(tag)
        self._check_element(name)
        attributes = {prefixed_name(attribute): value for attribute, value in expanded.items()}
        self._check_attributes(name, attributes)
        kinds = self._stack[-1].kinds if self._stack else frozenset()
        element = _OpenElement(name, self._position(), kinds)
        self._stack.append(element)
        match name:
            case "speak":
                self._preserve = self._one_of("xml:space", attributes, ("default", "preserve"), "default") == "preserve"
            case "p" | "s":
                self._begin_part(name)
            case "break":
                self._break(attributes)
            case "emphasis":
                emphasised = EMPHASIS_LEVELS[self._one_of("level", attributes, EMPHASIS_LEVELS, "moderate")]
                element.kinds = kinds | {"emph"} if emphasised else kinds - {"emph"}
            case "prosody":
                self._prosody(element, attributes)
            case "sub":
                if "alias" not in attributes:
                    raise self._error("<sub> has no alias", 'give the spoken form of its text, as in <sub alias="...">')
                element.alias = attributes["alias"]

    def _end(self, tag: str) -> None:
        element = self._stack.pop()
        start = self._length if element.start is None else element.start
        if element.name in ("p", "s"):
            self._begin_part(element.name)
        elif element.name in ("emphasis", "prosody"):
            self._marked_spans.append(_MarkedSpan(element.name, element.position, element.contour, start, self._length))
        elif element.name == "sub":
            if element.start is None:
                raise MarkupError(f"<sub> at {element.position} has no text; give it the text that its alias replaces")
            self._aliases.append(Alias(start, self._length, element.alias))

    def _characters(self, data: str) -> None:
        if self._stack[-1].name == "break":
            raise self._inside_break_error("text")
        if self._preserve:
            self._add(data)
            return
        data = _SPACE.sub(" ", data)
        text = data.strip(" ")
        self._pending_space |= data.startswith(" ")
        if text:
            self._add(text)
            self._pending_space = data.endswith(" ")

    # Elements ---------------------------------------------------------------------------------------------------------

    def _begin_part(self, name: str) -> None:
        """Begin a part at the next text, at the start and at the end of a paragraph or sentence."""
        if self._pending_part is None:
            self._pending_part_offset = self._length
        self._pending_part = "p" if self._pending_part == "p" else name

    def _break(self, attributes: Mapping[str, str]) -> None:
        kind = BREAK_STRENGTHS[self._one_of("strength", attributes, BREAK_STRENGTHS, "medium")]
        time = attributes.get("time")
        if time is None:
            if kind:
                self._pending_breaks.append((kind, None))
            return
        ms = parse_milliseconds(time)
        if ms is None:
            raise self._error(f"cannot read time={_quoted(time)}", 'write it as time="500ms" or time="1.5s"')
        if ms > MAX_PAUSE_MS:
            raise self._error(f"a pause of {ms} ms is too long", f"give at most {MAX_PAUSE_MS} ms")
        if kind is None or "strength" not in attributes:
            kind = nearest_pause(ms)
        self._pending_breaks.append((kind, ms))

    def _prosody(self, element: _OpenElement, attributes: Mapping[str, str]) -> None:
        if not attributes:
            raise self._error("<prosody> has no effect", 'give it a pitch, as in <prosody pitch="high">')
        if "pitch" in attributes:
            value = attributes["pitch"]
            pitch = parse_pitch(value)
            if pitch is None or pitch[0].startswith("absolute"):
                advice = (
                    f"{_suggestion(value, PITCH_LABELS)}give one of {', '.join(PITCH_LABELS)}, or a change such as +10% or -2st"
                )
                raise self._error(f"cannot read pitch={_quoted(value)}", advice)
            unit, height = pitch
            outer = element.kinds - _PITCH_LEVELS if unit == "label" else element.kinds
            element.kinds = outer | {"pitch_high" if height > 0 else "pitch_low"} if height else outer
        if "contour" in attributes:
            value = attributes["contour"]
            element.contour = contour_mark(value)
            if element.contour is None:
                advice = 'give one that does, as in contour="(0%,+0%) (100%,+20%)"'
                raise self._error(f"contour={_quoted(value)} neither rises nor falls throughout", advice)

    def _add(self, text: str) -> None:
        """Add text that is not white space alone, or any text where white space is preserved."""
        if not self._preserve and self._length and (self._pending_space or self._pending_part):
            self._pieces.append(" ")
            self._length += 1
        self._pending_space = False
        leading = len(text) - len(text.lstrip()) if self._preserve else 0
        if leading < len(text):
            if self._pending_part and self._has_words:
                cut = self._pending_part_offset if self._preserve else self._length
                self._parts.append(_PartStart(self._pending_part, cut, self._length + leading))
            self._pending_part = None
            self._has_words = True
        self._add_pending_breaks()
        start = self._length
        self._pieces.append(text)
        self._length += len(text)
        for element in reversed(self._stack):
            if element.start is not None:
                break
            element.start = start
        self._kind_spans += ((kind, start, self._length) for kind in self._stack[-1].kinds)

    def _add_pending_breaks(self) -> None:
        self._pauses += (Mark(kind, self._length, ms) for kind, ms in self._pending_breaks)
        self._pending_breaks.clear()

    # Result -----------------------------------------------------------------------------------------------------------

    def _marked_text(self) -> MarkedText:
        text, shift = _separate_parts("".join(self._pieces), self._parts, self._preserve)
        runs = segment_words(text)
        marked: set[tuple[str, int]] = set()
        for span in self._marked_spans:
            inside = _words_inside(runs, shift.start(span.start), shift.end(span.end))
            if not inside:
                raise MarkupError(f"<{span.name}> at {span.position} has no word in it; put it around one, or remove it")
            if span.contour:
                marked.add((span.contour, inside[-1]))
        for kind, start, end in self._kind_spans:
            marked.update((kind, index) for index in _words_inside(runs, shift.start(start), shift.end(end)))
        pauses = (Mark(pause.kind, shift.start(pause.offset), pause.ms) for pause in self._pauses)
        word_marks = (Mark(kind, runs[index].start) for kind, index in sorted(marked, key=lambda mark: KINDS.index(mark[0])))
        aliases = (Alias(shift.start(alias.start), shift.end(alias.end), alias.spoken) for alias in self._aliases)
        return MarkedText(text, (*pauses, *word_marks), tuple(aliases))

    # Errors -----------------------------------------------------------------------------------------------------------

    def _position(self) -> str:
        return _line_column(self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber)

    def _error(self, problem: str, advice: str) -> MarkupError:
        return MarkupError(f"{problem} at {self._position()}; {advice}")

    def _inside_break_error(self, content: str) -> MarkupError:
        return MarkupError(f"<break> at {self._stack[-1].position} holds {content}; write <break/>, and put the content after it")

    def _check_element(self, name: str) -> None:
        if name not in ATTRIBUTES:
            supported = ", ".join(f"<{element}>" for element in ATTRIBUTES)
            advice = f"{_suggestion(name, ATTRIBUTES, '<{}>')}the elements read are {supported}"
            raise self._error(f"unknown element <{_shortened(name)}>", advice)
        if not self._stack and name != "speak":
            raise self._error(f"the document is a <{name}>", "put it in <speak>...</speak>")
        if len(self._stack) == MAX_DEPTH:
            raise self._error(f"<{name}> is nested deeper than {MAX_DEPTH} elements", "remove redundant elements")
        if self._stack and self._stack[-1].name == "break":
            raise self._inside_break_error(f"<{name}>")
        forbidden = NOT_INSIDE.get(name, ())
        outer = next((outer for outer in self._stack if outer.name in forbidden), None) if forbidden else None
        if outer:
            raise self._error(f"<{name}> is within <{outer.name}> ({outer.position})", f"close the <{outer.name}> before it")

    def _check_attributes(self, name: str, attributes: Mapping[str, str]) -> None:
        for attribute, value in attributes.items():
            if attribute not in ATTRIBUTES[name]:
                problem = f"<{name}> cannot take {_shortened(attribute)}={_quoted(value)}"
                raise self._error(problem, _attribute_advice(name, attribute))
        language = attributes.get("xml:lang", self._language)
        if language is not None and self._language is not None and _primary_tag(language) != _primary_tag(self._language):
            problem = f"<{name}> changes the language from {_quoted(self._language)} to {_quoted(language)}"
            raise self._error(problem, "speak each language as a separate text")
        self._language = language

    def _one_of(self, attribute: str, attributes: Mapping[str, str], values: Iterable[str], default: str) -> str:
        value = attributes.get(attribute, default)
        if value not in values:
            advice = f"{_suggestion(value, values)}the values are {', '.join(values)}"
            raise self._error(f"cannot read {attribute}={_quoted(value)}", advice)
        return value


def _separate_parts(text: str, parts: Sequence[_PartStart], preserve: bool) -> tuple[str, _OffsetShift]:
    """Insert a blank line before each part that does not already start a sentence, and return the shift of offsets.

    Where white space is collapsed, the blank line replaces the space before the part, and every paragraph gets one.
    """
    starts = {start for start, _ in segment_sentences(text)}
    cuts = [part.cut for part in parts if part.start not in starts or (part.name == "p" and not preserve)]
    replaced = 0 if preserve else 1
    pieces = [text[start : end - replaced] for start, end in pairwise((0, *cuts))]
    return "\n\n".join((*pieces, text[cuts[-1] if cuts else 0 :])), _OffsetShift(cuts, 2 - replaced)


def _words_inside(runs: Sequence[Word], start: int, end: int) -> range:
    """Return the indices of the words whose core overlaps the text ``[start, end)``."""
    first = bisect_right(runs, start, key=lambda word: word.core_end)
    return range(first, bisect_left(runs, end, lo=first, key=lambda word: word.core_start))


def _primary_tag(language: str) -> str:
    return language.split("-")[0].lower()


def _attribute_advice(element: str, attribute: str) -> str:
    if element == "prosody" and attribute in PROSODY_ADVICE:
        return PROSODY_ADVICE[attribute]
    supported = ATTRIBUTES[element]
    return f"{_suggestion(attribute, supported)}its attributes are {', '.join(supported)}"


def _suggestion(value: str, known: Iterable[str], template: str = "{}") -> str:
    nearest = closest(_shortened(value), known)
    return f"did you mean {template.format(nearest)}? " if nearest else ""


def _shortened(value: str) -> str:
    """Return a name or value from the source, short enough for a message."""
    return value if len(value) <= 40 else value[:40] + "…"


def _quoted(value: str) -> str:
    return f'"{_shortened(value)}"'


def _line_column(line: int, column: int) -> str:
    """Return a position for a message, from expat's line (counted from 1) and column (from 0)."""
    return f"line {line}, column {column + 1}"
