"""Decodes audio files. The content decides the format, not the name, which is often wrong."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from synth.audio.file_types import HEAD_BYTES, sniff, text_format
from synth.audio.signal import Samples
from synth.base import Audio

RATES = range(4_000, 192_001)
"""Accepted sample rates, Hz."""

MAX_CHANNELS = 8
DECODABLE = ("wav", "flac", "mp3", "opus", "vorbis")
"""The formats that `decode` reads."""

_BLOCK = 1 << 15  # values decoded at once


def decode(data: bytes, audio_format: str | None = None, *, max_seconds: float = 600.0) -> Audio:
    """Decode an audio file at its own sample rate and average its channels.

    Args:
        data: the whole file.
        audio_format: format to assume if the content is not recognised.
        max_seconds: longer audio is rejected as soon as this much is decoded, so a small file cannot fill the memory.

    Raises:
        BadInput: the file is empty, not one of `DECODABLE`, damaged, too long, without samples, or has NaN or infinite samples.
    """
    if not data:
        raise BadInput("the file is empty; give a sound file")
    found = sniff(data) or audio_format
    if found not in DECODABLE:
        content = found or text_format(data[:HEAD_BYTES]) or "no known audio format"
        raise BadInput(f"the file holds {content}; give one of {', '.join(DECODABLE)}")
    import soundfile

    class ForwardOnly(soundfile.SoundFile):  # type: ignore[misc]
        """Never seeks: at the end of a FLAC file of unknown length, seeking fails."""

        def seekable(self) -> bool:
            return False

    try:
        with ForwardOnly(io.BytesIO(data)) as file:
            return _read(file, max_seconds)
    except soundfile.SoundFileError as error:
        raise BadInput(f"the {found} file cannot be decoded: it is damaged or truncated; save it again") from error


def _read(file: Any, max_seconds: float) -> Audio:
    """Read an open soundfile block by block."""
    rate, channels = int(file.samplerate), int(file.channels)
    if rate not in RATES or channels > MAX_CHANNELS:
        raise BadInput(
            f"the file has {channels} channels at {rate} Hz; at most {MAX_CHANNELS} at {RATES[0]} to {RATES[-1]} Hz can be read"
        )
    max_samples = int(max_seconds * rate)
    samples = bytearray()  # grows in place; concatenating a list of blocks would hold the audio twice
    while len(block := file.read(_BLOCK // channels, dtype="float32", always_2d=True)):
        samples += to_mono(block).tobytes()
        if len(samples) // 4 > max_samples:
            raise BadInput(f"the audio is longer than {max_seconds:g} s; shorten it")
    if not samples:
        raise BadInput("the file holds no audio: its length is 0 s; record it again")
    return Audio(np.frombuffer(samples, dtype=np.float32), rate)


def to_mono(values: NDArray[Any]) -> Samples:
    """Return samples of shape [n, channels] clipped to [-1, 1] and averaged over the channels, shape [n].

    Raises:
        BadInput: a sample is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise BadInput("the audio has samples that are NaN or infinite; save it again, as 16-bit samples if possible")
    clipped = np.clip(values, -1.0, 1.0).astype(np.float32)
    mono: Samples = clipped[:, 0] if clipped.shape[1] == 1 else clipped.mean(axis=1, dtype=np.float32)
    return mono
