"""Access rules: API keys, and the requests that a service without keys accepts. `api.security_middleware` applies them."""

import hmac
import re
import secrets
from ipaddress import IPv6Address, ip_address
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from prosody_tagger.errors import BadInput

SHORT_KEY = 16
"""Keys with fewer characters can be guessed; the service warns about them when other machines can reach it."""

MIN_BYTES_PER_SECOND = 20_000
"""Slowest transfer of a long body; it adds to the time that a body may take."""

_KEY = re.compile(r"[!-+\--~]{1,512}")  # printable ASCII, which a header can carry, without the comma
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]{2,45}\]|[^\s/@\[\]:,]{1,253})(?::[0-9]{0,5})?", re.IGNORECASE | re.ASCII)


def _split_commas(value: object) -> object:
    return tuple(item for part in value.split(",") if (item := part.strip())) if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
"""Several words; in the environment separated by commas."""


class SecuritySettings(BaseModel):
    """Access to the service, and limits of requests.

    Attributes:
        keys: API keys, separated by commas. With keys, every request needs one; without, the service answers on loopback only.
        open: answer everyone without a key, on other interfaces too.
        origins: origins of web pages that may use the service, such as `https://app.example.com`, separated by commas.
        hosts: further host names under which a service without keys may be reached on loopback, separated by commas.
        max_body: largest body of a request without a recording, in bytes.
        max_upload: largest body of a request with recordings, in bytes.
        body_timeout: seconds in which a body must arrive, plus one second for every 20,000 bytes.
    """

    # Validation errors do not show the value: it may be a key.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    keys: SecretStr | None = None
    open: bool = False
    origins: CommaSeparated = ()
    hosts: CommaSeparated = ()
    max_body: int = Field(default=1_000_000, ge=1_000)
    max_upload: int = Field(default=12_000_000, ge=1_000)
    body_timeout: float = Field(default=10.0, gt=0, le=600)

    @field_validator("keys")
    @classmethod
    def _check_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        text = keys.get_secret_value() if keys else ""
        return SecretStr(",".join(_split_keys(text))) if text.strip() else None

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, _, host = origin.partition("://")
            if origin != "*" and not (scheme in ("http", "https") and _HOST.fullmatch(host)):
                raise ValueError("give origins such as https://app.example.com, without a path, or *")
        return tuple(origin.lower() for origin in origins)

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HOST.fullmatch(host) for host in hosts):
            raise ValueError("give host names such as voice.example.com")
        return tuple(_host_name(host) for host in hosts)

    @model_validator(mode="after")
    def _check_open_without_keys(self) -> "SecuritySettings":
        if self.open and self.keys:
            raise ValueError("keys and open exclude each other; remove one of them")
        return self

    def requires_key(self, host: str) -> bool:
        """Return whether a service that listens on ``host`` may only be used with a key."""
        return self.keys is not None or not (self.open or is_loopback(host))

    def check_host(self, host: str) -> None:
        """Check that the service may listen on ``host``. Call it before it does.

        Raises:
            BadInput: other machines could reach the service, it has no keys, and ``open`` is not set.
        """
        if self.requires_key(host) and self.keys is None:
            raise BadInput(
                f"the service would listen on {host!r}, which other machines can reach, and there are no API keys; set "
                "PROSODY_API__KEYS to one or more, separated by commas, or listen on 127.0.0.1, or set PROSODY_API__OPEN=true "
                "if everyone may use it"
            )

    def host_problem(self, server: str | None, host: str, origin: str | None) -> tuple[str, str] | None:
        """Check a request to a service without keys: only this machine is answered, and no web page of others.

        A web page in the user's browser can send requests to loopback, and its author can make a DNS name point there; so the Host
        and Origin headers are checked as well as the address.

        Args:
            server: address at which the request arrived, if known.
            host: value of the Host header, lower case.
            origin: value of the Origin header, lower case; None if there is none.

        Returns:
            Error code and message, or None if the request may be answered.
        """
        if server and _is_address(server) and not is_loopback(server):
            return "no_keys_set", "no API keys are set, so the service answers on its own machine only; set PROSODY_API__KEYS"
        if host and not self._is_local_name(host):
            return "wrong_host", "without API keys the service accepts local host names only; see PROSODY_API__HOSTS"
        allowed = (f"http://{host}", f"https://{host}", *self.origins)
        if origin is not None and origin not in allowed and "*" not in allowed:
            return "wrong_origin", "without API keys the service does not answer web pages of others; see PROSODY_API__ORIGINS"
        return None

    def _is_local_name(self, host: str) -> bool:
        """Return whether ``host`` cannot be a public DNS name: an address, a name without a dot, or one that is allowed."""
        if not _HOST.fullmatch(host):
            return False
        name = _host_name(host)
        return "." not in name or _is_address(name) or name.endswith(".localhost") or name in self.hosts


class ApiKeys:
    """API keys, held as HMAC digests under a secret of this process, so that neither keys nor their lengths can leak."""

    def __init__(self, text: str) -> None:
        """``text`` holds keys separated by commas.

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

    def find(self, candidate: bytes) -> str | None:
        """Return the name of a key, ``key 1``, ``key 2`` and so on, or None for an unknown one.

        Every key is compared, in constant time, so that the time taken reveals nothing.
        """
        digest = self._digest(candidate)
        found = None
        for number, known in enumerate(self._digests, 1):
            if hmac.compare_digest(digest, known):
                found = f"key {number}"
        return found

    def _digest(self, key: bytes) -> bytes:
        return hmac.digest(self._secret, key, "sha256")


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on ``host``, a name or an address."""
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
    """Return the keys of a setting. Error messages name a key by its number, never by its value."""
    keys = [key for part in text.split(",") if (key := part.strip())]
    if not keys:
        raise ValueError("there is no key between the commas; give one or more")
    for number, key in enumerate(keys, 1):
        if not _KEY.fullmatch(key):
            raise ValueError(f"key {number} is over 512 characters, or holds a space or a character that no HTTP header can carry")
    return keys


def _host_name(host: str) -> str:
    """Return the name or address in a Host header, without the port."""
    found = _HOST.fullmatch(host)
    return found["name"].strip("[]").lower().rstrip(".") if found else ""
