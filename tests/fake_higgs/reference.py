"""Checks of the recordings that servers accept as references."""

import base64
import binascii
import io
import re
from hashlib import sha256

from .api_error import ApiError, invalid

MAX_BYTES = 10_000_000
MIN_SECONDS = 3.0

_DATA_URI = re.compile(r"data:[\w.+/-]{1,64}(?:;[\w=.-]{1,64}){0,4};base64,")


def clip(source: str, *, min_seconds: float = 0.0, bare: bool = True) -> bytes:
    """Decode ``source``, a data URI or, if ``bare``, base64 alone; check that it is audio of at least ``min_seconds``.

    The real servers fetch URLs too; the fake has no network and refuses them.

    Raises:
        ApiError: it is none of these, too large, too short, or cannot be decoded.
    """
    head = _DATA_URI.match(source)
    if not head and not bare:
        raise invalid("ref_audio is not a data URI, and this server fetches no URL and opens no file")
    try:
        data = base64.b64decode(source[head.end() :] if head else source, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("ref_audio is neither a data URI nor base64 (this server fetches no URL)") from None
    if len(data) > MAX_BYTES:
        raise ApiError(400, "file_too_large", f"ref_audio holds {len(data)} bytes; at most {MAX_BYTES} are allowed")
    seconds = _seconds(data)
    if seconds < min_seconds:
        raise ApiError(400, "audio_too_short", f"ref_audio is {seconds:.2f} s long; at least {min_seconds:g} s are needed")
    return data


def voice_id(audio: bytes, text: str) -> str:
    """Return the id that a recording with its transcript is registered under."""
    return f"voice_{sha256(audio + text.encode()).hexdigest()}"


def _seconds(data: bytes) -> float:
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(data))
    except soundfile.LibsndfileError:
        raise ApiError(400, "invalid_audio", "ref_audio cannot be decoded") from None
    return float(len(samples) / rate)
