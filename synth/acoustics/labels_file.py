"""The output file of `prosody label`: one row for each recording, appended as it is labelled, so that a run can be resumed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

from prosody_tagger.errors import BadInput, DataError, os_reason
from prosody_tagger.files import replaced_file
from prosody_tagger.markup import parse, render
from synth.acoustics.label import Label
from synth.acoustics.recordings import TranscribedRecording

_ROW_START = b'{"text": "'


class _SourceState(NamedTuple):
    """The recording and transcript that a row was made from; if any value changes, the row is outdated."""

    size: int
    modified: int
    text: int


class LabelsFile:
    """The labels of a corpus, one JSON object a line.

    {"text": the transcript with its marks, "audio": the path relative to this file's folder, "speaker": name or null, "seconds",
    "bytes" and "modified" of the sound file, "words": [`LabelledWord.as_dict`]}

    Use it as a context manager. An incomplete last line, left by a killed run, is removed on opening. A row whose recording or
    transcript has changed is replaced when it is added again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, _SourceState] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Open the file, or create it with its folder.

        Raises:
            BadInput: the file cannot be written.
            DataError: it contains something other than labels.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            self._remove_incomplete_line()
            for row in rows(self.path):
                text = parse(row["text"]).text
                self._done[row["audio"]] = _SourceState(row["bytes"], row["modified"], hash(text))
        except OSError as error:
            self.__exit__(None, None, None)
            raise BadInput(f"cannot write {self.path}: {os_reason(error)}; give another -o") from None
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self._done)

    def has(self, recording: TranscribedRecording) -> bool:
        """Return whether the recording in its present state is labelled."""
        return self._done.get(self._name(recording)) == _source_state(recording)

    def add(self, recording: TranscribedRecording, label: Label, seconds: float) -> None:
        """Append a row, or replace the recording's old one, and flush it to disk."""
        assert self._file is not None
        name, state = self._name(recording), _source_state(recording)
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

    def _name(self, recording: TranscribedRecording) -> str:
        """Return the recording's path relative to the folder of this file."""
        return Path(os.path.relpath(recording.path.absolute(), self.path.parent.absolute())).as_posix()

    def _remove_incomplete_line(self) -> None:
        """Remove a last line without an end, if it is the start of a row."""
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
        start = self._file.read(len(_ROW_START))
        if end > position and _ROW_START.startswith(start):
            self._file.truncate(position)

    def _remove(self, name: str) -> None:
        """Remove the row of a recording by replacing the file with one of all other rows."""
        assert self._file is not None
        with replaced_file(self.path, durable=True) as partial, partial.open("wb") as kept:
            for row in rows(self.path):
                if row["audio"] != name:
                    kept.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            self._file.close()
        self._file = self.path.open("a+b")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of labels, one at a time.

    Raises:
        DataError: a line is not a row of labels.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                valid = isinstance(row["text"], str) and isinstance(row["audio"], str) and isinstance(row["bytes"], int)
                valid = valid and isinstance(row["modified"], int)
            except (ValueError, KeyError, TypeError, RecursionError):
                valid = False
            if not valid:
                raise DataError(f"{path}:{number} is not a row of labels; give another file with -o, or delete this one")
            yield row


def write_chatml(labels: Path, target: Path) -> int:
    """Write the labels as a manifest for train-higgs and return the number of rows.

    A row is a conversation in which the user gives the marked text and the assistant answers with the recording:
    {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": {"type": "audio", "audio_url": path}}],
    "speaker": name or null, "start_index": 1}. Paths are relative to the manifest. A ``target`` named .json gets one list, any
    other name one object a line.

    Raises:
        BadInput: the manifest cannot be written.
        DataError: ``labels`` is not a file of labels.
    """
    count = 0
    as_list = target.suffix.lower() == ".json"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(target) as partial, partial.open("w", encoding="utf-8") as out:
            out.write("[\n" if as_list else "")
            for row in rows(labels):
                audio = os.path.relpath(labels.parent.absolute() / row["audio"], target.parent.absolute())
                out.write(",\n" if as_list and count else "")
                out.write(json.dumps(_conversation(row, Path(audio).as_posix()), ensure_ascii=False))
                out.write("" if as_list else "\n")
                count += 1
            out.write("\n]\n" if as_list else "")
    except OSError as error:
        raise BadInput(f"cannot write {target}: {os_reason(error)}; give another --chatml") from None
    return count


def _conversation(row: dict[str, Any], audio: str) -> dict[str, Any]:
    """Return a row of the manifest for a row of labels whose sound file is at ``audio``."""
    return {
        "messages": [
            {"role": "user", "content": row["text"]},
            {"role": "assistant", "content": {"type": "audio", "audio_url": audio}},
        ],
        "speaker": row.get("speaker"),
        "start_index": 1,
    }


def _source_state(recording: TranscribedRecording) -> _SourceState:
    status = recording.path.stat()
    return _SourceState(status.st_size, status.st_mtime_ns, hash(recording.text))
