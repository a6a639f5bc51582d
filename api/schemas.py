"""The JSON that the endpoints accept and return."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ai_core.settings import Density
from synth.audio.time_stretch import FASTEST, SLOWEST
from synth.base import Strength

AudioFormat = Literal["wav", "flac", "mp3", "opus", "aac", "pcm"]

MAX_POINTS = 100

_INTENSITY = "Sets density and strength together; a number is emphases per word, such as 0.12, with the nearest strength."
_DENSITY = "How many words the tagger stresses: low, medium, high, or emphases per word from 0 to 1. Overrides intensity."
_STRENGTH = "How strongly marks are spoken. Overrides intensity."


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SpeechOptions(_StrictModel):
    """How a text is spoken. Missing fields mean the settings of the service."""

    backend: str | None = Field(default=None, max_length=100, description="The backend; GET /v1/prosody lists them.")
    voice: str | None = Field(default=None, max_length=200, description="A voice of the backend, or the id of an uploaded voice.")
    language: str | None = Field(default=None, max_length=35, description="Language of the text, a BCP 47 tag.", examples=["en-gb"])
    intensity: Density | None = Field(default=None, description=_INTENSITY)
    density: Density | None = Field(default=None, description=_DENSITY)
    strength: Strength | None = Field(default=None, description=_STRENGTH)
    speed: float = Field(default=1.0, ge=SLOWEST, le=FASTEST, description="1 is the voice's own rate, 2 twice as fast.")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="Makes the output of a sampling voice repeatable.")
    realise: bool | None = Field(default=None, description="Realise the marks that the voice does not support in its audio.")
    report: bool = Field(default=False, description="Measure every mark in the audio.")
    format: AudioFormat = Field(default="wav", description="Format of the audio; pcm is 16-bit little-endian mono.")
    stream: bool = Field(default=False, description="Stream the audio during synthesis. Its header then does not give its length.")


class SpeakRequest(SpeechOptions):
    """A text to speak, or a message to reply to and the points to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "We ship on Monday, and the returns are free."},
                {"text": "It's <emph>only $299 <pause_short>today.", "marked": True},
                {"input": "How much?", "points": ["30% savings"]},
            ]
        },
    )

    text: str | None = Field(default=None, description="What to speak. The tagger marks it, unless `marked` is true.")
    marked: bool = Field(default=False, description="The text contains its own marks, such as `<emph>`.")
    input: str | None = Field(default=None, description="A message; the spoken text is then a reply to it.")
    points: list[str] = Field(default=[], max_length=MAX_POINTS, description="What the reply must contain, word for word.")

    @model_validator(mode="after")
    def _check_one_text(self) -> "SpeakRequest":
        if (self.text is None) == (self.input is None):
            raise ValueError("give either text, or input and points")
        if self.text is not None and self.points:
            raise ValueError("points require input, not text")
        if self.marked and self.text is None:
            raise ValueError("marked requires text")
        return self


class MarkRequest(_StrictModel):
    """A text to mark."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "We ship on Monday."}]})

    text: str
    intensity: Density | None = Field(default=None, description="The same as density.")
    density: Density | None = Field(default=None, description=_DENSITY)


class MarkOut(BaseModel):
    """A mark, the word that follows it, and the tagger's score; null if the user or a rule set the mark."""

    kind: str
    offset: int = Field(description="In code points of the text.")
    word: str | None
    score: float | None
    ms: int | None


class MarkedOut(BaseModel):
    """A text with its marks."""

    text: str
    marked: str
    marks: list[MarkOut]
    warnings: list[str] = Field(default=[], description="What was not done as asked.")


class WordOut(BaseModel):
    """When a word is spoken, in seconds."""

    word: str
    offset: int
    start: float
    end: float


class SpokenOut(MarkedOut):
    """A spoken text and its audio."""

    words: list[WordOut]
    audio: str = Field(description="The audio, in base64.")
    format: AudioFormat
    media_type: str
    sample_rate: int
    seconds: float
    backend: str
    fallback: str | None = Field(description="The backend that failed, if the fallback spoke.")
    timings: dict[str, float]
    reply: str | None = Field(description="The reply that was spoken, if the request had an input.")
    report: dict[str, Any] | None = Field(description="The measurement of each mark.")


class MeasuredOut(BaseModel):
    """Whether each mark is audible in a recording, with the measured values."""

    model_config = ConfigDict(extra="allow")

    text: str
    marked: str
    trusted: bool = Field(description="Whether the recording matches the text.")
    confidence: float
    warnings: list[str]
    asked: int
    realised: int
    marks: list[dict[str, Any]]


class OpenAISpeechRequest(BaseModel):
    """The body of OpenAI's speech endpoint, and some fields of this project. Unknown fields are ignored, as OpenAI does."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "prosody", "input": "All yours.", "voice": "alloy", "response_format": "wav"}]}
    )

    model: str = Field(
        default="prosody", max_length=200, description="A backend; prosody and OpenAI's models mean the backend of the settings."
    )
    input: str
    voice: str | dict[str, Any] | None = Field(
        default=None, description="Name or id of a voice; OpenAI's voices mean the backend's default."
    )
    instructions: str | None = Field(default=None, max_length=10_000, description="Accepted and ignored; use marks instead.")
    response_format: AudioFormat = "mp3"
    speed: float = Field(default=1.0, ge=SLOWEST, le=FASTEST)
    stream_format: Literal["audio", "sse"] = "audio"
    marked: bool = Field(default=False, description="The input contains its own marks, such as `<emph>`.")
    intensity: Density | None = Field(default=None, description=_INTENSITY)
    density: Density | None = Field(default=None, description=_DENSITY)
    strength: Strength | None = Field(default=None, description=_STRENGTH)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    realise: bool | None = None
    language: str | None = Field(default=None, max_length=35)


class ModelOut(BaseModel):
    """A backend, as OpenAI lists models."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "prosody-speech"


class ModelList(BaseModel):
    """Every backend."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


class VoiceOut(BaseModel):
    """A voice that requests can name by its id."""

    id: str
    name: str
    language: str | None
    description: str
    seconds: float | None = Field(default=None, description="Length of the recording, for an uploaded voice.")
    created: int | None = None


class VoiceList(BaseModel):
    """The voices of one backend, its default first, then the uploaded voices."""

    object: Literal["list"] = "list"
    backend: str
    data: list[VoiceOut]
    voices: list[str] = Field(description="The ids only, for clients that read them here.")


class DeletedOut(BaseModel):
    """A voice that was deleted."""

    id: str
    deleted: bool = True
