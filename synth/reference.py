"""Reference recordings for voice cloning: read and validated before they are sent to a backend."""

import stat
from pathlib import Path

import numpy as np

from prosody_tagger.errors import BadInput, os_reason
from synth.audio.decoding import decode
from synth.audio.encoding import encode
from synth.audio.file_types import sniff
from synth.audio.signal import SILENCE_DB, resample, silence_level
from synth.base import Audio, Reference

MIN_SECONDS = 3.0
MAX_SECONDS = 30.0
"""Servers reject longer recordings, and they do not improve the voice."""

MAX_BYTES = 10_000_000
REFERENCE_FORMATS = ("wav", "flac", "mp3", "opus")

MAX_CHARS_PER_SECOND = 40
"""Twice the rate of fast speech; a longer text cannot be the transcript of the recording."""

_SILENCE_RMS = 1e-3  # 60 dB below full scale: microphone noise
_MAX_WAV_RATE = 48_000  # enough for speech; half a minute at 192 kHz would exceed MAX_BYTES


def read_reference(source: Path | bytes, text: str) -> Reference:
    """Read and validate a recording and its transcript.

    Args:
        source: path or content of the recording.
        text: the transcript; its white space becomes single spaces.

    Raises:
        BadInput: the file is missing, over 10 MB, not in `REFERENCE_FORMATS` by its content, shorter than 3 s, longer than 30 s or
            silent; or the text is blank, holds control characters, or is too long for the recording.
    """
    transcript = _checked_text(text)
    data = source if isinstance(source, bytes) else _read_file(source)
    if len(data) > MAX_BYTES:
        raise BadInput(
            f"the recording has {len(data)} bytes; give at most {MAX_BYTES}, {MIN_SECONDS:g} to {MAX_SECONDS:g} s of speech"
        )
    audio_format = sniff(data)
    if audio_format not in REFERENCE_FORMATS:
        content = audio_format or ("no known audio format" if data else "nothing")
        raise BadInput(f"the recording holds {content}; give one of {', '.join(REFERENCE_FORMATS)}")
    audio = decode(data, max_seconds=MAX_SECONDS)
    _check_sound(audio)
    if len(transcript) > MAX_CHARS_PER_SECOND * audio.seconds:
        raise BadInput(
            f"the transcript has {len(transcript)} characters, too many for a recording of {audio.seconds:.1f} s; "
            "give the transcript of the recording only"
        )
    return Reference(data, audio_format, transcript)


def as_wav(reference: Reference) -> bytes:
    """Return the recording as a 16-bit mono WAV at its own rate, at most 48 kHz, for servers that accept only WAV."""
    audio = decode(reference.audio, reference.audio_format)
    return encode(resample(audio, min(audio.rate, _MAX_WAV_RATE)), "wav")


def _checked_text(text: str) -> str:
    for index, character in enumerate(text):
        if not character.isprintable() and _is_control(character):
            raise BadInput(f"the transcript has {character!r} at character {index}; remove it")
    words = " ".join(text.split())
    if not any(character.isalnum() for character in words):
        raise BadInput(f"the transcript {words[:20]!r} has no words; give the transcript of the recording")
    return words


def _is_control(character: str) -> bool:
    """Whether a character is a lone surrogate, or a control character other than tab and line end."""
    code = ord(character)
    return (code < 0x20 and character not in "\t\r\n") or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000


def _read_file(path: Path) -> bytes:
    """Read a regular file of at most `MAX_BYTES`. Its size is checked before it is read."""
    shown = repr(str(path))
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{shown} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}; give a sound file")
        if status.st_size > MAX_BYTES:
            raise BadInput(f"{shown} has {status.st_size} bytes; give a recording of at most {MAX_BYTES}")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)  # the file may have grown in the meantime
    except FileNotFoundError:
        raise BadInput(f"there is no file {shown}; give the path of a recording") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{shown} cannot be read: {os_reason(error)}; give the path of a recording") from None


def _check_sound(audio: Audio) -> None:
    if audio.seconds < MIN_SECONDS:
        raise BadInput(f"the recording lasts {audio.seconds:.2f} s; give {MIN_SECONDS:g} to {MAX_SECONDS:g} s of speech")
    level = silence_level(Audio(audio.samples - np.mean(audio.samples), audio.rate)) * 10 ** (SILENCE_DB / 20)
    if level < _SILENCE_RMS:
        decibels = f"{20 * np.log10(level):.0f} dB" if level > 0 else "nothing"
        raise BadInput(f"the recording is silent (its loud parts reach {decibels} of full scale); record it louder")
