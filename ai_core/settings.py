"""All settings, read from environment variables ``PROSODY_*``, nested by ``__``.

A default is written once, on the lowest class that uses it; this file combines those classes.
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


def _name_or_number(given: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(None if isinstance(given, bool) else given)
    except ValidationError:
        raise ValueError("give low, medium or high, or a number of emphases per word from 0 to 1") from None


Density = Annotated[Level | Annotated[float, Field(ge=0, le=1)], WrapValidator(_name_or_number)]
"""`density.Density` as settings and requests give it, validated."""


class TaggerSettings(BaseModel):
    """The tagger to load.

    Attributes:
        adapter: folder of the tagger's adapter; by default the one that ships.
        base: folder or hub name of the base model that the adapter was trained over; by default the one that ships.
    """

    model_config = ConfigDict(extra="forbid")

    adapter: Path | None = None
    base: str | None = None


class Settings(BaseSettings):
    """Settings of the commands and the service.

    Attributes:
        backend: the backend of a job that names none: embedded, higgs-http or higgs-local.
        fallback: the backend that takes over where another fails; "none" makes the failure the answer. Where it is not set, the
            commands take embedded and the service none.
        realise: whether marks that the voice does not obey are realised in its audio.
        reply: the writer of replies.
        intensity: density and strength together; a number is emphases per word, spoken at the nearest named strength.
        density: how many words the tagger stresses; by default as ``intensity`` says.
        strength: how strongly a voice renders a mark; by default as ``intensity`` says.
        rate: sample rate of the output, Hz.
        max_chars: longest text of a job, in code points.
        max_silence: most seconds that the pauses of one text may add up to.
        aligner: folder or hub name of a CTC model that recognises characters, to align words with (`synth.acoustics.ctc`);
            without one they are aligned with the embedded voice's reading.
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
