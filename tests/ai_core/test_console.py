import errno
import os
import stat
from pathlib import Path

import pytest

from ai_core.commands.console import check_output, coloured, plain_text, print_rows, print_table, write_output
from prosody_tagger.errors import BadInput, ProsodyError
from prosody_tagger.markup import parse, plain


def test_write_is_atomic_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "a.wav"
    target.write_bytes(b"old")
    write_output(target, b"new")
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.wav"
    target.write_bytes(b"old")
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        real(self, data[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ProsodyError, match="no space left on device; make room") as caught:
        write_output(target, b"new!")
    monkeypatch.undo()
    assert caught.value.exit_code == 1
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    real, link = tmp_path / "real.wav", tmp_path / "link.wav"
    real.write_bytes(b"old")
    link.symlink_to(real)
    write_output(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    write_output(Path("/dev/null"), b"data")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_that_is_full() -> None:
    with pytest.raises(ProsodyError, match="no space left"):
        write_output(Path("/dev/full"), b"data")


def test_check_output_creates_the_folder_and_refuses_unwritable_paths(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "folder" / "a.wav")
    assert (tmp_path / "new" / "folder").is_dir()
    with pytest.raises(BadInput, match="is a folder"):
        check_output(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot write .*another path"):
        check_output(tmp_path / "file" / "a.wav")


def test_marks_are_coloured_and_literal_tags_are_not() -> None:
    text = coloured(parse("It's <emph>only \\<emph> <pause_short:90ms>now"))
    assert [text.plain[span.start : span.end] for span in text.spans] == ["<emph>", "<pause_short:90ms>"]


def test_control_characters_never_reach_the_terminal() -> None:
    assert "\x1b" not in plain_text("a\x1b[31mb\x07\x9b").plain
    assert "\x00" not in coloured(plain("a\x00b")).plain


def test_names_are_not_read_as_rich_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("plot", "p[bold].png"), ("warning", "p[/b].png is [red]old[/red]"))
    print_table(("a[b]",), [("c[/d]",)])
    out = capsys.readouterr().out
    for name in ("p[bold].png", "p[/b].png is [red]old[/red]", "c[/d]"):
        assert name in out
