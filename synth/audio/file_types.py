"""Recognises audio formats by the first bytes of a file or stream."""

import codecs
import re

HEAD_BYTES = 64
"""How many bytes `sniff` looks at."""

_SIGNATURES = (
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
_MAGIC = re.compile(b"|".join(b"(?P<%s>%s)" % (name.encode(), magic) for name, magic in _SIGNATURES), re.DOTALL)


def sniff(data: bytes) -> str | None:
    """Return the audio format of a file or stream by its first `HEAD_BYTES` bytes; None if unknown.

    The formats are those of `decoding.DECODABLE`, and some that are recognised only so that a message can name them: ogg (with
    another codec), aac, m4a, aiff, webm, amr, wma.
    """
    return container_format(data) or _frame_format(data)


def container_format(data: bytes) -> str | None:
    """Return the format by the signature of its container; None if there is none.

    A signature is long enough to rule out a coincidence, even in raw samples.
    """
    found = _MAGIC.match(data[:HEAD_BYTES])
    return found.lastgroup if found else None


def _frame_format(data: bytes) -> str | None:
    """Return "mp3" or "aac" if the data begin with an MPEG audio frame: 11 set bits, then version, layer, bit rate, sample rate."""
    if len(data) < 4 or data[0] != 0xFF:
        return None
    version, layer, bitrate, rate = data[1] >> 3 & 3, data[1] >> 1 & 3, data[2] >> 4, data[2] >> 2 & 3
    if data[1] & 0xF6 == 0xF0:
        return "aac"
    is_mp3 = data[1] >= 0xE0 and version != 1 and layer == 1 and 0 < bitrate < 15 and rate != 3
    return "mp3" if is_mp3 else None


def text_format(head: bytes) -> str | None:
    """Return "HTML", "XML", "JSON" or "text" if the first bytes of a file are text; None if they are not.

    Audio is very unlikely to read as eight printable characters of which five differ.
    """
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
