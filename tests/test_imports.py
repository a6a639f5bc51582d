"""The order of imports that `[tool.importlinter]` in pyproject.toml lays down holds."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINTER = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(verbose=False))"]


def test_every_contract_is_kept() -> None:
    done = subprocess.run(LINTER, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_of_prosody_tagger_is_open_or_closed_to_the_voices() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (closed,) = [contract["forbidden_modules"] for contract in linter["contracts"] if contract["type"] == "forbidden"]
    open_to_voices = {"command", "errors", "extras", "files", "markup", "segment"}
    modules = {file.stem for file in (ROOT / "prosody_tagger").iterdir() if file.suffix == ".py" or (file / "__init__.py").exists()}
    assert modules - {"__init__"} == open_to_voices | {name.partition(".")[2] for name in closed}
