"""Encodes audio: whole files, and streams that are sent while the speech is still being made.

The header of a stream cannot give its length. Each format handles that differently:

====  =====================================================================================================================
wav   both sizes are 2^32 - 1, which readers take as "until the end"
flac  the number of samples and their checksum are 0, which means "unknown"; lossless
mp3   frames without a header, since the header that gives encoder delay and padding also gives the length: 1105 samples of
      silence at the start, and up to two and a half frames at the end. Each frame can be decoded alone
opus  in Ogg; start and end are exact to the sample
aac   in ADTS, which cannot give delay and padding: 1024 samples of silence at the start, and up to a frame at the end; this
      holds for whole files too
pcm   16-bit little-endian samples, without a header
====  =====================================================================================================================

Whole files of all other formats are exact to the sample. If a format does not support a sample rate, the next higher one is used.
"""

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from prosody_tagger.files import replaced_file, write_error
from prosody_tagger.markup import closest
from synth.audio.signal import NO_SAMPLES, Samples
from synth.base import Audio

MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "audio/pcm",
}
"""The supported formats and their media types."""

FORMATS = tuple(MEDIA_TYPES)

_UNKNOWN = 0xFFFFFFFF  # as a size: until the end
_BLOCK = 1 << 16  # samples encoded at once, so that an hour of speech is not held twice


def encode(audio: Audio, audio_format: str = "wav") -> bytes:
    """Return ``audio`` as a file in one of `FORMATS`, with its length in the header where the format has a field for it.

    NaN samples become 0; values outside [-1, 1] are clipped.

    Raises:
        BadInput: ``audio_format`` is not in `FORMATS`.
    """
    _check_format(audio_format)
    samples = _valid_samples(audio.samples)
    if audio_format in _CODECS:
        file = io.BytesIO()
        writer = _CodecWriter(_CODECS[audio_format], audio.rate, file)
        for start in range(0, len(samples), _BLOCK):
            writer.write(samples[start : start + _BLOCK])
        writer.close()
        return file.getvalue()
    pcm = _int16(samples).tobytes()
    return _wav_header(audio.rate, len(pcm)) + pcm if audio_format == "wav" else pcm


def write_audio(path: Path, audio: Audio, audio_format: str = "wav") -> None:
    """Encode audio into a file, which is written whole or not at all.

    Raises:
        BadInput: an unknown format, or a place that cannot be written.
        ProsodyError: the disk is full.
    """
    data = encode(audio, audio_format)
    try:
        with replaced_file(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise write_error(path, error) from None


class Encoder:
    """Encodes one stream. Calls may come from any thread, one at a time.

    The audio may be split anywhere: all bytes together are the same, in every run. Bytes are returned at once for wav and pcm, else
    as soon as the codec has a frame: at 24 kHz after 24 ms of audio (flac), 40 (opus), 48 (mp3) or 86 (aac).

    Args:
        audio_format: one of `FORMATS`.
        rate: sample rate of the audio, Hz.

    Raises:
        BadInput: ``audio_format`` is not in `FORMATS`.
    """

    def __init__(self, audio_format: str, rate: int) -> None:
        _check_format(audio_format)
        self.rate = rate
        self._format = audio_format
        self._out = _OutputBuffer()
        self._writer: _CodecWriter | None = None
        self._begun = False
        self._finished = False

    @property
    def lead_in(self) -> float:
        """Seconds of silence that a player of the stream plays before the audio; word times are shifted by it."""
        codec = _CODECS.get(self._format)
        return codec.lead_in / codec.rate_for(self.rate) if codec and codec.lead_in else 0.0

    def encode(self, audio: Audio) -> bytes:
        """Return the bytes that ``audio``, of any length, completes; the first call also returns the header.

        Raises:
            ValueError: the rate differs from the encoder's, or the stream is finished.
        """
        if self._finished:
            raise ValueError("the stream is finished; create another encoder for the next one")
        if audio.rate != self.rate:
            raise ValueError(f"the audio has {audio.rate} Hz and the stream {self.rate}; resample it, or create another encoder")
        self._begin()
        samples = _valid_samples(audio.samples)
        if self._writer is None:
            self._out.write(_int16(samples).tobytes())
        else:
            self._writer.write(samples)
        return self._out.take()

    def finish(self) -> bytes:
        """Return the remaining bytes; nothing if called again. Call it after a disconnect too: it frees the codec."""
        if self._finished:
            return b""
        self._begin()
        self._finished = True
        if self._writer is not None:
            self._writer.close()
        return self._out.take()

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if self._format in _CODECS:
            self._writer = _CodecWriter(_CODECS[self._format], self.rate, self._out)
        elif self._format == "wav":
            self._out.write(_wav_header(self.rate, None))


def _check_format(audio_format: str) -> None:
    if audio_format in MEDIA_TYPES:
        return
    nearest = closest(audio_format, FORMATS)
    hint = f"did you mean {nearest}? " if nearest else ""
    raise BadInput(f"unknown format {audio_format!r}; {hint}give one of {', '.join(FORMATS)}")


def _valid_samples(samples: Samples) -> Samples:
    """Return the samples clipped to [-1, 1], with NaN as 0."""
    return np.clip(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0).astype(np.float32, copy=False)


def _int16(samples: Samples) -> NDArray[np.int16]:
    """Return 16-bit samples, the inverse of division by 2^15: audio decoded from 16 bits is reproduced exactly."""
    values: NDArray[np.int16] = np.minimum(np.rint(samples * np.float32(1 << 15)), (1 << 15) - 1).astype("<i2")
    return values


def _wav_header(rate: int, size: int | None) -> bytes:
    """Return the 44-byte header for ``size`` bytes of 16-bit mono samples; None if the size is unknown."""
    riff, data = (_UNKNOWN, _UNKNOWN) if size is None else (36 + size, size)
    return struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", riff, b"WAVEfmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", data)


class _OutputBuffer:
    """A write-only file in memory, emptied by `take`."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: Any) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        """Return and remove what was written."""
        data = bytes(self._data)
        self._data.clear()
        return data


@dataclass(frozen=True, slots=True)
class _FfmpegCodec:
    """How FFmpeg encodes a format.

    Attributes:
        name: its name for the codec.
        container: its name for the container.
        sample: its name for the type of samples.
        options: options of codec and container.
        stream_options: further options for a stream.
        lead_in: samples of encoder delay that a stream cannot declare.
        gain: factor applied to the samples before encoding.
    """

    name: Literal["flac", "libmp3lame", "libopus", "aac"]
    container: str
    sample: Literal["s16", "flt", "fltp"]
    options: Mapping[str, str] = field(default_factory=dict)
    stream_options: Mapping[str, str] = field(default_factory=dict)
    lead_in: int = 0
    gain: float = 1.0

    def rate_for(self, rate: int) -> int:
        """Return the codec's rate for audio at ``rate`` Hz: the same or the next higher, else its highest."""
        import av

        known = av.Codec(self.name, "w").audio_rates or [rate]
        return min((each for each in known if each >= rate), default=max(known))


# mp3 has a constant bit rate, so that players can compute the length without a header; there LAME lowers the level by 5 %.
_CODECS = {
    "flac": _FfmpegCodec("flac", "flac", "s16", {"metadata_header_padding": "0"}, {"compression_level": "2"}),  # blocks of 27 ms
    "mp3": _FfmpegCodec(
        "libmp3lame", "mp3", "fltp", {"b": "96000", "reservoir": "0", "id3v2_version": "0"}, lead_in=1105, gain=1 / 0.95
    ),
    "opus": _FfmpegCodec("libopus", "ogg", "flt", {"b": "64000"}, {"page_duration": "20000"}),  # the default is a page a second
    "aac": _FfmpegCodec("aac", "adts", "fltp", {"b": "96000"}, lead_in=1024),
}

# No version strings and no random serial numbers, so the bytes are reproducible; and every packet is written at once.
_ALWAYS = {"fflags": "+bitexact", "flags": "+bitexact", "flush_packets": "1"}


class _CodecWriter:
    """Encodes audio at ``rate`` Hz with a codec and writes its container to ``out``."""

    def __init__(self, codec: _FfmpegCodec, rate: int, out: "io.BytesIO | _OutputBuffer") -> None:
        import av

        self._rate = codec.rate_for(rate)
        self._codec = codec
        self._resampler = _resampler(rate, self._rate)
        is_stream = isinstance(out, _OutputBuffer)
        options = {**_ALWAYS, **codec.options, **(codec.stream_options if is_stream else {})}
        self._container = av.open(out, "w", format=codec.container, options=options)
        self._stream = self._container.add_stream(codec.name, self._rate)
        self._stream.layout = "mono"
        self._stream.format = codec.sample
        self._container.start_encoding()
        self._held: list[Samples] = []
        self._held_samples = 0
        self._encoded_samples = 0

    def write(self, samples: Samples) -> None:
        self._hold(samples if self._resampler is None else self._resampler.resample_chunk(samples))
        if self._held_samples >= self._stream.frame_size:
            self._encode_held()

    def close(self) -> None:
        if self._resampler is not None:
            self._hold(self._resampler.resample_chunk(NO_SAMPLES, last=True))
        if not self._held_samples and not self._encoded_samples:
            self._hold(np.zeros(1, dtype=np.float32))  # players refuse a file without samples
        if self._held_samples:
            self._encode_held()
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def _hold(self, samples: Samples) -> None:
        self._held.append(samples)
        self._held_samples += len(samples)

    def _encode_held(self) -> None:
        """Pass the held samples to the codec, which splits them into frames; passing every small chunk at once would be slow."""
        import av

        samples = np.concatenate(self._held)
        values = _int16(samples) if self._codec.sample == "s16" else samples * np.float32(self._codec.gain)
        frame = av.AudioFrame.from_ndarray(values[np.newaxis], format=self._codec.sample, layout="mono")
        frame.sample_rate = self._rate
        frame.pts = self._encoded_samples
        self._encoded_samples += len(samples)
        self._held, self._held_samples = [], 0
        self._container.mux(self._stream.encode(frame))


def _resampler(rate: int, wanted: int) -> Any:
    if rate == wanted:
        return None
    import soxr

    return soxr.ResampleStream(rate, wanted, 1, dtype="float32", quality="HQ")
