"""Encode samples in the audio formats that requests may name."""

import io

import numpy as np

MEDIA_TYPES = {"wav": "audio/wav", "pcm": "audio/pcm", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg"}
_FILES = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", None), "opus": ("OGG", "OPUS")}


def pcm(samples: np.ndarray) -> bytes:
    """Return float samples in [-1, 1] as 16-bit little-endian PCM."""
    return (np.clip(np.nan_to_num(samples), -1.0, 1.0) * 32767.0).astype("<i2").tobytes()


def encode(samples: np.ndarray, rate: int, audio_format: str) -> bytes:
    """Return float samples as an audio file of ``audio_format``, or without a header for pcm."""
    if audio_format == "pcm":
        return pcm(samples)
    import soundfile

    kind, subtype = _FILES[audio_format]
    file = io.BytesIO()
    soundfile.write(file, np.clip(np.nan_to_num(samples), -1.0, 1.0), rate, format=kind, subtype=subtype)
    return file.getvalue()
