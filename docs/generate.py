"""Generate the parts of the documentation that repeat the code.

    python docs/generate.py            rewrite them
    python docs/generate.py --check    list what is out of date; exit code 1 if anything is

A generated part of a document stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; `PARTS` holds the function that
returns its text. `FILES` holds documents that are generated whole. ``tests/test_docs.py`` fails when either is out of date.
"""

import argparse
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

if TYPE_CHECKING:
    from fastapi import FastAPI
    from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/*.md")
"""Files, as glob patterns below the repository's root, that may hold generated parts."""

_PART = re.compile(r"(?P<start>^[^\S\n]*<!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<end>^[^\S\n]*<!-- end -->$)", re.S | re.M)


REQUIRED = "required"
"""The default of a setting that has none."""


# Helpers


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, *rows)).replace("\n", f"\n|{'---|' * len(head)}\n", 1)


def attribute_texts(model: type) -> dict[str, str]:
    """Return the description of each attribute in the docstring's ``Attributes:`` section, own and inherited, each as one line."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        _, _, section = (inspect.cleandoc(base.__doc__ or "")).partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*?)(?=^    \w|^\S|\Z)", section, re.S | re.M):
            found[name] = " ".join(text.split())
    return found


def settings_rows(model: "type[BaseModel]", prefix: str) -> list[tuple[str, str, str]]:
    """Return (variable, default, description) of every setting of a pydantic model: its own, then those of its bases.

    A field that holds a group of settings, thus another model, is left out.

    Raises:
        KeyError: the docstring does not describe a field.
    """
    texts = attribute_texts(model)
    names = dict.fromkeys(name for base in model.__mro__ for name in vars(base).get("__annotations__", ()))
    fields = {name: model.model_fields[name] for name in names if name in model.model_fields and not is_group(model, name)}
    return [
        (
            f"{prefix}{name}".upper(),
            default_text(field.get_default(call_default_factory=True)),
            f"{texts[name]}{choices_text(field.annotation, texts[name])}",
        )
        for name, field in fields.items()
    ]


def choices_text(annotation: Any, text: str) -> str:
    """Return the choices of a ``Literal`` as an addition to its description; nothing if ``text`` names them all."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if get_origin(kind) is Literal]
    choices = [str(choice) for kind in kinds for choice in get_args(kind)]
    return "" if all(re.search(rf"\b{re.escape(choice)}\b", text) for choice in choices) else f" ({', '.join(choices)})"


def is_group(model: "type[BaseModel]", name: str) -> bool:
    """Return whether a field of ``model`` is a pydantic model itself, or one or None."""
    from pydantic import BaseModel

    annotation = model.model_fields[name].annotation
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in (annotation, *get_args(annotation)))


def default_text(value: Any) -> str:
    """Return a default as it would be written in the environment: nothing if it is not set, `REQUIRED` if it has none."""
    from pydantic_core import PydanticUndefined

    if value is None or value == ():
        return ""
    if value is PydanticUndefined:
        return REQUIRED
    return str(value).lower() if isinstance(value, bool) else str(value)


def code(text: str) -> str:
    """Return ``text`` as Markdown code, or nothing if it is empty."""
    return f"`{text}`" if text else ""


# The service


def _app() -> "FastAPI":
    from ai_core.settings import Settings
    from api.app import create_app
    from api.settings import ApiSettings

    return create_app(Settings(), ApiSettings())


def api_settings() -> str:
    """The settings of the service."""
    from api.settings import ApiSettings

    rows = settings_rows(ApiSettings, "PROSODY_API__")
    return table(("setting", "default", "meaning"), [(code(name), code(default), text) for name, default, text in rows])


def api_endpoints() -> str:
    """Method, path and summary of every endpoint."""
    rows = [
        (code(f"{method.upper()} {path}"), operation["summary"])
        for path, operations in _app().openapi()["paths"].items()
        for method, operation in operations.items()
    ]
    return table(("endpoint", "purpose"), rows)


def api_errors() -> str:
    """Status, codes and meaning of every error."""
    from api.errors import DESCRIPTIONS, codes_of

    rows = [(str(status), ", ".join(map(code, codes_of(status))), text) for status, text in sorted(DESCRIPTIONS.items())]
    return table(("status", "`code`", "meaning"), rows)


def api_speak_fields() -> str:
    """The fields of POST /speak."""
    from api.schemas import SpeakRequest

    fields = SpeakRequest.model_json_schema()["properties"]
    order = sorted(fields, key=lambda name: name not in ("text", "marked", "input", "points"))
    rows = [(code(name), code(default_text(fields[name].get("default"))), fields[name]["description"]) for name in order]
    return table(
        ("field", "default", "meaning"), [(name, "" if default == "`[]`" else default, text) for name, default, text in rows]
    )


def openapi() -> str:
    """The OpenAPI description of the service, without the project's version."""
    described = _app().openapi()
    return json.dumps({**described, "info": {**described["info"], "version": "0"}}, indent=1, ensure_ascii=False) + "\n"


# Settings and commands


def setting_groups() -> "list[tuple[str, type[BaseModel], str]]":
    """Title, model and prefix of every group of settings."""
    from ai_core.reply.chat import ChatSettings
    from ai_core.settings import Settings, TaggerSettings
    from api.settings import ApiSettings
    from synth.embedded.backend import EmbeddedSettings
    from synth.higgs_http.settings import HiggsSettings
    from synth.higgs_local.settings import HiggsLocalSettings
    from synth.natural.settings import NaturalSettings

    return [
        ("The service", ApiSettings, "PROSODY_API__"),
        ("Every job", Settings, "PROSODY_"),
        ("The tagger", TaggerSettings, "PROSODY_TAGGER__"),
        ("The chat model that writes replies, for PROSODY_REPLY=chat", ChatSettings, "PROSODY_CHAT__"),
        ("Backend embedded", EmbeddedSettings, "PROSODY_EMBEDDED__"),
        ("Backend natural", NaturalSettings, "PROSODY_NATURAL__"),
        ("Backend higgs-http", HiggsSettings, "PROSODY_HIGGS__"),
        ("Backend higgs-local", HiggsLocalSettings, "PROSODY_HIGGS_LOCAL__"),
    ]


def settings() -> str:
    """Every setting of the environment, a table for each group."""
    sections = []
    for title, model, prefix in setting_groups():
        rows = settings_rows(model, prefix)
        shown = [(code(name), default if default == REQUIRED else code(default), cell(text)) for name, default, text in rows]
        sections.append(f"## {title}\n{table(('setting', 'default', 'meaning'), shown)}")
    about = (
        "Read from the environment. An empty default means that the setting is not set. `.env.example` lists them for a `.env`\n"
        "file, which docker compose reads. This page is generated: change the docstrings and run `python docs/generate.py`."
    )
    return "\n".join((f"# Settings\n\n{about}\n", *sections))


ENV_HEAD = """\
# Every setting with its default. Copy this file to .env, which docker compose reads; remove the # before a #PROSODY_ line to change
# its value. Nothing after the = means that it is not set. This file is generated from the code: python docs/generate.py
#
# Without compose, load the same names into the environment: set -a; . ./.env; set +a; prosody serve

# The container is reached from other machines, so it needs at least one API key (or PROSODY_API__OPEN=true). To make one:
# python3 -c "import secrets; print(secrets.token_urlsafe(32))"
# For compose, PROSODY_API__HOST and PROSODY_API__PORT below are address and port of this machine at which it publishes the service.
PROSODY_API__KEYS=
"""
ENV_TAIL = """
# --- docker compose up higgs: boson_server/ beside the service

# Folder that holds model/ and codec/, see boson_server/README.md.
#BOSON_MODELS=./boson_models
# A key that the service and boson_server share.
#BOSON_SERVER_API_KEY=
"""


def env_example() -> str:
    """Every setting as a line of a ``.env`` file, commented out, with its meaning above it."""
    parts = [ENV_HEAD]
    for title, model, prefix in setting_groups():
        parts.append(f"\n# --- {title}\n\n")
        for name, default, text in settings_rows(model, prefix):
            if f"\n{name}=" in ENV_HEAD:
                continue
            meaning = textwrap.fill(text.replace("``", "").replace("`", ""), 130, initial_indent="# ", subsequent_indent="# ")
            value = "" if default == REQUIRED else f'"{default}"' if " " in default else default
            parts.append(f"{meaning}\n#{name}={value}\n")
    return "".join((*parts, ENV_TAIL))


def commands() -> str:
    """Every command with its usage, arguments and options, as its ``--help`` has them."""
    import typer

    import ai_core.commands.cli
    import ai_core.main
    import prosody_tagger.evaluation.evaluate
    import prosody_tagger.training.train
    import synth.higgs_finetune.command

    applications = (
        ("python ai_core/main.py", ai_core.main.app),
        ("prosody", ai_core.commands.cli.app),
        ("train-tagger", prosody_tagger.training.train.app),
        ("evaluate-tagger", prosody_tagger.evaluation.evaluate.app),
        ("train-higgs", synth.higgs_finetune.command.app),
    )
    sections = [section for name, app in applications for section in command_sections(typer.main.get_command(app), name)]
    about = "The commands with all options. This page is generated: change the commands and run `python docs/generate.py`."
    return "\n".join((f"# Commands\n\n{about}\n", *sections))


def command_sections(command: Any, name: str) -> list[str]:
    """Return a section for a command and one for each command below it, in the order of ``--help``."""
    context = command.context_class(command, info_name=name)
    usage = code(" ".join([name, *command.collect_usage_pieces(context)]))
    records = [record for parameter in command.params if (record := parameter.get_help_record(context)) is not None]
    rows = [(code(option.replace("|", "\\|")), cell(meaning)) for option, meaning in records]
    about = " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())
    parts = [f"## {name}\n{usage}\n\n{about}\n"]
    if rows:
        parts.append(table(("argument or option", "meaning"), rows))
    below = [
        section for inner, sub in getattr(command, "commands", {}).items() for section in command_sections(sub, f"{name} {inner}")
    ]
    return ["\n".join(parts), *below]


def cell(text: str) -> str:
    """Return ``text`` as a table cell: one line, with bars escaped, and `<` too where it is not in code."""
    pieces = " ".join(text.replace("``", "`").split()).replace("|", "\\|").split("`")
    return "`".join(piece if index % 2 else piece.replace("<", "\\<") for index, piece in enumerate(pieces))


PARTS: dict[str, Callable[[], str]] = {
    "api-settings": api_settings,
    "api-endpoints": api_endpoints,
    "api-speak-fields": api_speak_fields,
    "api-errors": api_errors,
}
FILES: dict[str, Callable[[], str]] = {
    "docs/openapi.json": openapi,
    "docs/settings.md": settings,
    "docs/commands.md": commands,
    ".env.example": env_example,
}


# Documents


def renewed(text: str) -> str:
    """Return a document with its generated parts as they should be.

    Raises:
        KeyError: a part with a name that is not in `PARTS`.
    """
    return _PART.sub(lambda part: part["start"] + PARTS[part["name"]]() + part["end"], text)


def outdated() -> dict[Path, str]:
    """Return the files that differ from the code, each with its correct text."""
    wanted = {ROOT / name: make() for name, make in FILES.items()}
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
            if path not in wanted:
                wanted[path] = renewed(path.read_text(encoding="utf-8"))
    return {path: text for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if something is out of date")
    check = parser.parse_args().check
    found = outdated()
    for path, text in found.items():
        if not check:
            path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(ROOT)}: {'out of date' if check else 'written'}\n")
    sys.exit(bool(found and check))


if __name__ == "__main__":
    main()
