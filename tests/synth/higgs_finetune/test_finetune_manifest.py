"""Reader of manifests: both layouts, texts in any script, reasons of bad rows; and the sample manifest."""

import json
from pathlib import Path
from typing import Any

import pytest
from higgs_finetune_manifests import audio, chat, message, text, write_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from prosody_tagger.errors import BadInput, MarkupError
from prosody_tagger.markup import KINDS, Mark, MarkedText, parse, plain, render
from synth.acoustics.labels_file import write_chatml
from synth.higgs_finetune.chatml import ManifestRow, Turn, parse_manifest_text
from synth.higgs_finetune.manifest import read_manifest
from synth.higgs_finetune.sample_data import create_sample_data
from synth.higgs_finetune.validate import validate

ARABIC = "السِّعْرُ <emph>اليَوْمَ أَقَلُّ مِنْ <pause_short>Python 3.11 (تقريبًا) אֲבָל <emph>yes."


def read(folder: Path, *rows: Any) -> ManifestRow:
    manifest = read_manifest(write_manifest(folder, *rows))
    assert not manifest.bad
    return manifest.rows[0]


def refusal(folder: Path, row: Any) -> str:
    manifest = read_manifest(write_manifest(folder, row))
    assert not manifest.rows
    (bad,) = manifest.bad
    assert bad.source == f"{folder / 'm.jsonl'}:1"
    return bad.reason


def test_messages_with_a_single_content(tmp_path: Path) -> None:
    row = chat("transcript", audio("a/v.wav"), ARABIC, audio("/abs/x.wav"), speaker="نور", start_index=4)
    row["messages"].insert(0, message("system", "Speak."))
    assert read(tmp_path, row) == ManifestRow(
        f"{tmp_path / 'm.jsonl'}:1",
        "Speak.",
        "نور",
        4,
        (Turn(plain("transcript"), tmp_path / "a/v.wav"),),
        parse(ARABIC),
        Path("/abs/x.wav"),
        "",
    )


def test_messages_with_lists_of_parts(tmp_path: Path) -> None:
    asked = [text("transcript"), audio("v.wav"), text(ARABIC)]
    found = read(tmp_path, chat(asked, [text(parse(ARABIC).text), audio("x.wav")]))
    assert found.references == (Turn(plain("transcript"), tmp_path / "v.wav"),)
    assert found.text == parse(ARABIC)
    assert (found.clip, found.answer) == (tmp_path / "x.wav", parse(ARABIC).text)
    assert (found.system, found.speaker, found.start_index) == (None, None, None)
    assert found.clips == (tmp_path / "v.wav", tmp_path / "x.wav")


def test_both_layouts_give_the_same_row(tmp_path: Path) -> None:
    one = read(tmp_path, chat("there", audio("v.wav"), "Say <emph>this", audio("x.wav")))
    other = read(tmp_path, chat([text("there"), audio("v.wav"), text("Say <emph>this")], [audio("x.wav")]))
    assert one == other


@pytest.mark.parametrize(
    ("asked", "answered", "expected"),
    [
        ("Please say in that voice: Buy <emph>this  now", "Buy this now", "Buy <emph>this  now"),
        ("Please say: Buy this now", "Buy <emph>this now", "Buy <emph>this now"),
        ("", "Buy <emph>this", "Buy <emph>this"),
        ("Buy it", "Bought it", "Buy it"),
        ("Buy <emph>this", "Buy this", "Buy <emph>this"),
    ],
)
def test_a_lead_in_is_removed_from_the_request(tmp_path: Path, asked: str, answered: str, expected: str) -> None:
    parts = [text("there"), audio("v.wav"), *([text(asked)] if asked else [])]
    assert read(tmp_path, chat(parts, [text(answered), audio("x.wav")])).text == parse(expected)


def test_answers_in_text_and_acknowledgements_of_a_recording(tmp_path: Path) -> None:
    found = read(tmp_path, chat("Why?", "Because.", [text("there"), audio("v.wav")], "I hear you.", "And?", "So."))
    assert found.clip is None
    assert found.answer == "So."
    assert found.references == (Turn(plain("Why?"), None, "Because."), Turn(plain("there"), tmp_path / "v.wav"))


def test_a_scene_is_put_between_the_tokens_of_higgs(tmp_path: Path) -> None:
    row = chat("Hi", audio("x.wav"))
    row["messages"].insert(0, message("scene", [text("A cave.")]))
    assert read(tmp_path, row).system == (
        "Generate audio following instruction.\n\n<|scene_desc_start|>\nA cave.\n<|scene_desc_end|>"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b and <3 <laugh> </i> <EMPH> <emphasis> <emph-x>", plain("a < b and <3 <laugh> </i> <EMPH> <emphasis> <emph-x>")),
        ("is <emph>it <b>now", MarkedText("is it <b>now", (Mark("emph", 3),))),
        ("\\<emph> and \\\\<emph>x \\n", MarkedText("<emph> and \\x \\n", (Mark("emph", 12),))),
        ("go <pause_long:1.5s>on", MarkedText("go on", (Mark("pause_long", 3, 1500),))),
    ],
)
def test_only_the_name_of_a_mark_makes_a_mark(source: str, expected: MarkedText) -> None:
    assert parse_manifest_text(source) == expected


@pytest.mark.parametrize("source", ["</emph>", "a <emph", "<pause_short:x>", "<emph:3s>", "\ud800"])
def test_malformed_marks_are_refused(source: str) -> None:
    with pytest.raises(MarkupError):
        parse_manifest_text(source)


@given(st.text(max_size=40), st.lists(st.sampled_from(KINDS), max_size=3))
def test_rendered_text_is_read_back(words: str, kinds: list[str]) -> None:
    marked = MarkedText(words, tuple(Mark(kind, min(index * 7, len(words))) for index, kind in enumerate(kinds)))
    assert parse_manifest_text(render(marked)) == marked


@given(st.text(alphabet=st.sampled_from("<>/\\emph_ab \n"), max_size=40))
def test_text_without_marks_and_escapes_is_unchanged(source: str) -> None:
    try:
        found = parse_manifest_text(source)
    except MarkupError:
        return
    if not found.marks and "\\" not in source:
        assert found.text == source


def test_a_row_can_turn_off_marks(tmp_path: Path) -> None:
    assert read(tmp_path, chat("a \\\\ <emph>b", audio("x.wav"), marked=False)).text == plain("a \\\\ <emph>b")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (3, "a JSON object"),
        ({}, "no list of messages"),
        ({"messages": []}, "no list of messages"),
        ({"messages": ["hi"]}, "message 0 has the role None"),
        (chat("hi"), "no answer to learn"),
        (chat("hi", audio("x.wav"), "more"), "no answer to learn"),
        (chat("hi", None), "message 1 holds None"),
        (chat("hi", ""), "message 1 is empty"),
        (chat("", audio("x.wav")), "message 0 has no text to speak"),
        (chat([audio("v.wav")], audio("x.wav")), "has no transcript of 'v.wav'"),
        (chat([text("Same"), audio("v.wav")], [text("Same"), audio("x.wav")]), "no transcript of its recording"),
        (chat("hi", [audio("a.wav"), audio("b.wav")]), "2 recordings"),
        (chat("hi", audio("")), "give the path of a file"),
        (chat("hi", {"type": "audio", "audio_url": 3}), "has 3 for a recording"),
        (chat("hi", audio("a\0b")), "give the path of a file"),
        (chat("hi", audio("https://x.org/a.wav")), "has the URL"),
        (chat("hi", audio("data:audio/wav;base64,AAAA")), "has the URL"),
        (chat("hi", {**audio("x.wav"), "offset": 2.5}), "a part of 'x.wav'"),
        (chat("hi", {"type": "video"}), "message 1 holds"),
        (chat("hi </emph>", audio("x.wav")), "unknown mark '</emph>'"),
        (chat("hi", audio("x.wav"), start_index=2), "start_index is 2"),
        (chat("hi", audio("x.wav"), start_index=True), "start_index is True"),
        (chat("hi", audio("x.wav"), speaker=["a"]), "the speaker is"),
        (chat("hi", audio("x.wav"), marked="no"), '"marked" must be true or false'),
        ({"messages": [message("user", "a"), message("user", "b")]}, "alternate"),
        ({"messages": [message("assistant", "a")]}, "the user first"),
        ({"messages": [message("user", "a"), message("system", "b"), message("assistant", "c")]}, "message 1 has the role system"),
    ],
)
def test_the_reason_of_a_bad_row_is_given(tmp_path: Path, row: Any, reason: str) -> None:
    assert reason in refusal(tmp_path, row)


GOOD = chat("hi", audio("x.wav"))


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (json.dumps(GOOD) + "\n\n" + json.dumps(GOOD), [1, 3]),
        (json.dumps([GOOD, GOOD]), [1, 1]),
        ("[\n" + json.dumps(GOOD) + ",\n\n" + json.dumps(GOOD) + "\n]", [2, 4]),
        (json.dumps(GOOD, indent=1), [1]),
        ("\ufeff" + json.dumps({"data": [GOOD, GOOD]}), [1, 1]),
    ],
)
@pytest.mark.parametrize("name", ["m.json", "m.jsonl"])
def test_every_file_layout_is_read(tmp_path: Path, content: str, lines: list[int], name: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    manifest = read_manifest(path)
    assert [row.source for row in manifest.rows] == [f"{path}:{line}" for line in lines]
    assert not manifest.bad
    assert manifest.clips == (tmp_path / "x.wav",)


@pytest.mark.parametrize(
    ("content", "good", "bad"),
    [
        (json.dumps(GOOD).encode() + b'\n{"messages": [\n\xff\xfe\n' + json.dumps(GOOD).encode(), [1, 4], [2, 3]),
        (f"[{json.dumps(GOOD)},\n oops]".encode(), [1], [2]),
        (f"[{json.dumps(GOOD)}\n {json.dumps(GOOD)}]".encode(), [1], [2]),
        (f"[{json.dumps(GOOD)}".encode(), [1], [1]),
        (b"[\n\xff]", [], [2]),
        (b'{"messages": ' + b"[" * 100_000, [], [1]),
        (b"hello", [], [1]),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "x"}]}', [], [1]),
    ],
)
def test_bad_rows_are_reported_with_their_line(tmp_path: Path, content: bytes, good: list[int], bad: list[int]) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(content)
    manifest = read_manifest(path)
    assert [row.source for row in manifest.rows] == [f"{path}:{line}" for line in good]
    assert [row.source for row in manifest.bad] == [f"{path}:{line}" for line in bad]


@pytest.mark.parametrize("content", [b"", b"[]", b" \n", None])
def test_an_empty_or_missing_manifest_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"m\.json"):
        read_manifest(path)
    with pytest.raises(BadInput, match="is a folder"):
        read_manifest(tmp_path)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["messages", "role", "content", "type", "text", "audio_url", "start_index"]) | st.text(max_size=3),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_the_reader_accepts_or_reports_any_json(tmp_path_factory: pytest.TempPathFactory, found: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(
        json.dumps([found, {"messages": [{"role": "user", "content": found}, {"role": "assistant", "content": found}]}])
    )
    assert len(read_manifest(path).rows) + len(read_manifest(path).bad) == 2


def test_a_manifest_of_prosody_label_is_read(tmp_path: Path) -> None:
    marked = parse("It's <emph>only \\<3 <pause_long>today <emph>\\<now>.")
    labels = tmp_path / "in" / "labels.jsonl"
    labels.parent.mkdir()
    row = {"text": render(marked), "audio": "a.wav", "speaker": "anna", "seconds": 1.0, "bytes": 1, "modified": 1, "words": []}
    labels.write_text(json.dumps(row) + "\n")
    for name in ("out.json", "out.jsonl"):
        write_chatml(labels, tmp_path / name)
        (found,) = read_manifest(tmp_path / name).rows
        assert (found.text, found.clip, found.speaker) == (marked, tmp_path / "in/a.wav", "anna")


def test_the_sample_manifest_is_valid(tmp_path: Path) -> None:
    for place, manifest in (
        (tmp_path / "folder", "folder/manifest.json"),
        (tmp_path / "s.json", "s.json"),
        (tmp_path / "l.jsonl", "l.jsonl"),
    ):
        assert create_sample_data(place) == tmp_path / manifest
        found = read_manifest(tmp_path / manifest)
        report = validate(found)
        assert report.ok
        assert not report.notes
        assert {"emph", "pause_long"} <= report.marks.keys()
        assert any(row.clip is None for row in found.rows)
        assert all(clip.is_relative_to(tmp_path) for clip in found.clips)
        with pytest.raises(BadInput, match="exists already"):
            create_sample_data(place)
