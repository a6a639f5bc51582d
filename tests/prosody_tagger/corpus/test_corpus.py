import contextlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prosody_tagger.corpus.examples import UNKNOWN, LabelledText
from prosody_tagger.corpus.readers import merge_labellings, read_examples, read_files
from prosody_tagger.corpus.splits import OVERLAP_WORDS, drop_repeats, hold_out, remove_overlap
from prosody_tagger.errors import DataError

COLUMNS_V3 = "<file>\t12_34_000001_000000.txt\nHe\t0\t0\t0.1\t0.0\nran\t2\t2\t2.4\t2.0\n.\tNA\tNA\tNA\tNA\n"
COLUMNS_V1 = "<file>\t12_34_000001_000000.txt\nHe\t1\t0\nran\t1\t1\n.\tNA\tNA\n<file>\t12_34_000002_000000.txt\nNo\t1\t2\n"


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def marked(text: str, source: str = "", speaker: str = "") -> LabelledText:
    count = len(text.split())
    return LabelledText(source, text, (UNKNOWN,) * count, (0,) * count, (math.nan,) * count, (frozenset[str](),) * count, speaker)


@pytest.mark.parametrize(
    "line",
    [
        "It's <emph>only $299 <pause_short>today.",
        "It's <emph> only $299 <pause_short> today.",
        json.dumps({"text": "It's <emph>only $299 <pause_short>today."}),
        json.dumps({"text": "It's only $299 today.", "marked": "It's <emph>only $299 <pause_short>today."}),
        json.dumps(
            {"text": "It's only $299 today.", "marks": [{"kind": "emph", "offset": 5}, {"kind": "pause_short", "offset": 15}]}
        ),
        "\ufeffIt's <emph>only $299 <pause_short>today.\r",
    ],
)
def test_every_format_gives_the_same_text(tmp_path: Path, line: str) -> None:
    (example,) = read_examples(write(tmp_path, "data", line + "\n"))
    assert example.text == "It's only $299 today."
    assert example.marks == ({*()}, {"emph"}, {"pause_short"}, {*()})
    assert example.boundary == (0, 0, 2, UNKNOWN)
    assert example.labelling == "marked"


def test_columns_of_both_labellings(tmp_path: Path) -> None:
    first, second = read_examples(write(tmp_path, "v3", COLUMNS_V3), write(tmp_path, "v1", "Yes\t2\t0\n"))
    assert (first.text, first.prominence, first.boundary, first.real_prominence) == ("He ran.", (0, 2), (0, 2), (0.1, 2.4))
    assert (first.speaker, first.labelling) == ("12", "v3")
    assert (second.text, second.speaker, second.labelling) == ("Yes", "", "v1")


def test_formats_mixed_in_one_file(tmp_path: Path) -> None:
    text = '{"text": "<emph>One two", "speaker": "ann"}\nThree <emph>four\n' + COLUMNS_V3 + "\nFive\n" + COLUMNS_V1
    examples = read_examples(write(tmp_path, "mixed", text))
    assert [example.labelling for example in examples] == ["marked", "marked", "v3", "marked", "v1", "v1"]
    assert examples[0].speaker == "ann"


def test_all_invalid_lines_of_all_files_are_listed(tmp_path: Path) -> None:
    one = write(tmp_path, "one", b"fine <emph>line\nbad <emp>line\n\xff\n")
    two = write(tmp_path, "two", '{"text": 3}\n{"text": "a"\n...\nend <emph>\n<file>\tx\nword\t7\t0\nword 0 0\n')
    with pytest.raises(DataError) as caught:
        read_files([one, tmp_path / "missing", two])
    lines = str(caught.value).splitlines()[1:]
    prefixes = [f"{one}:2:", f"{one}:3:", f"{tmp_path / 'missing'}:", *(f"{two}:{n}:" for n in (1, 2, 3, 4, 6, 7))]
    assert [prefix for prefix, line in zip(prefixes, lines, strict=True) if line.startswith(prefix)] == prefixes
    assert "did you mean <emph>" in lines[0]


def test_a_file_without_examples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no examples"):
        read_files([write(tmp_path, "empty", "\n\n")])


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: ("{" + text).encode("utf-8", "replace")))
def test_arbitrary_files_give_examples_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.mktemp("data"), "any", data)
    with contextlib.suppress(DataError):
        examples = read_examples(path)
        assert examples
        assert all(example.prominence for example in examples)


def test_boundaries_come_from_the_older_labelling(tmp_path: Path) -> None:
    merged, notes = merge_labellings(read_examples(write(tmp_path, "v3", COLUMNS_V3), write(tmp_path, "v1", COLUMNS_V1)))
    assert [(e.text, e.prominence, e.boundary) for e in merged] == [("He ran.", (0, 2), (0, 1)), ("No", (UNKNOWN,), (2,))]
    assert notes


def test_a_speaker_is_on_one_side_of_the_split() -> None:
    examples = [marked(f"word{index} other{index}", speaker=f"reader {index // 10}") for index in range(100)]
    parts = hold_out(examples, 0.2, seed=1)
    assert len(parts.held_out) == 20
    assert {e.speaker_name for e in parts.held_out}.isdisjoint({e.speaker_name for e in parts.train})
    assert hold_out(examples, 0.2, seed=1) == parts
    assert any(hold_out(examples, 0.2, seed=seed).held_out != parts.held_out for seed in range(5))


def test_overlapping_windows_are_on_one_side_of_the_split() -> None:
    transcripts = [[f"w{number}x{index}" for index in range(60)] for number in range(10)]
    examples = [marked(" ".join(words[start : start + 20])) for words in transcripts for start in range(0, 41, 10)]
    parts = hold_out(examples, 0.2, seed=0)
    assert len(parts.train) + len(parts.held_out) == len(examples)
    assert {e.text.split("x")[0] for e in parts.held_out}.isdisjoint({e.text.split("x")[0] for e in parts.train})
    assert any("overlap" in note for note in parts.notes)


def test_overlapping_windows_of_a_single_transcript_are_dropped() -> None:
    words = [f"w{index}" for index in range(1000)]
    examples = [marked(" ".join(words[start : start + 30])) for start in range(0, 970, 10)]
    parts = hold_out(examples, 0.2, seed=0)
    runs = {tuple(e.text.split()[i : i + OVERLAP_WORDS]) for e in parts.held_out for i in range(30 - OVERLAP_WORDS + 1)}
    seen = {tuple(e.text.split()[i : i + OVERLAP_WORDS]) for e in parts.train for i in range(30 - OVERLAP_WORDS + 1)}
    assert parts.train
    assert parts.held_out
    assert runs.isdisjoint(seen)
    assert len(parts.train) + len(parts.held_out) < len(examples)
    assert any("left out of training" in note for note in parts.notes)


def test_training_examples_in_the_evaluation_data_are_dropped() -> None:
    held_out = [marked("One two three", "a"), marked("a b c d e f g h")]
    train = [marked("one TWO three!", "b"), marked("other words", "a"), marked("x c d e f g h y"), marked("kept here")]
    parts = remove_overlap(train, held_out)
    assert [example.text for example in parts.train] == ["kept here"]
    assert "3 examples" in parts.notes[0]


def test_too_little_data_is_refused() -> None:
    with pytest.raises(DataError, match="0 examples are left to train on"):
        hold_out([marked("the very same words"), marked("the very same words")], 0.5, 0)


def test_exact_repeats_are_dropped() -> None:
    kept, count = drop_repeats([marked("same"), marked("same"), marked("same", speaker="x"), marked("other")])
    assert ([e.text for e in kept], count) == (["same", "same", "other"], 1)
