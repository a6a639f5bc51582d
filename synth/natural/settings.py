"""Settings of the natural voice."""

from pydantic import BaseModel, ConfigDict


class NaturalSettings(BaseModel):
    """Defaults of the natural voice.

    Attributes:
        voice: default voice; the one that there is, is heart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    voice: str = "heart"
