"""espeak-ng, as the wheel `espeakng-loader` brings it: its voices, and the one worker of this process that speaks with it.

The worker is a thread with a bounded queue. It owns a child process (`synth.embedded.espeak_process`) in which the library
lives, starts it at the first request and again if it has died. Any number of event loops and threads may ask it. A text that
crashes the library is an error for its own caller and nothing to any other. It needs /dev/fd and poll (Linux, macOS).
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
from numpy.typing import NDArray

from synth.audio.pitch import LOWEST_HZ
from synth.errors import BackendError, BackendTimeout, BackendUnavailable

RATE = 22_050
"""Sample rate of the library's voices, Hz."""

SLOWEST, FASTEST = 80, 449
"""Words a minute. The library speaks no slower, and from 450 on it compresses its sound, which its word times do not follow."""

_QUEUE_LENGTH = 64
_FULL_QUEUE_SECONDS = 0.005
_PATIENCE_SECONDS = 60.0
_HOW_TO_GET = "run: pip install --force-reinstall espeakng-loader"
_SCRIPT = Path(__file__).with_name("espeak_process.py")


@dataclass(frozen=True, slots=True)
class EspeakVoice:
    """A voice of the library: its file, its name in English, and its languages as BCP 47 tags, the main one first."""

    path: Path
    title: str
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What to speak and how: ``rate`` in words a minute, ``pitch`` 0 to 99, ``end_pause`` the silence after a sentence."""

    text: str
    voice: Path
    rate: int
    pitch: int
    end_pause: bool


@dataclass(frozen=True, slots=True)
class Utterance:
    """What the library made of a request.

    Attributes:
        samples: float32 of shape [n] in [-1, 1], at `RATE`.
        words: for each word that the library found, in order: the offset into the text, the sample at which it starts.
    """

    samples: NDArray[np.float32]
    words: tuple[tuple[int, int], ...]


SILENT = Utterance(np.zeros(0, np.float32), ())


LONGEST_RUN = 60
"""Characters without a space that the library is given. It loses the end of a run of more than about 100."""

# What reaches the library: letters, marks, digits, the punctuation that shapes its intonation, and signs that it has words for.
# Other symbols crash it in one language or another: backticks, brackets, circled letters, Braille.
_UNREADABLE = regex.compile(
    r"[^\p{L}\p{M}\p{N}\u200c\u200d"
    r".,;:!?…—–\-'’\"“”„«»()¿¡/%&@#$€£¥+=*°_~।॥。、，！？；：؟،؛۔‥・།་၊။៖។፡።፣፤፥፦፧՜՝՞։־]"
)
_PILE = regex.compile(r"(?<!\p{L}\p{M}{0,4})\p{M}++|(?<=\p{M}{4})\p{M}++")
_INNER_STOP = regex.compile(r"\.(?=[^\x00-\x7f])")
_LONG_RUN = regex.compile(rf"\S{{{LONGEST_RUN}}}(?=\S)")


def lowest_pitch(pitch: int) -> float:
    """About the lowest pitch in Hz of a voice whose own is ``pitch``, 0 to 99: 50 Hz in the middle, an octave every 50 steps."""
    return LOWEST_HZ * float(2.0 ** ((pitch - 50) / 50))


def readable(text: str) -> str:
    """``text`` without what the library cannot read or what breaks it, white space trimmed to single spaces.

    Control characters, private and unassigned ones and most symbols become spaces; a letter keeps four combining marks; a run
    longer than `LONGEST_RUN` is cut.
    """
    text = _PILE.sub("", _UNREADABLE.sub(" ", text))
    text = _LONG_RUN.sub(r"\g<0> ", _INNER_STOP.sub(". ", text))
    return " ".join(text.split())


@lru_cache(maxsize=1)
def voices() -> tuple[EspeakVoice, ...]:
    """The voices that espeak_ListVoices lists, less those that lack a dictionary, in order of their files' names.

    MBROLA's voices, which need data that the wheel does not bring, are not among them.

    Raises:
        BackendUnavailable: the package is missing or holds no voices.
    """
    _, data = _library()
    dictionaries = {path.name.removesuffix("_dict") for path in data.glob("*_dict")}
    files = sorted((path for path in (data / "lang").rglob("*") if path.is_file()), key=lambda path: path.name.lower())
    found = tuple(voice for voice, dictionary in map(_read_voice, files) if dictionary in dictionaries)
    if not found:
        raise BackendUnavailable(f"there are no espeak-ng voices in {data}; {_HOW_TO_GET}")
    return found


def _read_voice(path: Path) -> tuple[EspeakVoice, str]:
    """A voice file, and the dictionary that it needs. Each line is an attribute and its value; comments follow ``//``."""
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
    """The library and its data folder."""
    try:
        import espeakng_loader

        return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())
    except (ImportError, RuntimeError) as error:
        raise BackendUnavailable(f"the embedded voice needs the package espeakng-loader ({error}); {_HOW_TO_GET}") from error


_Wire = tuple[str, str, int, int, bool]


@dataclass(slots=True, eq=False)
class _Job:
    """A request and who waits for it. Without a request: end the process."""

    request: Request | None
    future: "Future[Utterance | None]" = field(default_factory=Future)
    abandoned: bool = False


class Worker:
    """The only one that speaks with the library. `WORKER` is this process's."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._jobs: queue.Queue[_Job] = queue.Queue(_QUEUE_LENGTH)
        self._state = threading.Lock()  # for the three that follow
        self._thread: threading.Thread | None = None
        self._current: _Job | None = None
        self._exiting = False
        self._talk = threading.Lock()  # held while a request is under way, so that no fork falls into one
        self._process: subprocess.Popen[bytes] | None = None

    def wake(self) -> None:
        """Start the process, if none ever was, while the caller gets its request ready."""
        with self._state:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="espeak", daemon=True)
                self._thread.start()

    async def speak(self, request: Request) -> Utterance:
        """Speak one request. Cancelling takes it out of the queue, or stops the library if it is at it.

        Raises:
            BackendUnavailable: the library is missing or does not start.
            BackendTimeout: it did not answer.
            BackendError: it failed on this text.
        """
        utterance = await self._run(_Job(request))
        assert utterance is not None
        return utterance

    async def rest(self) -> None:
        """End the process once the requests before this one are done. The next request starts another."""
        if self._process is not None:
            await self._run(_Job(None))

    async def _run(self, job: _Job) -> Utterance | None:
        self.wake()
        while True:
            try:
                self._jobs.put_nowait(job)
                break
            except queue.Full:
                await asyncio.sleep(_FULL_QUEUE_SECONDS)
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            self._abandon(job)
            raise

    def _abandon(self, job: _Job) -> None:
        with self._state:
            job.abandoned = True
            if self._current is job and self._process is not None:
                self._process.kill()

    def _serve(self) -> None:
        with self._talk, contextlib.suppress(BackendError):  # the first request will say what is wrong
            self._start()
        while True:
            job = self._jobs.get()
            if not job.future.set_running_or_notify_cancel():
                continue
            with self._state:
                self._current = job
            result: Utterance | BaseException | None
            try:
                with self._talk:
                    result = self._do(job)
            except Exception as error:
                result = error
            with self._state:
                self._current = None
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)

    def _do(self, job: _Job) -> Utterance | None:
        if job.request is None:
            self._end()
            return None
        request = job.request
        wire: _Wire = (request.text, str(request.voice), request.rate, request.pitch, request.end_pause)
        for _ in range(2):  # an earlier caller may have stopped the process just after it was served
            if job.abandoned or self._exiting:
                break
            process = self._process or self._start()
            try:
                answer = _ask(process, wire)
            except EOFError:
                self._end()
                continue
            except TimeoutError:
                self._end()
                raise BackendTimeout(f"espeak-ng did not answer within {_PATIENCE_SECONDS:.0f} s; give a shorter text") from None
            if isinstance(answer, str):
                raise BackendError(f"espeak-ng failed: {answer}")
            pcm, words = answer
            return Utterance(np.frombuffer(pcm, np.int16).astype(np.float32) / np.float32(32768), tuple(words))
        raise BackendError(f"espeak-ng broke down on {request.text[:60]!r} with {request.voice.name}; change the text or the voice")

    def _start(self) -> subprocess.Popen[bytes]:
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
            rate = "its process ended at once"
        if rate != RATE:
            self._end()
            raise BackendUnavailable(f"espeak-ng does not start from {library}: {rate}; {_HOW_TO_GET}")
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _close(process)

    def _exit(self) -> None:
        """At the end of this process: stop, whatever is under way."""
        with self._state:
            self._exiting = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _before_fork(self) -> None:
        self._talk.acquire()
        self._state.acquire()

    def _after_fork(self) -> None:
        self._state.release()
        self._talk.release()

    def _after_fork_in_child(self) -> None:
        """The thread and the process are the parent's: let go of them and start anew."""
        process = self._process
        self._reset()
        if process is not None:
            process.returncode = 0  # not ours to wait for
            _close(process)


def _close(process: "subprocess.Popen[bytes]") -> None:
    """Close its pipes and wait for its end."""
    with contextlib.suppress(OSError):  # what it did not live to read
        process.__exit__(None, None, None)


def _ask(process: "subprocess.Popen[bytes]", wire: _Wire) -> Any:
    """One request and its answer. Raises EOFError if the process died, TimeoutError if it does not answer."""
    assert process.stdin is not None
    try:
        marshal.dump(wire, process.stdin)
        process.stdin.flush()
    except OSError as error:
        raise EOFError from error
    return _receive(process)


def _receive(process: "subprocess.Popen[bytes]") -> Any:
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(_PATIENCE_SECONDS * 1000):
        raise TimeoutError
    try:
        return marshal.load(process.stdout)
    except ValueError as error:  # cut off in the middle
        raise EOFError from error


WORKER = Worker()
atexit.register(WORKER._exit)
os.register_at_fork(before=WORKER._before_fork, after_in_parent=WORKER._after_fork, after_in_child=WORKER._after_fork_in_child)
