"""Samples in the forms that can be asked for."""

import io

import numpy as np

MEDIA = {"wav": "audio/wav", "pcm": "audio/pcm", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg"}
_FILES = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", None), "opus": ("OGG", "OPUS")}


def pcm(samples: np.ndarray) -> bytes:
    """Float samples as 16 bits, little-endian."""
    return (np.clip(np.nan_to_num(samples), -1.0, 1.0) * 32767.0).astype("<i2").tobytes()


def encode(samples: np.ndarray, rate: int, form: str) -> bytes:
    """Float samples as a whole file, or bare for pcm."""
    if form == "pcm":
        return pcm(samples)
    import soundfile

    kind, subtype = _FILES[form]
    file = io.BytesIO()
    soundfile.write(file, np.clip(np.nan_to_num(samples), -1.0, 1.0), rate, format=kind, subtype=subtype)
    return file.getvalue()
