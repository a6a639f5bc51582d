"""Settings of the backend `higgs-http`."""

from typing import Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from synth.higgs_http.dialects import DIALECTS


class HiggsSettings(BaseModel):
    """The server, the requests and time limits. None means the dialect's default.

    Attributes:
        dialect: boson for Boson's cloud (v3), boson-chat for its chat completions (v2), openai-speech for your own server.
        url: base URL, such as ``https://host/v1``.
        model: the model's name on that server.
        api_key: sent as a bearer token. None: for Boson's dialects the environment's ``BOSON_API_KEY``, else none is sent.
        voice: name of the default voice; any that the server knows.
        response_format: audio format of responses. None is pcm where it can be streamed, else wav.
        stream: receive audio while it is generated, where the dialect can stream and the format is pcm.
        pauses: exact inserts pauses into the audio; tags, for boson only, lets the model make those without an explicit length (its
            lengths vary: 400 to 700 ms for a short one, 700 to 1500 ms for a long one).
        references: send a recording with each request (inline), or, for boson only, register it on the server as a voice
            (register).
        connect_timeout: longest time to connect, in seconds.
        read_timeout: longest time without data from the server, in seconds.
        total_timeout: longest time for one piece of text, retries and waits included, in seconds.
        retries: attempts after the first, for transient failures and as long as no audio of the piece has been returned.
        max_connections: how many pieces are requested at the same time; others wait.
        max_seconds_per_char: the longest time for a lower-case letter, in seconds; capitals and ideographs may take 3 times as
            long, digits and signs 5 times. Longer speech is cut.
    """

    # Validation errors do not show the value: it may be the key, or a URL with a password.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    dialect: Literal["boson", "boson-chat", "openai-speech"] = "boson"
    url: HttpUrl | None = None
    model: str | None = None
    api_key: SecretStr | None = None
    voice: str | None = None
    response_format: Literal["pcm", "wav", "mp3", "opus", "flac"] | None = None
    stream: bool = True
    pauses: Literal["exact", "tags"] = "exact"
    references: Literal["inline", "register"] = "inline"
    connect_timeout: float = Field(default=10.0, gt=0, le=600)
    read_timeout: float = Field(default=60.0, gt=0, le=600)
    total_timeout: float = Field(default=180.0, gt=0, le=3600)
    retries: int = Field(default=2, ge=0, le=10)
    max_connections: int = Field(default=8, ge=1, le=1000)
    max_seconds_per_char: float = Field(default=0.2, ge=0.05, le=10)

    @field_validator("url", "model", "voice", "response_format", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        """Treat an empty environment variable as unset."""
        return None if value == "" else value

    @field_validator("url")
    @classmethod
    def _is_base_url(cls, url: HttpUrl | None) -> HttpUrl | None:
        if url is None:
            return None
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("give the base URL alone, without user, password, query or fragment; a key goes into api_key")
        if str(url).rstrip("/").endswith(tuple(dialect.path for dialect in DIALECTS.values())):
            raise ValueError("give the base URL: the part before /audio/speech or /chat/completions")
        (url.host or "").encode("idna")  # raises a ValueError for a host that cannot be a domain name
        return url

    @field_validator("model", "voice")
    @classmethod
    def _names_are_valid(cls, name: str | None) -> str | None:
        if name is not None and not is_valid_name(name):
            raise ValueError("give a name of at most 256 printable characters, without < or |")
        return name

    @field_validator("api_key")
    @classmethod
    def _key_is_valid(cls, key: SecretStr | None) -> SecretStr | None:
        secret = key.get_secret_value().strip() if key else ""
        if not secret:
            return None
        if not is_valid_key(secret):
            raise ValueError("the key holds a space or a character that no HTTP header can carry")
        return SecretStr(secret)

    @model_validator(mode="after")
    def _fits_dialect(self) -> "HiggsSettings":
        dialect = DIALECTS[self.dialect]
        if self.response_format is not None and self.response_format not in dialect.audio_formats:
            raise ValueError(f"the dialect {self.dialect} offers no response_format except {', '.join(dialect.audio_formats)}")
        if self.pauses == "tags" and not dialect.pause_tags:
            raise ValueError(f"the dialect {self.dialect} has no tags for pauses; leave pauses at exact")
        if self.references == "register" and not dialect.registers:
            raise ValueError(f"the dialect {self.dialect} cannot register recordings; leave references at inline")
        return self


def is_valid_name(name: str) -> bool:
    """Return whether ``name`` can be sent as the name of a voice or a model."""
    return 0 < len(name) <= 256 and name.isprintable() and not set(name) & set("<|")


def is_valid_key(key: str) -> bool:
    """Return whether ``key`` can be sent in an HTTP header."""
    return bool(regex.fullmatch(r"[!-~]{1,4096}", key))
