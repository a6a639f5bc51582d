"""Voices of a server: those that it lists, and recordings that it has registered as voices."""

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from synth.errors import BackendUnavailable
from synth.higgs_http.connections import Connections, ConnectionsPerLoop, closed_on_failure
from synth.higgs_http.dialects import read
from synth.higgs_http.errors import SETTING, ConnectionBroken, Endpoint, RequestFailed
from synth.higgs_http.settings import is_valid_name

MAX_LIST_BYTES = 1_000_000
"""The longest list that is read, in bytes."""

MAX_REGISTERED = 256
"""How many registered recordings are remembered."""


@dataclass(slots=True, eq=False)
class _SharedCall:
    """A request for the list, and how many callers wait for it."""

    task: "asyncio.Task[tuple[str, ...]]"
    waiting: int = 0


class SharedVoiceList:
    """The names that a server lists, in its order.

    Calls that overlap in one event loop share one request, so that any number of them take one connection. Nothing is kept
    afterwards: a server may get and lose voices at any time.

    Args:
        connections: to the server.
        url: of the list.
        timeout: seconds for connecting, for any silence, and for the list as a whole.
    """

    def __init__(self, connections: ConnectionsPerLoop, url: str, timeout: float) -> None:
        self._connections = connections
        self._url = url
        self._timeout = timeout
        self._calls: dict[asyncio.AbstractEventLoop, _SharedCall] = {}

    async def names(self, endpoint: Endpoint) -> tuple[str, ...]:
        """Ask the server. A cancelled caller does not disturb the others; the last one to leave cancels the request.

        Raises:
            BackendUnavailable: no response, or one that holds no list of voices.
        """
        loop = asyncio.get_running_loop()
        call = self._calls.get(loop)
        if call is None or call.task.done():
            call = self._calls[loop] = _SharedCall(asyncio.create_task(self._request(endpoint)))
        call.waiting += 1
        try:
            return await asyncio.shield(call.task)
        finally:
            call.waiting -= 1
            if not call.waiting:
                if self._calls.get(loop) is call:
                    del self._calls[loop]  # first, so that no new caller joins a request that is being cancelled
                if not call.task.done():
                    call.task.cancel()
                    await asyncio.gather(call.task, return_exceptions=True)

    async def _request(self, endpoint: Endpoint) -> tuple[str, ...]:
        try:
            connections = await self._connections.get()
            try:
                body = await self._read(connections, endpoint)
            except ConnectionBroken:  # perhaps a kept-alive connection that the server had closed
                body = await self._read(connections, endpoint)
        except (RequestFailed, BackendUnavailable) as error:
            raise _not_listed(str(error)) from None
        try:
            return voice_names(body)
        except (ValueError, RecursionError):
            raise _not_listed(f"{endpoint.host} sent no list of them") from None

    async def _read(self, connections: Connections, endpoint: Endpoint) -> bytes:
        began = asyncio.get_running_loop().time()
        body = None
        try:
            # Connecting and waiting have limits of their own, which say what was slow; together they take less than this.
            async with asyncio.timeout_at(began + 2 * self._timeout) as limit:
                response = await connections.get(self._url, self._timeout, endpoint)
                async with closed_on_failure(response, endpoint):
                    limit.reschedule(began + self._timeout)
                    body = await read(response, MAX_LIST_BYTES)
                await response.aclose()
        except TimeoutError:
            pass
        if body is None:
            raise endpoint.invalid("sent a list of voices that is too long, or too slowly")
        return body


def _not_listed(reason: str) -> BackendUnavailable:
    return BackendUnavailable(f"the voices of the server cannot be listed: {reason}; {SETTING}VOICE can name one without the list")


def voice_names(body: bytes) -> tuple[str, ...]:
    """Return the names in a list of voices: strings, or objects with ``voice_id``, ``id`` or ``name``.

    Raises:
        ValueError: ``body`` is no such list.
        RecursionError: it is nested too deeply.
    """
    found = json.loads(body)
    if isinstance(found, dict):
        found = found.get("voices", found.get("data"))
    if not isinstance(found, list):
        raise ValueError("no list of voices")
    return tuple(dict.fromkeys(name for name in map(_name, found) if name is not None and is_valid_name(name)))


def _name(entry: Any) -> str | None:
    if isinstance(entry, dict):
        entry = next((entry[key] for key in ("voice_id", "id", "name") if isinstance(entry.get(key), str)), None)
    return entry if isinstance(entry, str) else None


@dataclass(frozen=True, slots=True, eq=False)
class RegisteredVoice:
    """A voice that the server made from a recording."""

    name: str


class RegisteredVoices:
    """The last `MAX_REGISTERED` registered voices, by the digest of their recordings."""

    def __init__(self) -> None:
        self._by_digest: OrderedDict[str, RegisteredVoice] = OrderedDict()

    def find(self, digest: str) -> RegisteredVoice | None:
        """Return the voice of a recording; None if it is not registered."""
        found = self._by_digest.get(digest)
        if found is not None:
            self._by_digest.move_to_end(digest)
        return found

    def add(self, digest: str, name: str) -> RegisteredVoice:
        """Remember the voice that the server has registered under ``name``."""
        self._by_digest[digest] = voice = RegisteredVoice(name)
        self._by_digest.move_to_end(digest)
        while len(self._by_digest) > MAX_REGISTERED:
            self._by_digest.popitem(last=False)
        return voice

    def remove(self, digest: str, voice: RegisteredVoice) -> None:
        """Forget ``voice``, unless the recording has been registered again since."""
        if self._by_digest.get(digest) is voice:
            del self._by_digest[digest]
