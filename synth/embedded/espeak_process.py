"""The child process that loads espeak-ng. It runs as a script and imports only the standard library.

The library has global state, is not thread-safe, and crashes on some texts. It therefore runs in a process of its own that handles
one request at a time. Requests arrive on stdin and answers leave on stdout, serialised by `marshal`, since both ends run the same
interpreter.
"""

import ctypes
import marshal
import os
import signal
import sys
import tempfile
from ctypes import CFUNCTYPE, POINTER, Structure, Union, c_char, c_char_p, c_int, c_short, c_size_t, c_uint, c_void_p
from typing import IO, Any

# Names and values as in espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_BUFFER_MS = 1000
_CHARS_UTF8 = 1
_END_PAUSE = 0x1000
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_EVENT_LIST_TERMINATED, _EVENT_WORD = 0, 1

_VOLUME_PERCENT = 50  # half of the volume that clips in the loudest languages, as headroom for emphasis
_RANGE_DEFAULT = 50

# Flutter (slow variation of the pitch) and roughness (uneven periods) carry state over from the last text. Without them, equal
# requests return equal samples. "roughness 9" is past the end of the library's table, which turns it off.
_STEADY = b"\nflutter 0\nroughness 9\n"


class _EventId(Union):
    _fields_ = [("number", c_int), ("name", c_char_p), ("string", c_char * 8)]


class _Event(Structure):
    _fields_ = [
        ("type", c_int),
        ("unique_identifier", c_uint),
        ("text_position", c_int),
        ("length", c_int),
        ("audio_position", c_int),
        ("sample", c_int),
        ("user_data", c_void_p),
        ("id", _EventId),
    ]


_Callback = CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_Event))


class _Espeak:
    """The library, initialised."""

    def __init__(self, library: str, data: str) -> None:
        self._library = ctypes.CDLL(library)
        self._library.espeak_Synth.argtypes = [c_char_p, c_size_t, c_uint, c_int, c_uint, c_uint, c_void_p, c_void_p]
        self.rate: int = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, _BUFFER_MS, os.fsencode(data), _INITIALIZE_DONT_EXIT
        )
        if self.rate <= 0:
            raise OSError(f"espeak_Initialize found no usable data in {data}")
        self._pcm: list[bytes] = []
        self._words: list[tuple[int, int]] = []
        self._callback = _Callback(self._take)  # kept, since the library keeps no reference
        self._library.espeak_SetSynthCallback(self._callback)

    def synthesise(self, text: str, voice: str, rate: int, pitch: int, end_pause: bool) -> tuple[bytes, list[tuple[int, int]]]:
        """Speak ``text``, independent of the texts before it.

        Returns:
            The audio as 16-bit samples, and (offset in ``text``, first sample) of each word that the library found.

        Raises:
            OSError: the library reports an error.
        """
        self._set_voice(voice)
        self._library.espeak_ng_SetRandSeed(1)
        for parameter, value in ((_RATE, rate), (_VOLUME, _VOLUME_PERCENT), (_PITCH, pitch), (_RANGE, _RANGE_DEFAULT)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._pcm, self._words = [], []
        encoded = text.encode()
        flags = _CHARS_UTF8 | (_END_PAUSE if end_pause else 0)
        status = self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, flags, None, None)
        if status != 0:
            raise OSError(f"espeak_Synth returned {status}")
        return b"".join(self._pcm), self._words

    def _set_voice(self, voice: str) -> None:
        """Load a voice file with `_STEADY` appended. The library accepts only short lower-case paths (59 characters): /dev/fd."""
        with open(voice, "rb") as source, _unnamed_file() as file:
            file.write(source.read() + _STEADY)
            file.flush()
            file.seek(0)
            status = self._library.espeak_ng_SetVoiceByFile(b"/dev/fd/%d" % file.fileno())
        if status != 0:
            raise OSError(f"espeak_ng_SetVoiceByFile returned {status} for {voice}")

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._pcm.append(ctypes.string_at(samples, count * ctypes.sizeof(c_short)))
        index = 0
        while events[index].type != _EVENT_LIST_TERMINATED:
            if events[index].type == _EVENT_WORD:
                self._words.append((events[index].text_position - 1, events[index].sample))
            index += 1
        return 0


def _unnamed_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("voice"), "w+b")
    return tempfile.TemporaryFile()


def main(library: str, data: str) -> None:
    """Send the sample rate, then answer requests until stdin ends. The answer to a failed request is the error message."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # the library sometimes prints to stdout

    def answer(value: int | str | tuple[bytes, list[tuple[int, int]]]) -> None:
        marshal.dump(value, answers)
        answers.flush()

    try:
        espeak = _Espeak(library, data)
    except OSError as error:
        answer(str(error))
        return
    answer(espeak.rate)
    while True:
        try:
            request = marshal.load(requests)
        except EOFError:
            return
        try:
            answer(espeak.synthesise(*request))
        except OSError as error:
            answer(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
