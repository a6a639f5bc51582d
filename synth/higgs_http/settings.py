"""Where the server is, what it is asked for, and how long it may take."""

from typing import Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from synth.higgs_http.dialects import DIALECTS


class HiggsSettings(BaseModel):
    """How to reach Higgs Audio over HTTP. What is None is as the dialect has it.

    Attributes:
        dialect: boson is Boson's cloud (v3), boson-chat its chat form (v2), openai-speech a server of one's own.
        url: base URL, such as ``https://host/v1``.
        model: the model's name on that server.
        api_key: sent as a bearer token. None: for Boson's dialects the environment's ``BOSON_API_KEY``, else none is sent.
        voice: the name of the voice where a request gives none; any that the server knows.
        response_format: what the sound is coded in. None is pcm where it can be streamed, else wav.
        stream: have the sound sent while it is made, where the dialect can and the format is pcm.
        pauses: exact leaves them to be made in the audio; tags, for boson alone, has the model make those without a length of their
            own, 400 to 700 ms for a short one and 700 to 1500 ms for a long one, as it likes.
        references: send a recording with each request (inline), or have the server keep it as a voice (register), for boson alone.
        connect_timeout: seconds for one connection.
        read_timeout: seconds in which nothing comes.
        total_timeout: seconds of waiting for one piece in all, tries and waits between them included.
        retries: further tries after a failure that may pass, as long as no sound of the piece has been handed on.
        max_connections: most pieces that are spoken at once; others wait their turn.
        max_seconds_per_char: the most that a small letter takes to say; capitals and ideographs may take 3 times as long,
            digits and signs 5 times. Speech that goes on for longer is cut.
    """

    # A broken setting is not shown in the error: it may be the key, or a URL with a password.
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
        """An environment variable that is set to nothing is not set."""
        return None if value == "" else value

    @field_validator("url")
    @classmethod
    def _is_base(cls, url: HttpUrl | None) -> HttpUrl | None:
        if url is None:
            return None
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("give the base URL alone, without user, password, query or fragment; a key goes into api_key")
        if str(url).rstrip("/").endswith(tuple(dialect.path for dialect in DIALECTS.values())):
            raise ValueError("give the base URL, which ends before /audio/speech or /chat/completions")
        (url.host or "").encode("idna")  # a host that no name server could be asked for raises a ValueError here
        return url

    @field_validator("model", "voice")
    @classmethod
    def _is_name(cls, name: str | None) -> str | None:
        if name is not None and not is_name(name):
            raise ValueError("give a name of at most 256 printable characters, without < or |")
        return name

    @field_validator("api_key")
    @classmethod
    def _fits_header(cls, key: SecretStr | None) -> SecretStr | None:
        secret = key.get_secret_value().strip() if key else ""
        if not secret:
            return None
        if not fits_header(secret):
            raise ValueError("the key holds a space or a character that no HTTP header can carry")
        return SecretStr(secret)

    @model_validator(mode="after")
    def _is_possible(self) -> "HiggsSettings":
        dialect = DIALECTS[self.dialect]
        if self.response_format is not None and self.response_format not in dialect.forms:
            raise ValueError(f"the dialect {self.dialect} has no response_format but {', '.join(dialect.forms)}")
        if self.pauses == "tags" and not dialect.pause_tags:
            raise ValueError(f"the dialect {self.dialect} knows no tags for pauses; leave pauses at exact")
        if self.references == "register" and not dialect.registers:
            raise ValueError(f"the dialect {self.dialect} keeps no recordings; leave references at inline")
        return self


def is_name(name: str) -> bool:
    """Whether it can name a voice or a model."""
    return 0 < len(name) <= 256 and name.isprintable() and not set(name) & set("<|")


def fits_header(key: str) -> bool:
    return bool(regex.fullmatch(r"[!-~]{1,4096}", key))
