"""Encoding: the bytes are decoded by independent decoders and compared with the input."""

import gc
import hashlib
import io
import subprocess
import sys
import wave
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import av
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from synth.audio.decoding import decode
from synth.audio.encoding import FORMATS, MEDIA_TYPES, Encoder, encode
from synth.audio.stream_decoding import StreamDecoder
from synth.base import Audio

RATE = 24_000
CODED = ("flac", "mp3", "opus", "aac")
FRAME = {"mp3": 576, "aac": 1024}  # samples at 24 kHz
LEAST_SNR = {"wav": 70, "pcm": 70, "flac": 70, "mp3": 30, "opus": 20, "aac": 20}

Samples = NDArray[np.float32]


@cache
def voice(seconds: float = 1.5, rate: int = RATE) -> Samples:
    """Return gliding harmonics with a little noise, similar to a voice, because the codecs are tuned to speech."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 1.3 * time)) / rate
    tones = sum(np.sin(k * phase) / k for k in range(1, 20))
    noise = np.random.default_rng(7).standard_normal(len(time))
    loudness = 0.15 + 0.1 * np.sin(2 * np.pi * 3 * time)
    return (loudness * tones + 0.001 * noise).astype(np.float32)


def stream(audio_format: str, samples: Samples, cuts: Iterable[int] = (), rate: int = RATE) -> bytes:
    encoder = Encoder(audio_format, rate)
    edges = [0, *sorted(cuts), len(samples)]
    return b"".join([encoder.encode(Audio(samples[a:b], rate)) for a, b in pairwise(edges)] + [encoder.finish()])


def cuts(every: int, samples: Samples) -> range:
    return range(every, len(samples), every)


def with_ffmpeg(data: bytes, audio_format: str, rate: int = RATE) -> Samples:
    """Return ``data`` as decoded by FFmpeg at ``rate`` Hz, as players based on it (Chrome, mpv) do."""
    if audio_format == "pcm":
        return np.frombuffer(data, "<i2") / np.float32(32_768)
    with av.open(io.BytesIO(data)) as file:
        to_floats = av.AudioResampler(format="flt", layout="mono", rate=file.streams.audio[0].rate)
        frames = [out for frame in [*file.decode(audio=0), None] for out in to_floats.resample(frame)]
        own = file.streams.audio[0].rate
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return samples if own == rate else soxr.resample(samples, own, rate)


def snr(heard: Samples, meant: Samples) -> float:
    """Return the signal-to-error ratio in dB over the length of ``meant``."""
    error = heard[: len(meant)].astype(np.float64) - meant
    return float(10 * np.log10(np.sum(meant.astype(np.float64) ** 2) / (np.sum(error**2) + 1e-12)))


def lead_in(audio_format: str, streamed: bool) -> int:
    """Return the samples at 24 kHz before the sound."""
    return 1024 if audio_format == "aac" else 1105 if audio_format == "mp3" and streamed else 0


# Whole files


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, RATE, 44_100, 48_000])
def test_a_file_contains_the_audio_and_its_length(audio_format: str, rate: int) -> None:
    meant = voice(1.0, rate)
    heard = with_ffmpeg(encode(Audio(meant, rate), audio_format), audio_format, rate)
    if audio_format == "aac":
        with av.open(io.BytesIO(encode(Audio(meant, rate), audio_format))) as file:
            assert file.streams.audio[0].rate == rate
        assert 0 <= len(heard) - len(meant) - 1024 < 1024
        heard = heard[1024:]
    else:
        assert len(heard) == len(meant)
    assert snr(heard, meant) > LEAST_SNR[audio_format] - (10 if rate == 8_000 else 0)


@pytest.mark.parametrize("audio_format", ["wav", "flac", "mp3", "opus"])
def test_libsndfile_decodes_the_same(audio_format: str) -> None:
    heard, rate = soundfile.read(io.BytesIO(encode(Audio(voice(), RATE), audio_format)), dtype="float32")
    assert rate == RATE
    assert len(heard) == len(voice())
    assert snr(heard, voice()) > LEAST_SNR[audio_format]


def test_the_header_of_a_wav() -> None:
    data = encode(Audio(voice(), RATE))
    with wave.open(io.BytesIO(data)) as file:
        assert file.getparams()[:4] == (1, 2, RATE, len(voice()))
    assert data[44:] == encode(Audio(voice(), RATE), "pcm")


@given(st.binary(max_size=200))
def test_sixteen_bit_samples_round_trip(data: bytes) -> None:
    data = data[: len(data) // 2 * 2]
    samples = (np.frombuffer(data, "<i2") / 32_768).astype(np.float32)
    assert encode(Audio(samples, RATE), "pcm") == data


def test_flac_loses_nothing() -> None:
    exact = np.round(voice() * 32_768).astype(np.int16)
    heard, _ = soundfile.read(io.BytesIO(encode(Audio((exact / 32_768).astype(np.float32), RATE), "flac")), dtype="int16")
    np.testing.assert_array_equal(heard, exact)


def test_more_than_a_block_at_once() -> None:
    """Resampler and codec keep their state across the blocks of a long recording."""
    meant = voice(7.0, 22_050)
    heard = with_ffmpeg(encode(Audio(meant, 22_050), "opus"), "opus", 22_050)
    assert len(heard) == len(meant)
    assert all(snr(heard[at : at + 2_000], meant[at : at + 2_000]) > 10 for at in range(0, len(meant) - 2_000, 2_000))


# Streams


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_stream_has_the_same_audio_as_the_file(audio_format: str) -> None:
    whole = with_ffmpeg(encode(Audio(voice(), RATE), audio_format), audio_format)[lead_in(audio_format, False) :]
    streamed = with_ffmpeg(stream(audio_format, voice(), cuts(480, voice())), audio_format)[lead_in(audio_format, True) :]
    np.testing.assert_array_equal(streamed[: len(voice())], whole[: len(voice())])
    assert 0 <= len(streamed) - len(voice()) <= 2 * FRAME.get(audio_format, 0)
    assert np.abs(streamed[len(voice()) + 64 :]).max(initial=0) < 0.1  # what a codec fills up with is no sound


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("rate", [16_000, 22_050, RATE, 44_100])
def test_the_lead_in_is_the_silence_before_the_audio(audio_format: str, rate: int) -> None:
    click = np.zeros(rate // 2, dtype=np.float32)
    click[:64] = 0.8 * np.hanning(64)
    heard = with_ffmpeg(stream(audio_format, click, rate=rate), audio_format, rate)
    late = (np.argmax(heard) - np.argmax(click)) / rate
    assert late == pytest.approx(Encoder(audio_format, rate).lead_in, abs=2 / rate)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.sampled_from([RATE, 22_050]),
    st.lists(st.integers(0, 6_000), max_size=12),
)
def test_cutting_changes_no_byte(audio_format: str, rate: int, places: Sequence[int]) -> None:
    samples = voice(0.25, rate)
    assert stream(audio_format, samples, [min(place, len(samples)) for place in places], rate) == stream(
        audio_format, samples, rate=rate
    )


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_a_sample_at_a_time(audio_format: str, rate: int) -> None:
    samples = voice(0.1, rate)
    assert stream(audio_format, samples, range(1, len(samples)), rate) == stream(audio_format, samples, rate=rate)


@pytest.mark.parametrize(
    ("audio_format", "seconds"),
    [("wav", 0.0005), ("pcm", 0.0005), ("flac", 0.03), ("opus", 0.045), ("mp3", 0.05), ("aac", 0.09)],
)
def test_bytes_are_returned_early(audio_format: str, seconds: float) -> None:
    """After so many seconds of input, output begins, and it never lags further behind."""
    encoder = Encoder(audio_format, RATE)
    step = 12
    sizes = [len(encoder.encode(Audio(voice()[at : at + step], RATE))) for at in range(0, len(voice()), step)]
    full = np.flatnonzero(np.array(sizes[1:]))  # a header leaves with the first call
    gaps = np.diff(full, prepend=-1) * step / RATE
    assert gaps.max() <= seconds


@pytest.mark.parametrize("audio_format", FORMATS)
def test_the_header_is_returned_first(audio_format: str) -> None:
    head = Encoder(audio_format, RATE).encode(Audio(np.zeros(0, dtype=np.float32), RATE))
    begins = {"wav": b"RIFF\xff\xff\xff\xffWAVEfmt ", "flac": b"fLaC", "opus": b"OggS"}.get(audio_format, b"")
    assert head.startswith(begins)
    assert bool(head) == bool(begins)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_partial_stream_can_be_played(audio_format: str) -> None:
    encoder = Encoder(audio_format, RATE)
    come = b"".join(encoder.encode(Audio(voice()[at : at + 480], RATE)) for at in range(0, 24_000, 480))
    heard = with_ffmpeg(come, audio_format)[lead_in(audio_format, True) :]
    assert len(heard) >= 24_000 - 4 * 1024
    assert snr(heard[:20_000], voice()[:20_000]) > LEAST_SNR[audio_format]


@pytest.mark.parametrize("audio_format", ["wav", "flac", "mp3", "opus", "pcm"])
def test_stream_decoder_reads_the_streams(audio_format: str) -> None:
    decoder = StreamDecoder(audio_format, RATE)
    encoder = Encoder(audio_format, RATE)
    parts = [decoder.feed(encoder.encode(Audio(voice()[at : at + 999], RATE))) for at in range(0, len(voice()), 999)]
    heard = np.concatenate([*parts, decoder.feed(encoder.finish()), decoder.finish()])[lead_in(audio_format, True) :]
    assert 0 <= len(heard) - len(voice()) <= 2 * FRAME.get(audio_format, 0)
    assert snr(heard, voice()) > LEAST_SNR[audio_format]


@pytest.mark.parametrize("audio_format", ["wav", "flac", "mp3", "opus"])
def test_a_streamed_file_that_was_saved_can_be_read(audio_format: str) -> None:
    heard = decode(stream(audio_format, voice())).samples[lead_in(audio_format, True) :]
    assert snr(heard, voice()) > LEAST_SNR[audio_format]


def test_readers_take_the_wav_without_a_length() -> None:
    data = stream("wav", voice(), cuts(700, voice()))
    heard, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    assert len(heard) == len(voice())
    with wave.open(io.BytesIO(data)) as file:
        assert file.readframes(file.getnframes()) == encode(Audio(voice(), RATE), "pcm")
    assert len(with_ffmpeg(data, "wav")) == len(voice())


# Errors


@pytest.mark.parametrize("audio_format", [audio_format for audio_format in FORMATS if audio_format != "pcm"])
@pytest.mark.parametrize("streamed", [False, True])
def test_speech_without_length_is_a_file_that_plays(audio_format: str, streamed: bool) -> None:
    nothing = np.zeros(0, dtype=np.float32)
    data = stream(audio_format, nothing) if streamed else encode(Audio(nothing, RATE), audio_format)
    with av.open(io.BytesIO(data)) as file:
        sound = [frame.to_ndarray() for frame in file.decode(audio=0)]
    assert sum(part.shape[1] for part in sound) < 4_000
    assert all(np.abs(part).max() < 1e-3 for part in sound)


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("streamed", [False, True])
def test_nan_infinite_and_huge_samples(audio_format: str, streamed: bool) -> None:
    wild = voice(0.5).copy()
    wild[1_000:1_003] = np.nan, np.inf, -np.inf
    wild[5_000:5_004] = 1e30, -1e30, 1.0, -1.0
    tame = wild.copy()
    tame[1_000:1_003] = 0, 1, -1
    tame[5_000:5_002] = 1, -1
    for samples in (wild, tame):
        samples.setflags(write=False)
    made = [stream(audio_format, samples) if streamed else encode(Audio(samples, RATE), audio_format) for samples in (wild, tame)]
    assert made[0] == made[1]
    heard = with_ffmpeg(made[0], audio_format)[lead_in(audio_format, streamed) :]
    assert np.isfinite(heard).all()
    assert heard[5_002] * heard[5_003] < 0 or audio_format in ("mp3", "opus", "aac")  # clipped, not wrapped around


@pytest.mark.parametrize("level", [1.0, -1.0])
def test_full_scale_does_not_wrap(level: float) -> None:
    samples = np.full(2_000, level, dtype=np.float32)
    for audio_format in ("wav", "flac"):
        heard, _ = soundfile.read(io.BytesIO(encode(Audio(samples, RATE), audio_format)), dtype="float32")
        np.testing.assert_allclose(heard, samples, atol=1e-4)


@pytest.mark.parametrize(
    ("audio_format", "nearest"),
    [("mpeg3", "mp3"), ("WAV", "wav"), ("opuss", "opus"), ("flak", "flac"), ("", None), ("\0" * 5, None), ("../wav", "wav")],
)
def test_an_unknown_format_is_named(audio_format: str, nearest: str | None) -> None:
    for make in (lambda: encode(Audio(voice(), RATE), audio_format), lambda: Encoder(audio_format, RATE)):
        with pytest.raises(BadInput, match="give one of wav, flac, mp3, opus, aac, pcm") as error:
            make()
        assert repr(audio_format) in str(error.value)
        assert (f"did you mean {nearest}?" in str(error.value)) == (nearest is not None)


def test_an_encoder_is_for_one_stream_of_one_rate() -> None:
    encoder = Encoder("mp3", RATE)
    with pytest.raises(ValueError, match="16000 Hz and the stream 24000"):
        encoder.encode(Audio(voice(), 16_000))
    encoder.encode(Audio(voice(), RATE))
    assert encoder.finish()
    assert encoder.finish() == b""
    with pytest.raises(ValueError, match="another encoder"):
        encoder.encode(Audio(voice(), RATE))


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_stream_that_is_not_finished_leaks_nothing(audio_format: str) -> None:
    for _ in range(20):
        Encoder(audio_format, RATE).encode(Audio(voice(0.2), RATE))
    gc.collect()  # an error while it is let go of would be a warning, and so an error here
    assert not [kept for kept in gc.get_objects() if type(kept) is Encoder]


def test_every_form_has_a_media_type() -> None:
    assert tuple(MEDIA_TYPES) == FORMATS == ("wav", "flac", "mp3", "opus", "aac", "pcm")
    assert all(value.startswith("audio/") for value in MEDIA_TYPES.values())


def test_streams_side_by_side_do_not_mix() -> None:
    jobs = [(audio_format, voice(0.5 + 0.1 * k)) for k in range(3) for audio_format in CODED]
    expected = [stream(*job) for job in jobs]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda job: stream(*job, cuts(300, job[1])), jobs)) == expected


_DIGESTS = """
import hashlib, sys
import numpy as np
from synth.base import Audio
from synth.audio.encoding import FORMATS, Encoder, encode
heavy = {"av", "soxr", "soundfile", "torch"} & set(sys.modules)
assert not heavy, heavy
audio = Audio(np.sin(np.arange(12_000, dtype=np.float32) / 20) / 2, 24_000)
for audio_format in FORMATS:
    encoder = Encoder(audio_format, 24_000)
    print(hashlib.sha256(encode(audio, audio_format) + encoder.encode(audio) + encoder.finish()).hexdigest())
"""


def test_the_bytes_are_the_same_from_run_to_run_and_the_import_is_light() -> None:
    audio = Audio(np.sin(np.arange(12_000, dtype=np.float32) / 20) / 2, RATE)
    here = [
        hashlib.sha256(encode(audio, audio_format) + stream(audio_format, audio.samples)).hexdigest() for audio_format in FORMATS
    ]
    there = subprocess.run([sys.executable, "-c", _DIGESTS], capture_output=True, text=True, check=True, timeout=60)
    assert there.stdout.split() == here
