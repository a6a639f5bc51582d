"""Security middleware: refuses requests without a valid key, over the rate limit, or with oversized or slow headers and bodies.

It is plain ASGI, wraps the whole application inside CORS, and passes streams and disconnects through unchanged.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.rate_limit import Retry, address_identity
from api.security import MIN_BYTES_PER_SECOND, SHORT_KEY, ApiKeys, SecuritySettings, is_loopback

RefusalApp = Callable[[int, str, str, Mapping[str, str]], ASGIApp]
"""Makes the response to a refused request from status, code, message and headers."""

PUBLIC_PATHS = ("/live", "/ready")
"""Paths for health checks: they need no key and are not counted against the rate limit."""

MAX_HEADERS = 100
MAX_HEADER_BYTES = 16_000
MAX_TARGET_BYTES = 8_000
"""Longest path and query together."""

_DRAIN_SECONDS = 5.0
"""How long the rest of a refused body is read, so that its sender gets to read the response."""

_LENGTH = re.compile(rb"[0-9]{1,18}")
_BEARER = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)
_CREDENTIALS = (b"authorization", b"x-api-key")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a request is refused."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


class SecurityMiddleware:
    """Refuses requests before they reach the application.

    An accepted request carries ``scope["state"]["identity"]``, such as ``key 1`` or ``address 192.0.2.7``: the client's name for
    logs and rate limits. Headers that hold a key are removed, so the application never sees one.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: SecuritySettings,
        *,
        refuse: RefusalApp,
        host: str = "127.0.0.1",
        check: Callable[[str], Retry | None] | None = None,
        public: Collection[str] = PUBLIC_PATHS,
        uploads: Collection[str] = (),
    ) -> None:
        """
        Args:
            refuse: makes the response to a refused request.
            host: where the service listens.
            check: counts a request of a client, as `api.rate_limit.RateLimits.check` does; None counts nothing.
            public: paths that need no key and are not counted.
            uploads: paths whose bodies may be as long as ``max_upload``.

        Raises:
            BadInput: see `SecuritySettings.check_host`.
        """
        settings.check_host(host)
        self._app, self._settings, self._refuse, self._check = app, settings, refuse, check
        self._public, self._uploads = frozenset(public), frozenset(uploads)
        self._keys = ApiKeys(settings.keys.get_secret_value()) if settings.keys else None
        if self._keys and self._keys.short and not is_loopback(host):
            _log.warning("%d of the API keys have fewer than %d characters; make them longer", self._keys.short, SHORT_KEY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        path = _path(scope)
        limit = self._settings.max_upload if path in self._uploads else self._settings.max_body
        refusal = self._refusal(scope, path, limit)
        if scope["type"] == "websocket":
            return await (send({"type": "websocket.close", "code": 1008}) if refusal else self._app(scope, receive, send))
        if refusal is None:
            respond = partial(self._respond, scope=scope, receive=receive, send=send)
            return await _BodyLimit(receive, send, respond, limit, self._settings.body_timeout).run(self._app, scope)
        return await self._respond(refusal, refusal.status == 413, scope, receive, send)

    def _refusal(self, scope: Scope, path: str, limit: int) -> _Refusal | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if refusal := _check_head(scope) or _check_length(headers, limit):
            return refusal
        credentials = _credentials(headers)
        scope["headers"] = [(name, value) for name, value in headers if name.lower() not in _CREDENTIALS]
        if path in self._public:
            identity = address_identity(scope.get("client"))
            refusal = None
        else:
            identity, refusal = self._authenticate(scope, credentials)
            if self._check is not None and (retry := self._check(identity)):
                refusal = _Refusal(429, "rate_limit_exceeded", retry.message, retry.headers)
        scope.setdefault("state", {})["identity"] = identity
        return refusal

    def _authenticate(self, scope: Scope, credentials: list[bytes]) -> tuple[str, _Refusal | None]:
        """Return the client's name, which is its address without a valid key, and why it is refused, if it is."""
        found = [name for key in credentials if (name := self._keys.find(key))] if self._keys else []
        if found:
            return found[0], None
        address = address_identity(scope.get("client"))
        if self._keys is None:
            return address, None if self._settings.open else self._check_local(scope)
        problem, error = ("the API key is not valid", ', error="invalid_token"') if credentials else ("an API key is needed", "")
        message = f"{problem}; send one in the header Authorization, as Bearer KEY, or in X-API-Key"
        code = "invalid_api_key" if credentials else "missing_api_key"
        return address, _Refusal(401, code, message, {"WWW-Authenticate": f'Bearer realm="prosody"{error}'})

    def _check_local(self, scope: Scope) -> _Refusal | None:
        server = scope.get("server")
        sent = {name: value.decode("latin-1").lower() for name, value in scope["headers"] if name in (b"host", b"origin")}
        problem = self._settings.host_problem(server[0] if server else None, sent.get(b"host", ""), sent.get(b"origin"))
        return None if problem is None else _Refusal(403, *problem)

    async def _respond(self, refusal: _Refusal, drain: bool, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response to a refused request; with ``drain``, its client is still sending the body."""
        headers = dict(refusal.headers)
        if refusal.status in (408, 413) and scope.get("http_version", "1.1").startswith("1"):
            headers["Connection"] = "close"
        app = self._refuse(refusal.status, refusal.code, refusal.message, headers)
        await app(scope, receive, _draining(receive, send) if drain else send)


class _BodyLimit:
    """Limits the size and the time of the body of one accepted request."""

    def __init__(
        self, receive: Receive, send: Send, respond: Callable[[_Refusal, bool], Awaitable[None]], limit: int, timeout: float
    ) -> None:
        self._receive, self._send, self._respond, self._limit, self._timeout = receive, send, respond, limit, timeout
        self._received = 0
        self._waited = 0.0
        self._complete = self._started = self._refused = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:
            # After a refusal the application sees a disconnect and usually raises; the response was sent already.
            if not self._refused:
                raise
            _log.info("after its body was refused, a request ended with %s", type(error).__name__)

    async def receive(self) -> Message:
        if self._refused:
            return {"type": "http.disconnect"}
        if self._complete:
            return await self._receive()
        # Only the time spent waiting for the client counts, not the application's own.
        clock = asyncio.get_running_loop().time
        start, allowed = clock(), self._timeout + self._received / MIN_BYTES_PER_SECOND
        try:
            async with asyncio.timeout_at(start + allowed - self._waited):
                message = await self._receive()
        except TimeoutError:
            reason = f"the body did not arrive within {allowed:.0f} s; send it faster"
            return await self._refuse(_Refusal(408, "body_timeout", reason), drain=False)
        self._waited += clock() - start
        self._received += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._received > self._limit:
            return await self._refuse(_too_large(self._limit), drain=not self._complete)
        return message

    async def send(self, message: Message) -> None:
        if not self._refused:
            self._started = True
            await self._send(message)

    async def _refuse(self, refusal: _Refusal, *, drain: bool) -> Message:
        if not self._started:
            self._refused = True
            await self._respond(refusal, drain)
        return {"type": "http.disconnect"}


def _path(scope: Scope) -> str:
    """Return the path below the one at which the service is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _credentials(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Return every key that the request sends, in either header."""
    found = []
    for name, value in headers:
        if name.lower() == b"x-api-key":
            found.append(value.strip())
        elif name.lower() == b"authorization" and (bearer := _BEARER.fullmatch(value.strip())):
            found.append(bearer[1])
    return found


def _check_head(scope: Scope) -> _Refusal | None:
    """Return why the path or the headers are too long, if they are."""
    headers = scope["headers"]
    target = len(scope.get("raw_path") or scope["path"].encode("utf-8", "replace")) + len(scope.get("query_string", b""))
    if target > MAX_TARGET_BYTES:
        return _Refusal(414, "target_too_long", f"path and query have {target} bytes; at most {MAX_TARGET_BYTES} are accepted")
    total = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or total > MAX_HEADER_BYTES:
        limit = f"at most {MAX_HEADERS} with {MAX_HEADER_BYTES} bytes are accepted"
        return _Refusal(431, "headers_too_large", f"there are {len(headers)} headers with {total} bytes; {limit}")
    return None


def _check_length(headers: list[tuple[bytes, bytes]], limit: int) -> _Refusal | None:
    """Return why the declared length of the body is refused, if it is."""
    lengths = {value.strip() for name, value in headers if name.lower() == b"content-length"}
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(next(iter(lengths))):
        return _Refusal(
            400, "invalid_content_length", "the header Content-Length is not one number; send the body's length in bytes"
        )
    return _too_large(limit) if int(lengths.pop()) > limit else None


def _too_large(limit: int) -> _Refusal:
    return _Refusal(413, "body_too_large", f"the body is longer than {limit} bytes; send less per request")


def _draining(receive: Receive, send: Send) -> Send:
    """Return a ``send`` that reads the rest of the request's body before it ends the response.

    Closing a connection while its client still sends resets it, and the client never sees the response.
    """

    async def drain_and_send(message: Message) -> None:
        if message["type"] != "http.response.body" or message.get("more_body", False):
            return await send(message)
        await send({**message, "more_body": True})
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        return await send({"type": "http.response.body", "body": b"", "more_body": False})

    return drain_and_send
