"""Sound from bytes: a stream as a server sends it, and whole files as people have them.

A stream of pcm or wav is decoded as it comes; of mp3, opus and flac the whole is collected first. What the bytes say of
themselves counts before what they are called: servers that ignore the format asked for are common.
"""

import codecs
import io
import re
import struct
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from prosody_tagger.errors import BadInput
from synth.base import Audio
from synth.errors import BackendError

MAX_BYTES = 50_000_000
"""The most that is collected of a form that is not decoded as it comes: an hour of mp3, ten minutes of flac."""

RATES = range(4_000, 192_001)
"""Sample rates that are taken, Hz."""

MAX_CHANNELS = 8
DECODABLE = ("wav", "flac", "mp3", "opus", "vorbis")
"""The forms of whole files that `decode` reads."""

STREAMED = ("wav", "flac", "mp3", "opus", "pcm")
"""The forms of bodies that `StreamDecoder` reads."""

_HEAD = 64  # bytes by which a stream is recognised
_MAX_HEADER = 1 << 20  # bytes of a wav before its sound
_UNBELIEVABLE = 1 << 30  # writers that do not know the length yet put 0, 2^31 - 1, 2^32 - 1 or a little less
_BLOCK = 1 << 15  # values decoded at once

_INT16, _PER_INT16 = np.dtype("<i2"), np.float32(2.0**-15)

Samples = NDArray[np.float32]
_NONE: Samples = np.zeros(0, dtype=np.float32)


class UndecodableAudio(BackendError):
    """What came as audio is not, or is damaged."""


class TruncatedAudio(BackendError):
    """The audio stopped before the length that its header gives. What `StreamDecoder.feed` returned until then is good."""


def sniff(data: bytes) -> str | None:
    """What sound a file or stream holds, by its first 64 bytes, or None.

    Those of `DECODABLE`, and some that are only recognised, so that a message can name them: ogg (with another codec), aac,
    m4a, aiff, webm, amr, wma.
    """
    return _container(data) or _frame_sync(data)


def decode(data: bytes, form: str | None = None, *, max_seconds: float = 600.0) -> Audio:
    """A whole file as sound at its own rate, its channels averaged.

    Decoding stops at ``max_seconds``, so that a small file cannot fill the memory. ``form`` is what to try where the content
    does not say.

    Raises:
        BadInput: empty, not one of `DECODABLE`, damaged, too long, without sound, or with NaN or infinite samples.
    """
    if not data:
        raise BadInput("the file is empty; give a sound file")
    found = sniff(data) or form
    if found not in DECODABLE:
        what = found or _kind_of_text(data[:_HEAD]) or "nothing that is known as sound"
        raise BadInput(f"the file holds {what}; give one of {', '.join(DECODABLE)}")
    import soundfile

    class Forwards(soundfile.SoundFile):  # type: ignore[misc]
        """Never goes back in the file: at the end of a flac that does not know its length that fails."""

        def seekable(self) -> bool:
            return False

    try:
        with Forwards(io.BytesIO(data)) as file:
            return _read(file, max_seconds)
    except soundfile.SoundFileError as error:
        raise BadInput(f"the {found} file cannot be decoded: it is damaged or cut short; save it anew") from error


def _read(file: Any, max_seconds: float) -> Audio:
    """An open soundfile, block by block."""
    rate, channels = int(file.samplerate), int(file.channels)
    if rate not in RATES or channels > MAX_CHANNELS:
        raise BadInput(
            f"the file has {channels} channels at {rate} Hz; at most {MAX_CHANNELS} at {RATES[0]} to {RATES[-1]} Hz can be read"
        )
    most = int(max_seconds * rate)
    samples = bytearray()  # grows in place, where a list of blocks would be there twice at the end
    while len(block := file.read(_BLOCK // channels, dtype="float32", always_2d=True)):
        samples += _mono(block).tobytes()
        if len(samples) // 4 > most:
            raise BadInput(f"the sound is longer than {max_seconds:g} s; cut it to that")
    if not samples:
        raise BadInput("the file holds no sound: its length is 0 s; record it anew")
    return Audio(np.frombuffer(samples, dtype=np.float32), rate)


def _mono(values: NDArray[Any]) -> Samples:
    """Values of shape [n, channels] on the scale of [-1, 1], clipped to it and averaged."""
    if not np.isfinite(values).all():
        raise BadInput("the sound has samples that are NaN or infinite; save it anew, as 16-bit samples if you can")
    clipped = np.clip(values, -1.0, 1.0).astype(np.float32)
    mono: Samples = clipped[:, 0] if clipped.shape[1] == 1 else clipped.mean(axis=1, dtype=np.float32)
    return mono


class StreamDecoder:
    """Turns the body of an answer into samples while it comes; one for each body.

    Cut the bytes as you like: what all calls return together is the same. A wav's own header gives its rate; sizes in it that
    cannot be true mean "until the end".

    Args:
        form: what was asked for: wav, pcm (16-bit little-endian mono), mp3, opus or flac.
        rate: of the samples that come out, Hz.
        source_rate: of pcm, Hz.

    Raises:
        BadInput: an unknown ``form``, or a ``rate`` that is none.
        UndecodableAudio: a ``source_rate`` that is none.
    """

    def __init__(self, form: str, rate: int, source_rate: int = 24_000) -> None:
        if form not in STREAMED:
            raise BadInput(f"unknown format {form!r}; give one of {', '.join(STREAMED)}")
        if rate not in RATES:
            raise BadInput(f"{rate} Hz is no sample rate to ask for; give one from {RATES[0]} to {RATES[-1]}")
        self._form = form
        self._rate = rate
        self._source_rate = _checked_rate(source_rate)
        self._head = b""
        self._source: _Source | None = None
        self._resampler: Any = None
        self._finished = False

    def feed(self, data: bytes) -> Samples:
        """The samples that ``data`` completes, float32 of shape [n] in [-1, 1]; often none.

        Raises:
            UndecodableAudio: this is no audio, or more than `MAX_BYTES` of a form that has to be collected.
        """
        if self._finished:
            raise ValueError("the stream is finished; make another decoder for the next one")
        if self._source is not None:
            return self._resampled(self._source.feed(data))
        self._head += data
        return self._begin() if len(self._head) >= _HEAD else _NONE

    def finish(self) -> Samples:
        """The rest, once the body has ended; all of it for mp3, opus and flac, which takes a while: call it in a thread.

        Raises:
            TruncatedAudio: a wav that stopped before the length that it gave.
            UndecodableAudio: no audio, or damaged.
        """
        if self._finished:
            return _NONE
        started = self._begin() if self._source is None else _NONE
        assert self._source is not None
        self._finished = True
        return np.concatenate([started, self._resampled(self._source.finish(), last=True)])

    def _begin(self) -> Samples:
        """Choose by the first bytes how to go on."""
        head, self._head = self._head, b""
        if text := _kind_of_text(head[:_HEAD]):
            raise UndecodableAudio(f"{text} came in place of {self._form} audio; check the address and the model that are asked")
        # Pcm may begin with any bytes, so there only what cannot be chance counts.
        found = (sniff(head) if self._form != "pcm" else _container(head) if len(head) >= 12 else None) or self._form
        if found == "pcm":
            self._source = _Pcm(_INT16, 1, self._source_rate)
        elif found == "wav":
            self._source = _Wav()
        elif found in DECODABLE:
            self._source = _Collected(found)
        else:
            raise UndecodableAudio(
                f"{found} came where {self._form} was asked for; ask the server for one of {', '.join(STREAMED)}"
            )
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
        return np.clip(resampled, -1.0, 1.0)  # a steep filter overshoots beside full scale


class _Source(Protocol):
    """What turns bytes into mono samples at ``rate``, which is None until it is known."""

    rate: int | None

    def feed(self, data: bytes) -> Samples: ...

    def finish(self) -> Samples: ...


class _Pcm:
    """Bare samples, interleaved by channel."""

    def __init__(self, coding: np.dtype[Any], channels: int, rate: int) -> None:
        self.rate: int | None = rate
        self._coding = coding
        self._channels = channels
        self._held = b""

    def feed(self, data: bytes) -> Samples:
        data = self._held + data if self._held else data
        width = self._coding.itemsize * self._channels
        whole = len(data) // width * width
        self._held = data[whole:]
        if self._coding == _INT16 and self._channels == 1:  # by far the most usual, and nothing in it can be out of range
            samples: Samples = np.multiply(np.frombuffer(data, _INT16, whole // width), _PER_INT16, dtype=np.float32)
            return samples
        try:
            return _mono(_scaled(data[:whole], self._coding).reshape(-1, self._channels))
        except BadInput as error:
            raise UndecodableAudio(str(error)) from None

    def finish(self) -> Samples:
        return _NONE  # half a sample is no sound


class _Wav:
    """A RIFF file; chunks other than its format and its sound are passed over."""

    def __init__(self) -> None:
        self.rate: int | None = None
        self._header = bytearray()
        self._skip = 0  # bytes of the header still to pass over
        self._passed = 0
        self._format: tuple[np.dtype[Any], int, int] | None = None
        self._pcm: _Pcm | None = None
        self._size: int | None = None  # bytes of sound; None is until the end
        self._taken = 0

    def feed(self, data: bytes) -> Samples:
        if self._pcm is None:
            self._header += data
            if not self._passed:
                self._begin()
            self._pcm = self._find_sound()
            if self._pcm is None:
                return _NONE
            data = bytes(self._header)
            self._header.clear()
        sound = data if self._size is None else data[: self._size - self._taken]
        self._taken += len(sound)
        return self._pcm.feed(sound)

    def finish(self) -> Samples:
        if self._pcm is None:
            raise TruncatedAudio(f"the body stopped within the header of the wav, after {self._passed + len(self._header)} bytes")
        if self._size is not None and self._taken < self._size:
            raise TruncatedAudio(f"the body stopped after {self._taken} of {self._size} bytes of sound")
        return self._pcm.finish()

    def _begin(self) -> None:
        if len(self._header) >= 12 and not re.match(rb"RIFF.{4}WAVE", self._header, re.DOTALL):
            raise UndecodableAudio("what came as wav does not begin as one; see which format the server sends")
        if len(self._header) >= 12:
            self._drop(12)

    def _find_sound(self) -> _Pcm | None:
        """Read the header's chunks up to the sound; None if it has not all come yet."""
        while self._passed:
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
            if self._passed + self._skip > _MAX_HEADER:
                raise UndecodableAudio(f"the wav has no sound in its first {_MAX_HEADER} bytes")
        return None

    def _open(self, size: int) -> _Pcm:
        if self._format is None:
            raise UndecodableAudio("the wav's sound comes before its format, so nobody can tell what its bytes mean")
        self._drop(8)
        self._size = size if 0 < size < _UNBELIEVABLE else None
        coding, channels, self.rate = self._format
        return _Pcm(coding, channels, self.rate)

    def _drop(self, count: int) -> None:
        del self._header[:count]
        self._passed += count
        self._skip = max(0, self._skip - count)


class _Collected:
    """A form that is decoded only when all of it is there."""

    def __init__(self, form: str) -> None:
        self.rate: int | None = None
        self._form = form
        self._data = bytearray()

    def feed(self, data: bytes) -> Samples:
        self._data += data
        if len(self._data) > MAX_BYTES:
            raise UndecodableAudio(
                f"more than {MAX_BYTES} bytes of {self._form} came in one body; ask for shorter speech, or for pcm"
            )
        return _NONE

    def finish(self) -> Samples:
        try:
            audio = decode(bytes(self._data), self._form)
        except BadInput as error:
            raise UndecodableAudio(f"the body cannot be decoded as {self._form}: {error}") from error
        self.rate = audio.rate
        return audio.samples


def _checked_rate(rate: int) -> int:
    if rate not in RATES:
        raise UndecodableAudio(f"{rate} Hz is no sample rate of speech; {RATES[0]} to {RATES[-1]} can be read")
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


def _wav_format(chunk: bytes) -> tuple[np.dtype[Any], int, int]:
    """Coding, channels and rate out of a wav's format chunk."""
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        (tag,) = struct.unpack_from("<H", chunk, 24)  # the identifier of the coding begins with its old number
    if (tag, bits) not in _CODINGS:
        raise UndecodableAudio(f"the wav holds {bits}-bit samples of coding {tag}; whole numbers (1) and floats (3) can be read")
    if not 1 <= channels <= MAX_CHANNELS:
        raise UndecodableAudio(f"the wav has {channels} channels; 1 to {MAX_CHANNELS} can be read")
    return np.dtype(_CODINGS[tag, bits]), channels, _checked_rate(rate)


def _scaled(data: bytes, coding: np.dtype[Any]) -> NDArray[Any]:
    """Bytes as floats in which 1.0 is full scale."""
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


_CONTAINERS = (
    ("wav", rb"RIFF.{4}WAVE"),
    ("flac", rb"fLaC"),
    ("opus", rb"OggS.{20,58}?OpusHead"),
    ("vorbis", rb"OggS.{20,58}?\x01vorbis"),
    ("ogg", rb"OggS\0"),
    ("mp3", rb"ID3[\x02-\x04]"),
    ("m4a", rb".{4}ftyp"),
    ("aiff", rb"FORM.{4}AIF[FC]"),
    ("webm", rb"\x1a\x45\xdf\xa3"),
    ("amr", rb"#!AMR"),
    ("wma", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
)
_MAGIC = re.compile(b"|".join(b"(?P<%s>%s)" % (name.encode(), magic) for name, magic in _CONTAINERS), re.DOTALL)


def _container(data: bytes) -> str | None:
    """The form by a signature that is no chance."""
    found = _MAGIC.match(data[:_HEAD])
    return found.lastgroup if found else None


def _frame_sync(data: bytes) -> str | None:
    """MPEG audio without a header before its first frame: eleven ones, then version, layer, bit rate and sample rate."""
    if len(data) < 4 or data[0] != 0xFF:
        return None
    version, layer, bitrate, rate = data[1] >> 3 & 3, data[1] >> 1 & 3, data[2] >> 4, data[2] >> 2 & 3
    if data[1] & 0xF6 == 0xF0:
        return "aac"
    is_mp3 = data[1] >= 0xE0 and version != 1 and layer == 1 and 0 < bitrate < 15 and rate != 3
    return "mp3" if is_mp3 else None


def _kind_of_text(head: bytes) -> str | None:
    """Which text a file's first bytes are, or None: sound that reads as 8 printable characters, 5 of them unlike, is very rare."""
    if len(set(head)) < 5 or len(head) < 8:
        return None
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return None
    if not all(character.isprintable() or character in "\t\r\n" for character in text):
        return None
    text = text.lstrip().lower()
    if text.startswith(("<!doctype", "<html", "<head")):
        return "HTML"
    return "XML" if text.startswith("<") else "JSON" if text.startswith(("{", "[")) else "text"
