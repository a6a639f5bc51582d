"""The commands: output, files and exit codes."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import soundfile

from ai_core import main
from ai_core.commands import cli, options
from prosody_tagger.command import exit_code
from prosody_tagger.density import DENSITIES
from prosody_tagger.markup import KINDS, parse
from synth import base
from synth.audio.encoding import FORMATS

ROOT = Path(__file__).resolve().parent.parent.parent
Run = Callable[..., tuple[int, str, str]]

SPOKEN_KEYS = {"text", "marked", "marks", "words", "audio", "sample_rate", "seconds", "backend", "fallback", "warnings", "timings"}


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs `prosody` or the main job in a temporary folder and returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*args: str, app: Any = cli.app, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = exit_code(app, list(args))
        out, err = capfdbinary.readouterr()
        return code, out.decode("utf-8", "replace"), err.decode()

    return call


def error_of(result: tuple[int, str, str], code: int = 2) -> str:
    """Return the single line of a failed command."""
    assert result[0] == code, result
    assert result[1] == ""
    lines = result[2].strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_the_main_job_as_json(run: Run, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "response.wav").write_bytes(b"old")
    code, out, _ = run("-i", "How much?", "-p", "30% savings", "-p", "no contract", "--json", app=main.app)
    data = json.loads(out)
    assert code == 0
    assert set(data) == SPOKEN_KEYS | {"input", "points", "reply_by"}
    assert (data["input"], data["points"], data["reply_by"]) == ("How much?", ["30% savings", "no contract"], "template")
    assert "30% savings" in data["text"]
    assert "no contract" in data["text"]
    assert parse(data["marked"]).text == data["text"]
    assert data["marks"]
    assert all(set(mark) == {"kind", "offset", "word", "score", "ms"} and 0 < mark["score"] < 1 for mark in data["marks"])
    for word in data["words"]:
        assert data["text"][word["offset"] :].startswith(word["word"])
    assert "30%" in [word["word"] for word in data["words"]]
    samples, rate = soundfile.read(data["audio"])
    assert data["audio"] == "output/response.wav"
    assert (rate, data["sample_rate"]) == (24_000, 24_000)
    assert len(samples) / rate == pytest.approx(data["seconds"], abs=1e-3)
    assert soundfile.info(data["audio"]).subtype == "PCM_16"


def test_the_main_job_for_people(run: Run) -> None:
    code, out, err = run("-i", "How much?", "-p", "30% savings", "-o", "deep/er/a.wav", app=main.app)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["question", "reply", "marked", "audio"]
    assert "deep/er/a.wav" in out
    assert Path("deep/er/a.wav").exists()


def test_the_main_job_requires_a_message(run: Run) -> None:
    assert "--input" in error_of(run("-p", "30% savings", app=main.app))


def test_an_unknown_flag(run: Run) -> None:
    assert "--intensity" in error_of(run("say", "Go.", "--intensity", "loud"))
    assert "--nope" in error_of(run("say", "--nope"))
    assert "shout" in error_of(run("shout"))


@pytest.mark.parametrize("said", ["", "  "])
def test_the_main_job_with_nothing(run: Run, said: str) -> None:
    assert "no text" in error_of(run("-i", said, app=main.app))
    assert not Path("output/response.wav").exists()


def test_chat_without_a_server_says_what_to_set(run: Run) -> None:
    assert "PROSODY_CHAT__URL" in error_of(run("-i", "How much?", "--reply", "chat", app=main.app))


def test_say_as_json(run: Run) -> None:
    code, out, _ = run("say", "--marked", "It's <emph>only $299 <pause_short:400ms>today.", "--json", "-o", "a.wav")
    data = json.loads(out)
    assert code == 0
    assert SPOKEN_KEYS | {"input"} <= set(data)
    assert data["text"] == "It's only $299 today."
    assert data["marks"] == [
        {"kind": "emph", "offset": 5, "word": "only", "score": None, "ms": None},
        {"kind": "pause_short", "offset": 15, "word": "today", "score": None, "ms": 400},
    ]
    before, after = data["words"][2], data["words"][3]
    assert (before["word"], after["word"]) == ("$299", "today")
    assert after["start"] - before["end"] == pytest.approx(0.4, abs=0.06)


def test_say_to_stdout_and_from_stdin(run: Run, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code, out, err = run("say", "-", "-o", "-", stdin="It's naïve.".encode())
    assert code == 0
    assert out.startswith("RIFF")
    assert "naïve" in err
    assert list(Path().iterdir()) == []


def test_json_and_audio_cannot_share_stdout(run: Run) -> None:
    assert "--json" in error_of(run("say", "Go.", "-o", "-", "--json"))


@pytest.mark.parametrize(("form", "kind"), [("flac", "FLAC"), ("mp3", "MP3"), ("opus", "OGG")])
def test_formats(run: Run, form: str, kind: str) -> None:
    assert run("say", "--marked", "It works.", "--format", form)[0] == 0
    info = soundfile.info(f"output/speech.{form}")
    assert (info.format, info.samplerate) == (kind, 24_000)


def test_say_ssml(run: Run) -> None:
    source = '<speak>See <sub alias="Doctor Who">Dr W</sub> <emphasis>now</emphasis>.<break time="300ms"/></speak>'
    code, out, _ = run("say", "--ssml", source, "--json")
    data = json.loads(out)
    assert code == 0
    assert data["text"] == "See Dr W now."
    assert [mark["kind"] for mark in data["marks"]] == ["emph", "pause_short"]


def test_mark(run: Run) -> None:
    code, out, _ = run("mark", "He opened the door very slowly, and nobody was there.", "--json")
    data = json.loads(out)
    assert code == 0
    assert set(data) == {"text", "marked", "marks"}
    assert parse(data["marked"]).text == data["text"] == "He opened the door very slowly, and nobody was there."
    code, out, _ = run("mark", "-", stdin=b"He opened the door very slowly, and nobody was there.")
    assert out.rstrip("\n") == data["marked"]
    assert run("mark", "", "--json")[1].replace("\n", "").replace(" ", "") == '{"text":"","marked":"","marks":[]}'


def test_mark_writes_ssml(run: Run) -> None:
    code, out, _ = run("mark", "--ssml", "<speak>It is <emphasis>nine</emphasis>.</speak>", "--to-ssml")
    assert code == 0
    assert "<emphasis" in out


def test_mark_intensity(run: Run) -> None:
    text = "He opened the door very slowly, and nobody was there. " * 10
    count = {level: run("mark", text, "--intensity", level)[1].count("<emph>") for level in ("low", "medium", "high")}
    assert count["low"] < count["medium"] < count["high"]


def test_voices(run: Run) -> None:
    code, out, _ = run("voices", "--json")
    voices = json.loads(out)["voices"]
    assert code == 0
    assert voices[0]["name"] == "en-us"
    assert len({voice["language"].split("-")[0] for voice in voices}) > 50
    assert "en-us" in run("voices")[1]


def test_doctor(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    data = json.loads(out)
    assert code == 0
    assert data["ready"]
    found = {(finding["what"], finding["name"]) for finding in data["findings"]}
    assert found >= {("backend", "embedded"), ("model", "tagger shipped")}
    assert "embedded" in run("doctor")[1]


def test_doctor_says_what_is_not_ready(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSODY_TAGGER__ADAPTER", "/nowhere")
    monkeypatch.setenv("PROSODY_BACKEND", "embeded")
    code, out, _ = run("doctor")
    assert code == 3
    assert out.count("NOT READY") == 2
    assert "PROSODY_BACKEND" in out
    assert "/nowhere" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["say", ""], "no text"),
        (["say", "x" * 20_001], "20,001 characters"),
        (["mark", "x" * 20_001], "20,001 characters"),
        (["say", "--marked", "a <empf>b"], "did you mean <emph>?"),
        (["say", "--marked", "go <emph>"], "no word after it"),
        (["say", "--ssml", "<speak><voice/></speak>"], "line 1, column 8"),
        (["say", "--ssml", "--marked", "a"], "exclude each other"),
        (["say", "Go.", "--voice", "en-uss"], "en-us"),
        (["say", "Go.", "--backend", "cloud"], "unknown backend 'cloud'"),
        (["voices", "--backend", "cloud"], "unknown backend 'cloud'"),
        (["say", "Go.", "--speed", "9"], "speed 9 is out of range"),
        (["say", "Go.", "--tagger", "/nowhere"], "no tagger in /nowhere"),
        (["say", "Go.", "-o", "/proc/nope/a.wav"], "cannot write /proc/nope/a.wav"),
        (["say", "Go.", "-o", "."], "is a folder"),
        (["say", "a\udcff"], "lone surrogate"),
    ],
)
def test_bad_input_is_reported_on_one_line(run: Run, args: list[str], message: str) -> None:
    assert message in error_of(run(*args))
    assert not Path("output/speech.wav").exists()


def test_stdin_that_is_not_utf8(run: Run) -> None:
    assert "not UTF-8 at byte 1" in error_of(run("say", "-", stdin=b"a\xff"))


def test_a_setting_that_cannot_be_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSODY_EMBEDDED__PITCH", "high")
    assert "PROSODY_EMBEDDED__PITCH" in error_of(run("say", "Go."))
    monkeypatch.setenv("PROSODY_CHAT__API_KEY", "s3cret")
    monkeypatch.delenv("PROSODY_EMBEDDED__PITCH")
    assert "s3cret" not in error_of(run("say", "Go."))


def test_a_broken_adapter(run: Run, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    assert "is broken" in error_of(run("say", "Go.", "--tagger", str(tmp_path)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk(run: Run) -> None:
    assert "no space left" in error_of(run("say", "--marked", "Go.", "-o", "/dev/full"), code=1)


def test_every_mark_can_be_spoken(run: Run) -> None:
    for kind in KINDS:
        assert run("say", "--marked", f"It is <{kind}>only today.")[0] == 0


def test_the_choices_of_the_commands_are_those_of_the_code() -> None:
    """The options repeat them, so that --help need not import the code."""
    assert get_args(get_type_hints(cli.say)["audio_format"]) == tuple(FORMATS)
    assert options.LEVELS == get_args(base.Strength) == tuple(DENSITIES)


def test_an_intensity_may_be_a_number(run: Run) -> None:
    text = "We ship on Monday, and the returns are free. It costs nine dollars, not ten. Nobody asked me. " * 12
    words = len(text.split())
    for density in (0.06, 0.12, 0.24):
        assert run("mark", text, "--intensity", str(density))[1].count("<emph>") == pytest.approx(density * words, rel=0.15)
    assert "0 to 1" in error_of(run("mark", text, "--intensity", "1.5"))
    assert "0 to 1" in error_of(run("mark", text, "--intensity", "nan"))


def start(*args: str, cwd: Path) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    # A background process ignores SIGINT, and its children inherit that.
    return subprocess.Popen(
        [sys.executable, "-m", "ai_core.commands.cli", *args],
        cwd=cwd,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env=os.environ | {"PROSODY_MAX_CHARS": "100000"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_ctrl_c_exits_with_130_and_writes_no_file(tmp_path: Path) -> None:
    process = start("say", "--marked", "-", "-o", "a.wav", cwd=tmp_path)
    time.sleep(1.0)  # it waits for stdin now
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.decode().strip().splitlines()[-1] == "error: interrupted"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_during_synthesis(tmp_path: Path) -> None:
    text = "It was a bright cold day in April, and the clocks were striking thirteen. " * 250
    process = start("say", "--marked", text, "-o", "a.wav", cwd=tmp_path)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['prosody', '--help']\nfrom ai_core.commands.cli import app\ntry: app()\nexcept SystemExit: pass\n"
    )
    code += "print({'torch', 'transformers', 'numpy', 'pydantic', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("set()")


def test_speaking_marked_text_imports_no_tagger() -> None:
    code = "import sys\nfrom prosody_tagger.command import exit_code\nfrom ai_core.commands.cli import app\n"
    code += "exit_code(app, ['say', '--marked', 'It works.', '-o', '/dev/null'])\n"
    code += "print({'torch', 'transformers', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("set()")
