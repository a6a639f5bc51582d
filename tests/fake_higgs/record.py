"""What a fake server has received, and what it does next."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from .faults import Fault

if TYPE_CHECKING:
    from .options import Options

CONTROL = "/fake"
"""Where a fake that runs by hand is told to misbehave. Nothing there is recorded."""

SPEECH_PATHS = ("/v1/audio/speech", "/v1/chat/completions")


@dataclass(slots=True, eq=False)
class Received:
    """A request, and what became of it. All times are of `time.monotonic`, in seconds.

    Attributes:
        headers: by name in small letters.
        client: address and port that it came from: requests of one connection have the same.
        arrived: when its head was there.
        fault: what was made to go wrong.
        status: of the answer; None until there is one.
        sent: when each part of the answer's body was sent.
        answered: when the answer was complete.
        left: when the client closed the connection before that.
        ended: set once it is answered or the client has left.
    """

    method: str
    path: str
    headers: dict[str, str]
    client: tuple[str, int] | None
    arrived: float
    body: bytes = b""
    fault: Fault | None = None
    status: int | None = None
    sent: list[float] = field(default_factory=list)
    answered: float | None = None
    left: float | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def mark_answered(self) -> None:
        self.answered = time.monotonic()
        self.ended.set()

    def mark_left(self) -> None:
        self.left = time.monotonic()
        self.ended.set()


class Fake:
    """A fake server as a test sees it.

    Attributes:
        options: how it behaves.
        url: its base URL, with ``/v1``; empty until `serve` has started it.
        requests: everything received, in order of arrival.
        voices: the registered voices, id to title.
        failures: what broke in the fake itself. `serve` raises it at the end, so that no test takes it for a misbehaviour.
    """

    def __init__(self, options: "Options") -> None:
        self.options = options
        self.url = ""
        self.requests: list[Received] = []
        self.voices: dict[str, str | None] = {}
        self.failures: list[BaseException] = []
        self._faults: dict[str, Iterator[Fault | None]] = {}
        self.misbehave(options.fault, times=options.fault_times)

    def misbehave(self, fault: Fault | None, *, times: int | None = None, after: int = 0, path: str | None = None) -> None:
        """From now on ``after`` good answers, then ``times`` bad ones (None: for good), then good ones again.

        Only answers at ``path`` are counted and spoiled; None is every path that gives speech.
        """
        for each in SPEECH_PATHS if path is None else (path,):
            self._faults[each] = chain(repeat(None, after), repeat(fault) if times is None else repeat(fault, times))

    def next_fault(self, path: str) -> Fault | None:
        """What is to go wrong with the request that has just come."""
        return next(self._faults.get(path, iter(())), None)
