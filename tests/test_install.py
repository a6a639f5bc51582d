"""What is installed: every package, the shipped tagger, no module under two names, and a hint that fits how it was installed."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ai_core.commands import doctor
from ai_core.settings import Settings
from prosody_tagger import extras
from prosody_tagger.model import SHIPPED

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COPIED = ("prosody_tagger", "synth", "ai_core", "api")
SCRIPTS = Path(sys.executable).parent


def tracked(*folders: str) -> set[str]:
    """Return the repository's files under these folders, as paths relative to its root."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone: git lists the files")
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


def test_every_folder_with_modules_is_a_package_that_is_installed() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    found = {str(Path(name).parent).replace("/", ".") for name in tracked(*COPIED) if name.endswith(".py")}
    expected = {*found, "prosody_tagger.models"}
    assert expected ^ set(listed) == set(), "add or remove these under [tool.setuptools] packages in pyproject.toml"
    assert len(listed) == len(expected)


def test_every_package_is_typed() -> None:
    for name in COPIED:
        assert (ROOT / name / "py.typed").is_file()
        assert PROJECT["tool"]["setuptools"]["package-data"][name] == ["py.typed"]


def test_the_shipped_models_are_those_of_the_repository() -> None:
    assert SHIPPED == ROOT / "models"


# --- versions

CONSTRAINTS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
LISTS = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
REQUIREMENTS = [Requirement(text) for requirements in LISTS for text in requirements]


def test_constraints_contain_only_names_and_versions_for_every_platform() -> None:
    names = [line.partition("==")[0] for line in CONSTRAINTS]
    assert names == sorted(set(names))
    for line in CONSTRAINTS:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line
        assert not line.startswith(("nvidia-", "triton", "pip=", "setuptools=", "wheel=")), line


def test_constraints_pin_every_direct_dependency_within_its_bounds() -> None:
    pinned = dict(line.split("==") for line in CONSTRAINTS)
    needed = [r for r in REQUIREMENTS if r.name not in ("prosody-speech", "tensorboard", "resemblyzer", "setuptools")]
    assert len(needed) > 30
    for requirement in needed:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_every_dependency_has_a_lower_bound_that_the_script_installs() -> None:
    for requirement in REQUIREMENTS:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators & {">=", "=="} or requirement.name in ("prosody-speech", "setuptools", "types-regex"), requirement


# --- modules

RECORDER = """
import atexit, json, os, sys

def record():
    modules = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file:
            modules.setdefault(os.path.realpath(file), {})[str(id(module))] = name
    with open(os.path.join(os.environ["MODULES_OF"], f"{os.getpid()}.json"), "w") as out:
        json.dump(modules, out)

atexit.register(record)
"""


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, str(ROOT / "ai_core" / "main.py"), "-i", "How much?", "-p", "30% savings"],
        [sys.executable, "-m", "ai_core.main", "-i", "How much?", "-p", "30% savings"],
        [str(SCRIPTS / "prosody"), "say", "hello", "-o", "a.wav"],
    ],
    ids=["main.py", "-m ai_core.main", "prosody"],
)
def test_no_file_is_loaded_under_two_names(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(RECORDER)
    records = tmp_path / "records"
    records.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MODULES_OF": str(records)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    recorded = [json.loads(file.read_text()) for file in records.iterdir()]
    assert any(str(ROOT / "ai_core" / "pipeline.py") in modules for modules in recorded)
    for modules in recorded:
        folders = tuple(
            str(ROOT / package) + os.sep for package in ("ai_core", "api", "prosody_tagger", "synth")
        )  # not .venv, which a clone may hold
        ours = {file: names for file, names in modules.items() if file.startswith(folders)}
        assert [sorted(names.values()) for names in ours.values() if len(names) > 1] == []
        for file, names in ours.items():
            relative = Path(file).relative_to(ROOT).with_suffix("")
            if relative.parts[0] not in COPIED:
                continue  # the environment, where it lies inside the repository
            dotted = ".".join(relative.parts[:-1] if relative.name == "__init__" else relative.parts)
            assert set(names.values()) <= {dotted, "__main__", "__mp_main__"}


# --- hints


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ({}, "pip install 'prosody-speech[plot]'"),
        ({"url": "file:///srv/a%20clone", "dir_info": {"editable": True}}, "pip install -e '/srv/a clone[plot]'"),
        ({"url": "file:///srv/clone", "dir_info": {}}, "pip install '/srv/clone[plot]'"),
        ({"url": Path.cwd().as_uri(), "dir_info": {"editable": True}}, "pip install -e '.[plot]'"),
        (
            {"url": "file:///srv/prosody_speech-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'prosody-speech[plot] @ file:///srv/prosody_speech-0.1.0-py3-none-any.whl'",
        ),
        (
            {"url": "https://example.com/speech.git", "vcs_info": {"vcs": "git", "commit_id": "0"}},
            "pip install 'prosody-speech[plot] @ git+https://example.com/speech.git'",
        ),
    ],
)
def test_the_hint_names_where_the_project_was_installed_from(
    origin: dict[str, Any], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "_origin", lambda: origin)
    assert extras.install_command("plot") == command
    assert extras.install_command() == command.replace("[plot]", "")


def test_the_hint_is_that_of_this_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert extras.install_command("plot") == "pip install -e '.[plot]'"


def test_every_install_hint_comes_from_one_function() -> None:
    for name in tracked(*COPIED):
        if name.endswith(".py") and name != "prosody_tagger/extras.py":
            assert "prosody-speech[" not in (ROOT / name).read_text(encoding="utf-8"), name


# --- names that others use too


def packages() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(Settings()) if finding.what == "package"}


def test_the_doctor_does_not_report_names_without_conflict() -> None:
    assert packages() == {}


def test_the_doctor_names_a_distribution_that_shares_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"synth": ["prosody-speech", "synthesizer-kit"], "api": ["Prosody_Speech"]}
    monkeypatch.setattr(doctor, "packages_distributions", lambda: owners)
    found = packages()
    assert list(found) == ["synth"]
    assert "synthesizer-kit" in found["synth"].detail
    assert not found["synth"].ready
    assert not found["synth"].needed


def test_the_doctor_names_a_folder_that_hides_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "__init__.py").touch()
    command = [sys.executable, "-m", "ai_core.commands.cli", "doctor", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    (found,) = [finding for finding in json.loads(done.stdout)["findings"] if finding["what"] == "package"]
    assert found["name"] == "api"
    assert str(tmp_path / "api" / "__init__.py") in found["detail"]


# --- the wheel


@pytest.mark.install
def test_the_wheel_speaks(tmp_path: Path) -> None:
    """Build an sdist and from it a wheel, install that in a new environment and speak from another folder."""
    source, built, elsewhere = (tmp_path / name for name in ("source", "built", "elsewhere"))
    elsewhere.mkdir()
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")

    def run(*command: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(python, "-m", "pip", "install", "-q", "build")
    run(python, "-m", "build", "--outdir", str(built), str(source))
    (archive,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    with tarfile.open(archive) as files:
        assert tracked() <= {name.partition("/")[2] for name in files.getnames()}
    with zipfile.ZipFile(wheel) as contents:
        held = {name for name in contents.namelist() if ".dist-info/" not in name}
    assert held == {name if not name.startswith("models/") else f"prosody_tagger/{name}" for name in tracked(*COPIED, "models")}

    run(python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel))
    run(str(tmp_path / "env" / "bin" / "prosody"), "say", "hello", "-o", "a.wav")
    assert (elsewhere / "a.wav").stat().st_size > 10_000
    said = run(python, "-m", "ai_core.main", "-i", "How much?", "-p", "30% savings")
    assert "30% <emph>savings" in said
    assert (elsewhere / "output" / "response.wav").stat().st_size > 10_000
    shipped = run(python, "-c", "import prosody_tagger.model as model; print(model.SHIPPED)").strip()
    assert Path(shipped).is_relative_to(tmp_path / "env")
    findings = json.loads(run(str(tmp_path / "env" / "bin" / "prosody"), "doctor", "--json"))["findings"]
    assert [finding for finding in findings if finding["what"] == "package"] == []
