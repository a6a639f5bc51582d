"""Sound to bytes: whole files, and streams that leave while the speech is still being made.

A stream cannot say how long it will be. What each form makes of that:

====  =====================================================================================================================
wav   both sizes are 2^32 - 1, which readers take for "until the end"
flac  the number of samples and their checksum are 0, which is "unknown"; lossless
mp3   bare frames, since the header that tells of the ends also tells the length: a lead-in of 1105 samples of silence, and
      up to two frames and a half after. Each frame stands alone
opus  in Ogg; both ends are exact to the sample
aac   in ADTS, which can tell nothing of the ends: a lead-in of 1024 samples of silence, and up to a frame after; whole too
pcm   16-bit little-endian samples, nothing else
====  =====================================================================================================================

Whole files of all others are exact to the sample. A rate that a form does not have becomes the next higher that it has.
"""

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import closest
from synth.base import Audio

MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "audio/pcm",
}
"""What can be written, each with its media type."""

FORMATS = tuple(MEDIA_TYPES)

Samples = NDArray[np.float32]
_NONE: Samples = np.zeros(0, dtype=np.float32)

_UNKNOWN = 0xFFFFFFFF  # a size that says "until the end"
_BLOCK = 1 << 16  # samples coded at once, so that an hour of speech is not there twice


def encode(audio: Audio, form: str = "wav") -> bytes:
    """``audio`` as a file of one of `FORMATS`, with its true length in the header where the form has a place for it.

    Samples that are NaN become 0; what lies outside of [-1, 1] is clipped.

    Raises:
        BadInput: a format that is not among them.
    """
    _check(form)
    samples = _sound(audio.samples)
    if form in _CODECS:
        file = io.BytesIO()
        coded = _Coded(_CODECS[form], audio.rate, file)
        for start in range(0, len(samples), _BLOCK):
            coded.write(samples[start : start + _BLOCK])
        coded.close()
        return file.getvalue()
    pcm = _int16(samples).tobytes()
    return _wav_header(audio.rate, len(pcm)) + pcm if form == "wav" else pcm


class Encoder:
    """A file that leaves while it grows; one for each stream. Calls may come from any thread, one at a time.

    Cut the sound as you like: all bytes together are the same, and the same from run to run. They are out at once for wav and
    pcm, else as soon as the codec has a frame: at 24 kHz after 24 ms of sound (flac), 40 (opus), 48 (mp3) or 86 (aac).

    Args:
        form: one of `FORMATS`.
        rate: of the sound that goes in, Hz.

    Raises:
        BadInput: an unknown ``form``.
    """

    def __init__(self, form: str, rate: int) -> None:
        _check(form)
        self.rate = rate
        self._form = form
        self._out = _Pipe()
        self._coded: _Coded | None = None
        self._begun = False
        self._finished = False

    @property
    def lead_in(self) -> float:
        """Seconds of silence that every player of the stream plays before the sound; word times are later by so much."""
        codec = _CODECS.get(self._form)
        return codec.lead_in / codec.rate_for(self.rate) if codec and codec.lead_in else 0.0

    def encode(self, audio: Audio) -> bytes:
        """The bytes that ``audio``, of any length, completes; with the first call also the header.

        Raises:
            ValueError: another rate than the encoder's, or the stream is finished.
        """
        if self._finished:
            raise ValueError("the stream is finished; make another encoder for the next one")
        if audio.rate != self.rate:
            raise ValueError(f"the sound has {audio.rate} Hz and the stream {self.rate}; resample it, or make another encoder")
        self._begin()
        samples = _sound(audio.samples)
        if self._coded is None:
            self._out.write(_int16(samples).tobytes())
        else:
            self._coded.write(samples)
        return self._out.taken()

    def finish(self) -> bytes:
        """The rest; nothing when called again. Call it also where nobody listens any more: it lets go of the codec at once."""
        if self._finished:
            return b""
        self._begin()
        self._finished = True
        if self._coded is not None:
            self._coded.close()
        return self._out.taken()

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if self._form in _CODECS:
            self._coded = _Coded(_CODECS[self._form], self.rate, self._out)
        elif self._form == "wav":
            self._out.write(_wav_header(self.rate, None))


def _check(form: str) -> None:
    if form in MEDIA_TYPES:
        return
    nearest = closest(form, FORMATS)
    hint = f"did you mean {nearest}? " if nearest else ""
    raise BadInput(f"unknown format {form!r}; {hint}give one of {', '.join(FORMATS)}")


def _sound(samples: Samples) -> Samples:
    """Numbers that are a sound: within [-1, 1] and without NaN."""
    return np.clip(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0).astype(np.float32, copy=False)


def _int16(samples: Samples) -> NDArray[np.int16]:
    """The inverse of division by 2^15, so that what was decoded from 16 bits comes out as it was."""
    values: NDArray[np.int16] = np.minimum(np.rint(samples * np.float32(1 << 15)), (1 << 15) - 1).astype("<i2")
    return values


def _wav_header(rate: int, size: int | None) -> bytes:
    """The 44 bytes before ``size`` bytes of 16-bit mono samples; None is a size that is not known."""
    riff, data = (_UNKNOWN, _UNKNOWN) if size is None else (36 + size, size)
    return struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", riff, b"WAVEfmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", data)


class _Pipe:
    """A file that can only be written to; what came in is taken away."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: Any) -> int:
        self._held += data
        return len(data)

    def taken(self) -> bytes:
        data = bytes(self._held)
        self._held.clear()
        return data


@dataclass(frozen=True, slots=True)
class _Codec:
    """How FFmpeg makes a form: its names for codec, container and samples, what both are told, and what more for a stream."""

    name: Literal["flac", "libmp3lame", "libopus", "aac"]
    container: str
    sample: Literal["s16", "flt", "fltp"]
    options: Mapping[str, str] = field(default_factory=dict)
    live: Mapping[str, str] = field(default_factory=dict)
    lead_in: int = 0  # samples before the sound, of which a stream cannot tell
    gain: float = 1.0

    def rate_for(self, rate: int) -> int:
        """The rate that it codes sound of ``rate`` at: that or the next higher, else its highest."""
        import av

        known = av.Codec(self.name, "w").audio_rates or [rate]
        return min((each for each in known if each >= rate), default=max(known))


# At a constant bit rate, by which players know the length of an mp3 without a header, LAME turns all sound down by 5 %.
_CODECS = {
    "flac": _Codec("flac", "flac", "s16", {"metadata_header_padding": "0"}, {"compression_level": "2"}),  # blocks of 27 ms
    "mp3": _Codec("libmp3lame", "mp3", "fltp", {"b": "96000", "reservoir": "0", "id3v2_version": "0"}, lead_in=1105, gain=1 / 0.95),
    "opus": _Codec("libopus", "ogg", "flt", {"b": "64000"}, {"page_duration": "20000"}),  # else a page is a second
    "aac": _Codec("aac", "adts", "fltp", {"b": "96000"}, lead_in=1024),
}

# Without names of versions and numbers drawn by chance; and no packet waits for the next one.
_ALWAYS = {"fflags": "+bitexact", "flags": "+bitexact", "flush_packets": "1"}


class _Coded:
    """Sound at ``rate`` through a codec and its container into ``out``."""

    def __init__(self, codec: _Codec, rate: int, out: "io.BytesIO | _Pipe") -> None:
        import av

        self._rate = codec.rate_for(rate)
        self._codec = codec
        self._resampler = _resampler(rate, self._rate)
        live = isinstance(out, _Pipe)
        options = {**_ALWAYS, **codec.options, **(codec.live if live else {})}
        self._container = av.open(out, "w", format=codec.container, options=options)
        self._stream = self._container.add_stream(codec.name, self._rate)
        self._stream.layout = "mono"
        self._stream.format = codec.sample
        self._container.start_encoding()
        self._held: list[Samples] = []
        self._held_samples = 0
        self._coded_samples = 0

    def write(self, samples: Samples) -> None:
        self._hold(samples if self._resampler is None else self._resampler.resample_chunk(samples))
        if self._held_samples >= self._stream.frame_size:
            self._code_held()

    def close(self) -> None:
        if self._resampler is not None:
            self._hold(self._resampler.resample_chunk(_NONE, last=True))
        if not self._held_samples and not self._coded_samples:
            self._hold(np.zeros(1, dtype=np.float32))  # players refuse a file without any sound
        if self._held_samples:
            self._code_held()
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def _hold(self, samples: Samples) -> None:
        self._held.append(samples)
        self._held_samples += len(samples)

    def _code_held(self) -> None:
        """Hand the codec what there is; it cuts that into frames itself, but a call for each sample would be slow."""
        import av

        samples = np.concatenate(self._held)
        values = _int16(samples) if self._codec.sample == "s16" else samples * np.float32(self._codec.gain)
        frame = av.AudioFrame.from_ndarray(values[np.newaxis], format=self._codec.sample, layout="mono")
        frame.sample_rate = self._rate
        frame.pts = self._coded_samples
        self._coded_samples += len(samples)
        self._held, self._held_samples = [], 0
        self._container.mux(self._stream.encode(frame))


def _resampler(rate: int, wanted: int) -> Any:
    if rate == wanted:
        return None
    import soxr

    return soxr.ResampleStream(rate, wanted, 1, dtype="float32", quality="HQ")
