"""What can go wrong between us and a server, as one clear error each, and whether another try may help.

Nothing that a server sends is repeated in a message unless it is short and holds neither the key nor what we sent.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import regex

from prosody_tagger.errors import ProsodyError
from synth.errors import BackendError, BackendTimeout, BackendUnavailable, RefusedRequest

if TYPE_CHECKING:
    import httpx

SETTING = "PROSODY_HIGGS__"


class Fault(Exception):
    """One try that failed.

    Attributes:
        error: what to tell the caller.
        retry: whether another try may help: after a growing wait (True), or after so many seconds.
        status: of the server's answer, if there was one.
        about: what the server's error says of itself, its names and its message in one string, for us alone.
    """

    def __init__(self, error: ProsodyError, *, retry: bool | float = False, status: int | None = None, about: str = "") -> None:
        super().__init__(str(error))
        self.error = error
        self.retry = retry
        self.status = status
        self.about = about

    @property
    def blames_voice(self) -> bool:
        """Whether the server says that it does not know the voice."""
        return self.status in (400, 404, 422) and "voice" in self.about


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom we talk to, and what must not come out of that.

    Attributes:
        where: host and port.
        keys: the settings that can hold the key, in words.
        has_key: whether one is sent.
        secrets: the key, and the texts that are sent.
    """

    where: str
    keys: str
    has_key: bool
    secrets: tuple[str, ...] = ()

    def broken(self, why: str, *, retry: bool = False) -> Fault:
        """An answer that cannot be used."""
        return Fault(BackendError(f"{self.where} {why}"), retry=retry)

    def refused(self, status: int, body: bytes, retry_after: str | None = None, *, how: str = "answered") -> Fault:
        """An answer without success; ``body`` is what came of it, ``how`` the verb for it."""
        about = _about(body)
        names = f"{about.names} {about.message}".casefold()
        said = quotable(about.message, self.secrets)
        what = f"{self.where} {how} {status}"
        detail = f"{what}: {said}" if said else what
        wait = seconds_to_wait(retry_after)
        asks = "" if wait is None else f", and asks to wait for {wait:.0f} s"
        again = True if wait is None else wait
        retry: bool | float = False
        error: ProsodyError
        if status in (401, 403):
            key = f"does not accept the API key; check {self.keys}" if self.has_key else f"wants an API key; set {self.keys}"
            error = BackendUnavailable(f"{what}: it {key}")
        elif status == 429:
            error, retry = BackendUnavailable(f"{what}: it has too many requests{asks}; try again later"), again
        elif status in (408, 425) or status >= 500:
            error, retry = BackendError(f"{detail}{asks}"), again
        elif status < 400:
            error = BackendError(f"{what}, which is no speech; redirects are not followed: check {SETTING}URL")
        elif status == 413 or "input_too_long" in names:
            error = RefusedRequest(f"{what}: the text, or the recording to take the voice from, is too long for it")
        elif status == 404 and "voice" not in names:
            error = BackendUnavailable(f"{detail}; check {SETTING}URL and {SETTING}MODEL")
        else:
            error = RefusedRequest(detail if said else f"{what}; check the voice, {SETTING}MODEL and {SETTING}DIALECT")
        return Fault(error, retry=retry, status=status, about=names)

    def soundless(self, media: str, body: bytes) -> Fault:
        """An answer that claims success and holds ``media`` in place of speech; an error in JSON counts as what it says it is."""
        about = _about(body)
        for name, status in _STATUS_OF.items():
            if name in about.names:
                return self.refused(status, body, how="sent an error in place of speech, like a")
        said = quotable(about.message, self.secrets)
        what = f"an error in place of speech: {said}" if said else f"{media or 'something else'} in place of speech"
        return self.broken(f"sent {what}; check {SETTING}URL and {SETTING}MODEL")

    def failed(self, error: "httpx.HTTPError") -> Fault:
        """What httpx raised while we talked."""
        import httpx

        if isinstance(error, httpx.ConnectTimeout):
            return Fault(BackendTimeout(f"cannot connect to {self.where} in time; {_CHECK}"), retry=True)
        if isinstance(error, httpx.ConnectError):
            if "CERTIFICATE" in str(error):
                return Fault(BackendUnavailable(f"the certificate of {self.where} cannot be verified; {_CHECK}"))
            return Fault(BackendUnavailable(f"cannot connect to {self.where}; {_CHECK}"), retry=True)
        if isinstance(error, httpx.TimeoutException):
            why = f"{self.where} sent nothing for too long; raise {SETTING}READ_TIMEOUT if it is that slow"
            return Fault(BackendTimeout(why), retry=True)
        if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
            return self.broken("broke off the connection", retry=True)
        return self.broken(f"cannot be talked to ({type(error).__name__}); {_CHECK}")


_STATUS_OF = {"authentication": 401, "rate_limit": 429, "server_error": 500, "invalid_request": 400, "input_too_long": 400}
"""What an error's name means where the answer's status says nothing of it."""

BAD_ENVIRONMENT = "the proxy or certificates that the environment names (HTTPS_PROXY, SSL_CERT_FILE) do not work; set them anew"

_CHECK = f"check that the server runs and {SETTING}URL is right"


@dataclass(frozen=True, slots=True)
class _About:
    """What a server says of an error: its names for it (type, code), and its message."""

    names: str = ""
    message: str = ""


def _about(body: bytes) -> _About:
    """Read an error in the forms of OpenAI, Boson and FastAPI; anything else says nothing."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return _About()
    if isinstance(said, dict):
        said = said.get("error") or said.get("detail") or said
    if isinstance(said, list):
        said = said[0] if said else None
    if isinstance(said, str):
        return _About(message=said)
    if not isinstance(said, dict):
        return _About()
    names = " ".join(str(said[name]) for name in ("type", "code", "param") if isinstance(said.get(name), str))
    message: Any = said.get("message") or said.get("msg")
    return _About(names, message if isinstance(message, str) else "")


MAX_QUOTED = 200
_SECRET_RUN = 12  # letters of a secret in a row that no message may repeat, white space aside: at most 24 characters with it
_SHORT = 4  # letters of a secret that is one only as a word of its own
_LONG_WORD = regex.compile(r"[^\s]{25,}+")  # what may be a key, a token or sound in letters


def quotable(message: str, secrets: Sequence[str]) -> str:
    """``message`` on one line, or nothing if it is long, or repeats any of ``secrets`` or more than a little of one."""
    if len(message) > 20 * MAX_QUOTED:
        return ""
    line = _SPACE.sub(" ", message).strip()
    if not line or len(line) > MAX_QUOTED or any(_repeats(line, secret) for secret in secrets):
        return ""
    return _LONG_WORD.sub("…", line)


def _repeats(line: str, secret: str) -> bool:
    said, hidden = _bare(line), _bare(secret)
    if len(hidden) < _SHORT:
        return bool(hidden and regex.search(rf"(?<!\w){regex.escape(hidden)}(?!\w)", line.casefold()))
    if len(hidden) <= _SECRET_RUN:
        return hidden in said
    return any(said[start : start + _SECRET_RUN] in hidden for start in range(len(said) - _SECRET_RUN + 1))


_SPACE = regex.compile(r"[\p{C}\s]+")


def _bare(text: str) -> str:
    return _SPACE.sub("", text).casefold()


def seconds_to_wait(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None if it says nothing readable."""
    if header is None:
        return None
    if regex.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", header.strip()):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
