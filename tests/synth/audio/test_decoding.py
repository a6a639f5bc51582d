"""Decoding: streams split anywhere, wrong headers, bodies that are not audio, files that would fill the memory."""

import io
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from synth.audio.decoding import decode
from synth.audio.encoding import encode
from synth.audio.file_types import sniff
from synth.audio.signal import resample
from synth.audio.stream_decoding import StreamDecoder, TruncatedAudio, UndecodableAudio
from synth.base import Audio
from synth.errors import BackendError

RATE = 24_000
JSON = b'{"error": {"message": "the model is being loaded, secret-key-123", "type": "unavailable"}}'
HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


def tone(seconds: float, rate: int = RATE, hertz: float = 180) -> Audio:
    samples = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return Audio(samples.astype(np.float32), rate)


def run(data: bytes, audio_format: str, rate: int = RATE, cuts: Sequence[int] = (), source_rate: int = RATE) -> NDArray[np.float32]:
    decoder = StreamDecoder(audio_format, rate, source_rate)
    edges = [0, *sorted(cuts), len(data)]
    parts = [decoder.feed(data[start:end]) for start, end in pairwise(edges)]
    return np.concatenate([*parts, decoder.finish()])


def wav(
    sound: bytes,
    *,
    tag: int = 1,
    channels: int = 1,
    rate: int = RATE,
    bits: int = 16,
    size: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
    extensible: bool = False,
) -> bytes:
    """Return a WAV in which every field can be set to a wrong value."""
    width = channels * bits // 8
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, channels, rate, rate * width, width, bits)
    if extensible:
        head += struct.pack("<HHIH", 22, bits, 0, tag) + bytes.fromhex("000000001000800000aa00389b71")
    size = len(sound) if size is None else size
    chunks = before + b"fmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", size) + sound + after
    return b"RIFF" + struct.pack("<I", min(size + 36, 0xFFFFFFFF)) + b"WAVE" + chunks


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


@cache
def body(audio_format: str) -> bytes:
    return encode(tone(0.4), audio_format)


# Streams


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_pcm_is_bit_exact_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    data = b"\0" * 64 + data  # as speech begins; and no text begins so
    expected = np.frombuffer(data[: len(data) // 2 * 2], "<i2") / np.float32(32768)
    got = run(data, "pcm", cuts=[min(cut, len(data)) for cut in cuts])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["pcm", "wav", "flac", "mp3", "opus"]),
    st.sampled_from([RATE, 16_000, 44_100, 48_000]),
    st.lists(st.integers(0, 19_000), max_size=12),
)
def test_cutting_changes_nothing(audio_format: str, rate: int, cuts: list[int]) -> None:
    data = body(audio_format)
    whole = run(data, audio_format, rate)
    np.testing.assert_allclose(run(data, audio_format, rate, [min(cut, len(data)) for cut in cuts]), whole, atol=1e-6)
    assert len(whole) == pytest.approx(0.4 * rate, abs=0.05 * rate)


@pytest.mark.parametrize("audio_format", ["pcm", "wav"])
@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_a_byte_at_a_time(audio_format: str, rate: int) -> None:
    data = body(audio_format)[:4_001] if audio_format == "pcm" else wav(body("pcm")[:4_000])
    np.testing.assert_allclose(run(data, audio_format, rate, range(1, len(data))), run(data, audio_format, rate), atol=1e-6)


@pytest.mark.parametrize("audio_format", ["pcm", "wav"])
def test_audio_is_returned_before_the_last_byte(audio_format: str) -> None:
    decoder = StreamDecoder(audio_format, RATE)
    early = decoder.feed(body(audio_format)[:2_000])
    assert len(early) >= 970
    decoder = StreamDecoder(audio_format, 48_000)
    assert len(decoder.feed(body(audio_format)[:9_600])) > 0.1 * 48_000


@pytest.mark.parametrize(("source", "rate"), [(16_000, 24_000), (48_000, 24_000), (24_000, 44_100)])
def test_a_stream_is_resampled_as_a_whole_would_be(source: int, rate: int) -> None:
    sound = tone(0.5, source)
    got = run(encode(sound, "pcm"), "pcm", rate, range(0, 16_000, 777), source)
    np.testing.assert_allclose(got, resample(sound, rate).samples, atol=1e-4)


def test_resampled_loud_audio_stays_within_full_scale() -> None:
    square = np.where(np.arange(RATE) % 100 < 50, 32767, -32768).astype("<i2")
    got = run(square.tobytes(), "pcm", 48_000)
    assert np.abs(got).max() == 1.0


def test_a_trailing_half_sample_is_dropped_and_an_empty_body_is_accepted() -> None:
    assert len(run(bytes(101), "pcm")) == 50
    assert len(run(b"", "pcm")) == 0
    assert len(run(b"\0", "pcm")) == 0


@pytest.mark.parametrize(
    ("tag", "bits", "sound"),
    [
        (1, 8, bytes([128, 192, 64, 0])),
        (1, 16, struct.pack("<4h", 0, 16384, -16384, -32768)),
        (1, 24, b"\0\0\0" + b"\0\0\x40" + b"\0\0\xc0" + b"\0\0\x80"),
        (1, 32, struct.pack("<4i", 0, 1 << 30, -(1 << 30), -(1 << 31))),
        (3, 32, struct.pack("<4f", 0, 0.5, -0.5, -1)),
        (3, 64, struct.pack("<4d", 0, 0.5, -0.5, -1)),
    ],
)
@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_every_coding_of_a_wav(tag: int, bits: int, sound: bytes, extensible: bool, channels: int) -> None:
    width = bits // 8
    spread = b"".join(sound[i : i + width] * channels for i in range(0, len(sound), width))
    data = wav(spread * 50, tag=tag, bits=bits, channels=channels, extensible=extensible)
    expected = [0, 0.5, -0.5, -1] * 50
    np.testing.assert_array_equal(run(data, "wav", cuts=range(0, len(data), 7)), expected)
    np.testing.assert_array_equal(decode(data).samples, expected)


def test_stereo_is_averaged() -> None:
    np.testing.assert_array_equal(run(wav(struct.pack("<2h", 16384, 0) * 9, channels=2), "wav"), [0.25] * 9)


@pytest.mark.parametrize("rate", [4_000, 8_000, 22_050, 44_100, 192_000])
def test_the_rate_is_read_from_a_wav(rate: int) -> None:
    sound = tone(0.5, rate)
    got = run(encode(sound, "wav"), "wav", RATE, source_rate=11_025)
    assert len(got) == pytest.approx(0.5 * RATE, abs=2)
    np.testing.assert_allclose(got[2_000:-2_000], tone(0.5).samples[2_000 : len(got) - 2_000], atol=2e-3)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF, 0xFFFFFFFF - 36])
def test_sizes_that_cannot_be_true_mean_until_the_end(size: int) -> None:
    data = wav(body("pcm"), size=size)
    np.testing.assert_array_equal(run(data, "wav", cuts=[50, 999]), run(body("pcm"), "pcm"))


@pytest.mark.parametrize("cuts", [(), (45,), range(0, 30_000, 41)])
def test_other_chunks_are_skipped(cuts: Sequence[int]) -> None:
    before = chunk(b"JUNK", b"\x55" * 101) + chunk(b"LIST", b"INFOISFT" + b"x" * 5_000)
    data = wav(body("pcm"), before=before, after=chunk(b"LIST", b"INFO" + b"\x7f" * 300))
    np.testing.assert_array_equal(run(data, "wav", cuts=[min(cut, len(data)) for cut in cuts]), run(body("pcm"), "pcm"))


def test_a_truncated_wav_is_reported_with_its_length() -> None:
    data = wav(body("pcm"))
    decoder = StreamDecoder("wav", RATE)
    assert len(decoder.feed(data[:5_044])) == 2_500
    with pytest.raises(TruncatedAudio, match=f"after 5000 of {len(data) - 44} bytes"):
        decoder.finish()


@pytest.mark.parametrize("length", [0, 3, 12, 30, 43])
def test_a_wav_that_stops_in_its_header(length: int) -> None:
    with pytest.raises(BackendError, match="ended within the header"):
        run(body("wav")[:length], "wav")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (wav(bytes(100), tag=6, bits=8), "format 6"),
        (wav(bytes(100), channels=0), "0 channels"),
        (wav(bytes(100), channels=9), "9 channels"),
        (wav(bytes(100), rate=0), "0 Hz"),
        (wav(bytes(100), rate=2_000_000), "2000000 Hz"),
        (wav(struct.pack("<f", np.nan) * 25, tag=3, bits=32), "NaN"),
        (wav(struct.pack("<f", np.inf) * 25, tag=3, bits=32), "NaN or infinite"),
        (b"RIFF\0\0\0\0WAVE" + chunk(b"data", bytes(100)), "before its format"),
        (b"RIFF\0\0\0\0WAVE" + chunk(b"fmt ", bytes(2)) + bytes(99), "2 bytes"),
        (b"RIFF\0\0\0\0WAVE" + b"JUNK\xff\xff\xff\x7f" + bytes(99), "no samples in its first"),
        (b"RIFF\0\0\0\0WAVE" + chunk(b"JUNK", bytes(1_000)) * 2_000, "no samples in its first"),
        (bytes(range(200)), "do not begin like a wav"),
    ],
)
def test_invalid_wavs(data: bytes, words: str) -> None:
    with pytest.raises(UndecodableAudio, match=words):
        run(data, "wav", cuts=range(0, min(len(data), 500), 9))


def test_floats_over_full_scale_are_clipped_without_warning() -> None:
    data = wav(struct.pack("<4d", 1e300, -1e300, 2, 0.5) * 4, tag=3, bits=64, channels=2)
    np.testing.assert_array_equal(run(data, "wav"), [0, 0.75] * 4)


@pytest.mark.parametrize("audio_format", ["pcm", "wav", "mp3", "opus", "flac"])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (JSON, "JSON"),
        (HTML, "HTML"),
        (b"\n  <?xml version='1.0'?><Error/>", "XML"),
        ("模型正在加载，请稍后再试。".encode(), "text"),
    ],
)
def test_text_in_place_of_audio_is_named_and_not_quoted(audio_format: str, data: bytes, kind: str) -> None:
    with pytest.raises(UndecodableAudio, match=f"^{kind} arrived instead of {audio_format} audio") as caught:
        run(data, audio_format, cuts=[1, 2, 3])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("asked", ["pcm", "wav", "mp3", "opus", "flac"])
@pytest.mark.parametrize("sent", ["wav", "flac", "opus"])
def test_another_format_than_requested_is_decoded(asked: str, sent: str) -> None:
    np.testing.assert_array_equal(run(body(sent), asked, cuts=[5, 11, 70]), run(body(sent), sent))


def test_a_format_that_cannot_be_decoded_is_named() -> None:
    with pytest.raises(UndecodableAudio, match="m4a arrived instead of mp3"):
        run(b"\0\0\0\x20ftypM4A " + bytes(100), "mp3")


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "flac"])
@pytest.mark.parametrize("data", [b"", b"\xff", bytes(5_000), bytes(range(256)) * 20])
def test_data_that_are_not_audio_are_rejected_at_the_end(audio_format: str, data: bytes) -> None:
    with pytest.raises(UndecodableAudio):
        run(data, audio_format)


def test_collecting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synth.audio.stream_decoding.MAX_BYTES", 1_000)
    decoder = StreamDecoder("mp3", RATE)
    decoder.feed(body("mp3")[:990])
    with pytest.raises(UndecodableAudio, match="more than 1000 bytes of mp3"):
        decoder.feed(bytes(20))


def test_a_long_stream_needs_little_memory() -> None:
    decoder = StreamDecoder("wav", 48_000)
    decoder.feed(wav(b"", size=0, before=chunk(b"JUNK", bytes(900_000))))
    piece = body("pcm")
    decoder.feed(piece)
    tracemalloc.start()
    for _ in range(300):
        decoder.feed(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * len(piece)


@pytest.mark.parametrize(("audio_format", "rate"), [("aac", RATE), ("", RATE), ("pcm", 0), ("pcm", -5)])
def test_invalid_formats_and_rates(audio_format: str, rate: int) -> None:
    with pytest.raises(BadInput):
        StreamDecoder(audio_format, rate)


def test_a_server_with_an_impossible_rate() -> None:
    with pytest.raises(UndecodableAudio, match="0 Hz"):
        StreamDecoder("pcm", RATE, 0)


def test_a_decoder_is_for_one_body() -> None:
    decoder = StreamDecoder("pcm", RATE)
    assert len(decoder.feed(bytes(80))) == 40
    assert len(decoder.finish()) == 0
    assert len(decoder.finish()) == 0
    with pytest.raises(ValueError, match="another decoder"):
        decoder.feed(bytes(2))


# Whole files


@pytest.mark.parametrize("audio_format", ["wav", "flac", "mp3", "opus"])
@pytest.mark.parametrize("said", [None, "wav", "mp3"])
def test_a_file_is_known_by_its_content(audio_format: str, said: str | None) -> None:
    assert sniff(body(audio_format)) == audio_format
    audio = decode(body(audio_format), said)
    assert audio.rate == RATE
    assert audio.samples.dtype == np.float32
    assert audio.seconds == pytest.approx(0.4, abs=0.05)
    assert np.sqrt(np.mean(audio.samples[2_000:7_000] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)


def test_vorbis_and_tagged_mp3() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(0.5).samples, RATE, format="OGG", subtype="VORBIS")
    assert sniff(buffer.getvalue()) == "vorbis"
    assert decode(buffer.getvalue()).seconds == pytest.approx(0.5)
    tagged = b"ID3\x03\0\0\0\0\x10\0" + bytes(0x10 * 128) + body("mp3")
    assert sniff(tagged) == "mp3"
    assert len(decode(tagged).samples) == len(decode(body("mp3")).samples)


@pytest.mark.parametrize(
    ("data", "audio_format"),
    [
        (b"\0\0\0\x20ftypM4A ", "m4a"),
        (b"\xff\xf1\x50\x80", "aac"),
        (b"FORM\0\0\0\0AIFF", "aiff"),
        (b"\x1a\x45\xdf\xa3", "webm"),
        (b"fLaC", "flac"),
        (b"\xff\xfb\x90\x64", "mp3"),
        (b"\xff\xfd\x90\x64", None),
        (b"\xff\xfe<\0", None),
        (b"\xff\xff\xff\xff", None),
        (b"RIFF\0\0\0\0AVI ", None),
        (b"", None),
        (JSON, None),
    ],
)
def test_sniff(data: bytes, audio_format: str | None) -> None:
    assert sniff(data) == audio_format


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (JSON, "holds JSON; give one of wav, flac"),
        (b"hello, this is my voice", "holds text"),
        (b"\0\0\0\x20ftypM4A " + bytes(50), "holds m4a"),
        (bytes(5_000), "no known audio format"),
        (encode(Audio(np.zeros(0, np.float32), RATE)), "no audio"),
        (wav(struct.pack("<f", np.nan) * 25, tag=3, bits=32), "NaN"),
        (wav(struct.pack("<f", -np.inf) * 25, tag=3, bits=32), "infinite"),
        (wav(bytes(180), channels=9), "9 channels"),
        (wav(bytes(180), rate=1_000_000), "1000000 Hz"),
        (wav(bytes(180))[:30], "damaged or truncated"),
    ],
)
def test_files_that_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        decode(data)


def test_a_flac_cut_short_is_refused() -> None:
    data = encode(tone(3), "flac")
    with pytest.raises(BadInput, match="damaged or truncated"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("audio_format", ["flac", "opus", "mp3"])
def test_a_small_file_does_not_fill_the_memory(audio_format: str) -> None:
    data = encode(Audio(np.zeros(8_000 * 200, np.float32), 8_000), audio_format)
    tracemalloc.start()
    with pytest.raises(BadInput, match="longer than 5 s"):
        decode(data, max_seconds=5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 8_000 * 4 * 4 + 2 * len(data) + 200_000


def test_the_maximum_length() -> None:
    data = encode(tone(2), "wav")
    assert decode(data, max_seconds=2).seconds == 2
    with pytest.raises(BadInput, match=r"longer than 1\.99 s"):
        decode(data, max_seconds=1.99)


# Hostile bytes

STARTS = [
    b"",
    b"RIFF\0\0\0\0WAVE",
    b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0",
    b"fLaC\0\0\0\x22",
    b"OggS\0\2",
    b"ID3\3\0\0",
    b"\xff\xfb\x90\x64",
]


def sound_or_reason(read: Callable[[], NDArray[np.float32]]) -> bool:
    """Return True for audio within full scale or a declared error with a short message; other errors pass through."""
    try:
        return bool(np.abs(read()).max(initial=0) <= 1)  # False for NaN too
    except (BadInput, UndecodableAudio, TruncatedAudio) as error:
        return len(str(error)) < 300


@settings(max_examples=150, deadline=2_000)
@given(
    st.sampled_from(["wav", "pcm", "mp3", "opus", "flac"]),
    st.sampled_from(STARTS),
    st.binary(max_size=600),
    st.lists(st.integers(0, 600), max_size=4),
)
def test_garbage_raises_nothing_else(audio_format: str, start: bytes, rest: bytes, cuts: list[int]) -> None:
    data = start + rest
    assert sound_or_reason(lambda: run(data, audio_format, 16_000, [min(cut, len(data)) for cut in cuts]))
    assert sound_or_reason(lambda: decode(data, audio_format).samples)


@settings(max_examples=120, deadline=2_000)
@given(
    st.sampled_from(["wav", "mp3", "opus", "flac"]),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=12),
)
def test_damaged_files_raise_nothing_else(audio_format: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(body(audio_format))
    for place, value in changes:
        data[place] = value
    assert sound_or_reason(lambda: run(bytes(data), audio_format, 48_000))
    assert sound_or_reason(lambda: decode(bytes(data), max_seconds=5).samples)
