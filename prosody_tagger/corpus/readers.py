"""Readers of training and evaluation files.

The format is recognised line by line, so formats may be mixed, in several files and within one:

- the columns of the Helsinki Prosody Corpus: from a line ``<file>``, tab, name, or from a first line of columns, to a blank line;
- a JSON object: ``{"text": "It's <emph>only $299"}``, or ``{"text": "It's only $299", "marks": [{"kind": "emph", "offset": 5}]}``,
  or both forms of a text, ``{"text": ..., "marked": ...}``; ``source`` and ``speaker`` are optional;
- anything else: marked text, with optional spaces after a mark.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prosody_tagger.corpus.examples import (
    UNKNOWN,
    LabelledText,
    column_error,
    from_columns,
    from_marked_text,
    unlabelled_text,
)
from prosody_tagger.errors import DataError, MarkupError, os_reason
from prosody_tagger.markup import Mark, MarkedText, parse
from prosody_tagger.segment import segment_words


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that was read: its path, the SHA-256 of its bytes, and its examples."""

    path: Path
    sha256: str
    examples: tuple[LabelledText, ...]


def read_files(paths: Sequence[Path]) -> list[DataFile]:
    """Read files of any of the formats.

    Raises:
        DataError: a file cannot be read or has invalid lines. The message lists all invalid lines of all files, one per line, with
            file, line number and reason.
    """
    files: list[DataFile] = []
    errors: list[str] = []
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            errors.append(f"{path}: cannot read it: {os_reason(error)}")
            continue
        parser = _FileParser()
        parser.parse(data)
        errors.extend(f"{path}:{number}: {reason}" for number, reason in parser.errors)
        if not parser.examples and not parser.errors:
            errors.append(f"{path}: there are no examples in it")
        files.append(DataFile(path, hashlib.sha256(data).hexdigest(), tuple(parser.examples)))
    if errors:
        count = f"{len(errors)} {'line' if len(errors) == 1 else 'lines'} cannot be used; correct or delete them"
        raise DataError("\n".join([count, *errors]))
    return files


def read_examples(*paths: Path) -> list[LabelledText]:
    """Return the examples of some files, in order.

    Raises:
        DataError: as in `read_files`.
    """
    return [example for file in read_files(paths) for example in file.examples]


def read_plain_or_columns(path: Path) -> list[LabelledText]:
    """Read a file of the corpus, or lines of plain text, which have no labels.

    Raises:
        DataError: as in `read_files`.
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8") as file:
        first = file.readline()
        if first.startswith("<file>"):
            return read_examples(path)
        lines = [first, *file]
    return [unlabelled_text(line.strip(), path.name) for line in lines if segment_words(line)]


def merge_labellings(examples: Sequence[LabelledText]) -> tuple[list[LabelledText], list[str]]:
    """Combine both labellings of the Helsinki corpus if both are present.

    Prominence comes from the released one (v3), boundaries from the older one (v1), because those of the released one differ
    between its splits. A sentence of the older one alone keeps its boundaries and loses its prominence, which was labelled by
    another rule.

    Returns:
        The examples, and notes for the user on what was done.
    """
    older = {e.source: e for e in examples if e.labelling == "v1" and e.source}
    if not older or all(e.labelling != "v3" for e in examples):
        return list(examples), []
    released = {e.source for e in examples if e.labelling == "v3"}
    merged: list[LabelledText] = []
    for example in examples:
        if example.labelling == "v3":
            twin = older.get(example.source)
            is_same = twin is not None and twin.text == example.text
            boundary = twin.boundary if twin is not None and is_same else (UNKNOWN,) * len(example.boundary)
            merged.append(replace(example, boundary=boundary))
        elif example.labelling == "marked":
            merged.append(example)
        elif example.source not in released:
            merged.append(replace(example, prominence=(UNKNOWN,) * len(example.prominence)))
    return merged, ["the data have both labellings: prominence is taken from v3, boundaries from v1"]


@dataclass(slots=True)
class _FileParser:
    """Parses the lines of one file, and collects examples and errors."""

    examples: list[LabelledText] = field(default_factory=list)
    errors: list[tuple[int, str]] = field(default_factory=list)
    _columns: bool = False
    _source: str = ""
    _rows: list[list[str]] = field(default_factory=list)

    def parse(self, data: bytes) -> None:
        for number, line in _decode_lines(data):
            if isinstance(line, UnicodeDecodeError):
                self.errors.append((number, f"it is not valid UTF-8 at byte {line.start}"))
                continue
            reason = self._parse_line(line)
            if reason is not None:
                self.errors.append((number, reason))
        self._end_sentence()

    def _parse_line(self, line: str) -> str | None:
        """Parse a line; return why it is invalid, or None."""
        fields = line.split("\t")
        if fields[0] == "<file>" and len(fields) == 2:
            self._end_sentence()
            self._columns, self._source = True, fields[1].strip()
            return None
        if not line.strip():
            self._end_sentence()
            self._columns = False
            return None
        if not self._columns and len(fields) > 1 and column_error(fields) is None:
            self._columns, self._source = True, ""
        if self._columns:
            reason = column_error(fields)
            if reason is None:
                self._rows.append(fields)
            return reason
        return self._add_example(line.strip())

    def _end_sentence(self) -> None:
        if self._rows:
            example = from_columns(self._source, self._rows)
            if example.prominence:
                self.examples.append(example)
            self._rows = []

    def _add_example(self, line: str) -> str | None:
        try:
            self.examples.append(_from_json(line) if _is_json(line) else from_marked_text(parse(line)))
        except (DataError, MarkupError) as error:
            return str(error).replace("line 1, column", "column")  # the caller adds the line number of the file
        return None


def _decode_lines(data: bytes) -> Iterator[tuple[int, str | UnicodeDecodeError]]:
    """Yield each line with its number, decoded, or the decoding error. Only a line feed ends a line, as in text editors."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            yield number, line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            yield number, error


def _is_json(line: str) -> bool:
    return line.startswith("{") and line[1:].lstrip()[:1] in {'"', "}"}


def _from_json(line: str) -> LabelledText:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is not valid JSON: {error}") from None
    source, speaker = (_string_field(row, name) for name in ("source", "speaker"))
    marked = _string_field(row, "marked")
    text = _string_field(row, "text")
    if marked:
        return from_marked_text(parse(marked), source, speaker)
    if not text:
        raise DataError('it has no "text", a string of marked text')
    if "marks" in row:
        return from_marked_text(MarkedText(text, tuple(_marks(row["marks"]))), source, speaker)
    return from_marked_text(parse(text), source, speaker)


def _string_field(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise DataError(f'"{name}" must be a string, got {json.dumps(value)[:40]}')
    return value or ""


def _marks(rows: Any) -> Iterator[Mark]:
    if not isinstance(rows, list):
        raise DataError(f'"marks" must be a list of objects with "kind" and "offset", got {json.dumps(rows)[:40]}')
    for row in rows:
        kind, offset = (row.get("kind"), row.get("offset")) if isinstance(row, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(offset, int) or isinstance(offset, bool):
            raise DataError(f'a mark must be an object with "kind" and "offset", got {json.dumps(row)[:40]}')
        yield Mark(kind, offset)
