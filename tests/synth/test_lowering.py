"""Marks grouped by what a backend supports, commas before pauses, and the bound on a text's duration."""

import pytest

from synth.lowering import add_comma, comma_offsets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is", "It is,"),
        ("是的", "是的,"),
        ("save 30%", "save 30%,"),
        ("he said (yes)", "he said (yes),"),
        ("he said “yes”", "he said “yes”,"),
        ("he said “yes!”", "he said “yes!”"),
        ("It is,", "It is,"),
        ("Yes!", "Yes!"),
        ("wait —", "wait —"),
        ("It is ", "It is "),
        ("", ""),
    ],
)
def test_a_comma_is_added_where_no_punctuation_stands(text: str, expected: str) -> None:
    assert add_comma(text) == expected


def test_a_comma_leads_up_to_each_break_but_the_first_word() -> None:
    text = "It is free, and 30% (yes) yours to keep."
    breaks = {text.index(word) for word in ("It", "and", "(yes)", "yours", "keep")}
    assert [text[:offset].split()[-1] for offset in comma_offsets(text, breaks)] == ["30%", "(yes)", "to"]
    assert comma_offsets(text, ()) == []
