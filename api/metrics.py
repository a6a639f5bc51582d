"""Prometheus metrics of one service."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ai_core.pipeline import Result

if TYPE_CHECKING:
    from api.admission import Limiter

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Counters, gauges and histograms, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("prosody_requests", "Requests, by path and status.", ("path", "status"), registry=registry)
        self.seconds = Histogram(
            "prosody_request_seconds", "Time to the end of the response.", ("path",), buckets=_SECONDS, registry=registry
        )
        self.cancelled = Counter(
            "prosody_cancellations", "Clients that disconnected before the end of the response.", registry=registry
        )
        self.waiting = Gauge("prosody_queue_depth", "Texts in the queue.", ("backend",), registry=registry)
        self.running = Gauge("prosody_running", "Texts being spoken.", ("backend",), registry=registry)
        self._first_audio = Histogram(
            "prosody_first_audio_seconds", "Time to the first audio.", ("backend",), buckets=_SECONDS, registry=registry
        )
        self._factor = Histogram(
            "prosody_real_time_factor", "Processing time per second of audio.", ("backend",), buckets=_FACTORS, registry=registry
        )
        self._audio = Counter("prosody_audio_seconds", "Seconds of audio produced.", ("backend",), registry=registry)
        self._marks = Counter(
            "prosody_marks", "Marks, by kind, that were asked, realised and dropped.", ("kind", "outcome"), registry=registry
        )
        self._fallbacks = Counter("prosody_fallbacks", "Texts spoken by the fallback backend.", ("backend",), registry=registry)

    def watch(self, limiter: "Limiter") -> None:
        """Report the running and waiting texts of ``limiter`` whenever the metrics are read."""
        self.waiting.labels(limiter.name).set_function(_reader(limiter, "waiting"))
        self.running.labels(limiter.name).set_function(_reader(limiter, "running"))

    @contextmanager
    def speaking(self, backend: str) -> "Iterator[SpeechMetrics]":
        """Count one text while it is spoken. Its real-time factor counts only if it is spoken to its end."""
        speech = SpeechMetrics(self, backend)
        yield speech
        speech.complete()

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class SpeechMetrics:
    """The figures of one text."""

    def __init__(self, metrics: Metrics, backend: str) -> None:
        self._metrics, self._backend = metrics, backend
        self._audio_seconds = self._total_seconds = 0.0
        self._fell_back = False

    def first_audio(self, seconds: float) -> None:
        """Record the time to the first audio."""
        self._metrics._first_audio.labels(self._backend).observe(seconds)

    def add(self, result: Result) -> None:
        """Count the audio, marks and fallback of one result."""
        metrics = self._metrics
        metrics._audio.labels(result.backend).inc(result.audio.seconds)
        for mark in result.marked.marks:
            metrics._marks.labels(mark.kind, "asked").inc()
            metrics._marks.labels(mark.kind, "dropped" if mark in result.unrealised else "realised").inc()
        if result.fallback is not None and not self._fell_back:
            metrics._fallbacks.labels(result.fallback).inc()
            self._fell_back = True
        self._audio_seconds += result.audio.seconds
        self._total_seconds = result.timings["total"]

    def complete(self) -> None:
        """Record the real-time factor of a text that was spoken to its end."""
        if self._audio_seconds:
            self._metrics._factor.labels(self._backend).observe(self._total_seconds / self._audio_seconds)


def _reader(limiter: "Limiter", name: str) -> Callable[[], float]:
    return lambda: float(getattr(limiter, name))
