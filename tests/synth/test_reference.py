"""Reference recordings: valid ones, and invalid ones with the reason."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosody_tagger.errors import BadInput
from synth.audio.decoding import decode
from synth.audio.encoding import encode
from synth.audio.file_types import sniff
from synth.base import Audio
from synth.reference import MAX_BYTES, MAX_SECONDS, as_wav, read_reference

RATE = 16_000
TEXT = "The train leaves at nine."


def recording(seconds: float = 4.0, audio_format: str = "wav", level: float = 0.3, rate: int = RATE) -> bytes:
    noise = np.random.default_rng(0).standard_normal(round(seconds * rate)).clip(-3, 3) / 3
    return encode(Audio((level * noise).astype(np.float32), rate), audio_format)


@pytest.mark.parametrize("audio_format", ["wav", "flac", "mp3", "opus"])
def test_a_recording_is_kept_as_it_is(audio_format: str, tmp_path: Path) -> None:
    data = recording(audio_format=audio_format)
    path = tmp_path / "voice.txt"
    path.write_bytes(data)
    from_file = read_reference(path, TEXT)
    assert (from_file.audio, from_file.audio_format, from_file.text) == (data, audio_format, TEXT)
    assert read_reference(data, f"\n {TEXT}\t").digest == from_file.digest


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.5, r"lasts 0\.50 s; give 3 to 30 s"), (2.99, r"lasts 2\.99 s"), (30.1, "longer than 30 s"), (600, "longer than 30 s")],
)
def test_too_short_and_too_long(seconds: float, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_reference(recording(seconds, rate=8_000), TEXT)


@pytest.mark.parametrize("seconds", [3.0, MAX_SECONDS])
def test_the_bounds_are_allowed(seconds: float) -> None:
    assert decode(read_reference(recording(seconds), TEXT).audio).seconds == seconds


@pytest.mark.parametrize(
    "samples", [np.zeros(RATE * 4), np.full(RATE * 4, 0.4), 2e-4 * np.sin(np.arange(RATE * 4)), np.eye(1, RATE * 4, 9_000)[0]]
)
def test_silence_is_refused(samples: np.ndarray) -> None:
    with pytest.raises(BadInput, match="silent"):
        read_reference(encode(Audio(samples.astype(np.float32), RATE)), TEXT)


def test_a_quiet_voice_among_pauses_is_accepted() -> None:
    samples = decode(recording(10, level=0.02)).samples.copy()
    samples[RATE:-RATE] = 0
    read_reference(encode(Audio(samples, RATE)), TEXT)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds nothing;"),
        (b"<html>not found</html>", "no known audio format; give one of wav, flac, mp3, opus"),
        (b"\0\0\0\x20ftypM4A " + bytes(99), "holds m4a"),
        (b"RIFF\0\0\0\0WAVE" + bytes(99), "damaged"),
        (bytes(MAX_BYTES + 1), "10000001 bytes"),
    ],
)
def test_invalid_recordings(data: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_reference(data, TEXT)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no file .*gone\.wav"):
        read_reference(tmp_path / "gone.wav", TEXT)
    with pytest.raises(BadInput, match="is a folder"):
        read_reference(tmp_path, TEXT)
    with pytest.raises(BadInput, match="cannot be read"):
        read_reference(Path("a\0b.wav"), TEXT)
    with pytest.raises(BadInput, match="cannot be read"):
        read_reference(Path("x" * 5_000), TEXT)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(BadInput, match="not a regular file"):
        read_reference(tmp_path / "pipe.wav", TEXT)


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.wav"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(BadInput, match="10000001 bytes"):
        read_reference(path, TEXT)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no words"),
        (" \n\t", "no words"),
        ("... !", "no words"),
        ("bell\a", r"'\\x07' at character 4"),
        ("nul\0", r"'\\x00'"),
        ("half \ud800", r"'\\ud800'"),
        ("del\x7f", r"'\\x7f'"),
        ("a" * 161, r"161 characters, too many for a recording of 4\.0 s"),
        ("many words " * 100_000, "1099999 characters"),
    ],
)
def test_transcripts_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_reference(recording(), text)


def test_a_transcript_of_several_lines_is_one_line() -> None:
    assert read_reference(recording(), "The train\r\nleaves  at\tnine.\n").text == TEXT


@pytest.mark.parametrize("text", ["火车九点开。", "القطار يغادر", "รถไฟออกเก้าโมง", "👩‍🚀 fliegt um 9"])
def test_transcripts_of_every_script(text: str) -> None:
    assert read_reference(recording(), text).text == text


WHOLE = recording()


@given(st.text(max_size=60))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    def outcome() -> bool:
        try:
            return len(read_reference(WHOLE, text).digest) == 64
        except BadInput as error:
            return str(error).isprintable()

    assert outcome()


@pytest.mark.parametrize("audio_format", ["wav", "flac", "mp3", "opus"])
def test_as_wav(audio_format: str) -> None:
    made = as_wav(read_reference(recording(audio_format=audio_format), TEXT))
    assert sniff(made) == "wav"
    audio = decode(made)
    assert audio.rate == RATE
    np.testing.assert_allclose(audio.samples, decode(recording(audio_format=audio_format)).samples, atol=1e-4)


def test_as_wav_fits_the_limit_at_any_rate() -> None:
    made = as_wav(read_reference(recording(30, audio_format="flac", rate=96_000, level=0.01), TEXT))
    assert len(made) < MAX_BYTES
    assert decode(made).rate == 48_000
