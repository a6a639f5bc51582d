"""Run `prosody serve` for tests with clients of other projects."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "a-key-for-these-tests-only"

TEXT = "We ship on Monday, and the returns are free. It costs nine dollars, not ten."
LONG = " ".join(f"This is sentence number {n}, and it goes on for a while before it ends." for n in range(1, 260))


@dataclass(frozen=True)
class Server:
    """Address and key of the service, as OpenAI clients need them."""

    root: str
    key: str = KEY

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def wav_seconds(self, text: str, **asked: object) -> float:
        """Return the duration of a text as a WAV file, in seconds."""
        body = json.dumps({"text": text, **asked}).encode()
        request = urllib.request.Request(f"{self.root}/speak", body, self._headers())
        with urllib.request.urlopen(request, timeout=60) as answer, wave.open(io.BytesIO(answer.read())) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
            return file.getnframes() / file.getframerate()

    def speaking(self) -> float:
        """Return the number of texts that are being spoken."""
        with urllib.request.urlopen(urllib.request.Request(f"{self.root}/metrics", headers=self._headers()), timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("prosody_running{"))

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def running(command: list[str], environment: dict[str, str], ready: Callable[[], bool], log: Path) -> Iterator[None]:
    """Run a program, wait until it is ready, and stop it with SIGTERM after the block."""
    with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            wait_until(lambda: ready() or process.poll() is not None, 60)
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(15)


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PROSODY_", "OPENAI_", "TTS_", "STT_"))}


def prosody() -> str:
    """Return the path of a command, in this environment or else in the project's .venv."""
    given = os.environ.get("PROSODY_COMMAND") or shutil.which("prosody", path=Path(sys.executable).parent)
    command = given or str(ROOT / ".venv" / "bin" / "prosody")
    if not Path(command).exists():
        pytest.fail(f"there is no {command}; install the project into .venv, or name its command in PROSODY_COMMAND")
    return command


@contextmanager
def serving(log: Path, **settings: str) -> Iterator[Server]:
    port = free_port()
    server = Server(f"http://127.0.0.1:{port}")

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{server.root}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    environment = clean_environment() | {"PROSODY_API__KEYS": KEY} | settings
    with running([prosody(), "serve", "--port", str(port)], environment, ready, log):
        yield server
