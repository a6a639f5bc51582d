"""Validate requests and turn them into jobs for the engine. Does not import boson_multimodal."""

import base64
import binascii
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np

MAX_CHARS = 2_000
MAX_RECORDING_BYTES = 10_000_000
"""Largest recording."""
MAX_RECORDING_SECONDS = 60.0
MAX_FRAMES = 2_048
"""Most frames of one answer: 82 s."""

AudioFormat = Literal["wav", "pcm", "flac", "mp3", "opus"]

_CONTROL_TOKEN = re.compile(r"<\|(?=[^<>|\s]{1,64}\|>)")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_FRAMES_PER_CHAR = 15  # 0.6 s, longer than any character takes to say
_MIN_FRAMES = 75


class RequestRefused(Exception):
    """A request is refused.

    Attributes:
        status: HTTP status.
        kind: type of the error in OpenAI's format.
        message: the message.
        retry_after: seconds after which to try again, if that may help.
    """

    def __init__(self, status: int, kind: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.retry_after = retry_after


def invalid(message: str) -> RequestRefused:
    """Return a refusal with status 400."""
    return RequestRefused(400, "invalid_request_error", message)


class SpeechBody(BaseModel):
    """The body of POST /v1/audio/speech. Unknown fields are refused, not ignored."""

    model_config = ConfigDict(extra="forbid")

    model: str
    input: str
    voice: str | None = None
    response_format: AudioFormat = "wav"
    stream: bool = False
    speed: float = 1.0
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    ref_audio: str | None = None
    ref_text: str | None = None
    temperature: float = Field(default=0.7, ge=0.0, le=2.0)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=1)
    max_new_tokens: int | None = Field(default=None, ge=16, le=MAX_FRAMES)


@dataclass(frozen=True, slots=True)
class VoiceRecording:
    """A recording of a voice: ``audio`` is a mono WAV file, ``text`` its transcript."""

    audio: bytes
    text: str


@dataclass(frozen=True, slots=True)
class SpeechJob:
    """A text to speak, valid for the model.

    Attributes:
        text: without control tokens.
        recording: the voice to imitate; None for any.
        frames: most frames of audio, 25 per second.
        stream: whether audio is put as it is generated.
        temperature, top_p, top_k, seed: as in the request.
    """

    text: str
    recording: VoiceRecording | None
    frames: int
    stream: bool
    temperature: float
    top_p: float
    top_k: int | None
    seed: int | None


def speech_job(body: SpeechBody, recording: VoiceRecording | None) -> SpeechJob:
    """Return the job of a request.

    Args:
        body: the request's body.
        recording: the voice to imitate, unless the body contains one.

    Raises:
        RequestRefused: a value is not valid.
    """
    if len(body.input) > MAX_CHARS:
        raise RequestRefused(400, "input_too_long", f"input has {len(body.input)} characters; give at most {MAX_CHARS} at a time")
    text = plain_text(body.input)
    if not any(letter.isalnum() for letter in text):
        raise invalid("input holds no words")
    if body.speed != 1.0:
        raise invalid("speed cannot be changed; leave it at 1")
    if body.stream and body.response_format != "pcm":
        raise invalid(f"response_format {body.response_format} cannot be streamed; ask for pcm")
    if body.ref_text is not None and body.ref_audio is None:
        raise invalid("ref_text is the transcript of ref_audio; give both")
    if body.ref_audio is not None:
        if body.ref_text is None or len(body.ref_text) > MAX_CHARS or not plain_text(body.ref_text).strip():
            raise invalid(f"ref_audio needs ref_text, its transcript, of at most {MAX_CHARS} characters")
        recording = VoiceRecording(as_wav(_decoded(body.ref_audio)), plain_text(body.ref_text))
    frames = max(_MIN_FRAMES, _FRAMES_PER_CHAR * len(text))
    return SpeechJob(
        text,
        recording,
        min(body.max_new_tokens or frames, frames, MAX_FRAMES),
        body.stream,
        body.temperature,
        body.top_p,
        body.top_k,
        body.seed,
    )


def plain_text(text: str) -> str:
    """Return ``text`` with control tokens broken up and control characters replaced by spaces, stripped."""
    text = _CONTROL_CHARACTER.sub(" ", text.encode("utf-8", "replace").decode("utf-8"))
    return _CONTROL_TOKEN.sub("< |", text).strip()


def as_wav(data: bytes) -> bytes:
    """Convert a recording, in any format that libsndfile reads, to a mono WAV file.

    Raises:
        RequestRefused: it cannot be read, or is too short or too long.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            seconds, rate = file.frames / file.samplerate, file.samplerate
            if not 0.1 <= seconds <= MAX_RECORDING_SECONDS:
                raise invalid(f"ref_audio lasts {seconds:.1f} s; give 0.1 to {MAX_RECORDING_SECONDS:.0f} s")
            samples: np.ndarray = file.read(dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.SoundFileError, ValueError, TypeError):
        raise invalid("ref_audio cannot be read; give wav, flac, mp3 or ogg") from None
    wav = io.BytesIO()
    soundfile.write(wav, samples, rate, format="WAV", subtype="PCM_16")
    return wav.getvalue()


def _decoded(ref_audio: str) -> bytes:
    """Decode a data URI or base64. URLs are refused, never fetched.

    Raises:
        RequestRefused: it is neither, or too large.
    """
    head, comma, data = ref_audio.partition(",")
    if head.startswith(("http:", "https:", "file:")):
        raise invalid("ref_audio is an address, and addresses are not fetched; send the recording itself, in base64")
    encoded = data if comma and head.startswith("data:") else ref_audio
    if len(encoded) > MAX_RECORDING_BYTES * 4 / 3 + 4:
        raise RequestRefused(413, "invalid_request_error", f"ref_audio is longer than {MAX_RECORDING_BYTES} bytes")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("ref_audio is no base64; send data:audio/wav;base64,... or the base64 alone") from None
