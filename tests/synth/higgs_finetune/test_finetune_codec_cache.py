"""Codec cache: each recording is encoded once by the right codec, also after interruptions and damage."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_higgs import tiny_codec

from prosody_tagger.errors import BadInput, DataError
from synth.audio.decoding import decode
from synth.audio.encoding import encode
from synth.audio.signal import resample
from synth.base import Audio
from synth.higgs_finetune import codec_cache as module
from synth.higgs_finetune.codec_cache import CodecCache, codec_fingerprint
from synth.higgs_local.codec_stream import Codec


class Counting(Codec):
    """A codec that counts its calls, and is interrupted after ``most`` of them."""

    def __init__(self, model: Any, most: int = 1000) -> None:
        super().__init__(model)
        self.encoded, self.most = 0, most

    def encode(self, audio: Audio) -> torch.Tensor:
        if self.encoded == self.most:
            raise KeyboardInterrupt
        self.encoded += 1
        return super().encode(audio)


MODEL = tiny_codec()


def noise(seconds: float, seed: int = 0, rate: int = 24_000) -> Audio:
    samples = np.random.default_rng(seed).normal(0, 0.1, max(1, round(seconds * rate)))
    return Audio(samples.astype(np.float32), rate)


def write(folder: Path, count: int, rate: int = 24_000) -> list[Path]:
    paths = [folder / f"{index}.wav" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(encode(noise(0.1 + 0.04 * index, index, rate), "wav"))
    return paths


def test_codes_equal_those_of_the_codec_at_its_rate(tmp_path: Path) -> None:
    codec = Codec(MODEL)
    path = tmp_path / "صوت ١.wav"
    path.write_bytes(encode(noise(0.5, rate=16_000), "wav"))
    cache = CodecCache(tmp_path / "codes", codec)
    cache.prepare([path])
    audio = resample(decode(path.read_bytes()), 24_000)
    padded = np.pad(audio.samples, (0, -len(audio.samples) % codec.hop))
    found = cache.codes(path)
    assert torch.equal(found, codec.encode(Audio(padded, 24_000)))
    assert found.dtype == torch.int64
    assert found.shape == (13, 8) == (cache.frames(path), codec.codebooks)


def test_each_recording_is_encoded_once(tmp_path: Path) -> None:
    paths = write(tmp_path, 3)
    copy = tmp_path / "copy.wav"
    copy.write_bytes(paths[0].read_bytes())
    codec = Counting(MODEL)
    progress: list[tuple[int, int]] = []
    CodecCache(tmp_path / "codes", codec).prepare([*paths, copy, paths[1]], lambda *counts: progress.append(counts))
    assert codec.encoded == 3
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    again = CodecCache(tmp_path / "codes", codec)
    again.prepare([*paths, copy])
    assert codec.encoded == 3
    assert torch.equal(again.codes(copy), again.codes(paths[0]))


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(tmp_path, 2)
    CodecCache(tmp_path / "codes", Codec(MODEL)).prepare(paths)
    monkeypatch.setattr(module, "read_file", lambda path: pytest.fail(f"{path} was read"))
    cache = CodecCache(tmp_path / "codes", Codec(MODEL))
    cache.prepare(paths)
    assert [cache.frames(path) for path in paths] == [3, 4]


def test_codes_made_before_an_interruption_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD_SIZE", 2)
    paths = write(tmp_path, 7)
    stopped = Counting(MODEL, most=5)
    with pytest.raises(KeyboardInterrupt):
        CodecCache(tmp_path / "codes", stopped).prepare(paths)
    codec = Counting(MODEL)
    cache = CodecCache(tmp_path / "codes", codec)
    cache.prepare(paths)
    assert codec.encoded == 2
    fresh = CodecCache(tmp_path / "other", Codec(MODEL))
    fresh.prepare(paths)
    assert all(torch.equal(cache.codes(path), fresh.codes(path)) for path in paths)
    assert not list((tmp_path / "codes").rglob("*.part"))


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_recordings_of_a_damaged_shard_are_encoded_again(tmp_path: Path, damage: bytes | None) -> None:
    paths = write(tmp_path, 2)
    cache = CodecCache(tmp_path / "codes", Codec(MODEL))
    cache.prepare(paths)
    expected = [cache.codes(path) for path in paths]
    (shard,) = (tmp_path / "codes").rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-3] if damage is None else damage)
    (tmp_path / "codes" / "files.json").write_bytes(b'{"a": 1}')
    codec = Counting(MODEL)
    repaired = CodecCache(tmp_path / "codes", codec)
    with pytest.raises(BadInput, match="prepare it first"):
        repaired.codes(paths[0])
    repaired.prepare(paths)
    assert codec.encoded == 2
    assert all(map(torch.equal, expected, map(repaired.codes, paths)))


def test_a_changed_file_is_encoded_again(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 1)
    cache = CodecCache(tmp_path / "codes", Codec(MODEL))
    cache.prepare([path])
    before = cache.codes(path)
    path.write_bytes(encode(noise(0.3, 9), "wav"))
    cache.prepare([path])
    assert len(cache.codes(path)) == 8 != len(before)


def test_codes_of_another_codec_are_not_used(tmp_path: Path) -> None:
    paths = write(tmp_path, 1)
    CodecCache(tmp_path / "codes", Codec(MODEL)).prepare(paths)
    other = Codec(tiny_codec(1))
    assert codec_fingerprint(other) != codec_fingerprint(Codec(MODEL)) == codec_fingerprint(Codec(tiny_codec()))
    with pytest.raises(BadInput, match="with this codec"):
        CodecCache(tmp_path / "codes", other).codes(paths[0])


def test_bad_recordings_are_listed_and_the_others_encoded(tmp_path: Path) -> None:
    paths = write(tmp_path, 3)
    paths[1].write_bytes(b"RIFF no sound")
    cache = CodecCache(tmp_path / "codes", Codec(MODEL))
    with pytest.raises(DataError) as error:
        cache.prepare([*paths, tmp_path / "none.wav", tmp_path, Path("nul\0.wav")])
    for name in ("1.wav", "none.wav", f"{tmp_path}: it is a folder", "nul\0.wav", "4 recordings"):
        assert name in str(error.value)
    assert len(cache.codes(paths[2])) == 5


def test_another_process_reads_without_the_codec(tmp_path: Path) -> None:
    paths = write(tmp_path, 2)
    cache = CodecCache(tmp_path / "codes", Codec(MODEL))
    cache.prepare(paths)
    expected = cache.codes(paths[1])
    sent = pickle.dumps(cache)
    assert len(sent) < 10_000
    for reader in (pickle.loads(sent), CodecCache(tmp_path / "codes", cache.fingerprint)):
        assert torch.equal(reader.codes(paths[1]), expected)
        with pytest.raises(DataError, match="this cache has no codec"):
            reader.prepare(write(tmp_path, 3))


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write codes"):
        CodecCache(tmp_path / "file" / "codes", Codec(MODEL)).prepare(write(tmp_path, 1))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5000), st.sampled_from([8_000, 22_050, 24_000, 48_000]))
def test_recordings_of_any_length_give_whole_frames(tmp_path_factory: pytest.TempPathFactory, samples: int, rate: int) -> None:
    folder = tmp_path_factory.mktemp("codes")
    path = folder / "a.wav"
    path.write_bytes(encode(noise(samples / rate, rate=rate), "wav"))
    cache = CodecCache(folder, Codec(MODEL))
    cache.prepare([path])
    assert abs(cache.frames(path) - samples / rate * 25) <= 1
    assert int(cache.codes(path).max()) < 1024
