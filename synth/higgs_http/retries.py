"""Retry policy: transient failures are retried, with growing waits, until a deadline."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from synth.errors import BackendTimeout
from synth.higgs_http.errors import SETTING, Endpoint, RequestFailed

_WAIT_SECONDS = (0.2, 4.0)  # before the second attempt, and the longest before any
_JITTER_SECONDS = 0.1  # added to the wait that a server asks for, so that its clients do not all return at the same instant

_Result = TypeVar("_Result")


class RetryPolicy:
    """How often a request is retried, and for how long.

    Args:
        retries: attempts after the first.
        total_timeout: seconds that the deadline of `run` leaves in all; named in the message when they have passed.
    """

    def __init__(self, retries: int, total_timeout: float) -> None:
        self._retries = retries
        self._total_timeout = total_timeout

    async def run(self, attempt: Callable[[], Awaitable[_Result]], endpoint: Endpoint, deadline: float) -> _Result:
        """Return the result of the first attempt that succeeds.

        Args:
            attempt: makes one attempt; raises `RequestFailed` if it fails.
            endpoint: the server, for the message.
            deadline: when to give up, in the event loop's time.

        Raises:
            RequestFailed: the failure of the last attempt, or the deadline has passed.
        """
        last: RequestFailed | None = None

        def wait_before_retry(error: Exception) -> bool | float:
            nonlocal last
            if not isinstance(error, RequestFailed):  # stamina passes CancelledError to this hook too
                return False
            last = error
            if isinstance(error.retry, bool):
                return error.retry
            wait = error.retry + random.uniform(0.0, _JITTER_SECONDS)
            return wait if wait < deadline - asyncio.get_running_loop().time() else False

        try:
            async with asyncio.timeout_at(deadline):
                return await self._attempts(attempt, wait_before_retry)
        except TimeoutError:
            raise self.timed_out(endpoint, last) from None

    def timed_out(self, endpoint: Endpoint, last: RequestFailed | None = None) -> RequestFailed:
        """Return the failure of a deadline that has passed, after the failure ``last``."""
        before = f" (before that: {last})" if last else ""
        message = f"{endpoint.host} did not finish within {self._total_timeout:g} s{before}"
        return RequestFailed(BackendTimeout(f"{message}; raise {SETTING}TOTAL_TIMEOUT if it is that slow"))

    async def _attempts(self, attempt: Callable[[], Awaitable[_Result]], wait: Callable[[Exception], bool | float]) -> _Result:
        try:
            return await attempt()  # outside of stamina's loop, and before its slow import: most requests need no second attempt
        except RequestFailed as failure:
            first_failure = failure
        import stamina

        wait_initial, wait_max = _WAIT_SECONDS
        attempts = stamina.retry_context(
            wait, attempts=self._retries + 1, timeout=None, wait_initial=wait_initial, wait_max=wait_max, wait_jitter=wait_initial
        )
        async for each in attempts:
            with each:
                if each.num == 1:
                    raise first_failure  # the attempt above counts as the first
                result = await attempt()
        return result
