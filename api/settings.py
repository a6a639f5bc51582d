"""The settings of the service: ``PROSODY_API__*``."""

from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from api.admission import AdmissionSettings
from api.rate_limit import RateLimitSettings
from api.security import SecuritySettings
from api.voice_store import VoiceStoreSettings
from prosody_tagger.errors import BadInput


class ApiSettings(SecuritySettings, RateLimitSettings, VoiceStoreSettings, AdmissionSettings):
    """The settings of the service, beside those that it shares with the commands.

    Attributes:
        host: address to listen on; addresses that other machines can reach need keys.
        port: port to listen on.
        drain: seconds that running requests have to finish after SIGTERM.
        log: lowest level that is logged; only `debug` shows the beginnings of texts.
        log_form: `json` for machines, `text` for people.
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
    """Return the settings of the environment.

    Raises:
        BadInput: a variable with a value that cannot be used; the message names the variable, never a secret value.
    """
    try:
        return _Environment().api
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        name = "PROSODY_" + "__".join(str(part) for part in first["loc"]).upper()
        raise BadInput(f"the setting {name} cannot be used: {first['msg']}") from None
