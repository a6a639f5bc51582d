"""Readers of training and evaluation files.

A line is recognised by what is in it, so files, and lines of one file, may be mixed:

- the columns of the Helsinki Prosody Corpus: from a line ``<file>``, tab, name, or from a first line of columns, to a blank line;
- an object of JSON: ``{"text": "It's <emph>only $299"}``, or ``{"text": "It's only $299", "marks": [{"kind": "emph",
  "offset": 5}]}``, or both forms of a text, ``{"text": ..., "marked": ...}``; ``source`` and ``speaker`` say where it comes from;
- anything else: marked text, in which spaces may stand after a mark.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prosody_tagger.corpus.examples import UNKNOWN, Example, from_columns, from_marked, unlabelled, wrong_in_columns
from prosody_tagger.errors import DataError, MarkupError
from prosody_tagger.markup import Mark, MarkedText, parse
from prosody_tagger.segment import segment_words


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that was read: its examples, and the SHA-256 of its bytes."""

    path: Path
    sha256: str
    examples: tuple[Example, ...]


def read_files(paths: Sequence[Path]) -> list[DataFile]:
    """Read files of any form.

    Raises:
        DataError: a file cannot be read or has lines that cannot be used. All bad lines of all files are named, a line each:
            file, number of the line, reason.
    """
    files: list[DataFile] = []
    bad: list[str] = []
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            bad.append(f"{path}: cannot read it: {(error.strerror or str(error)).lower()}")
            continue
        reader = _Reader()
        reader.read(data)
        bad.extend(f"{path}:{number}: {reason}" for number, reason in reader.bad)
        if not reader.examples and not reader.bad:
            bad.append(f"{path}: there are no examples in it")
        files.append(DataFile(path, hashlib.sha256(data).hexdigest(), tuple(reader.examples)))
    if bad:
        count = f"{len(bad)} {'line' if len(bad) == 1 else 'lines'} cannot be used; put them right or take them out"
        raise DataError("\n".join([count, *bad]))
    return files


def read_examples(*paths: Path) -> list[Example]:
    """The examples of some files, in order.

    Raises:
        DataError: as `read_files`.
    """
    return [example for file in read_files(paths) for example in file.examples]


def read_text(path: Path) -> list[Example]:
    """Columns of the corpus, or lines of plain text, of which nothing is known."""
    with path.open(encoding="utf-8") as file:
        first = file.readline()
        if first.startswith("<file>"):
            return read_examples(path)
        lines = [first, *file]
    return [unlabelled(line.strip(), path.name) for line in lines if segment_words(line)]


def merge_labellings(examples: Sequence[Example]) -> tuple[list[Example], list[str]]:
    """Where both labellings of the Helsinki corpus are given, take from each what it is good for.

    Prominence comes from the released one (v3), boundaries from the older one (v1): those of the released one differ from split to
    split. A sentence of the older one alone keeps its boundaries and loses its prominence, which was labelled by another rule.

    Returns:
        The examples, and what was done in words.
    """
    older = {e.source: e for e in examples if e.labelling == "v1" and e.source}
    if not older or all(e.labelling != "v3" for e in examples):
        return list(examples), []
    released = {e.source for e in examples if e.labelling == "v3"}
    merged: list[Example] = []
    for example in examples:
        if example.labelling == "v3":
            twin = older.get(example.source)
            known = twin is not None and twin.text == example.text
            boundary = twin.boundary if twin is not None and known else (UNKNOWN,) * len(example.boundary)
            merged.append(replace(example, boundary=boundary))
        elif example.labelling == "marked":
            merged.append(example)
        elif example.source not in released:
            merged.append(replace(example, prominence=(UNKNOWN,) * len(example.prominence)))
    return merged, ["both labellings are given: prominence is taken from v3, boundaries from v1"]


@dataclass(slots=True)
class _Reader:
    """Reads the lines of one file."""

    examples: list[Example] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    _columns: bool = False
    _source: str = ""
    _rows: list[list[str]] = field(default_factory=list)

    def read(self, data: bytes) -> None:
        for number, line in _lines(data):
            if isinstance(line, UnicodeDecodeError):
                self.bad.append((number, f"it is not UTF-8 at byte {line.start}"))
                continue
            reason = self._line(line)
            if reason is not None:
                self.bad.append((number, reason))
        self._end_sentence()

    def _line(self, line: str) -> str | None:
        """Take a line in; what is wrong with it, or None."""
        fields = line.split("\t")
        if fields[0] == "<file>" and len(fields) == 2:
            self._end_sentence()
            self._columns, self._source = True, fields[1].strip()
            return None
        if not line.strip():
            self._end_sentence()
            self._columns = False
            return None
        if not self._columns and len(fields) > 1 and wrong_in_columns(fields) is None:
            self._columns, self._source = True, ""
        if self._columns:
            reason = wrong_in_columns(fields)
            if reason is None:
                self._rows.append(fields)
            return reason
        return self._example(line.strip())

    def _end_sentence(self) -> None:
        if self._rows:
            example = from_columns(self._source, self._rows)
            if example.prominence:
                self.examples.append(example)
            self._rows = []

    def _example(self, line: str) -> str | None:
        try:
            self.examples.append(_from_json(line) if _is_json(line) else from_marked(parse(line)))
        except (DataError, MarkupError) as error:
            return str(error).replace("line 1, column", "column")  # there is one line
        return None


def _lines(data: bytes) -> Iterator[tuple[int, str | UnicodeDecodeError]]:
    """Numbered lines, or why they cannot be decoded. Only line feeds end a line, as in every editor."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            yield number, line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            yield number, error


def _is_json(line: str) -> bool:
    return line.startswith("{") and line[1:].lstrip()[:1] in {'"', "}"}


def _from_json(line: str) -> Example:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is not JSON: {error}") from None
    source, reader = (_string(row, name) for name in ("source", "speaker"))
    marked = _string(row, "marked")
    text = _string(row, "text")
    if marked:
        return from_marked(parse(marked), source, reader)
    if not text:
        raise DataError('it has no "text", the marked text as a string')
    if "marks" in row:
        return from_marked(MarkedText(text, tuple(_marks(row["marks"]))), source, reader)
    return from_marked(parse(text), source, reader)


def _string(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise DataError(f'"{name}" is a string, got {json.dumps(value)[:40]}')
    return value or ""


def _marks(rows: Any) -> Iterator[Mark]:
    if not isinstance(rows, list):
        raise DataError(f'"marks" is a list of objects with "kind" and "offset", got {json.dumps(rows)[:40]}')
    for row in rows:
        kind, offset = (row.get("kind"), row.get("offset")) if isinstance(row, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(offset, int) or isinstance(offset, bool):
            raise DataError(f'a mark is an object with "kind" and "offset", got {json.dumps(row)[:40]}')
        yield Mark(kind, offset)
