"""Reader of ChatML manifests, JSON or JSON Lines: the training data.

Each row is a conversation. Its last message, the assistant's, is learnt. Two layouts are read, also mixed in one file:

    {"messages": [{"role": "system", "content": "..."},
                  {"role": "user", "content": "transcript of the recording"},
                  {"role": "assistant", "content": {"type": "audio", "audio_url": "voice.wav"}},
                  {"role": "user", "content": "Text to <emph>speak"},
                  {"role": "assistant", "content": {"type": "audio", "audio_url": "answer.wav"}}],
     "speaker": "anna", "start_index": 3}

    {"messages": [{"role": "user", "content": [{"type": "text", "text": "transcript of the recording"},
                                               {"type": "audio", "audio_url": "voice.wav"},
                                               {"type": "text", "text": "Text to <emph>speak"}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "Text to speak"},
                                                    {"type": "audio", "audio_url": "answer.wav"}]}]}

System messages, reference recordings, speaker and start_index are optional. An answer may be text alone.

Texts may hold marks in the notation of `prosody_tagger.markup`. Only a tag with the name of a mark is a mark; any other "<" is
plain text. ``\\<`` is a literal "<" before the name of a mark, and ``\\\\`` a backslash. A row with ``"marked": false`` has neither
marks nor escapes.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prosody_tagger.errors import BadInput, first_line, os_reason
from synth.higgs_finetune.chatml import ManifestRow, read_row

_LIST_KEYS = ("data", "rows", "samples")  # keys under which an object that is not a row itself may hold the rows
_MAX_BYTES = 2_000_000_000
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*+")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: its position, "file:line", and the reason."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The rows of a file, and those that cannot be used."""

    path: Path
    rows: tuple[ManifestRow, ...]
    bad: tuple[BadRow, ...]

    @property
    def clips(self) -> tuple[Path, ...]:
        """All recordings of the manifest, each once."""
        return tuple(dict.fromkeys(clip for row in self.rows for clip in row.clips))


@dataclass(frozen=True, slots=True)
class _NotJson:
    """Text that is not JSON, in place of the value that it should be."""

    reason: str


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Paths in it are relative to its folder; whether these files exist is not checked here but by `validate`.

    Raises:
        BadInput: the file cannot be read, or has no rows.
    """
    rows: list[ManifestRow] = []
    bad: list[BadRow] = []
    for line, value in _values(_read(path)):
        source = f"{path}:{line}"
        try:
            if isinstance(value, _NotJson):
                raise BadInput(value.reason)
            rows.append(read_row(value, source, path.parent))
        except BadInput as error:
            bad.append(BadRow(source, str(error)))
    if not rows and not bad:
        raise BadInput(f"{str(path)!r} has no rows; --create-sample-data writes a manifest to start from")
    return Manifest(path, tuple(rows), tuple(bad))


def _read(path: Path) -> bytes:
    shown = repr(str(path))
    try:
        if path.is_dir():
            raise BadInput(f"{shown} is a folder; give the manifest in it")
        if path.stat().st_size > _MAX_BYTES:
            raise BadInput(f"{shown} is larger than {_MAX_BYTES} bytes; split it")
        return path.read_bytes().removeprefix(_BOM)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the manifest {shown}: {os_reason(error)}; give a file of JSON or JSON Lines") from None


def _values(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the line and the JSON value of each row: the items of one list, a single object, or an object a line."""
    start = data.lstrip()[:1]
    if start == b"[":
        yield from _list_items(data)
        return
    whole = _parsed(data) if start == b"{" else None
    if not isinstance(whole, dict):
        lines = ((number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip())
        yield from ((number, _parsed(line)) for number, line in lines)
        return
    items = next((whole[key] for key in _LIST_KEYS if isinstance(whole.get(key), list)), None)
    if "messages" in whole or items is None:
        items = [whole]
    line = 1 + data[: len(data) - len(data.lstrip())].count(b"\n")
    yield from ((line, item) for item in items)


def _list_items(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the line and value of each item of a list, up to the first syntax error."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        yield line, _NotJson("this is not UTF-8, so nothing in the list can be read; save the file as UTF-8")
        return
    decoder = json.JSONDecoder()
    counted, line = 0, 1
    position = _skip_space(text, text.index("[") + 1)
    is_first = True
    while True:
        line += text.count("\n", counted, position)
        counted = position
        if is_first and text.startswith("]", position):
            return
        try:
            item, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield line, _NotJson(f"from here on this is not JSON: {_json_reason(error)}")
            return
        yield line, item
        is_first = False
        position = _skip_space(text, position)
        if text.startswith("]", position):
            return
        if not text.startswith(",", position):
            yield 1 + text.count("\n", 0, position), _NotJson("from here on this is not JSON: a comma or ] is missing")
            return
        position = _skip_space(text, position + 1)


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None  # the pattern also matches an empty string
    return match.end()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError:
        return _NotJson("this is not UTF-8; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return _NotJson(f"this is not JSON: {_json_reason(error)}")


def _json_reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
