"""README's commands run, and their output is as shown."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv")]
SHELL_BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
SHOWN = [line[2:] for block in SHELL_BLOCKS for line in block.splitlines() if line.startswith("$ ")]


def test_the_first_screen_has_exactly_two_commands() -> None:
    assert len(COMMANDS) == 2
    first_screen = "\n".join(README.splitlines()[:45])
    assert all(command in first_screen for command in COMMANDS)


def test_ci_runs_both_commands_of_the_readme() -> None:
    patterns = re.findall(r"^.*readme '([^']+)'", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert [[line for line in README.splitlines() if re.search(pattern, line)] for pattern in patterns] == [[c] for c in COMMANDS]


@pytest.mark.parametrize("command", SHOWN)
def test_shown_commands_run(command: str, tmp_path: Path) -> None:
    """Run the command in this environment; its files go to a temporary folder."""
    scripts = Path(sys.executable).parent
    line = command.replace(".venv/bin/", f"{shlex.quote(str(scripts))}/").replace(
        "ai_core/main.py", str(ROOT / "ai_core" / "main.py")
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if "--json" in command and "-o -" not in command and "|" not in command:
        assert isinstance(json.loads(done.stdout), dict)


def test_the_output_of_the_main_job_matches_the_readme(tmp_path: Path) -> None:
    command = COMMANDS[0].split(" && ")[-1]
    shown = README.split(command, 1)[1].split("```", 3)[2]
    done = subprocess.run(
        [sys.executable, str(ROOT / "ai_core" / "main.py"), *shlex.split(command)[2:]], cwd=tmp_path, capture_output=True, text=True
    )
    said = [line for line in shown.splitlines() if line.startswith(("question", "reply", "marked"))]
    assert len(said) == 3
    assert [line.rstrip() for line in done.stdout.splitlines()[:3]] == said
    assert (tmp_path / "output" / "response.wav").stat().st_size > 10_000


def test_its_python_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert isinstance(names["wav"], bytes)
    assert names["wav"][:4] == b"RIFF"


@pytest.mark.parametrize("package", ["ai_core", "prosody_tagger", "synth"])
def test_public_names_are_imported_when_used(package: str) -> None:
    """Importing a package loads none of its modules; every exported name is there."""
    code = (
        f"import sys, {package} as package\n"
        f"assert [name for name in sys.modules if name.startswith('{package}.')] == []\n"
        "for name in package.__all__: assert getattr(package, name).__name__ == name\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.install
def test_the_first_command_on_a_bare_clone(tmp_path: Path) -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(["bash", "-c", COMMANDS[0]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "30% savings" in done.stdout
    assert (tmp_path / "output" / "response.wav").stat().st_size > 10_000
