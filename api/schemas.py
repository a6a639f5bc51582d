"""What the endpoints take and give, as JSON."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ai_core.settings import Density
from synth.audio.time_stretch import FASTEST, SLOWEST

Form = Literal["wav", "flac", "mp3", "opus", "aac", "pcm"]

MAX_POINTS = 100


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Manner(_Strict):
    """How a text is spoken. What is left out is as the service is set."""

    backend: str | None = Field(default=None, max_length=100, description="Who speaks; GET /v1/prosody lists them.")
    voice: str | None = Field(default=None, max_length=200, description="A name of the backend's, or the id of an uploaded voice.")
    language: str | None = Field(default=None, max_length=35, description="BCP 47 tag of what is spoken.", examples=["en-gb"])
    intensity: Density | None = Field(
        default=None, description="How often and how strongly words are stressed; a number is emphases a word, such as 0.12."
    )
    speed: float = Field(default=1.0, ge=SLOWEST, le=FASTEST, description="1 is the voice's own rate, 2 twice as fast.")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="Makes a voice that samples repeatable.")
    realise: bool | None = Field(default=None, description="Make the marks that the voice does not obey in its sound.")
    report: bool = Field(default=False, description="Measure every mark in what was spoken.")
    format: Form = Field(default="wav", description="What the audio is coded in; pcm is 16-bit little-endian mono.")
    stream: bool = Field(default=False, description="Send the audio while it is made. Its length is then unknown to its header.")


class SpeakRequest(Manner):
    """A text to speak, or what they said and the points to make in reply."""

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
    marked: bool = Field(default=False, description="The text holds marks of its own, such as <emph>.")
    input: str | None = Field(default=None, description="What they said; the text is then a reply to it.")
    points: list[str] = Field(default=[], max_length=MAX_POINTS, description="What the reply has to hold, word for word.")

    @model_validator(mode="after")
    def _has_one_text(self) -> "SpeakRequest":
        if (self.text is None) == (self.input is None):
            raise ValueError("give either text, or input and points")
        if self.text is not None and self.points:
            raise ValueError("points go with input, not with text")
        if self.marked and self.text is None:
            raise ValueError("marked goes with text")
        return self


class MarkRequest(_Strict):
    """A text to mark."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "We ship on Monday."}]})

    text: str
    intensity: Density | None = None


class MarkShown(BaseModel):
    """A mark, the word that it stands before, and the tagger's score or null where the user or a rule set it."""

    kind: str
    offset: int = Field(description="In code points of the text.")
    word: str | None
    score: float | None
    ms: int | None


class Marked(BaseModel):
    """A text with its marks."""

    text: str
    marked: str
    marks: list[MarkShown]
    warnings: list[str] = Field(default=[], description="What was not done, or not as asked, in words.")


class WordShown(BaseModel):
    """When a word is heard, in seconds."""

    word: str
    offset: int
    start: float
    end: float


class Spoken(Marked):
    """What was spoken."""

    words: list[WordShown]
    audio: str = Field(description="The audio, in base64.")
    format: Form
    media_type: str
    sample_rate: int
    seconds: float
    backend: str
    fallback: str | None = Field(description="Who was asked first, if somebody else had to speak.")
    timings: dict[str, float]
    reply: str | None = Field(description="The reply that was spoken, if there was something to reply to.")
    report: dict[str, Any] | None = Field(description="What was measured of each mark.")


class Measured(BaseModel):
    """Whether each mark is heard in a recording, with the figures behind it."""

    model_config = ConfigDict(extra="allow")

    text: str
    marked: str
    trusted: bool = Field(description="Whether the recording says the text.")
    confidence: float
    warnings: list[str]
    asked: int
    realised: int
    marks: list[dict[str, Any]]


class SpeechRequest(BaseModel):
    """OpenAI's form. Fields that are not known are left unread, as there."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "prosody", "input": "All yours.", "voice": "alloy", "response_format": "wav"}]}
    )

    model: str = Field(
        default="prosody", max_length=200, description="A backend; prosody or OpenAI's names mean the one that is set."
    )
    input: str
    voice: str | dict[str, Any] | None = Field(default=None, description="A voice's name or id; OpenAI's names are taken as well.")
    instructions: str | None = Field(default=None, max_length=10_000, description="Taken, and not followed: marks do that here.")
    response_format: Form = "mp3"
    speed: float = Field(default=1.0, ge=SLOWEST, le=FASTEST)
    stream_format: Literal["audio", "sse"] = "audio"
    marked: bool = Field(default=False, description="The input holds marks of its own, such as <emph>.")
    intensity: Density | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    realise: bool | None = None
    language: str | None = Field(default=None, max_length=35)


class Model(BaseModel):
    """A backend, as OpenAI lists models."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "prosody-speech"


class Models(BaseModel):
    """Every backend."""

    object: Literal["list"] = "list"
    data: list[Model]


class VoiceShown(BaseModel):
    """A voice that can be asked for by its id."""

    id: str
    name: str
    language: str | None
    description: str
    seconds: float | None = Field(default=None, description="Length of the recording, of an uploaded voice.")
    created: int | None = None


class Voices(BaseModel):
    """The voices of one backend, its default first, and those that were uploaded."""

    object: Literal["list"] = "list"
    backend: str
    data: list[VoiceShown]
    voices: list[str] = Field(description="The ids alone, as some clients read them.")


class Deleted(BaseModel):
    """A voice that is gone."""

    id: str
    deleted: bool = True
