"""WAV files as servers should not write them."""

import struct

HEADER_BYTES = 44
SIZES_MAX = 0xFFFFFFFF


def wav(pcm: bytes, rate: int, channels: int = 1) -> bytes:
    """16-bit PCM under a plain header."""
    shape = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(pcm)) + b"WAVEfmt \x10\0\0\0" + shape + b"data" + struct.pack("<I", len(pcm)) + pcm


def with_sizes(file: bytes, size: int) -> bytes:
    """A WAV as a server writes it that does not yet know how long it will be: ``size`` in both places of the header."""
    packed = struct.pack("<I", size)
    return file[:4] + packed + file[8:40] + packed + file[HEADER_BYTES:]
