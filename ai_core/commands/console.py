"""Output of the commands: atomic files, JSON, and coloured text on a terminal."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import regex
from rich.console import Console
from rich.text import Text

from ai_core.job import Result
from prosody_tagger.command import people, visible
from prosody_tagger.errors import BadInput
from prosody_tagger.files import write_error, write_file
from prosody_tagger.markup import MarkedText, render

_STYLES = {"emph": "bold yellow", "pause_short": "cyan", "pause_long": "bold cyan"}
_TAG = regex.compile(r"(?<!\\)(?:\\\\)*\K<(?P<kind>[a-z_]+)(?::\d+ms)?>")


def coloured(marked: MarkedText) -> Text:
    """Marked text with its marks in colour. Control characters are replaced, so none reaches the terminal."""
    return plain_text(render(marked), marks=True)


def plain_text(text: str, *, marks: bool = False) -> Text:
    """``text`` with control characters replaced and rich markup not interpreted; ``marks`` colours the tags of marked text."""
    line = Text(visible(text))
    if marks:
        for tag in _TAG.finditer(line.plain):
            line.stylize(_STYLES.get(tag["kind"], "magenta"), tag.start(), tag.end())
    return line


def print_json(data: Any) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")


def print_rows(*rows: tuple[str, str | Text], to_people: bool = False) -> None:
    """Print named lines on stdout, or with ``to_people`` on stderr, where stdout carries data."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, plain_text(value) if isinstance(value, str) else value)
    (people() if to_people else Console(highlight=False)).print(table)


def audio_rows(result: Result, audio: str) -> list[tuple[str, str | Text]]:
    """Rows for `print_rows`: the audio file and each warning."""
    said = f"{audio} ({result.audio.seconds:.2f} s by {result.backend}, made in {result.timings['total']:.2f} s)"
    return [("audio", plain_text(said)), *(("warning", plain_text(warning)) for warning in result.warnings)]


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in head:
        table.add_column(plain_text(name))
    for row in rows:
        table.add_row(*(plain_text(cell) for cell in row))
    Console(highlight=False).print(table)


def print_marked(written: str) -> None:
    """Print marked text on stdout, in colour on a terminal."""
    if sys.stdout.isatty():
        Console(highlight=False, soft_wrap=True).print(plain_text(written, marks=True))
    else:
        sys.stdout.write(written + "\n")


def check_output(path: Path) -> None:
    """Check before any work that ``path`` can be written, and create its folder.

    Raises:
        BadInput: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise BadInput(f"cannot write {path}: it is a folder; give a file's name with -o")
        writable = os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError as error:
        raise write_error(path, error) from None
    if not writable:
        raise BadInput(f"cannot write {path}: permission denied; give another path with -o")


def write_output(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        BadInput: the path cannot be written.
        ProsodyError: the disk is full.
    """
    try:
        write_file(path, data)
    except OSError as error:
        raise write_error(path, error) from None
