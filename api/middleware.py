"""Request middleware: the request id, one log line and the counters of every request."""

import logging
import re
import time
import uuid

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import Metrics

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_log = logging.getLogger("api.requests")


class RequestMiddleware:
    """Plain ASGI. It keeps a valid ``X-Request-Id`` of the client or makes one, and sends it with the response."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        sent = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = sent.decode() if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        start = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                self._record(scope, status, time.perf_counter() - start)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        # The path of the route, not of the request: what clients send must not become label values.
        route = getattr(scope.get("route"), "path", None) or "other"
        disconnected = bool(state.get("disconnected")) or status in (0, 499)
        self._metrics.requests.labels(route, "left" if disconnected else str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if disconnected:
            self._metrics.cancelled.inc()
        _log.info(
            "request",
            extra={
                "method": scope["method"],
                "path": route,
                "status": "left" if disconnected else status,
                "seconds": round(seconds, 4),
                "client": state.get("identity"),
            },
        )
