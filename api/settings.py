"""The settings of the service: ``PROSODY_API__*``."""

from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from api.admission import LoadSettings
from api.rate_limit import LimitSettings
from api.security import SecuritySettings
from api.voice_store import ReferenceSettings
from prosody_tagger.errors import BadInput


class ApiSettings(SecuritySettings, LimitSettings, ReferenceSettings, LoadSettings):
    """What the service runs with, beside what the commands run with.

    Attributes:
        host: where it listens. Beyond loopback it asks for a key.
        port: where it listens.
        drain: seconds that what runs has to finish once the service is told to end.
        log: what is written down; debug alone shows the beginnings of texts.
        log_form: text for people, json for machines.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    drain: int = Field(default=30, ge=1, le=3600)
    log: Literal["debug", "info", "warning", "error"] = "info"
    log_form: Literal["text", "json"] = "json"


class _Environment(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PROSODY_", env_nested_delimiter="__", extra="ignore", hide_input_in_errors=True)

    api: ApiSettings = ApiSettings()


def load_api_settings() -> ApiSettings:
    """The settings of the environment.

    Raises:
        BadInput: a variable with a value that cannot be used; the message names it, never a secret's value.
    """
    try:
        return _Environment().api
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        name = "PROSODY_" + "__".join(str(part) for part in first["loc"]).upper()
        raise BadInput(f"the setting {name} cannot be used: {first['msg']}") from None
