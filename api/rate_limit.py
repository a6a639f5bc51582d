"""Rate limits over a moving window, in memory of bounded size.

Notation and windows are those of the ``limits`` library. Its own memory storage is not used: it never forgets a client, and scans
all of them in a thread after every request.
"""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import NoReturn

from limits import RateLimitItem, parse_many
from limits.storage import MovingWindowSupport, Storage
from limits.strategies import MovingWindowRateLimiter
from pydantic import BaseModel, ConfigDict, Field, field_validator

MAX_AMOUNT = 100_000
"""Largest number of requests that a limit may allow; each is remembered until its window has passed."""

_MAX_HITS = 1_000_000
"""Requests remembered over all clients of one limit: 10 to 40 MB."""


class RateLimitSettings(BaseModel):
    """How often each client may send requests. A client is an API key, or an address if no key is needed.

    Attributes:
        rate_limit: limits for each key, or for each address if no key is needed, such as `60/minute,1000/day` or
            `5 per 10 seconds`, separated by commas.
        max_clients: clients whose requests are counted; beyond that, the one that was quiet for longest is forgotten.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_limit: str | None = None
    max_clients: int = Field(default=10_000, ge=1, le=1_000_000)

    @field_validator("rate_limit")
    @classmethod
    def _check_notation(cls, text: str | None) -> str | None:
        if text is None or not text.strip():
            return None
        for item in _parse_limits(text):
            if not 1 <= item.amount <= MAX_AMOUNT or item.multiples > 366:
                raise ValueError(f"give limits of 1 to {MAX_AMOUNT} requests, over at most 366 of a unit of time")
        return text


@dataclass(frozen=True, slots=True)
class Retry:
    """When to retry a request that is over the limit.

    Attributes:
        seconds: after which a request will be accepted, at least 1.
        headers: Retry-After and the RateLimit fields.
        message: for the client.
    """

    seconds: int
    headers: dict[str, str]
    message: str


class RateLimits:
    """Counts the requests of each client. Thread-safe."""

    def __init__(self, settings: RateLimitSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._limits = [
            (item, MovingWindowRateLimiter(WindowStorage(settings.max_clients, clock=clock)))
            for item in dict.fromkeys(_parse_limits(settings.rate_limit) if settings.rate_limit else [])
        ]

    def __bool__(self) -> bool:
        return bool(self._limits)

    def check(self, identity: str) -> Retry | None:
        """Count a request of this client. Return None if it is within every limit; else when to retry, without counting it."""
        with self._lock:
            now = self._clock()
            spent = [(item, window.get_window_stats(item, identity)) for item, window in self._limits]
            refusals = [_refusal(item, stats.reset_time - now) for item, stats in spent if stats.remaining < 1]
            if refusals:
                return max(refusals, key=lambda refusal: refusal.seconds)
            for item, window in self._limits:
                window.hit(item, identity)
        return None


def _refusal(item: RateLimitItem, wait: float) -> Retry:
    seconds, amount, length = max(1, math.ceil(wait)), item.amount, item.get_expiry()
    headers = {
        "Retry-After": f"{seconds}",
        # The two fields of the current IETF draft (draft-ietf-httpapi-ratelimit-headers), and the three of its earlier versions,
        # which most clients read.
        "RateLimit-Policy": f'"requests";q={amount};w={length}',
        "RateLimit": f'"requests";r=0;t={seconds}',
        "RateLimit-Limit": f"{amount}",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": f"{seconds}",
    }
    return Retry(seconds, headers, f"more than {amount} requests in {length} s; try again in {seconds} s")


class WindowStorage(Storage, MovingWindowSupport):
    """The times of each client's accepted requests, for one limit; the numbers of clients and of times are bounded.

    Clients are in the order of their last request, so those whose window has passed come first.
    """

    STORAGE_SCHEME = None

    def __init__(self, max_clients: int, *, max_hits: int = _MAX_HITS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._max_clients, self._max_hits, self._clock = max_clients, max_hits, clock
        self._hits: OrderedDict[str, deque[float]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return len(self._hits)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        start = self._clock() - expiry
        hits = self._within(key, start)
        if len(hits) + amount > limit:
            return False
        hits.extend([start + expiry] * amount)
        self._count += amount
        self._hits[key] = hits
        self._hits.move_to_end(key)
        self._forget(start)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        now = self._clock()
        hits = self._within(key, now - expiry)
        return (hits[0], len(hits)) if hits else (now, 0)

    def clear(self, key: str) -> None:
        self._count -= len(self._hits.pop(key, ()))

    def reset(self) -> int:
        clients = len(self._hits)
        self._hits.clear()
        self._count = 0
        return clients

    def check(self) -> bool:
        return True

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> NoReturn:
        raise NotImplementedError("a moving window holds no counter")

    def get(self, key: str) -> NoReturn:
        raise NotImplementedError("a moving window holds no counter")

    def get_expiry(self, key: str) -> NoReturn:
        raise NotImplementedError("a moving window holds no counter")

    def _within(self, key: str, start: float) -> deque[float]:
        """Return the times of a client's requests since ``start``, and forget older ones."""
        hits = self._hits.get(key, deque())
        while hits and hits[0] <= start:
            hits.popleft()
            self._count -= 1
        return hits

    def _forget(self, start: float) -> None:
        """Remove the clients whose window has passed, and the oldest ones while a bound is exceeded."""
        while self._hits:
            key, hits = next(iter(self._hits.items()))
            over = len(self._hits) > self._max_clients or (self._count > self._max_hits and len(self._hits) > 1)
            if hits and hits[-1] > start and not over:
                return
            self.clear(key)


def address_identity(client: tuple[str, int] | None) -> str:
    """Return the name of a client by its address: the IPv4 address, or the /64 network of an IPv6 address, which one host may use.

    ``client`` is the address and port of the ASGI scope. All clients without one, as behind a Unix socket, have the same name.
    """
    if client is None:
        return "address unknown"
    try:
        address = ip_address(client[0])
    except ValueError:
        return f"address {client[0][:100]!r}"
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64)
    return f"address {address}"


def _parse_limits(text: str) -> list[RateLimitItem]:
    try:
        return parse_many(text)
    except ValueError:
        raise ValueError("give limits such as 60/minute or 5 per 10 seconds, separated by commas") from None
