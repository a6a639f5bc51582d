"""Checks of a manifest and its recordings."""

import io
from pathlib import Path

import numpy as np
import pytest
from higgs_finetune_manifests import audio, chat, message, write_manifest
from rich.console import Console

from synth.audio.decoding import decode
from synth.audio.encoding import encode
from synth.base import Audio
from synth.higgs_finetune.manifest import read_manifest
from synth.higgs_finetune.validate import CHECKS, ValidationReport, find_overlap, print_report, validate


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


def find_problems(folder: Path, sound: Audio | bytes | None, words: str = "This is what you hear here.") -> dict[str, str]:
    if sound is not None:
        (folder / "x.wav").write_bytes(sound if isinstance(sound, bytes) else encode(sound, "wav"))
    report = validate(read_manifest(write_manifest(folder, chat(words, audio("x.wav")))))
    assert {problem.source for problem in report.problems} <= {f"{folder / 'm.jsonl'}:1"}
    return {problem.check: problem.reason for problem in report.problems}


@pytest.mark.parametrize(
    ("sound", "words", "checks"),
    [
        (voice(), "This is what you hear here.", []),
        (tone(80), "Ah.", []),
        (None, "Hi", ["exists"]),
        (b"", "Hi", ["decodes"]),
        (b"RIFF____WAVE", "Hi", ["decodes"]),
        (encode(voice(), "wav")[:20_000], "This is cut off.", []),
        (voice(0.1), "Hi", ["length"]),
        (voice(41), "word " * 100, ["length"]),
        (voice(2, 8_000), "This is what you hear here.", ["rate"]),
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
def test_each_check_finds_its_problem(tmp_path: Path, sound: Audio | bytes | None, words: str, checks: list[str]) -> None:
    assert list(find_problems(tmp_path, sound, words)) == checks


def test_reference_recordings_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(encode(voice(), "wav"))
    report = validate(read_manifest(write_manifest(tmp_path, chat("Hello", audio("v.wav"), "This is said.", audio("x.wav")))))
    (problem,) = report.problems
    assert problem.check == "exists"
    assert "v.wav" in problem.reason


def test_duplicates_are_found(tmp_path: Path) -> None:
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
    path = write_manifest(tmp_path, *rows)
    report = validate(read_manifest(path))
    assert {problem.check for problem in report.problems} == {"duplicates"}
    assert [problem.source.rpartition(":")[2] for problem in report.problems] == ["2", "4", "4", "6"]
    held_out = write_manifest(tmp_path, chat("Other words.", audio("copy.wav")), chat("Why not?", "No."), name="val.jsonl")
    (leak,) = find_overlap(report, validate(read_manifest(held_out)))
    assert leak.source == f"{held_out}:1"
    assert f"{path}:1" in leak.reason


def printed(report: ValidationReport, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_report(report, console)
    return console.export_text()


def test_the_printed_report_lists_every_check_and_bad_row(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(encode(voice(), "wav"))
    rows = [chat("Say <emph>this [red]now[/].", audio("x.wav")), chat("No", audio("[b]y.wav")), {}, chat("Say <pause>it", "ok")]
    report = validate(read_manifest(write_manifest(tmp_path, *rows)))
    output = printed(report)
    assert all(check in output for check in CHECKS)
    assert f"{tmp_path / 'm.jsonl'}:2" in output
    assert "[b]y.wav: there is no such file" in output
    assert "4 rows, 2 of them bad; 2 recordings to learn" in output
    assert "1 tags are read as text, for example <pause>" in output
    assert "1 emph" in output
    assert report.seconds == pytest.approx(2.0)
    assert [row.source.rpartition(":")[2] for row in report.bad] == ["2", "3"]


def test_a_dropped_instruction_is_noted(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(encode(voice(), "wav"))
    row = chat("This is said.", audio("x.wav"))
    row["messages"].insert(0, message("system", "You are a helpful assistant."))
    report = validate(read_manifest(write_manifest(tmp_path, row)))
    assert report.ok
    assert "1 system messages" in report.notes[0]


def test_a_text_longer_than_a_request_is_noted(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(encode(voice(30), "wav"))
    report = validate(read_manifest(write_manifest(tmp_path, chat("word " * 70, audio("x.wav")))))
    assert report.ok
    assert "longer than the 300 characters" in report.notes[0]


def test_each_recording_is_checked_once_with_progress(tmp_path: Path) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.wav").write_bytes(encode(voice(seed=seed), "wav"))
    rows = [chat("Hello there.", audio("0.wav"), "This is said.", audio(f"{seed}.wav")) for seed in (1, 2)]
    progress: list[tuple[int, int]] = []
    report = validate(read_manifest(write_manifest(tmp_path, *rows)), progress=lambda *counts: progress.append(counts))
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert report.ok
    assert decode((tmp_path / "0.wav").read_bytes()).seconds == pytest.approx(2.0)
