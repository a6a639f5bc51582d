"""Recordings of a voice to speak in: read and checked before anything is sent."""

import stat
from pathlib import Path

import numpy as np

from prosody_tagger.errors import BadInput
from synth.audio.decoding import decode, sniff
from synth.audio.encoding import encode
from synth.audio.signal import SILENCE_DB, resample, silence_level
from synth.base import Audio, Reference

MIN_SECONDS = 3.0
MAX_SECONDS = 30.0
"""Servers refuse longer ones, and the voice gains nothing from them."""

MAX_BYTES = 10_000_000
FORMS = ("wav", "flac", "mp3", "opus")

MAX_CHARS_PER_SECOND = 40
"""Twice as fast as quick speech; a longer text is not what is said in the recording."""

_SILENT = 1e-3  # RMS, 60 dB under full scale: the noise of a microphone
_AS_WAV_RATE = 48_000  # a voice has nothing above; and half a minute at 192 kHz would be over MAX_BYTES


def read_reference(source: Path | bytes, text: str) -> Reference:
    """A recording, by its file or its bytes, and what is said in it.

    ``text`` keeps its words; white space within it becomes single spaces.

    Raises:
        BadInput: no such file, over 10 MB, not `FORMS` by its content, shorter than 3 s or longer than 30 s, silent; or a text
            that is blank, holds control characters, or is too long to have been said in that time.
    """
    transcript = _checked_text(text)
    data = source if isinstance(source, bytes) else _read_file(source)
    if len(data) > MAX_BYTES:
        raise BadInput(
            f"the recording has {len(data)} bytes; give at most {MAX_BYTES}, {MIN_SECONDS:g} to {MAX_SECONDS:g} s of speech"
        )
    form = sniff(data)
    if form not in FORMS:
        what = form or ("nothing that is known as sound" if data else "nothing")
        raise BadInput(f"the recording holds {what}; give one of {', '.join(FORMS)}")
    audio = decode(data, max_seconds=MAX_SECONDS)
    _check_sound(audio)
    if len(transcript) > MAX_CHARS_PER_SECOND * audio.seconds:
        raise BadInput(
            f"the transcript has {len(transcript)} characters, more than anybody says in {audio.seconds:.1f} s; "
            "give only what is said in the recording"
        )
    return Reference(data, form, transcript)


def as_wav(reference: Reference) -> bytes:
    """The recording as a wav of 16-bit mono samples at its own rate, 48 kHz at most, for servers that take nothing else."""
    audio = decode(reference.audio, reference.form)
    return encode(resample(audio, min(audio.rate, _AS_WAV_RATE)), "wav")


def _checked_text(text: str) -> str:
    for index, character in enumerate(text):
        if not character.isprintable() and _is_unfit(character):
            raise BadInput(f"the transcript has {character!r} at character {index}; take it out and give plain words")
    words = " ".join(text.split())
    if not any(character.isalnum() for character in words):
        raise BadInput(f"the transcript {words[:20]!r} has no words; give what is said in the recording")
    return words


def _is_unfit(character: str) -> bool:
    """Control characters other than tab and line ends, and halves of surrogate pairs."""
    code = ord(character)
    return (code < 0x20 and character not in "\t\r\n") or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000


def _read_file(path: Path) -> bytes:
    """A regular file of at most `MAX_BYTES`; its size is looked at first."""
    shown = repr(str(path))
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{shown} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'no regular file'}; give a sound file")
        if status.st_size > MAX_BYTES:
            raise BadInput(f"{shown} has {status.st_size} bytes; give a recording of at most {MAX_BYTES}")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)  # it may have grown since
    except FileNotFoundError:
        raise BadInput(f"there is no file {shown}; give the path of a recording") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{shown} cannot be read: {reason}; give the path of a recording") from None


def _check_sound(audio: Audio) -> None:
    if audio.seconds < MIN_SECONDS:
        raise BadInput(f"the recording lasts {audio.seconds:.2f} s; give {MIN_SECONDS:g} to {MAX_SECONDS:g} s of speech")
    level = silence_level(Audio(audio.samples - np.mean(audio.samples), audio.rate)) * 10 ** (SILENCE_DB / 20)
    if level < _SILENT:
        decibels = f"{20 * np.log10(level):.0f} dB" if level > 0 else "nothing"
        raise BadInput(f"the recording is silent (its loud parts reach {decibels} of full scale); record it louder")
