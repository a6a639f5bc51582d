import os
from pathlib import Path

import pytest

from prosody_tagger.files import replaced_file, write_file


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "data"
    write_file(path, "old")
    with pytest.raises(ZeroDivisionError):
        _write_half(path)
    assert path.read_text() == "old"
    write_file(path, b"new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def _write_half(path: Path) -> None:
    with replaced_file(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError


def test_a_durable_file_is_flushed_before_the_old_one_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    path.write_text("old")
    flushed: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        flushed.append(path.read_text())

    monkeypatch.setattr(os, "fsync", record)
    with replaced_file(path) as partial:
        partial.write_text("not flushed")
    assert flushed == []
    with replaced_file(path, durable=True) as partial:
        partial.write_text("new")
    assert flushed[0] == "not flushed"  # the new content, while the old is still there
    assert flushed[1:] == ["new"]  # and then the folder
