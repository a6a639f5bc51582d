"""The forms in which servers speak with Higgs Audio: what each is asked, and how its answer is read.

One class holds all that is true of one form; a vendor's name stands nowhere else.
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
from synth.higgs_http.errors import Peer

if TYPE_CHECKING:
    import httpx

FRAMES_PER_SECOND = 25
"""Of every Higgs model: one generated token is one frame."""

MAX_JSON = 64_000_000
"""Most bytes of an answer that holds its sound as text: half an hour as base64."""

MAX_ERROR = 64_000
"""Most bytes that are read of an answer without sound."""

MEDIA = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg"}

_V2_LANGUAGES = ("de", "en", "es", "ko", "zh")
_V2_CHARS = 300  # what is said in the 2,048 frames (82 s) that servers allow, in the slowest script; on more text, v2 runs on


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be spoken. ``text`` is fit to be sent; ``reference`` is to be sent along, with its words made fit as well.

    ``seconds`` is what the sound may take at most.
    """

    text: str
    form: str
    stream: bool
    seconds: float
    voice: str | None = None
    reference: Reference | None = None
    speed: float = 1.0
    seed: int | None = None


class Dialect(ABC):
    """One form of server.

    Attributes:
        url: where it is if nobody says otherwise.
        model: what it is asked for if nobody says otherwise.
        path: of speech, after the base URL.
        key_variable: an environment variable that holds its key for other programs too.
        presets: its voices; none if only the server knows them.
        default_voice: the one that speaks if nobody says otherwise. Without a name, v2 takes another voice for every piece.
        languages: that its model was evaluated on.
        max_chars: the longest text of one request.
        forms: of sound that can be asked for; the first is asked for where it does not stream.
        streams: whether it sends pcm while it speaks.
        speeds: slowest and fastest rate of speech that can be asked for; None if none can.
        seeds: whether a seed can be given.
        registers: whether it keeps a recording as a voice.
        pause_tags: for each pause, the tag that the model knows.
        pitch_tags: likewise for marks of the pitch, each colouring a whole sentence.
    """

    url: ClassVar[str]
    model: ClassVar[str]
    path: ClassVar[str] = "audio/speech"
    key_variable: ClassVar[str | None] = None
    presets: ClassVar[tuple[Voice, ...]] = ()
    default_voice: ClassVar[str] = "default"
    languages: ClassVar[tuple[str, ...]] = _V2_LANGUAGES
    max_chars: ClassVar[int] = _V2_CHARS
    forms: ClassVar[tuple[str, ...]] = ("wav", "pcm", "mp3", "opus", "flac")
    streams: ClassVar[bool] = True
    speeds: ClassVar[tuple[float, float] | None] = None
    seeds: ClassVar[bool] = False
    registers: ClassVar[bool] = False
    pause_tags: ClassVar[Mapping[str, str]] = {}
    pitch_tags: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def body(self, order: Order, model: str) -> dict[str, Any]:
        """What to POST as JSON."""

    async def sound(self, response: "httpx.Response", peer: Peer, warnings: list[str]) -> AsyncGenerator[bytes, None]:
        """The sound in a successful answer, as it comes; ``warnings`` takes what the server says of it.

        Raises:
            Fault: there is none. The generator raises it too, if that shows later.
        """
        return await _plain_sound(response, peer)


class Boson(Dialect):
    """Boson's cloud, which speaks with Higgs Audio v3."""

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
    # Said to last 400 to 700 and 700 to 1500 ms, so never shorter than the pauses that they stand for.
    pause_tags: ClassVar[Mapping[str, str]] = {"pause_short": "<|prosody:pause|>", "pause_long": "<|prosody:long_pause|>"}
    pitch_tags: ClassVar[Mapping[str, str]] = {"pitch_high": "<|prosody:pitch_high|>", "pitch_low": "<|prosody:pitch_low|>"}

    def body(self, order: Order, model: str) -> dict[str, Any]:
        return _speech_body(order, model)


class OpenAISpeech(Dialect):
    """vLLM and SGLang, which serve Higgs Audio as OpenAI serves its own speech.

    Newer vLLM wraps a stream into events; SGLang and older ones send bare samples.
    """

    url = "http://localhost:8000/v1"
    model = "bosonai/higgs-audio-v2-generation-3B-base"
    speeds = (0.25, 4.0)
    seeds = True

    def body(self, order: Order, model: str) -> dict[str, Any]:
        body = {"voice": order.voice} | _speech_body(order, model)  # SGLang wants a voice even beside a recording
        if order.speed != 1.0:
            body["speed"] = order.speed
        if order.seed is not None:
            body["seed"] = order.seed
        return body

    async def sound(self, response: "httpx.Response", peer: Peer, warnings: list[str]) -> AsyncGenerator[bytes, None]:
        if media_of(response) == "text/event-stream":
            return _sound_of_events(response, peer)
        return await _plain_sound(response, peer)


class BosonChat(Dialect):
    """The form of Boson's hackathon: a chat whose answer is heard. It is Higgs Audio v2."""

    url = "https://hackathon.boson.ai/v1"
    model = "higgs-audio-generation-Hackathon"
    path = "chat/completions"
    key_variable = "BOSON_API_KEY"
    default_voice = "belinda"
    presets = (
        *(Voice(name, "en") for name in ("belinda", "broom_salesman", "chadwick", "en_man", "en_woman", "mabel", "vex")),
        Voice("zh_man_sichuan", "zh"),
    )
    forms = ("wav",)
    streams = False
    seeds = True

    def body(self, order: Order, model: str) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [{"role": "system", "content": "Generate audio following instruction."}]
        audio = {"format": order.form}
        if order.reference is not None:
            recording = {"type": "input_audio", "input_audio": _input_audio(order.reference)}
            messages.append({"role": "user", "content": order.reference.text})
            messages.append({"role": "assistant", "content": [recording]})
        elif order.voice is not None:
            audio["voice"] = order.voice
        messages.append({"role": "user", "content": order.text})
        body = {
            "model": model,
            "messages": messages,
            "modalities": ["text", "audio"],
            "audio": audio,
            "max_completion_tokens": round(order.seconds * FRAMES_PER_SECOND),
        }
        if order.seed is not None:
            body["seed"] = order.seed
        return body

    async def sound(self, response: "httpx.Response", peer: Peer, warnings: list[str]) -> AsyncGenerator[bytes, None]:
        body = await read(response, MAX_JSON)
        if body is None:
            raise peer.broken(f"sent more than {MAX_JSON} bytes in one answer")
        data, finish = _chat_audio(body)
        if not data:
            raise peer.soundless(media_of(response), body)
        if finish == "length":
            warnings.append("the server cut the speech at its longest")
        return _whole(_from_base64(data, peer))


async def read(response: "httpx.Response", most: int) -> bytes | None:
    """The body as it was sent, or None if it has more than ``most`` bytes."""
    body = bytearray()
    async with aclosing(_raw(response)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > most:
                return None
    return bytes(body)


def _raw(response: "httpx.Response") -> AsyncGenerator[bytes, None]:
    return cast(AsyncGenerator[bytes, None], response.aiter_raw())


async def _whole(sound: bytes) -> AsyncGenerator[bytes, None]:
    yield sound


def media_of(response: "httpx.Response") -> str:
    """Its content type, without parameters; "" if it gives none."""
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _speech_body(order: Order, model: str) -> dict[str, Any]:
    """OpenAI's form of speech, with the two fields for a recording that Boson, vLLM and SGLang agree on."""
    body: dict[str, Any] = {"model": model, "input": order.text, "response_format": order.form}
    if order.stream:
        body["stream"] = True
    if order.reference is not None:
        body |= recording(order.reference)
    elif order.voice is not None:
        body["voice"] = order.voice
    return body


def recording(reference: Reference) -> dict[str, str]:
    """A recording and its words, as the fields of a request."""
    data = base64.b64encode(reference.audio).decode()
    return {"ref_audio": f"data:{MEDIA[reference.form]};base64,{data}", "ref_text": reference.text}


def registered_voice(body: bytes) -> str:
    """The name in the answer to a registration; "" if there is none."""
    answer = _json(body)
    names = (answer.get(name) for name in ("voice_id", "voice", "id"))
    return next((name for name in names if isinstance(name, str)), "")


def _input_audio(reference: Reference) -> dict[str, str]:
    """A recording in a chat, which knows wav and mp3 alone."""
    from synth.reference import as_wav

    form, audio = (reference.form, reference.audio) if reference.form in ("wav", "mp3") else ("wav", as_wav(reference))
    return {"data": base64.b64encode(audio).decode(), "format": form}


async def _plain_sound(response: "httpx.Response", peer: Peer) -> AsyncGenerator[bytes, None]:
    media = media_of(response)
    if media and not media.startswith("audio/") and media not in ("application/octet-stream", "binary/octet-stream"):
        raise peer.soundless(media, await read(response, MAX_ERROR) or b"")
    return _raw(response)


_MAX_EVENT = 8_000_000


async def _sound_of_events(response: "httpx.Response", peer: Peer) -> AsyncGenerator[bytes, None]:
    """Server-sent events in OpenAI's form: ``speech.audio.delta`` with base64, and ``speech.audio.done``."""
    waiting = b""
    async with aclosing(_raw(response)) as chunks:
        async for chunk in chunks:
            *lines, waiting = (waiting + chunk).split(b"\n")
            if len(waiting) > _MAX_EVENT:
                raise peer.broken("sent an event without end")
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                event = _json(line[5:])
                if event.get("type") == "speech.audio.done":
                    return
                data = event.get("audio")
                if event.get("type") != "speech.audio.delta" or not isinstance(data, str):
                    raise peer.soundless("text/event-stream", line[5:])
                yield _from_base64(data, peer)
    raise peer.broken("stopped before the end of the speech", retry=True)


def _chat_audio(body: bytes) -> tuple[str, object]:
    """The sound in a chat completion, in base64 ("" if there is none), and why it ended."""
    choices = _json(body).get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    audio = message.get("audio") if isinstance(message, dict) else None
    data = audio.get("data") if isinstance(audio, dict) else None
    return (data, choice.get("finish_reason")) if isinstance(data, str) and isinstance(choice, dict) else ("", None)


def _json(data: bytes) -> dict[str, Any]:
    """A JSON object; empty if it is anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _from_base64(data: str, peer: Peer) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise peer.broken("sent sound that is not base64") from None


DIALECTS: Mapping[str, Dialect] = {"boson": Boson(), "boson-chat": BosonChat(), "openai-speech": OpenAISpeech()}
