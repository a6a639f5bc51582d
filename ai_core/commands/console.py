"""What the commands show and write: files that are whole or not there, JSON for machines, colours for people."""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import regex
from rich.console import Console
from rich.text import Text

from ai_core.pipeline import Result
from prosody_tagger.command import people, visible
from prosody_tagger.errors import BadInput, ProsodyError
from prosody_tagger.markup import MarkedText, render
from prosody_tagger.segment import segment_words, word_after

_STYLES = {"emph": "bold yellow", "pause_short": "cyan", "pause_long": "bold cyan"}
_TAG = regex.compile(r"(?<!\\)(?:\\\\)*\K<(?P<kind>[a-z_]+)(?::\d+ms)?>")


def coloured(marked: MarkedText) -> Text:
    """Marked text with its marks in colour. Control characters are shown, never sent to the terminal."""
    return shown(render(marked), marks=True)


def shown(text: str, *, marks: bool = False) -> Text:
    """``text`` for a terminal; with ``marks``, the tags of marked text are coloured."""
    line = Text(visible(text))
    if marks:
        for tag in _TAG.finditer(line.plain):
            line.stylize(_STYLES.get(tag["kind"], "magenta"), tag.start(), tag.end())
    return line


def marks_json(marked: MarkedText, scores: Sequence[float | None]) -> list[dict[str, Any]]:
    """Each mark with the word that follows it, and the tagger's score or null where the user set it."""
    runs = segment_words(marked.text)
    rows = []
    for mark, score in zip(marked.marks, scores, strict=True):
        index = word_after(runs, mark.offset)
        word = None if index is None else runs[index].core(marked.text)
        rows.append({"kind": mark.kind, "offset": mark.offset, "word": word, "score": score, "ms": mark.ms})
    return rows


def result_json(result: Result, audio: str | None) -> dict[str, Any]:
    """The part of the commands' JSON that says what was spoken; ``audio`` is where it was written."""
    return {
        "text": result.marked.text,
        "marked": render(result.marked),
        "marks": marks_json(result.marked, result.scores),
        "words": [
            {"word": word.word, "offset": word.offset, "start": round(word.start, 4), "end": round(word.end, 4)}
            for word in result.words
        ],
        "audio": audio,
        "sample_rate": result.audio.rate,
        "seconds": round(result.audio.seconds, 4),
        "backend": result.backend,
        "fallback": result.fallback,
        "warnings": list(result.warnings),
        "timings": {name: round(seconds, 4) for name, seconds in result.timings.items()},
    }


def print_json(data: Any) -> None:
    """One object on stdout, alone."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")


def print_rows(*rows: tuple[str, str | Text], to_people: bool = False) -> None:
    """Named lines, on stdout, or on stderr where stdout carries data."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    (people() if to_people else Console(highlight=False)).print(table)


def audio_rows(result: Result, audio: str) -> list[tuple[str, str | Text]]:
    """What was written, and each warning, for `print_rows`."""
    said = f"{audio} ({result.audio.seconds:.2f} s by {result.backend}, made in {result.timings['total']:.2f} s)"
    return [("audio", shown(said)), *(("warning", shown(warning)) for warning in result.warnings)]


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout."""
    from rich import box
    from rich.table import Table

    table = Table(*head, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(shown(cell) for cell in row))
    Console(highlight=False).print(table)


def print_marked(written: str) -> None:
    """Marked text on stdout: in colour on a terminal, else as it is."""
    if sys.stdout.isatty():
        Console(highlight=False, soft_wrap=True).print(shown(written, marks=True))
    else:
        sys.stdout.write(written + "\n")


def check_output(path: Path) -> None:
    """Find out before the work whether ``path`` can be written; its folder is made.

    Raises:
        BadInput: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise BadInput(f"cannot write {path}: it is a folder; give a file's name with -o")
        writable = os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError as error:
        raise _cannot_write(path, error) from None
    if not writable:
        raise BadInput(f"cannot write {path}: permission denied; give another place with -o")


def write_file(path: Path, data: bytes) -> None:
    """Write beside, then rename: the file at ``path`` is the old one or the whole new one, never half of it.

    Raises:
        BadInput: the place cannot be written.
        ProsodyError: the disk is full.
    """
    path = Path(os.path.realpath(path))  # through a link, so that the link stays
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # a device or a pipe cannot be replaced
            return
        beside = path.with_name(f".prosody-{os.getpid()}.part")
        try:
            beside.write_bytes(data)
            beside.replace(path)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> ProsodyError:
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError | NotADirectoryError | PermissionError | FileNotFoundError):
        return BadInput(f"cannot write {path}: {reason.lower()}; give another place with -o")
    return ProsodyError(f"cannot write {path}: {reason.lower()}; make room or give another place with -o")
