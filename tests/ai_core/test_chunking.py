import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_core.chunking import Chunks, at_slots, split_chunks
from prosody_tagger.markup import Mark, MarkedText, parse


def cut_of(source: str, max_chars: int = 2000) -> tuple[list[str], tuple[int | None, ...]]:
    marked = at_slots(parse(source))
    found = split_chunks(marked, max_chars)
    return [marked.text[start:end] for start, end in found.spans], found.gaps


@pytest.mark.parametrize(
    ("source", "spans", "gaps"),
    [
        ("It is only today.", ["It is only today."], (None, None)),
        ("It is <pause_short>only today.", ["It is ", "only today."], (None, 250, None)),
        ("<pause_long>It is.", ["It is."], (700, None)),
        ("It is.<pause_short:90ms>", ["It is."], (None, 90)),
        ("It <pause_short><pause_long>is.", ["It ", "is."], (None, 950, None)),
        ("It <pause_short> <pause_short>is.", ["It ", "is."], (None, 500, None)),
        ("hello<pause_short>, world", ["hello, ", "world"], (None, 250, None)),
        ("un<pause_short>believable", ["un", "believable"], (None, 250, None)),
        ("<pause_short>", [], (250,)),
        ("<pause_short> ... <pause_long>", [], (950,)),
        ("one <pause_short:0ms>two", ["one two"], (None, None)),
        ("", [], (None,)),
        ("你好<pause_short>世界", ["你好", "世界"], (None, 250, None)),
    ],
)
def test_split_at_pauses(source: str, spans: list[str], gaps: tuple[int | None, ...]) -> None:
    assert cut_of(source) == (spans, gaps)


def test_a_long_span_is_split_after_a_clause_else_at_a_word_else_anywhere() -> None:
    assert cut_of("one two, three four five", 16)[0] == ["one two, ", "three four five"]
    assert cut_of("one two three four", 10)[0] == ["one two ", "three four"]
    assert cut_of("a" * 25, 10)[0] == ["a" * 10, "a" * 10, "a" * 5]
    assert set(cut_of("one two three four", 10)[1]) == {None}


def test_marks_move_to_their_slots_except_pauses_inside_a_word() -> None:
    assert at_slots(MarkedText("'on ly", (Mark("emph", 1), Mark("pause_short", 3)))).marks == (
        Mark("emph", 0),
        Mark("pause_short", 4),
    )
    assert at_slots(MarkedText("only", (Mark("pause_short", 2), Mark("emph", 2)))).marks == (
        Mark("emph", 0),
        Mark("pause_short", 2),
    )


texts = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" ,.—\n\x00'")), max_size=60)


@given(texts, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 900)), max_size=6), st.integers(1, 30))
def test_every_span_fits_and_no_pause_is_lost(text: str, pauses: list[tuple[int, int]], max_chars: int) -> None:
    marks = tuple(Mark("pause_short", min(offset, len(text)), ms) for offset, ms in pauses)
    marked = at_slots(MarkedText(text, marks))
    found: Chunks = split_chunks(marked, max_chars)
    assert len(found.gaps) == len(found.spans) + 1
    assert all(0 < end - start <= max_chars for start, end in found.spans)
    assert all(left[1] <= right[0] for left, right in zip(found.spans, found.spans[1:], strict=False))
    assert sum(gap or 0 for gap in found.gaps) == sum(mark.silence_ms for mark in marks)
