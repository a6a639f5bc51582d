"""Marked text and its inline notation."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scaling import is_linear

from prosody_tagger.errors import BadInput, MarkupError
from prosody_tagger.markup import (
    KINDS,
    MAX_PAUSE_MS,
    PAUSE_MS,
    PAUSES,
    Alias,
    Mark,
    MarkedText,
    closest,
    line_column,
    normalise,
    parse,
    plain,
    render,
)
from prosody_tagger.segment import segment_words, slot_of

NASTY = [
    "<emph>", "</emph>", "<emph", "<pause_short:1200ms>", "<pause_long: 1.5 s >", "<b>", "<", ">", "\\", "\\<", "\\\\",
    " ", "  ", "\n", "\r\n", "\x00", "\x1b", "e\u0301", "\u0301", "שלום", "مرحبا", "\u202e", "👩‍👩‍👧", "\u200d",
    "你好。", "ครับ", "word", "Mr. ", "--", "—", "$299", "\ufeff",
]  # fmt: skip
TEXTS = st.text("a <\\", max_size=5) | st.lists(st.sampled_from(NASTY) | st.characters(exclude_categories=["Cs"]), max_size=12).map(
    "".join
)


@st.composite
def marked_texts(draw: st.DrawFn) -> MarkedText:
    text = draw(TEXTS)
    pauses = st.builds(Mark, st.sampled_from(PAUSES), st.integers(0, len(text)), st.none() | st.integers(0, MAX_PAUSE_MS))
    others = st.builds(Mark, st.sampled_from([kind for kind in KINDS if kind not in PAUSES]), st.integers(0, len(text)))
    return MarkedText(text, tuple(draw(st.lists(pauses | others, max_size=6))))


# Round trips


@given(marked_texts())
def test_parse_undoes_render(marked: MarkedText) -> None:
    assert parse(render(marked)) == marked


@given(TEXTS)
def test_any_plain_text_round_trips(text: str) -> None:
    assert parse(render(plain(text))) == plain(text) == MarkedText(text, ())


@pytest.mark.parametrize("source", ["a <emph>  b", "a <emph><pause_long>  b", " <emph>  ", "a <emph>b", "a<emph>  b", "a  <emph>b"])
def test_a_mark_between_two_spaces_is_written_with_the_space_it_removes(source: str) -> None:
    assert render(parse(source)) == source


def test_a_megabyte_round_trips() -> None:
    text = "I <emph>never\\ said 👩‍👩‍👧 שלום\r\n" * 33_000
    assert len(text) > 1_000_000
    assert parse(render(plain(text))).text == text


@pytest.mark.parametrize(
    ("source", "text", "marks"),
    [
        ("It's <emph>only $299", "It's only $299", (Mark("emph", 5),)),
        ("It's <emph> only", "It's only", (Mark("emph", 5),)),
        ("It's<emph> only", "It's only", (Mark("emph", 4),)),
        ("<emph> only", " only", (Mark("emph", 0),)),
        ("a  <emph>  b", "a   b", (Mark("emph", 3),)),
        ("a <emph> <pause_short> b", "a b", (Mark("emph", 2), Mark("pause_short", 2))),
        ("a <pause_short>", "a ", (Mark("pause_short", 2),)),
        ("a\t<emph>\tb", "a\t\tb", (Mark("emph", 2),)),
        ("a \\<emph> b", "a <emph> b", ()),
        ("a\\\\<emph>b", "a\\b", (Mark("emph", 2),)),
        ("a\\b\\", "a\\b\\", ()),
        ("a < b, <3, < emph>, a<b", "a < b, <3, < emph>, a<b", ()),
        ("", "", ()),
        ("<pause_long>", "", (Mark("pause_long", 0),)),
        ("a<pause_short:0ms>b", "ab", (Mark("pause_short", 1, 0),)),
        ("a<pause_long:1.5s>b", "ab", (Mark("pause_long", 1, 1500),)),
        ("a<pause_long: 1.5 s >b", "ab", (Mark("pause_long", 1, 1500),)),
        ("a<pause_short:60000ms>b", "ab", (Mark("pause_short", 1, 60_000),)),
    ],
)
def test_parse(source: str, text: str, marks: tuple[Mark, ...]) -> None:
    assert parse(source) == MarkedText(text, marks)


def test_marks_at_one_offset_keep_their_order() -> None:
    doubled = parse("<pause_long><emph><pause_short><pause_long:5ms>a")
    assert [mark.kind for mark in doubled.marks] == ["pause_long", "emph", "pause_short", "pause_long"]


# Errors


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("one\ntwo <emhp>x", ["'<emhp>'", "line 2, column 5", "<emph>"]),
        ("<EMPH>x", ["'<EMPH>'", "line 1, column 1", "<emph>"]),
        ("x</emph>", ["'</emph>'", "line 1, column 2"]),
        ("<b>x", ["'<b>'", "line 1, column 1", "\\<"]),
        ("a <paus_short>x", ["did you mean <pause_short>?", "column 3"]),
        ("a\n<emph x", ["<emph at line 2, column 1", "not closed"]),
        ("<pause_short", ["<pause_short at line 1, column 1", "not closed"]),
        ("<emph<emph>", ["not closed", "column 1"]),
        ("<emph:5ms>x", ["'<emph:5ms>'", "line 1, column 1"]),
        ("<pause_short:5>x", ["'<pause_short:5>'", "<pause_short:1200ms>"]),
        ("<pause_short:-5ms>x", ["'<pause_short:-5ms>'"]),
        ("<pause_short:99999ms>x", ["99999", "60000", "line 1, column 1"]),
    ],
)
def test_bad_marks_are_named_with_line_and_column(source: str, parts: list[str]) -> None:
    with pytest.raises(MarkupError) as caught:
        parse(source)
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, BadInput)


@pytest.mark.parametrize("refuse", [plain, parse, MarkedText])
def test_lone_surrogates_are_refused(refuse: Callable[[str], object]) -> None:
    with pytest.raises(MarkupError, match=r"U\+D83D at line 2, column 3"):
        refuse("a\nbc\ud83d")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mark("emphasis", 0), "did you mean <emph>"),
        (lambda: Mark("zzz", 0), "unknown mark 'zzz'; the marks are"),
        (lambda: Mark("emph", -1), "offset -1"),
        (lambda: Mark("emph", 0, 5), "takes no length"),
        (lambda: Mark("pause_short", 0, -1), "-1 ms"),
        (lambda: Mark("pause_short", 0, MAX_PAUSE_MS + 1), "60001 ms"),
        (lambda: MarkedText("abc", (Mark("emph", 4),)), "offset 4 is past the text's end, 3"),
    ],
)
def test_invalid_marks(make: Callable[[], object], message: str) -> None:
    with pytest.raises(MarkupError, match=message):
        make()


# Marks and marked text


def test_marks_are_kept_in_order_of_offset() -> None:
    marked = MarkedText("a b", (Mark("emph", 2), Mark("pause_long", 0), Mark("pause_short", 2)))
    assert marked.marks == (Mark("pause_long", 0), Mark("emph", 2), Mark("pause_short", 2))


def test_the_silence_of_a_mark() -> None:
    assert Mark("pause_short", 0).silence_ms == PAUSE_MS["pause_short"] == 250
    assert Mark("pause_long", 0).silence_ms == PAUSE_MS["pause_long"] == 700
    assert Mark("pause_long", 0, 0).silence_ms == 0
    assert Mark("emph", 0).silence_ms == 0


def test_a_slice_has_its_own_offsets() -> None:
    marked = MarkedText("one two", (Mark("emph", 0), Mark("pause_long", 4, 9), Mark("pause_short", 7)), (Alias(4, 7, "2"),))
    assert marked.slice(0, 4) == MarkedText("one ", (Mark("emph", 0),))
    assert marked.slice(4, 7) == MarkedText("two", (Mark("pause_long", 0, 9),), (Alias(0, 3, "2"),))
    assert marked.slice(4, 7, with_end=True).marks == (Mark("pause_long", 0, 9), Mark("pause_short", 3))
    assert marked.slice(5, 7).aliases == ()


@given(marked_texts(), st.data())
def test_every_mark_is_in_one_slice(marked: MarkedText, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(marked.text)))
    left, right = marked.slice(0, cut), marked.slice(cut, len(marked.text), with_end=True)
    assert left.text + right.text == marked.text
    assert [*left.marks, *(Mark(mark.kind, mark.offset + cut, mark.ms) for mark in right.marks)] == list(marked.marks)


# Normalise


@given(marked_texts())
def test_normalise_keeps_its_rules(marked: MarkedText) -> None:
    normal = normalise(marked)
    runs = segment_words(marked.text)
    end = len(marked.text)
    assert normal.text == marked.text
    slots = {(slot_of(runs, mark.offset, end), mark.kind) for mark in marked.marks}
    assert {(mark.offset, mark.kind) for mark in normal.marks} == {key for key in slots if key[0] < end or key[1] not in PAUSES}
    assert len(normal.marks) == len({(mark.offset, mark.kind) for mark in normal.marks})
    order = ["pause_short", "pause_long", "emph", "pitch_high", "pitch_low", "pitch_rising", "pitch_falling"]
    keys = [(mark.offset, order.index(mark.kind)) for mark in normal.marks]
    assert keys == sorted(keys)


@given(marked_texts())
def test_normalise_twice_is_normalise_once(marked: MarkedText) -> None:
    assert normalise(normalise(marked)) == normalise(marked)


@pytest.mark.parametrize(
    ("source", "normal"),
    [
        ("<emph><pause_short>a", "<pause_short><emph>a"),
        ("<emph><emph>a", "<emph>a"),
        ("a '<emph>b'", "a <emph>'b'"),
        ("a b<emph>c", "a <emph>bc"),
        ("a<pause_short> b", "a <pause_short>b"),
        ("a<pause_long>.", "a."),
        ("<pause_short:9ms><pause_short><pause_short:20ms>a", "<pause_short>a"),
        ("<pause_short><pause_short:300ms>a", "<pause_short:300ms>a"),
        (
            "<pitch_falling><pitch_high><emph><pause_long><pause_short>a",
            "<pause_short><pause_long><emph><pitch_high><pitch_falling>a",
        ),
    ],
)
def test_normalise(source: str, normal: str) -> None:
    assert render(normalise(parse(source))) == normal


def test_normalise_keeps_aliases() -> None:
    marked = MarkedText("W3C", (), (Alias(0, 3, "World Wide Web Consortium"),))
    assert normalise(marked) == marked


# Helpers


def test_lines_and_columns_are_counted_from_one() -> None:
    assert line_column("ab\nc", 0) == "line 1, column 1"
    assert line_column("ab\nc", 3) == "line 2, column 1"
    assert line_column("ab\nc", 4) == "line 2, column 2"


def test_the_closest_name() -> None:
    assert closest("EMPHASIS", KINDS) == "emph"
    assert closest("pause", PAUSES) in PAUSES
    assert closest("xyzzy", KINDS) is None


# Hostile text takes linear time


HOSTILE: dict[str, Callable[[int], str]] = {
    "angles": lambda size: "<a" * (size // 2),
    "long names": lambda size: ("<" + "a" * 193) * (size // 194),
    "long tags": lambda size: ("<a" + " " * 127) * (size // 129),
    "marks": lambda size: "<emph>a\n" * (size // 8),
    "timed pauses": lambda size: " <pause_short:1200ms> " * (size // 22),
    "backslashes": lambda size: "\\" * size,
    "spaces": lambda size: " " * size,
    "stops": lambda size: "!" * size,
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_takes_linear_time(make: Callable[[int], str]) -> None:
    assert is_linear(parse, make(60_000), make(240_000))
    assert is_linear(lambda text: render(plain(text)), make(60_000), make(240_000))


@pytest.mark.parametrize("text", ["<a" * 500_000, "\\" * 1_000_000, "!" * 1_000_000, '"' * 1_000_000, "\n " * 500_000])
def test_a_hostile_megabyte_round_trips(text: str) -> None:
    assert parse(render(plain(text))).text == text


def test_normalise_takes_linear_time() -> None:
    assert is_linear(lambda text: normalise(parse(text)), "<emph>a " * 5_000, "<emph>a " * 20_000)
