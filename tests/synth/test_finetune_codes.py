"""Codes on disk: made once, by the codec that is asked for, whatever happens in between."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prosody_tagger.errors import BadInput, DataError
from synth.audio.encoding import encode
from synth.audio.signal import resample
from synth.base import Audio
from synth.higgs_finetune import codec_cache as module
from synth.higgs_finetune.codec_cache import CodeStore, identity
from synth.higgs_local.codec_stream import Codec
from tests.tiny_higgs import tiny_codec


class Counting(Codec):
    """A codec that counts what it encodes, and stops after so many."""

    def __init__(self, model: Any, most: int = 1000) -> None:
        super().__init__(model)
        self.encoded, self.most = 0, most

    def encode(self, audio: Audio) -> torch.Tensor:
        if self.encoded == self.most:
            raise KeyboardInterrupt
        self.encoded += 1
        return super().encode(audio)


MODEL = tiny_codec()


def sound(seconds: float, seed: int = 0, rate: int = 24_000) -> Audio:
    noise = np.random.default_rng(seed).normal(0, 0.1, max(1, round(seconds * rate)))
    return Audio(noise.astype(np.float32), rate)


def write(folder: Path, count: int, rate: int = 24_000) -> list[Path]:
    paths = [folder / f"{index}.wav" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(encode(sound(0.1 + 0.04 * index, index, rate), "wav"))
    return paths


def test_codes_are_those_of_the_codec_at_its_rate(tmp_path: Path) -> None:
    codec = Codec(MODEL)
    path = tmp_path / "صوت ١.wav"
    path.write_bytes(encode(sound(0.5, rate=16_000), "wav"))
    store = CodeStore(tmp_path / "codes", codec)
    store.prepare([path])
    from synth.audio.decoding import decode

    there = resample(decode(path.read_bytes()), 24_000)
    padded = np.pad(there.samples, (0, -len(there.samples) % codec.hop))
    found = store.codes(path)
    assert torch.equal(found, codec.encode(Audio(padded, 24_000)))
    assert found.dtype == torch.int64
    assert found.shape == (13, 8) == (store.frames(path), codec.codebooks)


def test_nothing_is_encoded_twice(tmp_path: Path) -> None:
    paths = write(tmp_path, 3)
    copy = tmp_path / "copy.wav"
    copy.write_bytes(paths[0].read_bytes())
    codec = Counting(MODEL)
    told: list[tuple[int, int]] = []
    CodeStore(tmp_path / "codes", codec).prepare([*paths, copy, paths[1]], lambda done, of: told.append((done, of)))
    assert codec.encoded == 3
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    again = CodeStore(tmp_path / "codes", codec)
    again.prepare([*paths, copy])
    assert codec.encoded == 3
    assert torch.equal(again.codes(copy), again.codes(paths[0]))


def test_a_known_file_is_not_even_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(tmp_path, 2)
    CodeStore(tmp_path / "codes", Codec(MODEL)).prepare(paths)
    monkeypatch.setattr(module, "read_file", lambda path: pytest.fail(f"{path} was read"))
    store = CodeStore(tmp_path / "codes", Codec(MODEL))
    store.prepare(paths)
    assert [store.frames(path) for path in paths] == [3, 4]


def test_what_was_done_before_a_stop_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_A_SHARD", 2)
    paths = write(tmp_path, 7)
    stopped = Counting(MODEL, most=5)
    with pytest.raises(KeyboardInterrupt):
        CodeStore(tmp_path / "codes", stopped).prepare(paths)
    codec = Counting(MODEL)
    store = CodeStore(tmp_path / "codes", codec)
    store.prepare(paths)
    assert codec.encoded == 2
    fresh = CodeStore(tmp_path / "other", Codec(MODEL))
    fresh.prepare(paths)
    assert all(torch.equal(store.codes(path), fresh.codes(path)) for path in paths)
    assert not list((tmp_path / "codes").rglob("*.part"))


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_shard_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    paths = write(tmp_path, 2)
    store = CodeStore(tmp_path / "codes", Codec(MODEL))
    store.prepare(paths)
    expected = [store.codes(path) for path in paths]
    (shard,) = (tmp_path / "codes").rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-3] if damage is None else damage)
    (tmp_path / "codes" / "files.json").write_bytes(b'{"a": 1}')
    codec = Counting(MODEL)
    mended = CodeStore(tmp_path / "codes", codec)
    with pytest.raises(BadInput, match="prepare it first"):
        mended.codes(paths[0])
    mended.prepare(paths)
    assert codec.encoded == 2
    assert all(map(torch.equal, expected, map(mended.codes, paths)))


def test_a_file_that_changed_is_encoded_anew(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 1)
    store = CodeStore(tmp_path / "codes", Codec(MODEL))
    store.prepare([path])
    before = store.codes(path)
    path.write_bytes(encode(sound(0.3, 9), "wav"))
    store.prepare([path])
    assert len(store.codes(path)) == 8 != len(before)


def test_codes_of_another_codec_are_not_taken(tmp_path: Path) -> None:
    paths = write(tmp_path, 1)
    CodeStore(tmp_path / "codes", Codec(MODEL)).prepare(paths)
    other = Codec(tiny_codec(1))
    assert identity(other) != identity(Codec(MODEL)) == identity(Codec(tiny_codec()))
    with pytest.raises(BadInput, match="with this codec"):
        CodeStore(tmp_path / "codes", other).codes(paths[0])


def test_bad_recordings_are_all_named_and_the_others_done(tmp_path: Path) -> None:
    paths = write(tmp_path, 3)
    paths[1].write_bytes(b"RIFF no sound")
    store = CodeStore(tmp_path / "codes", Codec(MODEL))
    with pytest.raises(DataError) as told:
        store.prepare([*paths, tmp_path / "none.wav", tmp_path, Path("nul\0.wav")])
    for name in ("1.wav", "none.wav", f"{tmp_path}: it is a folder", "nul\0.wav", "4 recordings"):
        assert name in str(told.value)
    assert len(store.codes(paths[2])) == 5


def test_another_process_reads_without_the_codec(tmp_path: Path) -> None:
    paths = write(tmp_path, 2)
    store = CodeStore(tmp_path / "codes", Codec(MODEL))
    store.prepare(paths)
    expected = store.codes(paths[1])
    sent = pickle.dumps(store)
    assert len(sent) < 10_000
    for reader in (pickle.loads(sent), CodeStore(tmp_path / "codes", store.identity)):
        assert torch.equal(reader.codes(paths[1]), expected)
        with pytest.raises(DataError, match="no codec here"):
            reader.prepare(write(tmp_path, 3))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write codes"):
        CodeStore(tmp_path / "file" / "codes", Codec(MODEL)).prepare(write(tmp_path, 1))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5000), st.sampled_from([8_000, 22_050, 24_000, 48_000]))
def test_any_length_fills_whole_frames(tmp_path_factory: pytest.TempPathFactory, samples: int, rate: int) -> None:
    folder = tmp_path_factory.mktemp("codes")
    path = folder / "a.wav"
    path.write_bytes(encode(sound(samples / rate, rate=rate), "wav"))
    store = CodeStore(folder, Codec(MODEL))
    store.prepare([path])
    assert abs(store.frames(path) - samples / rate * 25) <= 1
    assert int(store.codes(path).max()) < 1024
