"""Decodes audio while it is received.

PCM and WAV are decoded as they arrive; MP3, Opus and FLAC are collected and decoded at the end. The content decides the format,
because servers often ignore the requested one.
"""

import re
import struct
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from prosody_tagger.errors import BadInput
from synth.audio.decoding import DECODABLE, MAX_CHANNELS, RATES, decode, to_mono
from synth.audio.file_types import HEAD_BYTES, container_format, sniff, text_format
from synth.audio.signal import NO_SAMPLES, Samples
from synth.errors import BackendError

MAX_BYTES = 50_000_000
"""Limit for formats that are collected: an hour of MP3, ten minutes of FLAC."""

STREAMED = ("wav", "flac", "mp3", "opus", "pcm")
"""The formats that `StreamDecoder` reads."""

_MAX_HEADER = 1 << 20  # bytes of a WAV before its samples
_MIN_PLACEHOLDER = 1 << 30  # sizes from here on mean "unknown": writers put 2^31 - 1, 2^32 - 1 or a little less, or 0
_INT16, _PER_INT16 = np.dtype("<i2"), np.float32(2.0**-15)


class UndecodableAudio(BackendError):
    """The data are not audio, or damaged."""


class TruncatedAudio(BackendError):
    """The data ended before the length in their header. The samples that `StreamDecoder.feed` returned before are valid."""


class StreamDecoder:
    """Decodes one stream; make another for the next.

    The data may be split at any byte: all calls together return the same samples. A WAV header gives the rate; impossible sizes in
    it mean "until the end".

    Args:
        audio_format: the requested format: wav, pcm (16-bit little-endian mono), mp3, opus or flac.
        rate: sample rate of the result, Hz.
        source_rate: sample rate of PCM, Hz.

    Raises:
        BadInput: ``audio_format`` is unknown, or ``rate`` is out of range.
        UndecodableAudio: ``source_rate`` is out of range.
    """

    def __init__(self, audio_format: str, rate: int, source_rate: int = 24_000) -> None:
        if audio_format not in STREAMED:
            raise BadInput(f"unknown format {audio_format!r}; give one of {', '.join(STREAMED)}")
        if rate not in RATES:
            raise BadInput(f"a sample rate of {rate} Hz is not supported; give {RATES[0]} to {RATES[-1]}")
        self._format = audio_format
        self._rate = rate
        self._source_rate = _checked_rate(source_rate)
        self._head = b""
        self._source: _SampleSource | None = None
        self._resampler: Any = None
        self._finished = False

    def feed(self, data: bytes) -> Samples:
        """Return the samples that ``data`` completes, float32 of shape [n] in [-1, 1]; often empty.

        Raises:
            UndecodableAudio: the data are not audio, or exceed `MAX_BYTES` in a format that is collected.
            ValueError: the stream is finished.
        """
        if self._finished:
            raise ValueError("the stream is finished; create another decoder for the next one")
        if self._source is not None:
            return self._resampled(self._source.feed(data))
        self._head += data
        return self._begin() if len(self._head) >= HEAD_BYTES else NO_SAMPLES

    def finish(self) -> Samples:
        """Return the remaining samples after the last data. For MP3, Opus and FLAC this decodes everything: call it in a thread.

        Raises:
            TruncatedAudio: a WAV ended before the length in its header.
            UndecodableAudio: the data are not audio, or damaged.
        """
        if self._finished:
            return NO_SAMPLES
        started = self._begin() if self._source is None else NO_SAMPLES
        assert self._source is not None
        self._finished = True
        return np.concatenate([started, self._resampled(self._source.finish(), last=True)])

    def _begin(self) -> Samples:
        """Choose the decoder by the first bytes, and decode them."""
        head, self._head = self._head, b""
        if text := text_format(head[:HEAD_BYTES]):
            raise UndecodableAudio(f"{text} arrived instead of {self._format} audio; check the URL and the model")
        # PCM may begin with any bytes, so only a container's signature overrules it.
        found = (sniff(head) if self._format != "pcm" else container_format(head) if len(head) >= 12 else None) or self._format
        if found == "pcm":
            self._source = _PcmSource(_INT16, 1, self._source_rate)
        elif found == "wav":
            self._source = _WavSource()
        elif found in DECODABLE:
            self._source = _CollectedSource(found)
        else:
            raise UndecodableAudio(f"{found} arrived instead of {self._format}; request one of {', '.join(STREAMED)}")
        return self._resampled(self._source.feed(head))

    def _resampled(self, samples: Samples, last: bool = False) -> Samples:
        assert self._source is not None
        rate = self._source.rate
        if rate is None or rate == self._rate:
            return samples
        if self._resampler is None:
            import soxr

            self._resampler = soxr.ResampleStream(rate, self._rate, 1, dtype="float32", quality="HQ")
        resampled: Samples = self._resampler.resample_chunk(samples, last=last)
        return np.clip(resampled, -1.0, 1.0)  # a steep filter overshoots near full scale


class _SampleSource(Protocol):
    """Decodes one format to mono samples at ``rate`` (Hz), which is None until the header is read."""

    rate: int | None

    def feed(self, data: bytes) -> Samples: ...

    def finish(self) -> Samples: ...


class _PcmSource:
    """Raw samples, interleaved by channel."""

    def __init__(self, coding: np.dtype[Any], channels: int, rate: int) -> None:
        self.rate: int | None = rate
        self._coding = coding
        self._channels = channels
        self._incomplete = b""

    def feed(self, data: bytes) -> Samples:
        data = self._incomplete + data if self._incomplete else data
        width = self._coding.itemsize * self._channels
        whole = len(data) // width * width
        self._incomplete = data[whole:]
        if self._coding == _INT16 and self._channels == 1:  # the usual case, without values out of range
            samples: Samples = np.multiply(np.frombuffer(data, _INT16, whole // width), _PER_INT16, dtype=np.float32)
            return samples
        try:
            return to_mono(_scaled(data[:whole], self._coding).reshape(-1, self._channels))
        except BadInput as error:
            raise UndecodableAudio(str(error)) from None

    def finish(self) -> Samples:
        return NO_SAMPLES  # an incomplete sample is dropped


class _WavSource:
    """A RIFF file; chunks other than the format and the samples are skipped."""

    def __init__(self) -> None:
        self.rate: int | None = None
        self._header = bytearray()
        self._skip = 0  # bytes of the header still to be skipped
        self._consumed = 0  # bytes of the header that were read or skipped
        self._format: tuple[np.dtype[Any], int, int] | None = None
        self._pcm: _PcmSource | None = None
        self._size: int | None = None  # bytes of samples; None means until the end
        self._received = 0  # bytes of samples

    def feed(self, data: bytes) -> Samples:
        if self._pcm is None:
            self._header += data
            if not self._consumed:
                self._begin()
            self._pcm = self._read_header()
            if self._pcm is None:
                return NO_SAMPLES
            data = bytes(self._header)
            self._header.clear()
        sound = data if self._size is None else data[: self._size - self._received]
        self._received += len(sound)
        return self._pcm.feed(sound)

    def finish(self) -> Samples:
        if self._pcm is None:
            count = self._consumed + len(self._header)
            raise TruncatedAudio(f"the body ended within the header of the wav, after {count} bytes")
        if self._size is not None and self._received < self._size:
            raise TruncatedAudio(f"the body ended after {self._received} of {self._size} bytes of audio")
        return self._pcm.finish()

    def _begin(self) -> None:
        if len(self._header) >= 12 and not re.match(rb"RIFF.{4}WAVE", self._header, re.DOTALL):
            raise UndecodableAudio("the data do not begin like a wav; check which format the server sends")
        if len(self._header) >= 12:
            self._drop(12)

    def _read_header(self) -> _PcmSource | None:
        """Read the header's chunks up to the samples; return None if the header is incomplete."""
        while self._consumed:
            self._drop(min(self._skip, len(self._header)))
            if self._skip or len(self._header) < 8:
                return None
            name, size = struct.unpack_from("<4sI", self._header)
            if name == b"data":
                return self._open(size)
            if name == b"fmt ":
                if not 16 <= size <= 4096:
                    raise UndecodableAudio(f"the wav's format takes {size} bytes; 16 to 40 are usual")
                if len(self._header) < 8 + size:
                    return None
                self._format = _wav_format(bytes(self._header[8 : 8 + size]))
            self._skip = 8 + size + size % 2
            if self._consumed + self._skip > _MAX_HEADER:
                raise UndecodableAudio(f"the wav has no samples in its first {_MAX_HEADER} bytes")
        return None

    def _open(self, size: int) -> _PcmSource:
        if self._format is None:
            raise UndecodableAudio("the wav has its samples before its format, so it cannot be decoded")
        self._drop(8)
        self._size = size if 0 < size < _MIN_PLACEHOLDER else None
        coding, channels, self.rate = self._format
        return _PcmSource(coding, channels, self.rate)

    def _drop(self, count: int) -> None:
        del self._header[:count]
        self._consumed += count
        self._skip = max(0, self._skip - count)


class _CollectedSource:
    """A format that is decoded only once it is complete."""

    def __init__(self, audio_format: str) -> None:
        self.rate: int | None = None
        self._format = audio_format
        self._data = bytearray()

    def feed(self, data: bytes) -> Samples:
        self._data += data
        if len(self._data) > MAX_BYTES:
            raise UndecodableAudio(f"the body has more than {MAX_BYTES} bytes of {self._format}; request shorter speech, or pcm")
        return NO_SAMPLES

    def finish(self) -> Samples:
        try:
            audio = decode(bytes(self._data), self._format)
        except BadInput as error:
            raise UndecodableAudio(f"the body cannot be decoded as {self._format}: {error}") from error
        self.rate = audio.rate
        return audio.samples


def _checked_rate(rate: int) -> int:
    if rate not in RATES:
        raise UndecodableAudio(f"a sample rate of {rate} Hz is not supported; {RATES[0]} to {RATES[-1]} Hz is")
    return rate


_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_CODINGS: dict[tuple[int, int], DTypeLike] = {
    (_PCM, 8): "u1",
    (_PCM, 16): "<i2",
    (_PCM, 24): "V3",
    (_PCM, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}
"""(Format tag, bits per sample) of a WAV to the data type of its samples."""


def _wav_format(chunk: bytes) -> tuple[np.dtype[Any], int, int]:
    """Return data type, number of channels and rate from the format chunk of a WAV."""
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        (tag,) = struct.unpack_from("<H", chunk, 24)  # the sub-format GUID begins with the format tag
    if (tag, bits) not in _CODINGS:
        raise UndecodableAudio(f"the wav holds {bits}-bit samples of format {tag}; integers (1) and floats (3) are supported")
    if not 1 <= channels <= MAX_CHANNELS:
        raise UndecodableAudio(f"the wav has {channels} channels; 1 to {MAX_CHANNELS} are supported")
    return np.dtype(_CODINGS[tag, bits]), channels, _checked_rate(rate)


def _scaled(data: bytes, coding: np.dtype[Any]) -> NDArray[Any]:
    """Return samples as floats, scaled so that 1.0 is full scale."""
    if coding.kind == "V":
        wide = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        data, coding = wide.tobytes(), np.dtype("<i4")
    values = np.frombuffer(data, dtype=coding)
    if coding.kind == "f":
        return values
    if coding.kind == "u":
        return (values.astype(np.float32) - 128) / 128
    return values.astype(np.float32) / np.float32(1 << (8 * coding.itemsize - 1))
