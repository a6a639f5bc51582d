"""Failures of a request to a server, each as one error for the user and a hint whether a retry may help.

A server's own message is quoted only if it is short and repeats neither the key nor the text that was sent.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import regex

from prosody_tagger.errors import ProsodyError
from synth.errors import BackendError, BackendTimeout, BackendUnavailable, RefusedRequest

if TYPE_CHECKING:
    import httpx

SETTING = "PROSODY_HIGGS__"
"""Prefix of the environment variables of this backend."""

BAD_ENVIRONMENT = "the proxy or certificates set in the environment (HTTPS_PROXY, SSL_CERT_FILE) do not work; correct them"

_CHECK_SERVER = f"check that the server runs and {SETTING}URL is right"

_STATUS_OF_ERROR = {"authentication": 401, "rate_limit": 429, "server_error": 500, "invalid_request": 400, "input_too_long": 400}
"""HTTP status for each type of error, for errors in a response with status 200."""


class RequestFailed(Exception):
    """One attempt that failed.

    Attributes:
        error: the error for the caller.
        retry: whether another attempt may succeed: after the usual wait (True), or after this many seconds.
        status: the HTTP status of the response, if there was one.
        details: type, code and message that the server gives its error, for classification only: it may repeat what was sent.
    """

    def __init__(self, error: ProsodyError, *, retry: bool | float = False, status: int | None = None, details: str = "") -> None:
        super().__init__(str(error))
        self.error = error
        self.retry = retry
        self.status = status
        self.details = details

    @property
    def is_unknown_voice(self) -> bool:
        """Whether the server says that it does not know the voice."""
        return self.status in (400, 404, 422) and "voice" in self.details


class ConnectionBroken(RequestFailed):
    """The connection ended before the response did: perhaps a kept-alive one that the server had closed meanwhile."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The server that a request goes to, and the secrets that no message may repeat.

    Attributes:
        host: host and port.
        key_settings: names of the settings that can hold the API key, for messages.
        key: the API key that is sent; None if none is.
        texts: the texts that are sent.
    """

    host: str
    key_settings: str
    key: str | None = field(default=None, repr=False)
    texts: tuple[str, ...] = field(default=(), repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that carry the key."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def _secrets(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.key, *self.texts)))

    def invalid(self, problem: str, *, retry: bool = False) -> RequestFailed:
        """Return the failure of a response that cannot be used. ``problem`` follows the host's name."""
        return RequestFailed(BackendError(f"{self.host} {problem}"), retry=retry)

    def error_status(self, status: int, body: bytes, retry_after: str | None = None, *, verb: str = "answered") -> RequestFailed:
        """Return the failure of a response with an error status; ``body`` may be incomplete, ``verb`` goes before the status."""
        reported = _read_error(body)
        details = f"{reported.names} {reported.message}".casefold()
        quoted = quotable(reported.message, self._secrets)
        what = f"{self.host} {verb} {status}"
        detailed = f"{what}: {quoted}" if quoted else what
        wait = seconds_to_wait(retry_after)
        asks = "" if wait is None else f", and asks to wait for {wait:.0f} s"
        wait_or_default: bool | float = True if wait is None else wait
        retry: bool | float = False
        error: ProsodyError
        if status in (401, 403):
            problem = "does not accept the API key; check" if self.key else "requires an API key; set"
            error = BackendUnavailable(f"{what}: it {problem} {self.key_settings}")
        elif status == 429:
            error, retry = BackendUnavailable(f"{what}: it has too many requests{asks}; try again later"), wait_or_default
        elif status in (408, 425) or status >= 500:
            error, retry = BackendError(f"{detailed}{asks}"), wait_or_default
        elif status < 400:
            error = BackendError(f"{what}, which is not speech; redirects are not followed: check {SETTING}URL")
        elif status == 413 or "input_too_long" in details:
            error = RefusedRequest(f"{what}: the text, or the recording to take the voice from, is too long for it")
        elif status == 404 and "voice" not in details:
            error = BackendUnavailable(f"{detailed}; check {SETTING}URL and {SETTING}MODEL")
        else:
            error = RefusedRequest(detailed if quoted else f"{what}; check the voice, {SETTING}MODEL and {SETTING}DIALECT")
        return RequestFailed(error, retry=retry, status=status, details=details)

    def no_speech(self, media: str, body: bytes) -> RequestFailed:
        """Return the failure of a response with status 200 that holds ``media`` instead of audio, perhaps an error as JSON."""
        reported = _read_error(body)
        for name, status in _STATUS_OF_ERROR.items():
            if name in reported.names:
                return self.error_status(status, body, verb="sent an error in place of speech, like a")
        quoted = quotable(reported.message, self._secrets)
        what = f"an error in place of speech: {quoted}" if quoted else f"{media or 'something else'} in place of speech"
        return self.invalid(f"sent {what}; check {SETTING}URL and {SETTING}MODEL")

    def connection_error(self, error: "httpx.HTTPError") -> RequestFailed:
        """Return the failure for an error that httpx raised."""
        import httpx

        if isinstance(error, httpx.ConnectTimeout):
            return RequestFailed(BackendTimeout(f"cannot connect to {self.host} in time; {_CHECK_SERVER}"), retry=True)
        if isinstance(error, httpx.ConnectError):
            if "CERTIFICATE" in str(error):
                return RequestFailed(BackendUnavailable(f"the certificate of {self.host} cannot be verified; {_CHECK_SERVER}"))
            return RequestFailed(BackendUnavailable(f"cannot connect to {self.host}; {_CHECK_SERVER}"), retry=True)
        if isinstance(error, httpx.TimeoutException):
            message = f"{self.host} sent nothing for too long; raise {SETTING}READ_TIMEOUT if it is that slow"
            return RequestFailed(BackendTimeout(message), retry=True)
        if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
            return ConnectionBroken(BackendError(f"{self.host} broke off the connection"), retry=True)
        return self.invalid(f"cannot be reached over HTTP ({type(error).__name__}); {_CHECK_SERVER}")


@dataclass(frozen=True, slots=True)
class _ReportedError:
    """An error as a server reports it: type, code and parameter as one string, and its message."""

    names: str = ""
    message: str = ""


def _read_error(body: bytes) -> _ReportedError:
    """Read an error in the formats of OpenAI, Boson and FastAPI; empty if it has none of them."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return _ReportedError()
    if isinstance(found, dict):
        found = found.get("error") or found.get("detail") or found
    if isinstance(found, list):
        found = found[0] if found else None
    if isinstance(found, str):
        return _ReportedError(message=found)
    if not isinstance(found, dict):
        return _ReportedError()
    names = " ".join(str(found[name]) for name in ("type", "code", "param") if isinstance(found.get(name), str))
    message: Any = found.get("message") or found.get("msg")
    return _ReportedError(names, message if isinstance(message, str) else "")


MAX_QUOTED = 200
"""The longest message of a server that is quoted, in characters."""

_SECRET_RUN = 12  # consecutive characters of a secret, white space aside, that no message may repeat
_SHORT_SECRET = 4  # a secret with fewer characters counts only as a separate word
_LONG_WORD = regex.compile(r"[^\s]{25,}+")  # may be a key, a token or base64
_SPACE = regex.compile(r"[\p{C}\s]+")


def quotable(message: str, secrets: Sequence[str]) -> str:
    """Return ``message`` on one line; "" if it is long or repeats part of one of ``secrets``."""
    if len(message) > 20 * MAX_QUOTED:
        return ""
    line = _SPACE.sub(" ", message).strip()
    if not line or len(line) > MAX_QUOTED or any(_repeats(line, secret) for secret in secrets):
        return ""
    return _LONG_WORD.sub("…", line)


def _repeats(line: str, secret: str) -> bool:
    shown, hidden = _condensed(line), _condensed(secret)
    if len(hidden) < _SHORT_SECRET:
        return bool(hidden and regex.search(rf"(?<!\w){regex.escape(hidden)}(?!\w)", line.casefold()))
    if len(hidden) <= _SECRET_RUN:
        return hidden in shown
    return any(shown[start : start + _SECRET_RUN] in hidden for start in range(len(shown) - _SECRET_RUN + 1))


def _condensed(text: str) -> str:
    return _SPACE.sub("", text).casefold()


def seconds_to_wait(header: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, as a number or a date; None if it is absent or unreadable."""
    if header is None:
        return None
    if regex.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", header.strip()):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
