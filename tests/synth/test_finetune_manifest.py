"""Manifests: both forms, any script, what is wrong with which row; and the sample that comes along."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from prosody_tagger.errors import BadInput, MarkupError
from prosody_tagger.markup import KINDS, Mark, MarkedText, parse, plain, render
from synth.acoustics.labels_file import write_chatml
from synth.audio.decoding import decode
from synth.audio.encoding import encode
from synth.base import Audio
from synth.higgs_finetune.manifest import Row, Turn, marked_text, read_manifest
from synth.higgs_finetune.sample_data import create_sample_data
from synth.higgs_finetune.validate import CHECKS, Report, in_both, show, validate

ARABIC = "السِّعْرُ <emph>اليَوْمَ أَقَلُّ مِنْ <pause_short>Python 3.11 (تقريبًا) אֲבָל <emph>yes."


def audio(path: str) -> dict[str, str]:
    return {"type": "audio", "audio_url": path}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def chat(*contents: Any, **more: Any) -> dict[str, Any]:
    """Messages of user and assistant in turn."""
    return {"messages": [said(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)], **more}


def write(folder: Path, *rows: Any, name: str = "m.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(folder: Path, *rows: Any) -> Row:
    manifest = read_manifest(write(folder, *rows))
    assert not manifest.bad
    return manifest.rows[0]


def refusal(folder: Path, row: Any) -> str:
    manifest = read_manifest(write(folder, row))
    assert not manifest.rows
    (bad,) = manifest.bad
    assert bad.source == f"{folder / 'm.jsonl'}:1"
    return bad.reason


def test_messages_with_one_content_each(tmp_path: Path) -> None:
    row = chat("said there", audio("a/v.wav"), ARABIC, audio("/abs/x.wav"), speaker="نور", start_index=4)
    row["messages"].insert(0, said("system", "Speak."))
    assert read(tmp_path, row) == Row(
        f"{tmp_path / 'm.jsonl'}:1",
        "Speak.",
        "نور",
        4,
        (Turn(plain("said there"), tmp_path / "a/v.wav"),),
        parse(ARABIC),
        Path("/abs/x.wav"),
        "",
    )


def test_messages_with_lists_of_parts(tmp_path: Path) -> None:
    asked = [text("said there"), audio("v.wav"), text(ARABIC)]
    found = read(tmp_path, chat(asked, [text(parse(ARABIC).text), audio("x.wav")]))
    assert found.references == (Turn(plain("said there"), tmp_path / "v.wav"),)
    assert found.text == parse(ARABIC)
    assert (found.clip, found.answer) == (tmp_path / "x.wav", parse(ARABIC).text)
    assert (found.system, found.speaker, found.start_index) == (None, None, None)
    assert found.clips == (tmp_path / "v.wav", tmp_path / "x.wav")


def test_both_forms_of_one_row_are_the_same(tmp_path: Path) -> None:
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
def test_what_leads_up_to_the_words_is_not_asked(tmp_path: Path, asked: str, answered: str, expected: str) -> None:
    parts = [text("there"), audio("v.wav"), *([text(asked)] if asked else [])]
    assert read(tmp_path, chat(parts, [text(answered), audio("x.wav")])).text == parse(expected)


def test_an_answer_in_writing_and_one_that_only_says_that_it_heard(tmp_path: Path) -> None:
    found = read(tmp_path, chat("Why?", "Because.", [text("there"), audio("v.wav")], "I hear you.", "And?", "So."))
    assert found.clip is None
    assert found.answer == "So."
    assert found.references == (Turn(plain("Why?"), None, "Because."), Turn(plain("there"), tmp_path / "v.wav"))


def test_a_scene_stands_where_higgs_has_it(tmp_path: Path) -> None:
    row = chat("Hi", audio("x.wav"))
    row["messages"].insert(0, said("scene", [text("A cave.")]))
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
def test_only_a_mark_s_name_makes_a_mark(source: str, expected: MarkedText) -> None:
    assert marked_text(source) == expected


@pytest.mark.parametrize("source", ["</emph>", "a <emph", "<pause_short:x>", "<emph:3s>", "\ud800"])
def test_what_was_meant_for_a_mark_and_is_none_is_refused(source: str) -> None:
    with pytest.raises(MarkupError):
        marked_text(source)


@given(st.text(max_size=40), st.lists(st.sampled_from(KINDS), max_size=3))
def test_whatever_render_writes_is_read_back(words: str, kinds: list[str]) -> None:
    marked = MarkedText(words, tuple(Mark(kind, min(index * 7, len(words))) for index, kind in enumerate(kinds)))
    assert marked_text(render(marked)) == marked


@given(st.text(alphabet=st.sampled_from("<>/\\emph_ab \n"), max_size=40))
def test_no_text_is_changed_save_by_marks_and_escapes(source: str) -> None:
    try:
        found = marked_text(source)
    except MarkupError:
        return
    if not found.marks and "\\" not in source:
        assert found.text == source


def test_a_row_may_say_that_it_has_no_marks(tmp_path: Path) -> None:
    assert read(tmp_path, chat("a \\\\ <emph>b", audio("x.wav"), marked=False)).text == plain("a \\\\ <emph>b")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (3, "a JSON object"),
        ({}, "no list of messages"),
        ({"messages": []}, "no list of messages"),
        ({"messages": ["hi"]}, "message 0 has the role None"),
        (chat("hi"), "no answer to learn"),
        (chat("hi", audio("x.wav"), "more"), "no answer to learn"),
        (chat("hi", None), "message 1 holds None"),
        (chat("hi", ""), "message 1 is empty"),
        (chat("", audio("x.wav")), "message 0 asks for nothing"),
        (chat([audio("v.wav")], audio("x.wav")), "does not say what 'v.wav' says"),
        (chat([text("Same"), audio("v.wav")], [text("Same"), audio("x.wav")]), "not what its recording says"),
        (chat("hi", [audio("a.wav"), audio("b.wav")]), "2 recordings"),
        (chat("hi", audio("")), "give the path of a file"),
        (chat("hi", {"type": "audio", "audio_url": 3}), "has 3 for a recording"),
        (chat("hi", audio("a\0b")), "give the path of a file"),
        (chat("hi", audio("https://x.org/a.wav")), "has the address"),
        (chat("hi", audio("data:audio/wav;base64,AAAA")), "has the address"),
        (chat("hi", {**audio("x.wav"), "offset": 2.5}), "a part of 'x.wav'"),
        (chat("hi", {"type": "video"}), "message 1 holds"),
        (chat("hi </emph>", audio("x.wav")), "unknown mark '</emph>'"),
        (chat("hi", audio("x.wav"), start_index=2), "start_index is 2"),
        (chat("hi", audio("x.wav"), start_index=True), "start_index is True"),
        (chat("hi", audio("x.wav"), speaker=["a"]), "the speaker is"),
        (chat("hi", audio("x.wav"), marked="no"), '"marked" is true or false'),
        ({"messages": [said("user", "a"), said("user", "b")]}, "take turns"),
        ({"messages": [said("assistant", "a")]}, "the user first"),
        ({"messages": [said("user", "a"), said("system", "b"), said("assistant", "c")]}, "message 1 has the role system"),
    ],
)
def test_what_is_wrong_with_a_row_is_told(tmp_path: Path, row: Any, told: str) -> None:
    assert told in refusal(tmp_path, row)


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
def test_every_shape_of_file_is_read(tmp_path: Path, content: str, lines: list[int], name: str) -> None:
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
def test_what_cannot_be_read_is_named_by_its_line(tmp_path: Path, content: bytes, good: list[int], bad: list[int]) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(content)
    manifest = read_manifest(path)
    assert [row.source for row in manifest.rows] == [f"{path}:{line}" for line in good]
    assert [row.source for row in manifest.bad] == [f"{path}:{line}" for line in bad]


@pytest.mark.parametrize("content", [b"", b"[]", b" \n", None])
def test_a_manifest_of_nothing_is_refused(tmp_path: Path, content: bytes | None) -> None:
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
def test_no_row_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, found: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(
        json.dumps([found, {"messages": [{"role": "user", "content": found}, {"role": "assistant", "content": found}]}])
    )
    assert len(read_manifest(path).rows) + len(read_manifest(path).bad) == 2


def test_what_prosody_label_writes_is_read(tmp_path: Path) -> None:
    marked = parse("It's <emph>only \\<3 <pause_long>today <emph>\\<now>.")
    labels = tmp_path / "in" / "labels.jsonl"
    labels.parent.mkdir()
    row = {"text": render(marked), "audio": "a.wav", "speaker": "anna", "seconds": 1.0, "bytes": 1, "modified": 1, "words": []}
    labels.write_text(json.dumps(row) + "\n")
    for name in ("out.json", "out.jsonl"):
        write_chatml(labels, tmp_path / name)
        (found,) = read_manifest(tmp_path / name).rows
        assert (found.text, found.clip, found.speaker) == (marked, tmp_path / "in/a.wav", "anna")


def test_the_sample_works(tmp_path: Path) -> None:
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
        with pytest.raises(BadInput, match="is there already"):
            create_sample_data(place)


def voice(seconds: float = 2.0, rate: int = 24_000, seed: int = 0) -> Audio:
    noise = np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate))
    return Audio(np.clip(noise, -0.9, 0.9).astype(np.float32), rate)


def with_silence(seconds: float) -> Audio:
    part = voice(1.0)
    return Audio(np.concatenate([part.samples, np.zeros(round(seconds * part.rate), dtype=np.float32)]), part.rate)


def clipped(volume: float) -> Audio:
    return Audio(volume * np.clip(voice().samples * 8, -1, 1), 24_000)


def tone(hertz: float) -> Audio:
    return Audio(np.sin(2 * np.pi * hertz * np.arange(48_000) / 48_000).astype(np.float32), 48_000)


def faults(folder: Path, sound: Audio | bytes | None, words: str = "This is what is said here.") -> dict[str, str]:
    if sound is not None:
        (folder / "x.wav").write_bytes(sound if isinstance(sound, bytes) else encode(sound, "wav"))
    report = validate(read_manifest(write(folder, chat(words, audio("x.wav")))))
    assert {fault.source for fault in report.faults} <= {f"{folder / 'm.jsonl'}:1"}
    return {fault.check: fault.reason for fault in report.faults}


@pytest.mark.parametrize(
    ("sound", "words", "checks"),
    [
        (voice(), "This is what is said here.", []),
        (tone(80), "Ah.", []),
        (None, "Hi", ["exists"]),
        (b"", "Hi", ["decodes"]),
        (b"RIFF____WAVE", "Hi", ["decodes"]),
        (encode(voice(), "wav")[:20_000], "This is cut off.", []),
        (voice(0.1), "Hi", ["length"]),
        (voice(41), "word " * 100, ["length"]),
        (voice(2, 8_000), "This is what is said here.", ["rate"]),
        (Audio(np.zeros(48_000, dtype=np.float32), 24_000), "Hi", ["silence"]),
        (Audio(voice().samples / 1000, 24_000), "Hi", ["silence"]),
        (with_silence(2.0), "Hi", ["silence"]),
        (with_silence(0.5), "Hi", []),
        (clipped(1.0), "Hi there", ["clipping"]),
        (clipped(0.5), "Hi there", ["clipping"]),
        (voice(2), "word " * 50, ["plausible"]),
        (voice(20), "Hi", ["plausible"]),
        (voice(2), "?!", ["text"]),
        (voice(2), "Hi\x07 there", ["text"]),
        (voice(1.5), "أُحِبُّ كِتَابَ Python الجَدِيدَ كَثِيرًا.", []),
    ],
)
def test_each_check_finds_what_it_is_for(tmp_path: Path, sound: Audio | bytes | None, words: str, checks: list[str]) -> None:
    assert list(faults(tmp_path, sound, words)) == checks


def test_recordings_of_the_voice_are_looked_at_as_well(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(encode(voice(), "wav"))
    report = validate(read_manifest(write(tmp_path, chat("Hello", audio("v.wav"), "This is said.", audio("x.wav")))))
    (fault,) = report.faults
    assert fault.check == "exists"
    assert "v.wav" in fault.reason


def test_what_is_there_twice_is_found(tmp_path: Path) -> None:
    for name, seed in (("a.wav", 0), ("copy.wav", 0), ("b.wav", 1)):
        (tmp_path / name).write_bytes(encode(voice(seed=seed), "wav"))
    rows = [
        chat("This is said.", audio("a.wav")),
        chat("Something else.", audio("copy.wav")),
        chat("This is said.", audio("b.wav")),
        chat("This is said.", audio("b.wav"), "It is said again.", audio("b.wav")),
        chat("Why?", "Because."),
        chat("Why?", "Because."),
    ]
    path = write(tmp_path, *rows)
    report = validate(read_manifest(path))
    assert {fault.check for fault in report.faults} == {"duplicates"}
    assert [fault.source.rpartition(":")[2] for fault in report.faults] == ["2", "4", "4", "6"]
    held_out = write(tmp_path, chat("Other words.", audio("copy.wav")), chat("Why not?", "No."), name="val.jsonl")
    (leak,) = in_both(report, validate(read_manifest(held_out)))
    assert leak.source == f"{held_out}:1"
    assert f"{path}:1" in leak.reason


def printed(report: Report, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    show(report, console)
    return console.export_text()


def test_the_report_is_printed_with_every_check_and_bad_row(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(encode(voice(), "wav"))
    rows = [chat("Say <emph>this [red]now[/].", audio("x.wav")), chat("No", audio("[b]y.wav")), {}, chat("Say <pause>it", "ok")]
    report = validate(read_manifest(write(tmp_path, *rows)))
    told = printed(report)
    assert all(check in told for check in CHECKS)
    assert f"{tmp_path / 'm.jsonl'}:2" in told
    assert "[b]y.wav: there is no such file" in told
    assert "4 rows, 2 of them bad; 2 recordings to learn" in told
    assert "1 tags are taken for text, <pause>" in told
    assert "1 emph" in told
    assert report.seconds == pytest.approx(2.0)
    assert [row.source.rpartition(":")[2] for row in report.bad] == ["2", "3"]


def test_an_instruction_that_is_not_sent_is_noted(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(encode(voice(), "wav"))
    row = chat("This is said.", audio("x.wav"))
    row["messages"].insert(0, said("system", "You are a helpful assistant."))
    report = validate(read_manifest(write(tmp_path, row)))
    assert report.ok
    assert "1 system messages" in report.notes[0]


def test_a_text_that_is_longer_than_any_request_is_noted(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(encode(voice(30), "wav"))
    report = validate(read_manifest(write(tmp_path, chat("word " * 70, audio("x.wav")))))
    assert report.ok
    assert "longer than the 300 characters" in report.notes[0]


def test_each_recording_is_heard_once_and_told_of(tmp_path: Path) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.wav").write_bytes(encode(voice(seed=seed), "wav"))
    rows = [chat("Hello there.", audio("0.wav"), "This is said.", audio(f"{seed}.wav")) for seed in (1, 2)]
    told: list[tuple[int, int]] = []
    report = validate(read_manifest(write(tmp_path, *rows)), progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert report.ok
    assert decode((tmp_path / "0.wav").read_bytes()).seconds == pytest.approx(2.0)
