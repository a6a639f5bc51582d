"""Who may ask, and how much they may send: API keys, the loopback rule, and bounds on headers and bodies.

`Guard` is plain ASGI and stands around the whole application, within CORS. It lets streams and disconnects through untouched.
"""

import asyncio
import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from api.rate_limit import Retry, address_identity
from prosody_tagger.errors import BadInput

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Refuse = Callable[[int, str, str, Mapping[str, str]], App]
"""Makes the answer to a refused request, of status, code, message and headers; it sees the path when it is called."""

PUBLIC = ("/live", "/ready")
"""Paths that whatever watches over the service asks for, without a key and as often as it likes."""

SHORT_KEY = 16
"""Keys with fewer characters can be guessed, unless they are only used on one machine."""

MAX_HEADERS = 100
MAX_HEADER_BYTES = 16_000
MAX_TARGET_BYTES = 8_000
MIN_RATE = 20_000
"""The slowest that a long body may come, bytes a second."""

_LINGER = 5.0  # seconds that a client which sends too much is listened to, so that it can read why it is refused
_KEY = re.compile(r"[!-+\--~]{1,512}")  # what a header can carry, without the comma
_LENGTH = re.compile(rb"[0-9]{1,18}")
_BEARER = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]{2,45}\]|[^\s/@\[\]:,]{1,253})(?::[0-9]{0,5})?", re.IGNORECASE | re.ASCII)
_CREDENTIALS = (b"authorization", b"x-api-key")

_log = logging.getLogger(__name__)


def _comma_separated(value: object) -> object:
    return tuple(item for part in value.split(",") if (item := part.strip())) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]
"""Several words, in the environment with commas between."""


class SecuritySettings(BaseModel):
    """Who may use the service, and how much a request may hold.

    Attributes:
        keys: API keys with commas between. Where some are set they are asked for everywhere; where none is, the service answers
            on loopback only.
        open: answer everybody without a key, beyond loopback too.
        origins: origins of web pages that may use the service, such as ``https://app.example.com``; none by default.
        hosts: further names under which a service that asks for no key may be reached on loopback.
        max_body: most bytes of a body that carries text.
        max_upload: most bytes of a body that carries recordings.
        body_timeout: seconds in which a body has to come; a long one has a second more for every `MIN_RATE` bytes.
    """

    # A broken setting is not shown in the error: it may be a key.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    keys: SecretStr | None = None
    open: bool = False
    origins: Names = ()
    hosts: Names = ()
    max_body: int = Field(default=1_000_000, ge=1_000)
    max_upload: int = Field(default=12_000_000, ge=1_000)
    body_timeout: float = Field(default=10.0, gt=0, le=600)

    @field_validator("keys")
    @classmethod
    def _fit_header(cls, keys: SecretStr | None) -> SecretStr | None:
        text = keys.get_secret_value() if keys else ""
        return SecretStr(",".join(_split_keys(text))) if text.strip() else None

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, _, host = origin.partition("://")
            if origin != "*" and not (scheme in ("http", "https") and _HOST.fullmatch(host)):
                raise ValueError("give origins such as https://app.example.com, without a path, or *")
        return tuple(origin.lower() for origin in origins)

    @field_validator("hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HOST.fullmatch(host) for host in hosts):
            raise ValueError("give names of hosts such as voice.example.com")
        return tuple(_host_name(host) for host in hosts)

    @model_validator(mode="after")
    def _says_one_thing(self) -> "SecuritySettings":
        if self.open and self.keys:
            raise ValueError("keys are set, and so is open, which asks for none; take one of them away")
        return self

    def requires_key(self, host: str) -> bool:
        """Whether a service that listens on ``host`` may only be used with a key."""
        return self.keys is not None or not (self.open or is_loopback(host))

    def check_host(self, host: str) -> None:
        """To be called before the service listens on ``host``.

        Raises:
            BadInput: it would be reached from other machines, there are no keys, and nobody said that it is to be open.
        """
        if self.requires_key(host) and self.keys is None:
            raise BadInput(
                f"the service would listen on {host!r}, which other machines reach, and there are no API keys; set "
                "PROSODY_API__KEYS to one or more, with commas between, or listen on 127.0.0.1, or set PROSODY_API__OPEN=true "
                "if everybody may use it"
            )


class Keys:
    """The API keys, as digests made with a secret of this process; neither they nor their lengths can be read back."""

    def __init__(self, text: str) -> None:
        """``text`` holds keys with commas between.

        Raises:
            ValueError: it holds none, or one with a character that no header can carry. The message does not show it.
        """
        keys = _split_keys(text)
        self._secret = secrets.token_bytes(32)
        self._digests = tuple(self._digest(key.encode()) for key in keys)
        self.short = sum(len(key) < SHORT_KEY for key in keys)

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        return f"<{len(self)} API keys>"

    def find(self, given: bytes) -> str | None:
        """Which key this is, as ``key 1``, ``key 2`` and so on; None if it is none. All keys are compared, whatever is given."""
        digest = self._digest(given)
        found = None
        for number, known in enumerate(self._digests, 1):
            if hmac.compare_digest(digest, known):
                found = f"key {number}"
        return found

    def _digest(self, key: bytes) -> bytes:
        return hmac.digest(self._secret, key, "sha256")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a request is not answered."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Guard:
    """Refuses what may not reach the application.

    What it lets through carries ``scope["state"]["identity"]``, such as ``key 1`` or ``address 192.0.2.7``: the name of the
    client for logs and limits. The headers that hold a key are taken out, so nothing further in can tell it.
    """

    def __init__(
        self,
        app: App,
        settings: SecuritySettings,
        *,
        refuse: Refuse,
        host: str = "127.0.0.1",
        check: Callable[[str], Retry | None] | None = None,
        public: Collection[str] = PUBLIC,
        uploads: Collection[str] = (),
    ) -> None:
        """
        Args:
            refuse: makes the answer to a refused request.
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
        self._keys = Keys(settings.keys.get_secret_value()) if settings.keys else None
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
            answer = partial(self._answer, scope=scope, receive=receive, send=send)
            return await _Exchange(receive, send, answer, limit, self._settings.body_timeout).run(self._app, scope)
        return await self._answer(refusal, refusal.status == 413, scope, receive, send)

    def _refusal(self, scope: Scope, path: str, limit: int) -> _Refusal | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if refusal := _too_much_head(scope) or _wrong_length(headers, limit):
            return refusal
        given = _credentials(headers)
        scope["headers"] = [(name, value) for name, value in headers if name.lower() not in _CREDENTIALS]
        if path in self._public:
            identity = address_identity(scope.get("client"))
            refusal = None
        else:
            identity, refusal = self._who(scope, given)
            if self._check is not None and (retry := self._check(identity)):
                refusal = _Refusal(429, "rate_limit_exceeded", retry.message, retry.headers)
        scope.setdefault("state", {})["identity"] = identity
        return refusal

    def _who(self, scope: Scope, given: list[bytes]) -> tuple[str, _Refusal | None]:
        """The client's name, and why it is not let in. Without a valid key it is its address."""
        found = [name for key in given if (name := self._keys.find(key))] if self._keys else []
        if found:
            return found[0], None
        address = address_identity(scope.get("client"))
        if self._keys is None:
            return address, None if self._settings.open else self._beyond_loopback(scope)
        what, error = ("the API key is not valid", ', error="invalid_token"') if given else ("an API key is needed", "")
        message = f"{what}; send one in the header Authorization, as Bearer KEY, or in X-API-Key"
        code = "invalid_api_key" if given else "missing_api_key"
        return address, _Refusal(401, code, message, {"WWW-Authenticate": f'Bearer realm="prosody"{error}'})

    def _beyond_loopback(self, scope: Scope) -> _Refusal | None:
        """Without keys only this machine is answered, and no web page that its user happens to look at."""
        server = scope.get("server")
        if server and _is_address(server[0]) and not is_loopback(server[0]):
            return _Refusal(403, "no_keys_set", "no API keys are set, so the service answers on its own machine only; set keys")
        sent = {name: value.decode("latin-1").lower() for name, value in scope["headers"] if name in (b"host", b"origin")}
        host, origin = sent.get(b"host", ""), sent.get(b"origin")
        if host and not self._is_local_name(host):
            return _Refusal(403, "wrong_host", "without API keys the service answers to names of its own machine only; see hosts")
        known = (f"http://{host}", f"https://{host}", *self._settings.origins)
        if origin is not None and origin not in known and "*" not in known:
            return _Refusal(403, "wrong_origin", "without API keys the service answers no web pages of others; see origins")
        return None

    def _is_local_name(self, host: str) -> bool:
        """Whether no stranger can have had this name point here: an address, a name without a dot, or one that is allowed."""
        if not _HOST.fullmatch(host):
            return False
        name = _host_name(host)
        return "." not in name or _is_address(name) or name.endswith(".localhost") or name in self._settings.hosts

    async def _answer(self, refusal: _Refusal, linger: bool, scope: Scope, receive: Receive, send: Send) -> None:
        """``linger``: the client is still sending what nobody wants."""
        headers = dict(refusal.headers)
        if refusal.status in (408, 413) and scope.get("http_version", "1.1").startswith("1"):
            headers["Connection"] = "close"
        app = self._refuse(refusal.status, refusal.code, refusal.message, headers)
        await app(scope, receive, _lingering(receive, send) if linger else send)


class _Exchange:
    """A request that was let in: its body is counted and timed as it comes."""

    def __init__(
        self, receive: Receive, send: Send, answer: Callable[[_Refusal, bool], Awaitable[None]], limit: int, timeout: float
    ) -> None:
        self._receive, self._send, self._answer, self._limit, self._timeout = receive, send, answer, limit, timeout
        self._received = 0
        self._waited = 0.0
        self._whole = self._started = self._refused = False

    async def run(self, app: App, scope: Scope) -> None:
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:
            # It was told that its client is gone, and mostly says so; the client has its answer.
            if not self._refused:
                raise
            _log.info("after its body was refused, a request ended with %s", type(error).__name__)

    async def receive(self) -> Message:
        if self._refused:
            return {"type": "http.disconnect"}
        if self._whole:
            return await self._receive()
        clock = asyncio.get_running_loop().time
        began, allowed = clock(), self._timeout + self._received / MIN_RATE
        try:
            async with asyncio.timeout_at(began + allowed - self._waited):
                message = await self._receive()
        except TimeoutError:
            why = f"the body did not come within {allowed:.0f} s; send it faster"
            return await self._refuse(_Refusal(408, "body_timeout", why), linger=False)
        self._waited += clock() - began
        self._received += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._received > self._limit:
            return await self._refuse(_too_large(self._limit), linger=not self._whole)
        return message

    async def send(self, message: Message) -> None:
        if not self._refused:
            self._started = True
            await self._send(message)

    async def _refuse(self, refusal: _Refusal, *, linger: bool) -> Message:
        if not self._started:
            self._refused = True
            await self._answer(refusal, linger)
        return {"type": "http.disconnect"}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on ``host``, a name or an address."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    return ((address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address).is_loopback


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _split_keys(text: str) -> list[str]:
    """The keys of a setting. What is wrong with one is said without showing it."""
    keys = [key for part in text.split(",") if (key := part.strip())]
    if not keys:
        raise ValueError("there is no key between the commas; give one or more")
    for number, key in enumerate(keys, 1):
        if not _KEY.fullmatch(key):
            raise ValueError(f"key {number} is over 512 characters, or holds a space or a character that no HTTP header can carry")
    return keys


def _host_name(host: str) -> str:
    """The name or address in a Host header, without the port."""
    found = _HOST.fullmatch(host)
    return found["name"].strip("[]").lower().rstrip(".") if found else ""


def _path(scope: Scope) -> str:
    """The path below the one at which the service is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _credentials(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    given = []
    for name, value in headers:
        if name.lower() == b"x-api-key":
            given.append(value.strip())
        elif name.lower() == b"authorization" and (bearer := _BEARER.fullmatch(value.strip())):
            given.append(bearer[1])
    return given


def _too_much_head(scope: Scope) -> _Refusal | None:
    headers = scope["headers"]
    target = len(scope.get("raw_path") or scope["path"].encode("utf-8", "replace")) + len(scope.get("query_string", b""))
    if target > MAX_TARGET_BYTES:
        return _Refusal(414, "target_too_long", f"the address has {target} bytes; at most {MAX_TARGET_BYTES} are read")
    total = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or total > MAX_HEADER_BYTES:
        most = f"at most {MAX_HEADERS} with {MAX_HEADER_BYTES} bytes are read"
        return _Refusal(431, "headers_too_large", f"there are {len(headers)} headers with {total} bytes; {most}")
    return None


def _wrong_length(headers: list[tuple[bytes, bytes]], limit: int) -> _Refusal | None:
    lengths = {value.strip() for name, value in headers if name.lower() == b"content-length"}
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(next(iter(lengths))):
        return _Refusal(
            400, "invalid_content_length", "the header Content-Length is not one number; send the body's length in bytes"
        )
    return _too_large(limit) if int(lengths.pop()) > limit else None


def _too_large(limit: int) -> _Refusal:
    return _Refusal(413, "body_too_large", f"the body is longer than {limit} bytes; send less at once")


def _lingering(receive: Receive, send: Send) -> Send:
    """``send`` that reads on for a while before the answer ends.

    A connection that is closed while its client still sends is reset, and the client never sees the answer.
    """

    async def linger(message: Message) -> None:
        if message["type"] != "http.response.body" or message.get("more_body", False):
            return await send(message)
        await send({**message, "more_body": True})
        try:
            async with asyncio.timeout(_LINGER):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        return await send({"type": "http.response.body", "body": b"", "more_body": False})

    return linger
