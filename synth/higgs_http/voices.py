"""The voices that a server lists."""

import json
import time
from typing import Any

from synth.errors import BackendUnavailable
from synth.higgs_http.errors import BAD_ENVIRONMENT, SETTING, Fault, Peer
from synth.higgs_http.settings import is_name

MAX_LIST = 1_000_000
"""Most bytes of a list that are read."""


def listed_voices(url: str, headers: dict[str, str], seconds: float, peer: Peer) -> tuple[str, ...]:
    """Names of voices, in the server's order, asked for within ``seconds``.

    Raises:
        BackendUnavailable: the server does not answer, or not with a list of voices.
    """
    try:
        body = _get(url, headers, seconds, peer)
    except Fault as fault:
        raise _unlisted(str(fault)) from None
    try:
        return voice_names(body)
    except (ValueError, RecursionError):
        raise _unlisted(f"{peer.where} sent no list of them") from None


def _unlisted(why: str) -> BackendUnavailable:
    return BackendUnavailable(f"the voices of the server cannot be listed: {why}; {SETTING}VOICE may name one all the same")


def voice_names(body: bytes) -> tuple[str, ...]:
    """The names in a list of voices: strings, or objects with ``voice_id``, ``id`` or ``name``.

    Raises:
        ValueError: it is none.
    """
    found = json.loads(body)
    if isinstance(found, dict):
        found = found.get("voices", found.get("data"))
    if not isinstance(found, list):
        raise ValueError("no list of voices")
    return tuple(dict.fromkeys(name for name in map(_name, found) if name is not None and is_name(name)))


def _name(entry: Any) -> str | None:
    if isinstance(entry, dict):
        entry = next((entry[key] for key in ("voice_id", "id", "name") if isinstance(entry.get(key), str)), None)
    return entry if isinstance(entry, str) else None


def _get(url: str, headers: dict[str, str], seconds: float, peer: Peer) -> bytes:
    import httpx

    deadline = time.monotonic() + seconds
    body = bytearray()
    try:
        with httpx.stream("GET", url, headers={**headers, "Accept-Encoding": "identity"}, timeout=seconds) as response:
            if not response.is_success:
                raise peer.refused(response.status_code, b"")
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > MAX_LIST or time.monotonic() > deadline:
                    raise peer.broken("sent a list of voices that is too long, or too slowly")
    except httpx.HTTPError as error:
        raise peer.failed(error) from None
    except (OSError, ImportError, ValueError, httpx.InvalidURL):
        raise Fault(BackendUnavailable(BAD_ENVIRONMENT)) from None
    return bytes(body)
