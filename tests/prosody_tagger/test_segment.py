"""Words, slots and sentences by offset."""

from collections.abc import Callable

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from scaling import is_linear

from prosody_tagger.segment import segment_sentences, segment_words, slot_of, word_after

NASTY = [
    "a", "B", "no", "Mr", "e.g", "J", "Hello", "you're", "$299", "30%", ".", "!", "?", "...", "…", ",", '"', "'", "“",
    "”", "(", ")", "«", "»", "「", "」", "。", "！", "，", "—", "–", "-", "--", " ", "  ", "\n", "\n\n", "\r\n", "\t",
    "\x00", "\x1c", "\u00a0", "\u2028", "\u0085", "\u200b", "汉", "字", "ひ", "カ", "ข์", "ก", "ខ្មែរ", "e\u0301",
    "\u0301", "👩‍👩‍👧", "😀", "\u200d", "שלום", "مرحبا؟", "हिन्दी।", "\ufeff", "¿", "_", "*",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(NASTY) | st.characters(exclude_categories=["Cs"]), max_size=16).map("".join)


def cores(text: str) -> list[str]:
    return [word.core(text) for word in segment_words(text)]


def runs(text: str) -> list[str]:
    return [text[word.start : word.end] for word in segment_words(text)]


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in segment_sentences(text)]


# Invariants


@given(TEXTS)
def test_words_are_in_order_and_apart(text: str) -> None:
    found = segment_words(text)
    ends = [0, *(word.end for word in found)]
    for word, end_before in zip(found, ends, strict=False):
        assert end_before <= word.start <= word.core_start < word.core_end <= word.end <= len(text)
        assert not regex.search(r"\s", text[word.start : word.end])


@given(TEXTS)
def test_every_letter_and_number_is_in_a_core(text: str) -> None:
    inside = {offset for word in segment_words(text) for offset in range(word.core_start, word.core_end)}
    assert {match.start() for match in regex.finditer(r"[\p{L}\p{N}]", text)} <= inside


@given(TEXTS)
def test_sentences_cover_the_text(text: str) -> None:
    assert "".join(split(text)) == text
    assert all(split(text))


@given(TEXTS)
def test_a_word_and_its_slot_are_of_one_sentence(text: str) -> None:
    starts = {start for start, _ in segment_sentences(text)}
    for word in segment_words(text):
        assert not starts & set(range(word.start + 1, word.core_end))


@given(TEXTS, st.data())
def test_a_mark_binds_to_the_first_word_that_ends_after_it(text: str, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, len(text)))
    found = segment_words(text)
    after = [index for index, word in enumerate(found) if word.core_end > offset]
    assert word_after(found, offset) == (after[0] if after else None)
    assert slot_of(found, offset, len(text)) == (found[after[0]].start if after else len(text))


@given(TEXTS)
def test_a_slot_is_its_own(text: str) -> None:
    found = segment_words(text)
    for slot in [*(word.start for word in found), len(text)]:
        assert slot_of(found, slot, len(text)) == slot


# Words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t", []),
        ("... !!! —", []),
        ("It's only $299.", ["It's", "only", "$299"]),
        ('"Only," she (really) said...', ["Only", "she", "really", "said"]),
        ("30% off & more @ 5€ #1", ["30%", "off", "&", "more", "@", "5€", "#1"]),
        ("well-known up-to-date", ["well-known", "up-to-date"]),
        ("U.S. e.g. 3.14 www.a-b.org/c?d", ["U.S", "e.g", "3.14", "www.a-b.org/c?d"]),
        ("rock 'n' roll", ["rock", "n", "roll"]),
        ("e\u0301te\u0301 \u0301", ["e\u0301te\u0301", "\u0301"]),
        ("👩‍👩‍👧 !😀!", ["👩‍👩‍👧", "😀"]),
        ("שלום, עולם!", ["שלום", "עולם"]),
        ("مرحبا بالعالم؟", ["مرحبا", "بالعالم"]),
        ("a\x00b c\u200bd", ["a\x00b", "c\u200bd"]),
        ("a\u00a0b\u2028c", ["a", "b", "c"]),
        ("¿Qué?", ["Qué"]),
        ("a\r\nb", ["a", "b"]),
    ],
)
def test_cores(text: str, expected: list[str]) -> None:
    assert cores(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wait—what", ["wait—", "what"]),
        ("wait--what", ["wait--", "what"]),
        ("1990–1995", ["1990–", "1995"]),
        ("wait — what", ["wait", "what"]),
        ("wait—“what”—no", ["wait—", "“what”—", "no"]),
        ("a——b----c", ["a——", "b----", "c"]),
        ("—Hola", ["—Hola"]),
        ("well-known", ["well-known"]),
    ],
)
def test_words_are_cut_after_a_dash(text: str, expected: list[str]) -> None:
    assert runs(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好，世界。", ["你", "好，", "世", "界。"]),
        ("「你好。」她说", ["「你", "好。」", "她", "说"]),
        ("カタカナ", ["カタカナ"]),
        ("iPhone很好", ["iPhone", "很", "好"]),
        ("好。OK！Yes", ["好。", "OK！", "Yes"]),
        ("Hello。World", ["Hello。", "World"]),
        ("。好", ["好"]),
        ("他说（好）", ["他", "说", "（好）"]),
    ],
)
def test_scripts_without_spaces(text: str, expected: list[str]) -> None:
    assert runs(text) == expected


@pytest.mark.parametrize("text", ["สวัสดีครับ", "ភាសាខ្មែរ", "ພາສາລາວ", "မြန်မာ"])
def test_cuts_within_a_script_leave_its_marks_with_their_letters(text: str) -> None:
    assert len(segment_words(text)) > 1
    assert "".join(runs(text)) == text
    assert not [core for core in cores(text) if regex.match(r"\p{Mn}", core)]


def test_which_word_a_mark_binds_to() -> None:
    text = "Say 'only' now."
    found = segment_words(text)
    assert [(word.start, word.core_start, word.core_end, word.end) for word in found] == [
        (0, 0, 3, 3),
        (4, 5, 9, 10),
        (11, 11, 14, 15),
    ]
    assert [word_after(found, offset) for offset in (0, 2, 3, 4, 5, 8, 9, 10, 11, 13, 14, 15)] == [
        0,
        0,
        1,
        1,
        1,
        1,
        2,
        2,
        2,
        2,
        None,
        None,
    ]
    assert [slot_of(found, offset, len(text)) for offset in (0, 3, 6, 9, 14)] == [0, 4, 4, 11, 15]
    assert word_after([], 0) is None
    assert slot_of([], 0, 0) == 0


# Sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("   ", ["   "]),
        ("Hello", ["Hello"]),
        ("Hello. World!  Yes? ", ["Hello. ", "World!  ", "Yes? "]),
        ("He said “No.” Then he left.", ["He said “No.” ", "Then he left."]),
        ("“One.” “Two.”", ["“One.” ", "“Two.”"]),
        ("Wait... what? No.", ["Wait... what? ", "No."]),
        ("Wait… What?!", ["Wait… ", "What?!"]),
        ("Dr. Smith met Mr. Jones vs. J. Doe.", ["Dr. Smith met Mr. Jones vs. J. Doe."]),
        ("Use e.g. Python, i.e. this.", ["Use e.g. Python, i.e. this."]),
        ("It was I. He knew.", ["It was I. ", "He knew."]),
        ("See No. 5. She said no. He left.", ["See No. 5. ", "She said no. ", "He left."]),
        ("It is 3.14 or so. ok", ["It is 3.14 or so. ok"]),
        ("¿Qué? ¡Nada! Bien.", ["¿Qué? ", "¡Nada! ", "Bien."]),
        ("你好。世界！「好。」她", ["你好。", "世界！", "「好。」", "她"]),
        ("مرحبا؟ نعم", ["مرحبا؟ ", "نعم"]),
        ("हाँ। नहीं।", ["हाँ। ", "नहीं।"]),
        ("A title\n\nand text", ["A title\n\n", "and text"]),
        ("one\ntwo", ["one\ntwo"]),
        ("hello.\n\nworld", ["hello.\n\n", "world"]),
        ("Ask Mr.\r\n \r\nSmith", ["Ask Mr.\r\n \r\n", "Smith"]),
        ("Hello.\n\n  ", ["Hello.\n\n  "]),
        ("\n\nHello", ["\n\nHello"]),
        ("  Hello. World", ["  Hello. ", "World"]),
    ],
)
def test_where_sentences_end(text: str, expected: list[str]) -> None:
    assert split(text) == expected


# Hostile text takes linear time


@pytest.mark.parametrize(
    "unit",
    [
        "!", "<a", "\n ", "\n\t", '"', ".", ". ", '."', "a. ", "e.g. ", "e.g.\n\n", "-", "—", "a—", "—(", "—!", "--a",
        "(", "汉", "汉!", "ก", "ひ—", "。", '。"', "。(", "a!", "\u0301", "👩‍👩‍👧", "مرحبا ", "\x1c\n", " ", "a",
    ],
)  # fmt: skip
@pytest.mark.parametrize("work", [segment_words, segment_sentences])
def test_hostile_text_takes_linear_time(work: Callable[[str], object], unit: str) -> None:
    count = 20_000 // len(unit)
    assert is_linear(work, unit * count, unit * count * 4)


@pytest.mark.parametrize(
    ("first", "rest"),
    [("a", "!"), (".", " "), ("。", '"'), ("\n", "\t"), ("汉", "("), ("ก", "\u0301"), ("a", "\u0301"), ("—", "!")],
)
@pytest.mark.parametrize("work", [segment_words, segment_sentences])
def test_one_long_run_takes_linear_time(work: Callable[[str], object], first: str, rest: str) -> None:
    assert is_linear(work, first + rest * 50_000, first + rest * 200_000)


@pytest.mark.parametrize("text", ["!" * 1_000_000, "<a" * 500_000, "\n " * 500_000, '"' * 1_000_000])
def test_a_hostile_megabyte_is_split(text: str) -> None:
    assert "".join(split(text)) == text
    assert len(segment_words(text)) == (1 if text.startswith("<") else 0)
