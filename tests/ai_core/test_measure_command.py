"""The commands `prosody measure` and `prosody label`."""

import asyncio
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer

from ai_core.commands.label import label
from ai_core.commands.measure import measure
from prosody_tagger.command import exit_code
from prosody_tagger.extras import install_command
from prosody_tagger.markup import parse
from synth.audio.encoding import encode
from synth.base import Audio, SpeechRequest
from synth.embedded.backend import EmbeddedVoice

TEXT = "I never said <emph>she stole my money."
PLAIN = parse(TEXT).text
Run = Callable[..., tuple[int, str, str]]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(measure)
app.command()(label)


def sound(source: str) -> bytes:
    """Speak ``source`` with the embedded voice; return the WAV file."""

    async def speak() -> Audio:
        chunks = [chunk async for chunk in EmbeddedVoice().speak(SpeechRequest(parse(source)))]
        return chunks[0].audio

    return encode(asyncio.run(speak()))


@pytest.fixture(scope="module")
def spoken() -> dict[str, bytes]:
    return {source: sound(source) for source in (TEXT, PLAIN)}


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command in a temporary folder and returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*args: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = exit_code(app, list(args))
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


@pytest.fixture
def wav(tmp_path: Path, spoken: dict[str, bytes]) -> Path:
    path = tmp_path / "a.wav"
    path.write_bytes(spoken[TEXT])
    (tmp_path / "plain.wav").write_bytes(spoken[PLAIN])
    return path


def test_measure_prints_a_table(run: Run, wav: Path) -> None:
    code, out, err = run("measure", "--audio", str(wav), "--text", TEXT)
    assert (code, err) == (0, "")
    assert "<emph>" in out
    assert "she" in out
    assert "1 of 1 marks" in out


def test_measure_as_json_with_a_reference(run: Run, wav: Path) -> None:
    code, out, _ = run("measure", "--audio", str(wav), "--text", TEXT, "--reference", "plain.wav", "--json")
    data = json.loads(out)
    assert code == 0
    assert data["trusted"]
    assert (data["asked"], data["realised"]) == (1, 1)
    assert data["text"] == PLAIN
    assert data["marked"] == TEXT
    change = data["marks"][0]["change"]
    assert change["duration_ratio"] == pytest.approx(1.4, abs=0.15)
    assert change["energy_db"] > 3
    assert change["pitch_semitones"] > 3


def test_measure_reads_stdin(run: Run, spoken: dict[str, bytes]) -> None:
    code, out, _ = run("measure", "--audio", "-", "--text", TEXT, "--json", stdin=spoken[TEXT])
    assert code == 0
    assert json.loads(out)["realised"] == 1


def test_measure_warns_of_another_text(run: Run, wav: Path) -> None:
    code, out, err = run(
        "measure", "--audio", str(wav), "--text", "Fourteen geese <emph>crossed a lake before it rained again.", "--json"
    )
    assert code == 0
    assert not json.loads(out)["trusted"]
    assert json.loads(out)["warnings"]
    assert err == ""
    _, _, said = run("measure", "--audio", str(wav), "--text", "Fourteen geese <emph>crossed a lake before it rained again.")
    assert "does not seem to match the text" in said


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("--audio", "gone.wav", "--text", "hi"), "gone.wav"),
        (("--audio", "notes.txt", "--text", "hi"), "notes.txt"),
        (("--audio", "a.wav", "--text", "<emp>hi"), "did you mean <emph>"),
        (("--audio", "a.wav", "--text", "..."), "no words"),
        (("--audio", "a.wav", "--text", "hi", "--language", "tlh-x"), "tlh"),
        (("--audio", "a.wav", "--text", "hi", "--reference", "gone.wav"), "gone.wav"),
        (("--audio", "a\0b", "--text", "hi"), "cannot read"),
    ],
)
def test_measure_refuses_invalid_input(run: Run, wav: Path, args: tuple[str, ...], what: str) -> None:
    wav.with_name("notes.txt").write_text("some notes")
    code, out, err = run("measure", *args)
    assert (code, out) == (2, "")
    assert what in err
    assert len(err.strip().splitlines()) == 1


def test_a_plot_needs_its_extra(run: Run, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synth.acoustics.plot.find_spec", lambda name: None)
    code, _, err = run("measure", "--audio", str(wav), "--text", TEXT, "--plot", "out.png")
    assert code == 3
    assert install_command("plot") in err
    assert not Path("out.png").exists()


def test_a_plot(run: Run, wav: Path) -> None:
    pytest.importorskip("matplotlib")
    code, out, _ = run("measure", "--audio", str(wav), "--text", TEXT, "--plot", "deep/out.png")
    assert code == 0
    assert "deep/out.png" in out
    assert Path("deep/out.png").read_bytes().startswith(b"\x89PNG")


def test_label_one_recording(run: Run, wav: Path) -> None:
    code, out, err = run("label", "--audio", str(wav), "--text", PLAIN, "-o", "labels.jsonl")
    assert code == 0
    assert out == TEXT + "\n"
    assert "1 labelled" in err
    row = json.loads(Path("labels.jsonl").read_text())
    assert row["text"] == TEXT
    assert [word["word"] for word in row["words"]] == ["I", "never", "said", "she", "stole", "my", "money"]


def test_label_resumes_a_folder(run: Run, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    wav.rename(tmp_path / "anna" / "1.wav")
    (tmp_path / "anna" / "1.txt").write_text(PLAIN)
    (tmp_path / "2.wav").write_bytes((tmp_path / "plain.wav").read_bytes())
    (tmp_path / "2.txt").write_text("Fourteen geese crossed a lake before it rained again.")
    (tmp_path / "3.wav").write_bytes(b"RIFF nothing")
    (tmp_path / "3.txt").write_text(PLAIN)
    first = run("label", "--audio", ".", "-o", "out/labels.jsonl", "--chatml", "out/higgs.jsonl", "--json")
    data = json.loads(first[1])
    assert first[0] == 0
    assert (data["labelled"], data["done_before"], data["failed_count"]) == (1, 0, 3)
    reasons = {item["place"]: item["reason"] for item in data["failed"]}
    assert "does not match the transcript" in reasons["2.wav"]
    assert "plain.txt" in reasons["plain.wav"]
    assert "3.wav" in first[2]
    written = Path("out/labels.jsonl").read_bytes()
    sample = json.loads(Path("out/higgs.jsonl").read_text())
    assert sample["messages"][0]["content"] == TEXT
    assert sample["messages"][1]["content"]["audio_url"] == "../anna/1.wav"
    assert sample["speaker"] == "anna"

    (tmp_path / "2.txt").write_text(PLAIN)
    Path("out/labels.jsonl").write_bytes(written + b'{"text": "half a li')
    data = json.loads(run("label", "--audio", ".", "-o", "out/labels.jsonl", "--json")[1])
    assert (data["labelled"], data["done_before"]) == (1, 1)
    assert Path("out/labels.jsonl").read_bytes().startswith(written)
    assert len(Path("out/labels.jsonl").read_text().splitlines()) == 2


def test_label_by_a_manifest(run: Run, wav: Path) -> None:
    Path("rows.tsv").write_text(f"a.wav\t{PLAIN}\ngone.wav\tnothing\n")
    code, _, err = run("label", "--manifest", "rows.tsv", "-o", "labels.jsonl", "--emphases-per-word", "0.3")
    assert code == 0
    assert "rows.tsv:2" in err
    assert json.loads(Path("labels.jsonl").read_text())["text"].count("<emph>") == 2


@pytest.mark.parametrize(
    ("args", "what"),
    [
        ((), "nothing to label"),
        (("--audio", "gone"), "gone"),
        (("--audio", ".", "--text", "hi"), "is a folder"),
        (("--audio", "a.wav"), "a.txt"),
        (("--audio", "a.wav", "--text", "..."), "no word"),
        (("--manifest", "gone.tsv"), "gone.tsv"),
        (("--manifest", "empty.tsv"), "no recording"),
        (("--manifest", "empty.tsv", "--text", "hi"), "--text and --manifest"),
        (("--audio", "a.wav", "--text", "hi", "-o", "notes.txt"), "not a row of labels"),
        (("--audio", "a.wav", "--text", "hi", "--emphases-per-word", "2"), "--emphases-per-word"),
    ],
)
def test_label_refuses_invalid_input(run: Run, wav: Path, args: tuple[str, ...], what: str) -> None:
    wav.with_name("empty.tsv").write_text("\n")
    wav.with_name("notes.txt").write_text("some notes\n")
    code, out, err = run("label", *args)
    assert (code, out) == (2, "")
    assert what in err


def test_silence_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encode(Audio(np.zeros(16_000, dtype=np.float32), 16_000)))
    code, _, err = run("label", "--audio", "a.wav", "--text", "hello there", "-o", "labels.jsonl")
    assert code == 2
    assert "a.wav" in err
