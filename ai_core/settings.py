"""All settings, read from environment variables ``PROSODY_*``, nested by ``__``.

Each default is defined once, on the lowest class that uses it; this module combines those classes.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ai_core.reply.chat import ChatSettings
from prosody_tagger.density import Level
from prosody_tagger.errors import BadInput
from synth.base import Strength
from synth.embedded.backend import EmbeddedSettings
from synth.higgs_http.settings import HiggsSettings
from synth.higgs_local.settings import HiggsLocalSettings
from synth.natural.settings import NaturalSettings


def _name_or_number(given: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(None if isinstance(given, bool) else given)
    except ValidationError:
        raise ValueError("give low, medium or high, or a number of emphases per word from 0 to 1") from None


Density = Annotated[Level | Annotated[float, Field(ge=0, le=1)], WrapValidator(_name_or_number)]
"""`density.Density`, validated, for settings and requests."""


class TaggerSettings(BaseModel):
    """The tagger to load.

    Attributes:
        adapter: folder of the tagger's adapter; by default the shipped one.
        base: folder or hub name of the adapter's base model; by default the shipped one.
    """

    model_config = ConfigDict(extra="forbid")

    adapter: Path | None = None
    base: str | None = None


class Settings(BaseSettings):
    """Settings of the commands and the service.

    Attributes:
        backend: the backend of a job that names none: embedded, natural, higgs-http or higgs-local.
        fallback: the backend that speaks if another one fails; with "none" the job fails. If not set, it is embedded for the
            commands and none for the service.
        realise: whether marks that the voice does not support are realised in its audio.
        reply: the writer of replies.
        intensity: sets density and strength together; a number is emphases per word, with the nearest named strength.
        density: how many words the tagger stresses; by default from ``intensity``.
        strength: how strongly a voice renders a mark; by default from ``intensity``.
        rate: sample rate of the output, Hz.
        max_chars: maximum length of a text, in code points.
        max_silence: maximum total of the pauses of one text, in seconds.
        aligner: folder or hub name of a CTC model that recognises characters, for word alignment (`synth.acoustics.ctc`); if not
            set, words are aligned by comparison with the embedded voice.
    """

    model_config = SettingsConfigDict(env_prefix="PROSODY_", env_nested_delimiter="__", extra="ignore")

    backend: str = "embedded"
    fallback: Literal["none", "embedded"] | None = None
    realise: bool = True
    reply: Literal["template", "chat"] = "template"
    intensity: Density = "medium"
    density: Density | None = None
    strength: Strength | None = None
    rate: int = Field(default=24_000, ge=8_000, le=48_000)
    max_chars: int = Field(default=20_000, ge=1)
    max_silence: float = Field(default=600.0, ge=0)
    aligner: str | None = None
    tagger: TaggerSettings = TaggerSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    natural: NaturalSettings = NaturalSettings()
    higgs: HiggsSettings = HiggsSettings()
    higgs_local: HiggsLocalSettings = HiggsLocalSettings()
    chat: ChatSettings | None = None


def load_settings(*, fallback: Literal["none", "embedded"] = "none") -> Settings:
    """Read the settings of the environment; ``fallback`` is the default of that setting.

    Raises:
        BadInput: a variable has an invalid value; the message names the variable, never a secret's value.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "PROSODY_" + "__".join(str(part) for part in first["loc"]).upper()
        raise BadInput(f"the setting {name} cannot be used: {first['msg']}") from None
    settings.fallback = settings.fallback or fallback
    return settings
