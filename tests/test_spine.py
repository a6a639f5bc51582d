"""The main job stays readable: few files and few hand-over types from `main.py` to the WAV, and no long file."""

import ast
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ai_core", "api", "prosody_tagger", "synth", "boson_server")


def test_the_spine_has_at_most_eight_files_and_eight_types() -> None:
    command = [sys.executable, "benchmarks/spine.py", "--json"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert len(found["files"]) <= 8, found["files"]
    assert len(found["types"]) <= 8, found["types"]
    assert "ai_core/main.py" in found["files"]


def test_no_file_of_the_packages_is_long() -> None:
    lines = {path: len(path.read_text().splitlines()) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert {str(path): count for path, count in lines.items() if count >= 400} == {}


def test_no_class_name_stands_twice() -> None:
    places: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
