"""Fuzzing with schemathesis: valid and invalid requests generated from the OpenAPI description, and the faults of the responses."""

import base64
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = (status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance)
SENTENCE = "The train leaves at nine."


@dataclass
class Found:
    """The result of a run.

    Attributes:
        statuses: number of responses by operation and status.
        faults: by operation, status and description of the fault, a request that shows it.
        slowest: seconds of the slowest response, and its request.
        costliest: processor seconds of this process for the costliest one, and its request.
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: dict[tuple[str, int, str], str] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")
    costliest: tuple[float, str] = (0.0, "")

    @property
    def cases(self) -> int:
        return self.statuses.total()

    def count(self, status: int) -> int:
        return sum(times for (_, found), times in self.statuses.items() if found == status)


def fuzz(
    url: str, cases: int, *, seed: int = 0, recording: bytes = b"", progress: Callable[[str], None] = lambda line: None
) -> Found:
    """Send about ``cases`` requests to the service at ``url``, divided among its operations.

    Half of the valid ones get a text, a backend and a ``recording`` that exist: random values seldom do. ``progress`` gets a line
    after each operation.
    """
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found = Found()
    kinds = list(_kinds(schema))
    for number, (operation, mode) in enumerate(kinds):
        left = (cases - found.cases) // (len(kinds) - number)
        _run(operation, mode, max(1, left), seed, url, recording, found)
        progress(f"{found.cases} {operation.label} {mode.value}")
    return found


def _kinds(schema: Any) -> Iterator[tuple[Any, GenerationMode]]:
    """Yield every operation, those with the least to vary first; invalid requests only where there is a field to get wrong."""
    operations = [result.ok() for result in schema.get_all_operations()]
    for operation in sorted(operations, key=lambda operation: (len(operation.body), len(operation.query), operation.label)):
        yield operation, GenerationMode.POSITIVE
        if operation.body or operation.query:
            yield operation, GenerationMode.NEGATIVE


def _run(operation: Any, mode: GenerationMode, cases: int, seed: int, url: str, recording: bytes, found: Found) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
    def once(case: Any, real: bool) -> None:
        if real and mode is GenerationMode.POSITIVE:
            _make_real(case, recording)
        start, used = time.perf_counter(), time.process_time()
        answer = case.call(base_url=url, timeout=60)
        sent = _sent(answer.request)
        found.slowest = max(found.slowest, (time.perf_counter() - start, sent))
        found.costliest = max(found.costliest, (time.process_time() - used, sent))
        found.statuses[operation.label, answer.status_code] += 1
        for fault in _faults(case, answer):
            found.faults.setdefault((operation.label, answer.status_code, fault), _sent(answer.request))

    once()


def _sent(request: Any) -> str:
    return f"{request.method} {request.url} {dict(request.headers)} {(request.body or b'')[:2000]!r}"


def _make_real(case: Any, recording: bytes | str) -> None:
    """Replace generated names by ones that exist; other fields stay as they are."""
    body = case.body
    if not isinstance(body, dict):
        return
    if case.media_type == "application/json":
        recording = base64.b64encode(recording).decode()
    real = {"backend": None, "voice": None, "model": "prosody", "audio": recording, "marked": False, "language": "en"}
    body |= {name: real[name] for name in real.keys() & body.keys()}
    for name in ("text", "input"):
        if isinstance(body.get(name), str):
            body[name] = f"{SENTENCE} {body[name]}"
    if body.get("text") is not None and case.operation.path == "/speak":
        body.pop("input", None)
        body.pop("points", None)
    if body.get("reference"):
        body["reference"] = recording


def _faults(case: Any, answer: Any) -> Iterator[str]:
    busy = answer.status_code == 503 and "retry-after" in answer.headers
    if answer.status_code >= 500 and not busy:
        yield "an error of the service"
    for check in CHECKS:
        try:
            case.validate_response(answer, checks=[check])
        except FailureGroup as group:
            yield from (f"{check.__name__}: {str(failure)[:500]}" for failure in group.exceptions)
