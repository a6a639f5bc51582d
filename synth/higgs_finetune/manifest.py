"""What is trained on: the rows of a ChatML manifest, JSON or JSON Lines.

Each row is a conversation whose last message is the assistant's; that one is learnt. Two forms are read, also mixed:

    {"messages": [{"role": "system", "content": "..."},
                  {"role": "user", "content": "said in the recording"},
                  {"role": "assistant", "content": {"type": "audio", "audio_url": "voice.wav"}},
                  {"role": "user", "content": "What is <emph>asked for"},
                  {"role": "assistant", "content": {"type": "audio", "audio_url": "answer.wav"}}],
     "speaker": "anna", "start_index": 3}

    {"messages": [{"role": "user", "content": [{"type": "text", "text": "said in the recording"},
                                               {"type": "audio", "audio_url": "voice.wav"},
                                               {"type": "text", "text": "What is <emph>asked for"}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "What is asked for"},
                                                    {"type": "audio", "audio_url": "answer.wav"}]}]}

System messages, recordings of the voice, speaker and start_index may be left out; an answer may be text alone.

Texts may hold marks, in the notation of `prosody_tagger.markup`. Only a tag that has a mark's name is one. Any other "<" is text;
``\\<`` is one before a mark's name, and ``\\\\`` a backslash. A row with ``"marked": false`` has neither marks nor escapes.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prosody_tagger.errors import BadInput
from synth.higgs_finetune.chatml import Row, Turn, marked_text, read_row

__all__ = ["BadRow", "Manifest", "Row", "Turn", "marked_text", "read_manifest"]

_LISTS = ("data", "rows", "samples")  # where an object that is no row may hold them
_MAX_BYTES = 2_000_000_000
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*+")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it stands, "file:line", and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The rows of a file, and those that are none."""

    path: Path
    rows: tuple[Row, ...]
    bad: tuple[BadRow, ...]

    @property
    def clips(self) -> tuple[Path, ...]:
        """Each recording in it, once."""
        return tuple(dict.fromkeys(clip for row in self.rows for clip in row.clips))


@dataclass(frozen=True, slots=True)
class _Unread:
    """Something that is no JSON."""

    reason: str


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Paths in it are relative to its folder. Whether the files are there, `validate` says.

    Raises:
        BadInput: it cannot be read, or holds nothing.
    """
    rows: list[Row] = []
    bad: list[BadRow] = []
    for line, found in _objects(_read(path)):
        source = f"{path}:{line}"
        try:
            if isinstance(found, _Unread):
                raise BadInput(found.reason)
            rows.append(read_row(found, source, path.parent))
        except BadInput as error:
            bad.append(BadRow(source, str(error)))
    if not rows and not bad:
        raise BadInput(f"{str(path)!r} holds no rows; --create-sample-data writes a manifest that does")
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
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"the manifest {shown} cannot be read: {reason}; give a file of JSON or JSON Lines") from None


def _objects(data: bytes) -> Iterator[tuple[int, Any]]:
    """What the file holds, each with its line: the items of one list, or an object, or an object a line."""
    start = data.lstrip()[:1]
    if start == b"[":
        yield from _in_list(data)
        return
    whole = _loaded(data) if start == b"{" else None
    if not isinstance(whole, dict):
        lines = ((number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip())
        yield from ((number, _loaded(line)) for number, line in lines)
        return
    held = next((whole[key] for key in _LISTS if isinstance(whole.get(key), list)), None)
    if "messages" in whole or held is None:
        held = [whole]
    line = 1 + data[: len(data) - len(data.lstrip())].count(b"\n")
    yield from ((line, item) for item in held)


def _in_list(data: bytes) -> Iterator[tuple[int, Any]]:
    """The items of a list, up to where it is no JSON any more."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        yield 1 + data.count(b"\n", 0, error.start), _Unread("this is no UTF-8; nothing in the list can be read; save it as UTF-8")
        return
    decoder = json.JSONDecoder()
    counted, line = 0, 1
    position = _past_space(text, text.index("[") + 1)
    is_first = True
    while True:
        line += text.count("\n", counted, position)
        counted = position
        if is_first and text.startswith("]", position):
            return
        try:
            item, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield line, _Unread(f"from here on this is no JSON: {_reason(error)}")
            return
        yield line, item
        is_first = False
        position = _past_space(text, position)
        if text.startswith("]", position):
            return
        if not text.startswith(",", position):
            yield 1 + text.count("\n", 0, position), _Unread("from here on this is no JSON: a comma or ] is missing")
            return
        position = _past_space(text, position + 1)


def _past_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None  # it matches nothing, too
    return found.end()


def _loaded(data: bytes) -> Any:
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError:
        return _Unread("this is no UTF-8; save it as UTF-8")
    except (ValueError, RecursionError) as error:
        return _Unread(f"this is no JSON: {_reason(error)}")


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
