"""espeak-ng from the wheel `espeakng-loader`: its voices, and the worker that runs it.

The worker is a thread with a bounded queue, one per process. It owns a child process (`synth.embedded.espeak_process`) that loads
the library, starts it at the first request and restarts it if it dies. Any number of event loops and threads may use it. A text
that crashes the library fails only its own request. Needs /dev/fd and poll (Linux, macOS).
"""

import asyncio
import atexit
import contextlib
import marshal
import os
import queue
import select
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import regex

from synth.audio.pitch import LOWEST_HZ
from synth.base import Audio
from synth.errors import BackendError, BackendTimeout, BackendUnavailable

RATE = 22_050
"""Sample rate of the library's voices, Hz."""

SLOWEST, FASTEST = 80, 449
"""Range of the rate in words per minute. From 450 on the library compresses its audio, and its word times are wrong."""

_QUEUE_LENGTH = 64
_RETRY_SECONDS = 0.005
_TIMEOUT_SECONDS = 60.0
_INSTALL_ADVICE = "run: pip install --force-reinstall espeakng-loader"
_SCRIPT = Path(__file__).with_name("espeak_process.py")


@dataclass(frozen=True, slots=True)
class EspeakVoice:
    """A voice of the library.

    Attributes:
        path: its file.
        title: its name in English.
        languages: BCP 47 tags, the main language first.
    """

    path: Path
    title: str
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EspeakRequest:
    """The arguments of `EspeakWorker.speak`, as they wait in its queue."""

    text: str
    voice: Path
    rate: int
    pitch: int
    end_pause: bool


WordStarts = tuple[tuple[int, int], ...]
"""Offset in the text and first sample of each word that the library found, in order."""

_Spoken = tuple[Audio, WordStarts]


NO_AUDIO = Audio(np.zeros(0, np.float32), RATE)


MAX_RUN = 60
"""Longest run of characters without a space in the library's input. It drops the end of runs of more than about 100."""

# The library gets letters, combining marks, digits, punctuation that shapes its intonation, and symbols that it can read. Other
# symbols crash it in some languages: backticks, brackets, circled letters, Braille.
_UNREADABLE = regex.compile(
    r"[^\p{L}\p{M}\p{N}\u200c\u200d"
    r".,;:!?…—–\-'’\"“”„«»()¿¡/%&@#$€£¥+=*°_~।॥。、，！？；：؟،؛۔‥・།་၊။៖។፡።፣፤፥፦፧՜՝՞։־]"
)
_EXCESS_MARKS = regex.compile(r"(?<!\p{L}\p{M}{0,4})\p{M}++|(?<=\p{M}{4})\p{M}++")
_INNER_STOP = regex.compile(r"\.(?=[^\x00-\x7f])")
_LONG_RUN = regex.compile(rf"\S{{{MAX_RUN}}}(?=\S)")


def lowest_pitch(pitch: int) -> float:
    """Return the approximate lowest F0 in Hz for a pitch setting of 0 to 99: 50 Hz at 50, an octave for every 50 steps."""
    return LOWEST_HZ * float(2.0 ** ((pitch - 50) / 50))


def sanitise(text: str) -> str:
    """Return ``text`` without characters that the library cannot read or that crash it, with single spaces.

    Control, private-use and unassigned characters and most symbols become spaces; a letter keeps at most four combining marks; a
    run longer than `MAX_RUN` is split.
    """
    text = _EXCESS_MARKS.sub("", _UNREADABLE.sub(" ", text))
    text = _LONG_RUN.sub(r"\g<0> ", _INNER_STOP.sub(". ", text))
    return " ".join(text.split())


@lru_cache(maxsize=1)
def voices() -> tuple[EspeakVoice, ...]:
    """Return the voices of espeak_ListVoices that have a dictionary, sorted by file name.

    MBROLA voices are left out, because the wheel does not contain their data.

    Raises:
        BackendUnavailable: the package is missing or contains no voices.
    """
    _, data = _library()
    dictionaries = {path.name.removesuffix("_dict") for path in data.glob("*_dict")}
    files = sorted((path for path in (data / "lang").rglob("*") if path.is_file()), key=lambda path: path.name.lower())
    found = tuple(voice for voice, dictionary in map(_read_voice_file, files) if dictionary in dictionaries)
    if not found:
        raise BackendUnavailable(f"there are no espeak-ng voices in {data}; {_INSTALL_ADVICE}")
    return found


def _read_voice_file(path: Path) -> tuple[EspeakVoice, str]:
    """Read a voice file and return the voice and its dictionary. A line is an attribute and its value; ``//`` starts a comment."""
    title, dictionary = path.name, ""
    languages: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        attribute, _, value = line.partition("//")[0].strip().partition(" ")
        if attribute == "name":
            title = value.strip()
        elif attribute == "dictionary":
            dictionary = value.strip()
        elif attribute == "language":
            languages.append(value.split()[0].lower())
    return EspeakVoice(path, title, tuple(languages)), dictionary or languages[0].partition("-")[0]


def _library() -> tuple[Path, Path]:
    """Return the paths of the library and of its data folder.

    Raises:
        BackendUnavailable: the package is missing or broken.
    """
    try:
        import espeakng_loader

        return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())
    except (ImportError, RuntimeError) as error:
        raise BackendUnavailable(f"the embedded voice needs the package espeakng-loader ({error}); {_INSTALL_ADVICE}") from error


_WireRequest = tuple[str, str, int, int, bool]


@dataclass(slots=True, eq=False)
class _QueuedRequest:
    """A queued request and the future of its result. A request of None ends the process."""

    request: EspeakRequest | None
    future: "Future[_Spoken | None]" = field(default_factory=Future)
    abandoned: bool = False


class EspeakWorker:
    """Runs requests one after another in a child process. Use the instance `WORKER`; there is one per process."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._queue: queue.Queue[_QueuedRequest] = queue.Queue(_QUEUE_LENGTH)
        self._state_lock = threading.Lock()  # guards the next three attributes
        self._thread: threading.Thread | None = None
        self._current: _QueuedRequest | None = None
        self._exiting = False
        self._protocol_lock = threading.Lock()  # held during a request, so that no fork happens within one
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the thread and its process if they are not running, so that they start while the caller prepares a request."""
        with self._state_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_requests, name="espeak", daemon=True)
                self._thread.start()

    async def speak(self, text: str, voice: Path, rate: int, pitch: int, *, end_pause: bool) -> tuple[Audio, WordStarts]:
        """Speak a text. Cancelling removes the request from the queue, or kills the process if it is running.

        Args:
            text: plain text, as `sanitise` returns it.
            voice: file of the voice.
            rate: words per minute.
            pitch: 0 to 99.
            end_pause: whether the last sentence is followed by the library's silence.

        Raises:
            BackendUnavailable: the library is missing or does not start.
            BackendTimeout: the library did not answer in time.
            BackendError: the library failed on this text.
        """
        spoken = await self._submit(_QueuedRequest(EspeakRequest(text, voice, rate, pitch, end_pause)))
        assert spoken is not None
        return spoken

    async def stop(self) -> None:
        """End the process after the pending requests. The next request starts another."""
        if self._process is not None:
            await self._submit(_QueuedRequest(None))

    async def _submit(self, queued: _QueuedRequest) -> _Spoken | None:
        self.start()
        while True:
            try:
                self._queue.put_nowait(queued)
                break
            except queue.Full:
                await asyncio.sleep(_RETRY_SECONDS)
        try:
            return await asyncio.wrap_future(queued.future)
        except asyncio.CancelledError:
            self._abandon(queued)
            raise

    def _abandon(self, queued: _QueuedRequest) -> None:
        with self._state_lock:
            queued.abandoned = True
            if self._current is queued and self._process is not None:
                self._process.kill()

    def _run_requests(self) -> None:
        with self._protocol_lock, contextlib.suppress(BackendError):  # the first request reports the error
            self._start_process()
        while True:
            queued = self._queue.get()
            if not queued.future.set_running_or_notify_cancel():
                continue
            with self._state_lock:
                self._current = queued
            result: _Spoken | BaseException | None
            try:
                with self._protocol_lock:
                    result = self._process_request(queued)
            except Exception as error:
                result = error
            with self._state_lock:
                self._current = None
            if isinstance(result, BaseException):
                queued.future.set_exception(result)
            else:
                queued.future.set_result(result)

    def _process_request(self, queued: _QueuedRequest) -> _Spoken | None:
        if queued.request is None:
            self._end_process()
            return None
        request = queued.request
        message: _WireRequest = (request.text, str(request.voice), request.rate, request.pitch, request.end_pause)
        for _ in range(2):  # cancelling an earlier request may have killed the process
            if queued.abandoned or self._exiting:
                break
            process = self._process or self._start_process()
            try:
                answer = _ask(process, message)
            except EOFError:
                self._end_process()
                continue
            except TimeoutError:
                self._end_process()
                raise BackendTimeout(f"espeak-ng did not answer within {_TIMEOUT_SECONDS:.0f} s; give a shorter text") from None
            if isinstance(answer, str):
                raise BackendError(f"espeak-ng failed: {answer}")
            pcm, words = answer
            samples = np.frombuffer(pcm, np.int16).astype(np.float32) / np.float32(32768)
            return Audio(samples, RATE), tuple(words)
        raise BackendError(f"espeak-ng crashed on {request.text[:60]!r} with {request.voice.name}; change the text or the voice")

    def _start_process(self) -> subprocess.Popen[bytes]:
        library, data = _library()
        command = [sys.executable, "-I", "-S", str(_SCRIPT), str(library), str(data)]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise BackendUnavailable(f"cannot start {sys.executable} for espeak-ng: {error}") from error
        self._process = process
        try:
            rate = _receive(process)
        except (EOFError, TimeoutError):
            rate = "its process ended immediately"
        if rate != RATE:
            self._end_process()
            raise BackendUnavailable(f"espeak-ng does not start from {library}: {rate}; {_INSTALL_ADVICE}")
        return process

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _close(process)

    def _exit(self) -> None:
        """Kill the child process at interpreter exit."""
        with self._state_lock:
            self._exiting = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _before_fork(self) -> None:
        self._protocol_lock.acquire()
        self._state_lock.acquire()

    def _after_fork(self) -> None:
        self._state_lock.release()
        self._protocol_lock.release()

    def _after_fork_in_child(self) -> None:
        """Start without a thread and a child process, because the existing ones belong to the parent."""
        process = self._process
        self._reset()
        if process is not None:
            process.returncode = 0  # only the parent can wait for it
            _close(process)


def _close(process: "subprocess.Popen[bytes]") -> None:
    """Close the pipes of a process and wait for its end."""
    with contextlib.suppress(OSError):  # unread data in a pipe of a dead process
        process.__exit__(None, None, None)


def _ask(process: "subprocess.Popen[bytes]", message: _WireRequest) -> Any:
    """Send one request and return its answer.

    Raises:
        EOFError: the process died.
        TimeoutError: the process did not answer.
    """
    assert process.stdin is not None
    try:
        marshal.dump(message, process.stdin)
        process.stdin.flush()
    except OSError as error:
        raise EOFError from error
    return _receive(process)


def _receive(process: "subprocess.Popen[bytes]") -> Any:
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(_TIMEOUT_SECONDS * 1000):
        raise TimeoutError
    try:
        return marshal.load(process.stdout)
    except ValueError as error:  # the message is truncated
        raise EOFError from error


WORKER = EspeakWorker()
atexit.register(WORKER._exit)
os.register_at_fork(before=WORKER._before_fork, after_in_parent=WORKER._after_fork, after_in_child=WORKER._after_fork_in_child)
