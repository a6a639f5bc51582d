"""Write the parts of the documentation that repeat what the code says.

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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI
    from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/*.md", ".env.example")
"""Files, as glob patterns below the repository's root, that may hold generated parts."""

_PART = re.compile(r"(?P<start>^[^\S\n]*<!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<end>^[^\S\n]*<!-- end -->$)", re.S | re.M)


# Helpers


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, *rows)).replace("\n", f"\n|{'---|' * len(head)}\n", 1)


def attribute_texts(model: type) -> dict[str, str]:
    """Return what the docstring's ``Attributes:`` section says of each attribute, own and inherited, each as one line."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        _, _, section = (inspect.cleandoc(base.__doc__ or "")).partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*?)(?=^    \w|^\S|\Z)", section, re.S | re.M):
            found[name] = " ".join(text.split())
    return found


def settings_rows(model: "type[BaseModel]", prefix: str) -> list[tuple[str, str, str]]:
    """Return (variable, default, description) of every setting of a pydantic model: its own, then those of its bases.

    Raises:
        KeyError: the docstring does not describe a field.
    """
    texts = attribute_texts(model)
    names = dict.fromkeys(name for base in model.__mro__ for name in vars(base).get("__annotations__", ()))
    fields = {name: model.model_fields[name] for name in names if name in model.model_fields}
    return [
        (f"{prefix}{name}".upper(), default_text(field.get_default(call_default_factory=True)), texts[name])
        for name, field in fields.items()
    ]


def default_text(value: Any) -> str:
    """Return a default as it would be written in the environment; nothing for one that is not set."""
    if value is None or value == ():
        return ""
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


PARTS: dict[str, Callable[[], str]] = {
    "api-settings": api_settings,
    "api-endpoints": api_endpoints,
    "api-speak-fields": api_speak_fields,
    "api-errors": api_errors,
}
FILES: dict[str, Callable[[], str]] = {"docs/openapi.json": openapi}


# Documents


def renewed(text: str) -> str:
    """Return a document with its generated parts as they should be.

    Raises:
        KeyError: a part with a name that is not in `PARTS`.
    """
    return _PART.sub(lambda part: part["start"] + PARTS[part["name"]]() + part["end"], text)


def outdated() -> dict[Path, str]:
    """Return the files that differ from what the code says, each with the text that it should have."""
    wanted = {ROOT / name: make() for name, make in FILES.items()}
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
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
