"""Dialects: the request and response formats of the servers that offer Higgs Audio.

One class describes one dialect. No other module depends on a vendor.
"""

import base64
import binascii
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from synth.base import Reference, Voice
from synth.higgs_http.errors import Endpoint

if TYPE_CHECKING:
    import httpx

FRAMES_PER_SECOND = 25
"""Frame rate of every Higgs model; it generates one frame per token."""

MAX_JSON = 64_000_000
"""The longest response with audio as base64 that is read, in bytes; about 17 minutes of 16-bit samples at 24 kHz."""

MAX_ERROR = 64_000
"""The longest response without audio that is read, in bytes."""

MEDIA = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg"}
"""Content types of audio formats."""

_V2_LANGUAGES = ("de", "en", "es", "ko", "zh")
_V2_CHARS = 300  # the 2,048 frames (82 s) that servers allow suffice for it in any script; given more text, v2 may not stop


@dataclass(frozen=True, slots=True)
class SpeechPayload:
    """Content of a speech request, independent of the dialect.

    Attributes:
        text: the text to speak, with the model's own control tags alone.
        audio_format: the format to respond in: wav, pcm, mp3, opus or flac.
        stream: whether to send the audio while it is generated.
        max_seconds: the longest audio to accept.
        voice: name of the voice; not sent where there is a reference.
        reference: recording to take the voice from; its text has no control tags.
        speed: rate of speech; 1.0 is the voice's own.
        seed: of the sampling; None leaves it to the server.
    """

    text: str
    audio_format: str
    stream: bool
    max_seconds: float
    voice: str | None = None
    reference: Reference | None = None
    speed: float = 1.0
    seed: int | None = None


class Dialect(ABC):
    """The request and response format of one kind of server.

    Attributes:
        url: default base URL.
        model: default model name.
        path: of speech requests, after the base URL.
        key_variable: environment variable in which other programs keep the API key too; None if there is none.
        presets: its voices; empty if they have to be listed.
        default_voice: default voice. It is always sent: without a name, v2 chooses another voice for each request.
        languages: BCP 47 tags of the languages that its model was evaluated on.
        max_chars: the longest text of one request, in code points.
        audio_formats: formats that it can respond in; the first is the default where it does not stream.
        streams: whether it can send pcm while it generates.
        speeds: slowest and fastest rate of speech that can be requested; None if none can.
        seeds: whether a seed can be given.
        registers: whether it can register a recording as a voice.
        pause_tags: the model's control tag for each kind of pause that it has one for.
        pitch_tags: likewise for pitch; such a tag changes the pitch of a whole sentence.
    """

    url: ClassVar[str]
    model: ClassVar[str]
    path: ClassVar[str] = "audio/speech"
    key_variable: ClassVar[str | None] = None
    presets: ClassVar[tuple[Voice, ...]] = ()
    default_voice: ClassVar[str] = "default"
    languages: ClassVar[tuple[str, ...]] = _V2_LANGUAGES
    max_chars: ClassVar[int] = _V2_CHARS
    audio_formats: ClassVar[tuple[str, ...]] = ("wav", "pcm", "mp3", "opus", "flac")
    streams: ClassVar[bool] = True
    speeds: ClassVar[tuple[float, float] | None] = None
    seeds: ClassVar[bool] = False
    registers: ClassVar[bool] = False
    pause_tags: ClassVar[Mapping[str, str]] = {}
    pitch_tags: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def body(self, payload: SpeechPayload, model: str) -> dict[str, Any]:
        """Return the JSON body of a speech request."""

    async def audio(self, response: "httpx.Response", endpoint: Endpoint, warnings: list[str]) -> AsyncGenerator[bytes, None]:
        """Return the encoded audio of a successful response, as it arrives. Warnings are appended to ``warnings``.

        Raises:
            RequestFailed: the response holds no audio. The generator raises it too, if that is found later.
        """
        return await _raw_audio(response, endpoint)


class Boson(Dialect):
    """Boson's cloud, which offers Higgs Audio v3."""

    url = "https://api.boson.ai/v1"
    model = "higgs-tts-3"
    key_variable = "BOSON_API_KEY"
    presets = tuple(Voice(name, "en") for name in ("default", "chloe", "eleanor", "jake", "marcus", "nora", "oliver"))
    languages = tuple(
        "af ar as ast az ba be bg bn bs ca ceb ckb cs cy da de el en eo es et eu fa fi fr ga gl gu ha he hi hr ht "
        "hu hy id is it jv ka kab kam kea kk kn ko ky la lb lg ln lt luo lv mhr mi mk ml mn mr ms mt ne nl no nso ny "
        "oc om pa pl ps pt ro ru rw sd sk sl sn so sq sr sv sw ta te tg tl tr ug uk umb ur uz vi xh zh zu".split()
    )
    max_chars = 5_000
    registers = True
    # Documented as 400 to 700 ms and 700 to 1500 ms: never shorter than this project's pauses of these kinds.
    pause_tags: ClassVar[Mapping[str, str]] = {"pause_short": "<|prosody:pause|>", "pause_long": "<|prosody:long_pause|>"}
    pitch_tags: ClassVar[Mapping[str, str]] = {"pitch_high": "<|prosody:pitch_high|>", "pitch_low": "<|prosody:pitch_low|>"}

    def body(self, payload: SpeechPayload, model: str) -> dict[str, Any]:
        return _speech_body(payload, model)


class OpenAISpeech(Dialect):
    """vLLM and SGLang, which offer Higgs Audio through OpenAI's speech API.

    Newer versions of vLLM stream server-sent events; SGLang and older versions stream raw samples.
    """

    url = "http://localhost:8000/v1"
    model = "bosonai/higgs-audio-v2-generation-3B-base"
    speeds = (0.25, 4.0)
    seeds = True

    def body(self, payload: SpeechPayload, model: str) -> dict[str, Any]:
        body = {"voice": payload.voice} | _speech_body(payload, model)  # SGLang requires a voice even with a recording
        if payload.speed != 1.0:
            body["speed"] = payload.speed
        if payload.seed is not None:
            body["seed"] = payload.seed
        return body

    async def audio(self, response: "httpx.Response", endpoint: Endpoint, warnings: list[str]) -> AsyncGenerator[bytes, None]:
        if media_of(response) == "text/event-stream":
            return _audio_of_events(response, endpoint)
        return await _raw_audio(response, endpoint)


class BosonChat(Dialect):
    """Boson's hackathon server: Higgs Audio v2 through chat completions with audio."""

    url = "https://hackathon.boson.ai/v1"
    model = "higgs-audio-generation-Hackathon"
    path = "chat/completions"
    key_variable = "BOSON_API_KEY"
    default_voice = "belinda"
    presets = (
        *(Voice(name, "en") for name in ("belinda", "broom_salesman", "chadwick", "en_man", "en_woman", "mabel", "vex")),
        Voice("zh_man_sichuan", "zh"),
    )
    audio_formats = ("wav",)
    streams = False
    seeds = True

    def body(self, payload: SpeechPayload, model: str) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [{"role": "system", "content": "Generate audio following instruction."}]
        audio = {"format": payload.audio_format}
        if payload.reference is not None:
            recording = {"type": "input_audio", "input_audio": _input_audio(payload.reference)}
            messages.append({"role": "user", "content": payload.reference.text})
            messages.append({"role": "assistant", "content": [recording]})
        elif payload.voice is not None:
            audio["voice"] = payload.voice
        messages.append({"role": "user", "content": payload.text})
        body = {
            "model": model,
            "messages": messages,
            "modalities": ["text", "audio"],
            "audio": audio,
            "max_completion_tokens": round(payload.max_seconds * FRAMES_PER_SECOND),
        }
        if payload.seed is not None:
            body["seed"] = payload.seed
        return body

    async def audio(self, response: "httpx.Response", endpoint: Endpoint, warnings: list[str]) -> AsyncGenerator[bytes, None]:
        body = await read(response, MAX_JSON)
        if body is None:
            raise endpoint.invalid(f"sent more than {MAX_JSON} bytes in one answer")
        data, finish_reason = _chat_audio(body)
        if not data:
            raise endpoint.no_speech(media_of(response), body)
        if finish_reason == "length":
            warnings.append("the server cut the speech at its maximum length")
        return _single(_from_base64(data, endpoint))


async def read(response: "httpx.Response", max_bytes: int) -> bytes | None:
    """Return the body, not decompressed; None if it has more than ``max_bytes``."""
    body = bytearray()
    async with aclosing(_chunks(response)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > max_bytes:
                return None
    return bytes(body)


def _chunks(response: "httpx.Response") -> AsyncGenerator[bytes, None]:
    return cast(AsyncGenerator[bytes, None], response.aiter_raw())


async def _single(audio: bytes) -> AsyncGenerator[bytes, None]:
    yield audio


def media_of(response: "httpx.Response") -> str:
    """Return the content type without its parameters; "" if there is none."""
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _speech_body(payload: SpeechPayload, model: str) -> dict[str, Any]:
    """Return the body of OpenAI's speech API, plus the two fields for a recording that Boson, vLLM and SGLang share."""
    body: dict[str, Any] = {"model": model, "input": payload.text, "response_format": payload.audio_format}
    if payload.stream:
        body["stream"] = True
    if payload.reference is not None:
        body |= recording_fields(payload.reference)
    elif payload.voice is not None:
        body["voice"] = payload.voice
    return body


def recording_fields(reference: Reference) -> dict[str, str]:
    """Return the request fields for a recording and its transcript."""
    data = base64.b64encode(reference.audio).decode()
    return {"ref_audio": f"data:{MEDIA[reference.audio_format]};base64,{data}", "ref_text": reference.text}


def registered_name(body: bytes) -> str:
    """Return the voice name in the response to a registration; "" if there is none."""
    found = _json(body)
    names = (found.get(key) for key in ("voice_id", "voice", "id"))
    return next((name for name in names if isinstance(name, str)), "")


def _input_audio(reference: Reference) -> dict[str, str]:
    """Return a recording as part of a chat message; chats accept wav and mp3 alone."""
    from synth.reference import as_wav

    fits = reference.audio_format in ("wav", "mp3")
    audio_format, audio = (reference.audio_format, reference.audio) if fits else ("wav", as_wav(reference))
    return {"data": base64.b64encode(audio).decode(), "format": audio_format}


async def _raw_audio(response: "httpx.Response", endpoint: Endpoint) -> AsyncGenerator[bytes, None]:
    media = media_of(response)
    if media and not media.startswith("audio/") and media not in ("application/octet-stream", "binary/octet-stream"):
        raise endpoint.no_speech(media, await read(response, MAX_ERROR) or b"")
    return _chunks(response)


_MAX_EVENT = 8_000_000  # bytes: two minutes of 16-bit samples at 24 kHz, as base64


async def _audio_of_events(response: "httpx.Response", endpoint: Endpoint) -> AsyncGenerator[bytes, None]:
    """Yield the audio of OpenAI's server-sent events: ``speech.audio.delta`` with base64, then ``speech.audio.done``."""
    incomplete = b""
    async with aclosing(_chunks(response)) as chunks:
        async for chunk in chunks:
            *lines, incomplete = (incomplete + chunk).split(b"\n")
            if len(incomplete) > _MAX_EVENT:
                raise endpoint.invalid("sent an event without end")
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                event = _json(line[5:])
                if event.get("type") == "speech.audio.done":
                    return
                data = event.get("audio")
                if event.get("type") != "speech.audio.delta" or not isinstance(data, str):
                    raise endpoint.no_speech("text/event-stream", line[5:])
                yield _from_base64(data, endpoint)
    raise endpoint.invalid("stopped before the end of the speech", retry=True)


def _chat_audio(body: bytes) -> tuple[str, object]:
    """Return the audio in a chat completion, as base64 ("" if there is none), and its finish_reason."""
    choices = _json(body).get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    audio = message.get("audio") if isinstance(message, dict) else None
    data = audio.get("data") if isinstance(audio, dict) else None
    return (data, choice.get("finish_reason")) if isinstance(data, str) and isinstance(choice, dict) else ("", None)


def _json(data: bytes) -> dict[str, Any]:
    """Parse a JSON object; return an empty one if ``data`` is anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _from_base64(data: str, endpoint: Endpoint) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise endpoint.invalid("sent audio that is not base64") from None


DIALECTS: Mapping[str, Dialect] = {"boson": Boson(), "boson-chat": BosonChat(), "openai-speech": OpenAISpeech()}
