"""The examples of docs/service.md work with a running service."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
DOC = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", DOC, re.DOTALL) for line in block.splitlines()]
PYTHON = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
AT = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def address(tiny_tagger: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROSODY_")}
    environment["PROSODY_TAGGER__ADAPTER"] = str(tiny_tagger)
    command = [sys.executable, "-m", "ai_core.commands.cli", "serve", "--port", str(port)]
    log = tmp_path_factory.mktemp("service") / "log.txt"
    with log.open("w") as output, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=output) as process:
        try:
            deadline = time.monotonic() + 60
            while not is_ready(found):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield found
        finally:
            process.terminate()


def is_ready(address: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{address}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of the commands, which run one after another; it contains a recording me.wav."""
    found = tmp_path_factory.mktemp("shown")
    with wave.open(str(found / "me.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes((3000 * np.sin(np.arange(4 * 24_000) * 0.06)).astype("<i2").tobytes())
    return found


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_work(command: str, address: str, folder: Path) -> None:
    line = command.removeprefix("$ ").replace(AT, address).replace("curl ", "curl --noproxy '*' -sS --fail-with-body ", 1)
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    words = shlex.split(line)
    told = (folder / words[words.index("-o") + 1]).read_bytes() if "-o" in words else done.stdout
    assert len(told) > 100
    if "stream_format" in line:
        assert b"speech.sentence" in told
        assert b"speech.audio.done" in told


def test_its_program_works(address: str, folder: Path) -> None:
    (program,) = PYTHON
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    command = [sys.executable, "-c", program.replace(AT, address)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (folder / "speech.mp3").stat().st_size > 5_000


def test_it_lists_every_setting_of_the_service() -> None:
    from api.settings import ApiSettings

    assert {f"PROSODY_API__{name}".upper() for name in ApiSettings.model_fields} <= set(re.findall(r"PROSODY_API__[A-Z_]+", DOC))
