"""The file of labels: a row for each recording, added as it is done, so that nothing is done twice."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

from prosody_tagger.errors import BadInput, DataError
from prosody_tagger.markup import parse, render
from synth.acoustics.label import Label
from synth.acoustics.recordings import Recording

_ROW_START = b'{"text": "'


class _State(NamedTuple):
    """What a row was made from: it is made anew when any of it changes."""

    size: int
    modified: int
    text: int


class LabelsFile:
    """The labels of a corpus, one JSON object a line.

    {"text": the transcript with its marks, "audio": the path from this file's folder, "speaker": name or null, "seconds",
    "bytes" and "modified" of the sound file, "words": [`LabelledWord.as_dict`]}

    Open it as a context. A line that was cut off when an earlier run was killed is taken away, and so are rows whose recording or
    transcript has changed since.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, _State] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """
        Raises:
            BadInput: the file cannot be written.
            DataError: it holds something else than labels.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            self._cut_tail()
            for row in rows(self.path):
                text = parse(row["text"]).text
                self._done[row["audio"]] = _State(row["bytes"], row["modified"], hash(text))
        except OSError as error:
            self.__exit__(None, None, None)
            raise BadInput(f"cannot write {self.path}: {(error.strerror or str(error)).lower()}; give another -o") from None
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self._done)

    def has(self, recording: Recording) -> bool:
        """Whether the recording is done, as it is now."""
        return self._done.get(self._name(recording)) == _state(recording)

    def add(self, recording: Recording, label: Label, seconds: float) -> None:
        """Write a row, so that it stays whatever happens next."""
        assert self._file is not None
        name, state = self._name(recording), _state(recording)
        if name in self._done:
            self._remove(name)
        row = {
            "text": render(label.marked),
            "audio": name,
            "speaker": recording.speaker,
            "seconds": round(seconds, 4),
            "bytes": state.size,
            "modified": state.modified,
            "words": [word.as_dict() for word in label.words],
        }
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._done[name] = state

    def _name(self, recording: Recording) -> str:
        return Path(os.path.relpath(recording.path.absolute(), self.path.parent.absolute())).as_posix()

    def _cut_tail(self) -> None:
        """Take a last line away that has no end, if it is the start of a row."""
        assert self._file is not None
        end = position = self._file.seek(0, os.SEEK_END)
        while position:
            step = min(position, 1 << 16)
            self._file.seek(position - step)
            newline = self._file.read(step).rfind(b"\n")
            if newline >= 0:
                position += newline + 1 - step
                break
            position -= step
        self._file.seek(position)
        begun = self._file.read(len(_ROW_START))
        if end > position and _ROW_START.startswith(begun):
            self._file.truncate(position)

    def _remove(self, name: str) -> None:
        """Take the row of a recording away: the others are written beside, which then takes this file's place."""
        assert self._file is not None
        beside = self.path.with_name(f".prosody-{os.getpid()}.part")
        with beside.open("wb") as kept:
            for row in rows(self.path):
                if row["audio"] != name:
                    kept.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            kept.flush()
            os.fsync(kept.fileno())
        self._file.close()
        beside.replace(self.path)
        self._file = self.path.open("a+b")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of labels, one at a time.

    Raises:
        DataError: a line that is none.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                whole = isinstance(row["text"], str) and isinstance(row["audio"], str) and isinstance(row["bytes"], int)
                whole = whole and isinstance(row["modified"], int)
            except (ValueError, KeyError, TypeError, RecursionError):
                whole = False
            if not whole:
                raise DataError(f"{path}:{number} is no row of labels; give another file with -o, or delete this one")
            yield row


def write_chatml(labels: Path, target: Path) -> int:
    """Write the labels as a manifest for train-higgs, and return how many rows it has.

    A row is a conversation in which the user gives the marked text and the assistant answers with the recording:
    {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": {"type": "audio", "audio_url": path}}],
    "speaker": name or null, "start_index": 1}. Paths are relative to the manifest. A name that ends in .json gets one list, any
    other one object a line.

    Raises:
        BadInput: the manifest cannot be written.
    """
    count = 0
    as_list = target.suffix.lower() == ".json"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".prosody-{os.getpid()}.part")
        with beside.open("w", encoding="utf-8") as out:
            out.write("[\n" if as_list else "")
            for row in rows(labels):
                audio = os.path.relpath(labels.parent.absolute() / row["audio"], target.parent.absolute())
                out.write(",\n" if as_list and count else "")
                out.write(json.dumps(_chat(row, Path(audio).as_posix()), ensure_ascii=False))
                out.write("" if as_list else "\n")
                count += 1
            out.write("\n]\n" if as_list else "")
        beside.replace(target)
    except OSError as error:
        raise BadInput(f"cannot write {target}: {(error.strerror or str(error)).lower()}; give another --chatml") from None
    return count


def _chat(row: dict[str, Any], audio: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": row["text"]},
            {"role": "assistant", "content": {"type": "audio", "audio_url": audio}},
        ],
        "speaker": row.get("speaker"),
        "start_index": 1,
    }


def _state(recording: Recording) -> _State:
    about = recording.path.stat()
    return _State(about.st_size, about.st_mtime_ns, hash(recording.text))
