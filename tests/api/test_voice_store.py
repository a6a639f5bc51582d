"""The voice store: entries are whole, bounded in number and size, and reachable by their ids only."""

import errno
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.voice_store import (
    DamagedVoice,
    StoredVoice,
    StoreFailed,
    StoreFull,
    UnknownVoice,
    VoiceStore,
    VoiceStoreSettings,
    is_voice_id,
)
from prosody_tagger.errors import BadInput
from synth.audio.encoding import encode
from synth.base import Audio, Reference
from synth.reference import MAX_BYTES

RATE = 8_000
TEXT = "The train leaves at nine."
ROOT = Path(__file__).resolve().parents[2]


def recording(seed: int = 0, seconds: float = 3.0, form: str = "wav") -> bytes:
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, round(seconds * RATE))
    return encode(Audio(noise.astype(np.float32), RATE), form)


@pytest.fixture(params=["memory", "folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "store" / "voices" if request.param == "folder" else None


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_add_list_get_delete(folder: Path | None) -> None:
    store = VoiceStore(folder)
    data = recording(form="flac")
    voice = store.add(data, f" {TEXT}\n", "Anna")
    assert voice == StoredVoice(f"voice_{Reference(data, 'flac', TEXT).digest}", "Anna", 3.0, voice.created)
    assert is_voice_id(voice.id)
    assert store.list() == [voice]
    assert store.get(voice.id) == Reference(data, "flac", TEXT)
    store.delete(voice.id)
    assert store.list() == []
    for use in (store.get, store.delete):
        with pytest.raises(UnknownVoice, match=voice.id):
            use(voice.id)


def test_the_same_upload_is_the_same_voice(folder: Path | None) -> None:
    store = VoiceStore(folder, max_voices=1)
    first = store.add(recording(), TEXT, "Anna")
    assert store.add(recording(), f"{TEXT} ", "Berta") == first
    assert store.list() == [first]
    store.delete(first.id)
    assert store.add(recording(), TEXT, "Berta").name == "Berta"


def test_another_transcript_or_recording_is_another_voice(folder: Path | None) -> None:
    store = VoiceStore(folder)
    made = [store.add(recording(), TEXT), store.add(recording(), "Another text."), store.add(recording(1), TEXT)]
    assert len({voice.id for voice in made}) == 3
    assert store.list() == sorted(made, key=lambda voice: (voice.created, voice.id))


def test_voices_outlive_the_process(tmp_path: Path) -> None:
    voice = VoiceStore(tmp_path).add(recording(), TEXT, "Аня 👩‍🚀 می‌روم")
    again = VoiceStore(tmp_path)
    assert again.list() == [voice]
    assert again.get(voice.id).audio == recording()


def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    voice = VoiceStore(tmp_path / "voices").add(recording(), TEXT)
    for path in (tmp_path / "voices", tmp_path / "voices" / voice.id):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("audio", "text", "words"),
    [
        (recording(seconds=2.9), TEXT, "lasts 2.90 s"),
        (recording(seconds=31), TEXT, "longer than 30 s"),
        (b"<html>", TEXT, "no known audio format"),
        (b"", TEXT, "nothing"),
        (recording()[:30], TEXT, "damaged"),
        (recording() + bytes(MAX_BYTES), TEXT, "bytes"),
        (recording(), "", "no words"),
        (recording(), "a\0b", "x00"),
    ],
)
def test_invalid_recordings_and_transcripts_are_refused(folder: Path | None, audio: bytes, text: str, words: str) -> None:
    store = VoiceStore(folder)
    with pytest.raises(BadInput, match=words):
        store.add(audio, text)
    assert store.list() == []


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "a\0b", "\ud800", "\u202eevil", "\x1b[31m"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="the name") as caught:
        VoiceStore(None).add(recording(), TEXT, name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [None, "", "  "])
def test_no_name(name: str | None) -> None:
    assert VoiceStore(None).add(recording(), TEXT, name).name is None


def test_too_many_voices(folder: Path | None) -> None:
    store = VoiceStore(folder, max_voices=2)
    first, second = store.add(recording(0), TEXT), store.add(recording(1), TEXT)
    with pytest.raises(StoreFull, match="2 voices are stored, and 2 is the limit"):
        store.add(recording(2), TEXT)
    assert {voice.id for voice in store.list()} == {first.id, second.id}
    store.delete(first.id)
    store.add(recording(2), TEXT)


def test_too_many_bytes(folder: Path | None) -> None:
    size = len(recording())
    store = VoiceStore(folder, max_bytes=2 * size)
    store.add(recording(), TEXT)
    with pytest.raises(StoreFull, match=f"exceed {2 * size}"):
        store.add(recording(1), TEXT)
    assert len(store.list()) == 1


HOSTILE = [
    "",
    ".",
    "..",
    "../voice_" + "0" * 64,
    "/etc/passwd",
    "voice_",
    "voice_" + "A" * 64,
    "voice_" + "0" * 63,
    "voice_" + "0" * 65,
]
HOSTILE += [
    "voice_" + "0" * 64 + "\n",
    "voice_" + "0" * 64 + "\0",
    "voice_" + "٠" * 64,
    " voice_" + "0" * 64,
    ".lock",
    "\ud800",
    "x" * 10**6,
]


@pytest.mark.parametrize("id", HOSTILE)
def test_ids_are_never_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, id: str) -> None:
    store = VoiceStore(tmp_path)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("a file was opened"))
    monkeypatch.setattr(Path, "unlink", lambda *_: pytest.fail("a file was removed"))
    for use in (store.get, store.delete):
        with pytest.raises(UnknownVoice) as caught:
            use(id)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1_000


@given(st.text(max_size=80) | st.from_regex(r"(\.\./|/|voice_|[0-9a-f]){1,70}", fullmatch=True))
def test_any_id_is_unknown_or_one_of_ours(id: str) -> None:
    if is_voice_id(id):
        assert set(id.removeprefix("voice_")) <= set("0123456789abcdef")
        assert len(id) == 70
    with pytest.raises(UnknownVoice):
        VoiceStore(None).get(id)


def cut(data: bytes) -> bytes:
    return data[:-1]


def other_sound(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def other_text(data: bytes) -> bytes:
    return data.replace(b"nine", b"five")


@pytest.mark.parametrize(
    "damage", [cut, other_sound, other_text, lambda _: b"", lambda _: b"{}\n", lambda _: b"\xff" * 99, lambda _: b"[" * 10**5]
)
def test_a_damaged_entry(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]) -> None:
    store = VoiceStore(tmp_path, max_voices=2)
    voice, whole = store.add(recording(), TEXT), store.add(recording(1), TEXT)
    file = tmp_path / voice.id
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DamagedVoice, match="upload the recording again, or delete it"):
        store.get(voice.id)
    assert whole in store.list()
    assert store.add(recording(), TEXT).id == voice.id  # uploading again repairs it, even when the store is full
    assert store.get(voice.id).audio == recording()
    file.write_bytes(b"")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert store.list() == [whole]
    assert voice.id in caplog.text
    store.delete(voice.id)
    assert names(tmp_path) == [".lock", whole.id]


@pytest.mark.parametrize("damage", [cut, lambda data: data + b"x", lambda _: b""])
def test_an_entry_of_another_length_is_not_listed(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store = VoiceStore(tmp_path)
    file = tmp_path / store.add(recording(), TEXT).id
    file.write_bytes(damage(file.read_bytes()))
    assert store.list() == []


def test_other_files_in_the_folder_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ("voice_" + "0" * 64)).mkdir()
    store = VoiceStore(tmp_path, max_voices=1)
    voice = store.add(recording(), TEXT)
    assert store.list() == [voice]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    store = VoiceStore(tmp_path)
    kept = store.add(recording(), TEXT)

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreFull, match="cannot be stored") as caught:
            store.add(recording(1), TEXT)
    assert str(tmp_path) not in str(caught.value)
    assert names(tmp_path) == [".lock", kept.id]
    store.add(recording(1), TEXT)


LIMITED = """
import resource, signal, sys
from pathlib import Path
from api.voice_store import VoiceStore, StoreFull
store, sound = VoiceStore(Path(sys.argv[2])), Path(sys.argv[1]).read_bytes()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    store.add(sound, "A text.")
except StoreFull as error:
    sys.stdout.write(str(error))
"""


def test_a_file_over_the_size_limit_of_the_system(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    sound.write_bytes(recording())
    command = [sys.executable, "-c", LIMITED, str(sound), str(tmp_path / "voices")]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "cannot be stored: File too large" in said
    assert names(tmp_path / "voices") == [".lock"]


def test_a_missing_folder(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path / "voices")
    (tmp_path / "voices" / ".lock").unlink()
    (tmp_path / "voices").rmdir()
    for use in (lambda: store.add(recording(), TEXT), store.list):
        with pytest.raises(StoreFailed, match="tell the operator of the service") as caught:
            use()
        assert str(tmp_path) not in str(caught.value)


def test_invalid_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("a\0b")):
        with pytest.raises(BadInput, match="give a folder that can be written"):
            VoiceStore(folder)


def test_partial_files_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path)
    (tmp_path / f".voice_{'0' * 64}.abc.part").write_bytes(bytes(1000))
    assert store.list() == []
    voice = store.add(recording(), TEXT)
    assert names(tmp_path) == [".lock", voice.id]


def test_threads_never_exceed_the_limit(folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    count = VoiceStore._check_room

    def slowly(*given: Any) -> None:
        count(*given)
        time.sleep(0.01)  # lets other threads run between the check and the write

    monkeypatch.setattr(VoiceStore, "_check_room", slowly)
    stores = [VoiceStore(folder, max_voices=3) for _ in range(4)] if folder else [VoiceStore(None, max_voices=3)] * 4
    gate = threading.Barrier(4)

    def add(number: int) -> str:
        gate.wait()
        try:
            return stores[number % 4].add(recording(number % 6), TEXT).id
        except StoreFull:
            return "full"

    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(add, range(12)))
    assert "full" in made
    assert {voice.id for voice in stores[0].list()} == made - {"full"}
    assert len(made) == 4


ADDING = """
import sys
from pathlib import Path
from api.voice_store import VoiceStore, StoreFull
sound, store = Path(sys.argv[1]), VoiceStore(Path(sys.argv[2]), max_voices=5)
sys.stdin.read(1)
for number in range(8):
    try:
        store.add(sound.read_bytes(), f"Text number {number}.")
    except StoreFull:
        sys.stdout.write("full ")
"""


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    sound.write_bytes(recording())
    command = [sys.executable, "-c", ADDING, str(sound), str(tmp_path / "voices")]
    pair = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in pair:
        assert process.stdin
        process.stdin.write("x")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].split() for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert said == [["full"] * 3] * 2
    store = VoiceStore(tmp_path / "voices")
    assert len(store.list()) == 5
    for voice in store.list():
        assert store.get(voice.id).text.startswith("Text number")


def test_settings() -> None:
    settings = VoiceStoreSettings()
    assert settings.voices is None
    assert VoiceStoreSettings.model_validate({"voices": "/tmp/v", "max_voices": "3"}).max_voices == 3
    with pytest.raises(ValidationError):
        VoiceStoreSettings(max_voices=-1)
