import asyncio
import json
import os
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_speech import RATE, Said, speak

from prosody_tagger.errors import BadInput, DataError
from prosody_tagger.markup import Mark, parse, render
from synth.acoustics.label import Label, label, label_recording
from synth.acoustics.labels_file import LabelsFile, rows, write_chatml
from synth.acoustics.recordings import SkippedRecording, TranscribedRecording, in_folder, in_manifest
from synth.acoustics.reference_reading import read_plainly
from synth.audio.encoding import encode
from synth.base import Audio, SpeechRequest, Synthesizer, WordTime
from synth.embedded.backend import EmbeddedVoice

WORDS = ("we", "never", "said", "that", "you", "could")


def said(**changes: Said) -> list[Said]:
    return [changes.get(word, Said(word)) for word in WORDS]


STRESSED = Said("said", seconds=0.36, hertz=155.0, gain_db=5.0)


def labelled(items: list[Said], **options: float) -> str:
    audio, text, words = speak(*items)
    plain_audio, _, plain_words = speak(*said())
    times = [replace(word, offset=other.offset) for word, other in zip(plain_words, words, strict=True)]
    return render(label(audio, text, words, plain=(plain_audio, times), **options).marked)


def test_a_word_that_departs_from_a_plain_reading_bears_emph() -> None:
    assert labelled(said(said=STRESSED)) == "we never <emph>said that you could"
    assert labelled(said()) == "we never said that you could"


def test_without_a_plain_reading_the_most_prominent_word_does() -> None:
    items = [Said(word) for word in "one two three four five six seven eight".split()]
    items[3] = replace(items[3], seconds=0.45, hertz=170.0, gain_db=6.0)
    audio, text, words = speak(*items, lead=0.0, tail=0.0)
    assert "<emph>four" in render(label(audio, text, words).marked)


@pytest.mark.parametrize(
    ("gap", "mark"),
    [(0.1, ""), (0.2, ""), (0.25, "<pause_short>"), (0.4, "<pause_short>"), (0.5, "<pause_long>"), (2.0, "<pause_long>")],
)
def test_a_silence_between_words_is_a_pause_by_its_length(gap: float, mark: str) -> None:
    assert labelled(said(that=Said("that", gap=gap))) == f"we never said {mark}that you could"


def test_silence_before_and_after_all_words_is_not_a_pause() -> None:
    audio, text, words = speak(*said(), lead=1.0, tail=1.0)
    assert label(audio, text, words, plain=(audio, words)).marked.marks == ()


def test_a_requested_number_of_emphases() -> None:
    assert labelled(said(said=STRESSED), emphases_per_word=0.0) == "we never said that you could"
    assert labelled(said(said=STRESSED), emphases_per_word=1 / 6) == "we never <emph>said that you could"
    assert labelled(said(), emphases_per_word=1.0).count("<emph>") == 6


def test_words_with_uncertain_times_are_not_labelled() -> None:
    audio, text, words = speak(*said(said=STRESSED))
    plain_audio, _, plain_words = speak(*said())
    unsure = [replace(word, confidence=0.1) if word.word == "said" else word for word in words]
    assert label(audio, text, unsure, plain=(plain_audio, plain_words)).marked.marks == ()


def test_marks_stand_before_the_punctuation_of_their_word() -> None:
    audio, _, words = speak(*said(said=STRESSED))
    text = "we never “said” that you could"
    times = [replace(word, offset=text.index(word.word)) for word in words]
    plain_audio, _, plain_words = speak(*said())
    plain_times = [replace(word, offset=text.index(word.word)) for word in plain_words]
    assert render(label(audio, text, times, plain=(plain_audio, plain_times)).marked) == "we never <emph>“said” that you could"


def test_every_word_is_in_the_label() -> None:
    audio, text, words = speak(*said(said=STRESSED, that=Said("that", gap=0.3)))
    plain_audio, _, plain_words = speak(*said())
    found = label(audio, text, words, plain=(plain_audio, plain_words)).words
    assert [word.word for word in found] == list(WORDS)
    assert [text[word.offset :].startswith(word.word) for word in found] == [True] * 6
    assert found[3].silence_ms == pytest.approx(300, abs=11)
    assert max(found, key=lambda word: word.emphasis).word == "said"
    json.dumps([word.as_dict() for word in found], allow_nan=False)


def test_words_of_another_text_are_refused() -> None:
    audio, _, words = speak(*said())
    with pytest.raises(BadInput, match="'never'"):
        label(audio, "something else", words)


@given(st.text(max_size=60))
def test_labels_never_change_a_letter(text: str) -> None:
    from prosody_tagger.segment import segment_words

    runs = segment_words(text)
    times = [WordTime(run.core(text), run.core_start, 0.3 * i, 0.3 * i + 0.1) for i, run in enumerate(runs)]
    sound = np.zeros(RATE // 4 + RATE * len(runs) // 3, dtype=np.float32)
    sound[::7] = 0.2
    found = label(Audio(sound, RATE), text, times, emphases_per_word=0.5)
    assert found.marked.text == text
    assert parse(render(found.marked)) == found.marked


# With the embedded voice, whose own word times replace those of an aligner.


@dataclass(frozen=True)
class KnownAlignment:
    words: tuple[WordTime, ...]
    confidence: float
    trusted: bool


@pytest.fixture
def known_times(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[WordTime, ...]]:
    """A fake aligner: it returns the times stored in this dictionary by text, and trusts no other text."""
    times: dict[str, tuple[WordTime, ...]] = {}

    async def align(audio: Audio, text: str, voice: Synthesizer, *, language: str | None = None) -> KnownAlignment:
        found = times.get(text)
        return KnownAlignment(found or (), 0.9 if found else 0.1, found is not None)

    module = ModuleType("synth.acoustics.align")
    module.align = align  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "synth.acoustics.align", module)
    return times


def render_speech(source: str) -> tuple[Audio, tuple[WordTime, ...]]:
    async def speak_it() -> tuple[Audio, tuple[WordTime, ...]]:
        voice = EmbeddedVoice()
        chunks = [chunk async for chunk in voice.speak(SpeechRequest(parse(source)))]
        assert chunks[0].words is not None
        return chunks[0].audio, chunks[0].words

    return asyncio.run(speak_it())


@pytest.mark.parametrize(
    "source",
    [
        "I never said <emph>she stole my money.",
        "The meeting has moved to <emph>Friday at nine.",
        "It is <emph>in the box, not under it.",
    ],
)
def test_the_embedded_voice_is_labelled_as_it_was_marked(source: str, known_times: dict[str, tuple[WordTime, ...]]) -> None:
    audio, words = render_speech(source)
    known_times[parse(source).text] = words
    found = asyncio.run(label_recording(audio, parse(source).text, EmbeddedVoice()))
    assert render(found.marked) == source


@pytest.mark.usefixtures("known_times")
def test_a_wrong_transcript_is_refused() -> None:
    audio, _ = render_speech("I never said she stole my money.")
    with pytest.raises(BadInput, match="does not match the transcript"):
        asyncio.run(label_recording(audio, "Something else altogether.", EmbeddedVoice()))
    with pytest.raises(BadInput, match="no word"):
        asyncio.run(label_recording(audio, " … ", EmbeddedVoice()))


def test_a_plain_reading_covers_all_sentences() -> None:
    text = "One two. Three four! Five?"
    audio, words = asyncio.run(read_plainly(text, EmbeddedVoice()))
    assert [word.word for word in words] == ["One", "two", "Three", "four", "Five"]
    assert [text[word.offset :].startswith(word.word) for word in words] == [True] * 5
    assert all(before.end <= after.start + 1e-6 for before, after in pairwise(words))
    assert words[-1].end <= audio.seconds


def test_a_plain_reading_splits_a_long_sentence() -> None:
    text = "word " * 900
    audio, words = asyncio.run(read_plainly(text, EmbeddedVoice()))
    assert len(words) == 900
    assert audio.seconds > 100


# Recordings and transcripts.


def write_sound(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(Audio(np.zeros(round(seconds * RATE), dtype=np.float32), RATE)))
    return path


def test_a_folder_with_transcripts_beside(tmp_path: Path) -> None:
    one = write_sound(tmp_path / "b" / "one.wav")
    one.with_suffix(".txt").write_text("\ufeffHello  there,\nAnna.\n", encoding="utf-8")
    two = write_sound(tmp_path / "two.wav")
    two.with_suffix(".lab").write_text("مرحبا بالعالم", encoding="utf-8")
    write_sound(tmp_path / "three.wav")
    write_sound(tmp_path / "four.wav").with_suffix(".txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "notes.txt").write_text("not a recording")
    found = list(in_folder(tmp_path))
    assert [item for item in found if isinstance(item, TranscribedRecording)] == [
        TranscribedRecording(one, "Hello there, Anna.", "b"),
        TranscribedRecording(two, "مرحبا بالعالم", None),
    ]
    reasons = {Path(item.source).name: item.reason for item in found if isinstance(item, SkippedRecording)}
    assert "three.txt" in reasons["three.wav"]
    assert "UTF-8" in reasons["four.wav"]


@pytest.mark.parametrize(
    "line",
    [
        '{"audio": "one.wav", "text": "Hello there.", "speaker": "anna"}',
        '{"audio_filepath": "one.wav", "transcript": "Hello there.", "speaker_id": "anna"}',
        "one.wav\tHello there.\tanna",
        "one.wav|Hello there.|hello there",
        "one|Hello there.",
    ],
)
def test_every_form_of_a_manifest(tmp_path: Path, line: str) -> None:
    sound = write_sound(tmp_path / "one.wav")
    manifest = tmp_path / "rows"
    manifest.write_text(f"\ufeff{line}\n\n", encoding="utf-8")
    (found,) = in_manifest(manifest)
    assert found == TranscribedRecording(sound, "Hello there.", "anna" if "{" in line else None)


def test_unusable_rows_are_reported_with_their_line(tmp_path: Path) -> None:
    write_sound(tmp_path / "one.wav")
    manifest = tmp_path / "rows.jsonl"
    bad = [b'{"audio": 3, "text": "x"}', b"{", b"only words", b"gone.wav|x", b"\xff|x", b"a\0b|x", b"[" * 5000, b"x" * 3000 + b"|y"]
    manifest.write_bytes(b"\n".join([*bad, b"one.wav|good"]))
    found = list(in_manifest(manifest))
    assert [isinstance(item, SkippedRecording) for item in found] == [True] * len(bad) + [False]
    assert [item.source for item in found if isinstance(item, SkippedRecording)] == [
        f"{manifest}:{n}" for n in range(1, len(bad) + 1)
    ]


def test_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        list(in_manifest(tmp_path / "none"))


# The file of labels.


def a_label(text: str = "we never said that you could") -> Label:
    audio, said_text, words = speak(*said())
    assert said_text == text
    found = label(audio, text, words)
    return replace(found, marked=replace(found.marked, marks=(Mark("emph", 3),)))


def test_labels_are_kept_until_their_recording_changes(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "in" / "one.wav")
    recording = TranscribedRecording(sound, "we never said that you could", "anna")
    with LabelsFile(tmp_path / "out" / "labels.jsonl") as labels:
        assert not labels.has(recording)
        labels.add(recording, a_label(), 0.5)
        assert labels.has(recording)
    with LabelsFile(tmp_path / "out" / "labels.jsonl") as labels:
        assert labels.has(recording)
        assert not labels.has(replace(recording, text="other words"))
        write_sound(sound, 0.7)
        assert not labels.has(recording)
        labels.add(recording, a_label(), 0.7)
        assert len(labels) == 1
    (row,) = rows(tmp_path / "out" / "labels.jsonl")
    assert row["text"] == "we <emph>never said that you could"
    assert row["audio"] == "../in/one.wav"
    assert row["speaker"] == "anna"
    assert row["seconds"] == 0.7
    assert {"word", "offset", "prominence", "boundary"} <= row["words"][0].keys()


def test_an_incomplete_last_line_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    first, second = (
        TranscribedRecording(write_sound(tmp_path / name), "we never said that you could") for name in ("1.wav", "2.wav")
    )
    with LabelsFile(path) as labels:
        labels.add(first, a_label(), 0.5)
        labels.add(second, a_label(), 0.5)
    path.write_bytes(path.read_bytes()[:-40])
    with LabelsFile(path) as labels:
        assert labels.has(first)
        assert not labels.has(second)
        labels.add(second, a_label(), 0.5)
    assert [row["audio"] for row in rows(path)] == ["1.wav", "2.wav"]


@pytest.mark.parametrize("notes", ["my notes\n", "my notes", "{}\n", '[{"text": "mine"}]'])
def test_a_file_without_labels_is_not_overwritten(tmp_path: Path, notes: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(notes)
    with pytest.raises(DataError, match="not a row of labels"), LabelsFile(path):
        pass
    assert path.read_text() == notes


@pytest.mark.parametrize("name", ["higgs.jsonl", "deep/er/higgs.json"])
def test_the_chatml_manifest(tmp_path: Path, name: str) -> None:
    recordings = [
        TranscribedRecording(write_sound(tmp_path / "in" / f"{n}.wav"), "we never said that you could", "anna") for n in range(2)
    ]
    with LabelsFile(tmp_path / "labels.jsonl") as labels:
        for recording in recordings:
            labels.add(recording, a_label(), 0.5)
    target = tmp_path / name
    assert write_chatml(tmp_path / "labels.jsonl", target) == 2
    text = target.read_text(encoding="utf-8")
    samples = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    assert samples[0]["start_index"] == 1
    assert samples[0]["speaker"] == "anna"
    user, assistant = samples[0]["messages"]
    assert user == {"role": "user", "content": "we <emph>never said that you could"}
    assert assistant["role"] == "assistant"
    assert assistant["content"]["type"] == "audio"
    assert (target.parent / assistant["content"]["audio_url"]).resolve() == recordings[0].path.resolve()
    assert os.listdir(target.parent).count(target.name) == 1
