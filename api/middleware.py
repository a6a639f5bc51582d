"""Around every request: its id, its line in the log, its counters."""

import logging
import re
import time
import uuid

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import Metrics

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_log = logging.getLogger("api.requests")


class Watch:
    """Plain ASGI. The client's ``X-Request-Id`` is kept if it is one, else one is made; the answer carries it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        name = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = name
        began = time.perf_counter()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=name):
            try:
                await self._app(scope, receive, answer)
            finally:
                self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        # The route's own path, not what was asked for: what strangers send must not become labels.
        route = getattr(scope.get("route"), "path", None) or "other"
        left = bool(state.get("gone")) or status in (0, 499)
        self._metrics.requests.labels(route, "left" if left else str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if left:
            self._metrics.cancelled.inc()
        _log.info(
            "request",
            extra={
                "method": scope["method"],
                "path": route,
                "status": "left" if left else status,
                "seconds": round(seconds, 4),
                "client": state.get("identity"),
            },
        )
