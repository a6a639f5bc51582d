"""Requests that a fake server has received, and the faults of its next responses."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from .faults import Fault

if TYPE_CHECKING:
    from .options import Options

CONTROL = "/fake"
"""Path of the routes that control a running fake. Requests to it are not recorded."""

SPEECH_PATHS = ("/v1/audio/speech", "/v1/chat/completions")


@dataclass(slots=True, eq=False)
class ReceivedRequest:
    """A request and its outcome. All times are of `time.monotonic`, in seconds.

    Attributes:
        headers: by name in lower case.
        client: address and port of the client: requests over one connection have the same.
        arrived: when its headers had arrived.
        fault: the fault of its response.
        status: of the response; None before there is one.
        sent: when each part of the response body was sent.
        answered: when the response was complete.
        disconnected: when the client closed the connection before the response was complete.
        ended: set when it has been answered, or the client has disconnected.
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
    disconnected: float | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def mark_answered(self) -> None:
        self.answered = time.monotonic()
        self.ended.set()

    def mark_disconnected(self) -> None:
        self.disconnected = time.monotonic()
        self.ended.set()


class Fake:
    """A fake server, as tests use it.

    Attributes:
        options: its options.
        url: its base URL, with ``/v1``; empty until `serve` has started it.
        requests: all requests, in order of arrival.
        held: paths without responses at present; see `hold`.
        voices: titles of the registered voices, by id.
        failures: errors of the fake itself. `serve` raises them at the end, so that no test takes them for a fault.
    """

    def __init__(self, options: "Options") -> None:
        self.options = options
        self.url = ""
        self.requests: list[ReceivedRequest] = []
        self.held: set[str] = set()
        self.voices: dict[str, str | None] = {}
        self.failures: list[BaseException] = []
        self._faults: dict[str, Iterator[Fault | None]] = {}
        self.misbehave(options.fault, times=options.fault_times)

    def misbehave(self, fault: Fault | None, *, times: int | None = None, after: int = 0, path: str | None = None) -> None:
        """From now on send ``after`` good responses, then ``times`` faulty ones (None: without end), then good ones again.

        ``path`` restricts both to one path; None is every path that responds with speech.
        """
        for each in SPEECH_PATHS if path is None else (path,):
            self._faults[each] = chain(repeat(None, after), repeat(fault) if times is None else repeat(fault, times))

    @contextmanager
    def hold(self, path: str) -> Iterator[None]:
        """Send no response at ``path`` until the block ends."""
        self.held.add(path)
        try:
            yield
        finally:
            self.held.remove(path)

    def next_fault(self, path: str) -> Fault | None:
        """Return the fault of the next response at ``path``; None for a good one."""
        return next(self._faults.get(path, iter(())), None)
