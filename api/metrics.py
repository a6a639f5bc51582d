"""What is counted, for Prometheus."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ai_core.pipeline import Result

if TYPE_CHECKING:
    from api.admission import Gate

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("prosody_requests", "Requests, by path and status.", ("path", "status"), registry=registry)
        self.seconds = Histogram(
            "prosody_request_seconds", "Time to the end of the answer.", ("path",), buckets=_SECONDS, registry=registry
        )
        self.cancelled = Counter("prosody_cancellations", "Clients that left before the end.", registry=registry)
        self.waiting = Gauge("prosody_queue_depth", "Texts that wait.", ("backend",), registry=registry)
        self.running = Gauge("prosody_running", "Texts that are being spoken.", ("backend",), registry=registry)
        self._first = Histogram(
            "prosody_first_audio_seconds", "Time to the first audio.", ("backend",), buckets=_SECONDS, registry=registry
        )
        self._factor = Histogram(
            "prosody_real_time_factor", "Time a second of audio took.", ("backend",), buckets=_FACTORS, registry=registry
        )
        self._audio = Counter("prosody_audio_seconds", "Audio that was made.", ("backend",), registry=registry)
        self._marks = Counter(
            "prosody_marks", "Marks, by kind, that were asked, realised and dropped.", ("kind", "outcome"), registry=registry
        )
        self._fallbacks = Counter("prosody_fallbacks", "Texts that another backend had to speak.", ("backend",), registry=registry)

    def watch(self, gate: "Gate") -> None:
        """Tell the depth of a queue whenever somebody asks."""
        self.waiting.labels(gate.name).set_function(_depth(gate, "waiting"))
        self.running.labels(gate.name).set_function(_depth(gate, "running"))

    @contextmanager
    def speaking(self, backend: str) -> "Iterator[_Speaking]":
        """Count one text while it is spoken, whatever ends it."""
        speaking = _Speaking(self, backend)
        yield speaking
        speaking.done()

    def text(self) -> bytes:
        """Everything, in Prometheus's own form."""
        return generate_latest(self.registry)


class _Speaking:
    """The figures of one text."""

    def __init__(self, metrics: Metrics, backend: str) -> None:
        self._metrics, self._backend = metrics, backend
        self._seconds = self._spent = 0.0
        self._fell_back = False

    def first(self, seconds: float) -> None:
        self._metrics._first.labels(self._backend).observe(seconds)

    def add(self, result: Result) -> None:
        metrics = self._metrics
        metrics._audio.labels(result.backend).inc(result.audio.seconds)
        for mark in result.marked.marks:
            metrics._marks.labels(mark.kind, "asked").inc()
            metrics._marks.labels(mark.kind, "dropped" if mark in result.unrealised else "realised").inc()
        if result.fallback is not None and not self._fell_back:
            metrics._fallbacks.labels(result.fallback).inc()
            self._fell_back = True
        self._seconds += result.audio.seconds
        self._spent = result.timings["total"]

    def done(self) -> None:
        """The text was spoken to its end."""
        if self._seconds:
            self._metrics._factor.labels(self._backend).observe(self._spent / self._seconds)


def _depth(gate: "Gate", name: str) -> Callable[[], float]:
    return lambda: float(getattr(gate, name))
