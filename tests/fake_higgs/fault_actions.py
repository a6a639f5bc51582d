"""Implementation of each fault."""

import asyncio
import base64
import io
import json
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from email.utils import formatdate
from functools import lru_cache
from itertools import cycle

import numpy as np

from synth.audio.encoding import encode
from synth.audio.signal import resample
from synth.base import Audio

from .api_error import ApiError, error_body
from .events import EVENT_STREAM, event
from .faults import Fault
from .options import Options
from .speech import MEDIA_TYPES
from .writer import FakeResponse, ResponseWriter, split, wait_forever

_Action = Callable[[ResponseWriter], Awaitable[None]]
_Change = Callable[[FakeResponse, Options], FakeResponse]

_HTML = b"<!doctype html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
_FORMAT_OF = {media_type: audio_format for audio_format, media_type in MEDIA_TYPES.items()}
_ODD_SIZES = (1, 997, 3, 4801)
_HEADER_BYTES = 44  # of a WAV without extra chunks
_SIZES_MAX = 0xFFFFFFFF


async def perform_fault(writer: ResponseWriter) -> None:
    """Respond with the fault in `ReceivedRequest.fault`.

    Raises:
        ValueError: the fault does not apply to the response (such as a fault of WAV files where pcm was requested).
    """
    assert writer.received.fault is not None
    await ACTIONS[writer.received.fault](writer)


# Before the response


async def _never_respond(writer: ResponseWriter) -> None:
    await wait_forever()


async def _be_slow(writer: ResponseWriter) -> None:
    await asyncio.sleep(writer.options.slow_ms / 1000)
    await writer.deliver_correct()


async def _hang_up(writer: ResponseWriter) -> None:
    await writer.delay()
    await writer.hang_up()


async def _reset(writer: ResponseWriter) -> None:
    await writer.delay()
    await writer.reset()


# An error


def _refuse(status: int, error_type: str, message: str, retry_after: Callable[[int], str] | None = None) -> _Action:
    async def action(writer: ResponseWriter) -> None:
        body = error_body(ApiError(status, error_type, message), writer.options.dialect, writer.received.path)
        headers = {"retry-after": retry_after(writer.options.retry_after_s)} if retry_after else {}
        await writer.deliver(_json_response(body, status, headers))

    return action


def _date(seconds: int) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


def _echo(status: int) -> _Action:
    async def action(writer: ResponseWriter) -> None:
        key = writer.received.headers.get("authorization", "")
        message = f"cannot serve {writer.received.body.decode(errors='replace')} with {key}"
        body = error_body(ApiError(status, "invalid_request_error", message), writer.options.dialect, writer.received.path)
        await writer.deliver(_json_response(body, status, {}))

    return action


async def _redirect(writer: ResponseWriter) -> None:
    await writer.deliver(_response(307, "text/plain", b"").with_header("location", "/v1/elsewhere"))


def _send(status: int, media_type: str, body: bytes) -> _Action:
    async def action(writer: ResponseWriter) -> None:
        await writer.deliver(_response(status, media_type, body))

    return action


# 200, but no speech


async def _json_error(writer: ResponseWriter) -> None:
    body = error_body(ApiError(500, "server_error", "the model is overloaded"), writer.options.dialect, writer.received.path)
    await writer.deliver(_json_response(body, 200, {}))


def _empty(response: FakeResponse, options: Options) -> FakeResponse:
    return response.with_body(b"")


def _garbage(response: FakeResponse, options: Options) -> FakeResponse:
    return response.with_body(np.random.default_rng(0).bytes(20_000))


async def _gzip_bomb(writer: ResponseWriter) -> None:
    response = await writer.correct()
    await writer.deliver(response.with_body(_bomb()).with_header("content-encoding", "gzip"))


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    """Return 256 MB of zeros, compressed. A block that ends with a full flush refers to no other, so it can be repeated."""
    zeros, times, check = bytes(1 << 20), 256, 0
    for _ in range(times):
        check = zlib.crc32(zeros, check)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = compressor.compress(zeros) + compressor.flush(zlib.Z_FULL_FLUSH)
    trailer = struct.pack("<II", check, times * len(zeros))
    return b"\x1f\x8b\x08" + bytes(7) + block * times + compressor.flush(zlib.Z_FINISH) + trailer


# A correct response, delivered incorrectly


async def _half(writer: ResponseWriter, response: FakeResponse) -> None:
    """Send half of the response without uvicorn, and give the client time to read it."""
    await writer.start_raw(response)
    half = response.body[: len(response.body) // 2]
    writer.send_raw(split(half, writer.options.chunk_bytes), chunked=response.streamed)
    await asyncio.sleep(writer.options.cut_ms / 1000)


async def _reset_mid_body(writer: ResponseWriter) -> None:
    await _half(writer, await writer.correct())
    await writer.reset()


async def _shorten(writer: ResponseWriter) -> None:
    response = await writer.correct()
    await _half(writer, response.with_header("content-length", str(len(response.body))))
    await writer.hang_up()


async def _leave_unfinished(writer: ResponseWriter) -> None:
    await _half(writer, (await writer.correct()).with_header("content-length", None))
    await writer.hang_up()


async def _stall(writer: ResponseWriter) -> None:
    response = await writer.correct()
    await writer.start(response)
    for piece in split(response.body[: len(response.body) // 2], writer.options.chunk_bytes):
        await writer.send(piece)
    await wait_forever()


async def _drip(writer: ResponseWriter) -> None:
    response = (await writer.correct()).with_header("content-length", None)
    await writer.start(response)
    for drop in cycle(split(response.body, 2)):
        await writer.send(drop)
        await asyncio.sleep(writer.options.drip_ms / 1000)


async def _odd_chunks(writer: ResponseWriter) -> None:
    response = (await writer.correct()).with_header("content-length", None)
    await writer.start(response)
    sizes, rest = cycle(_ODD_SIZES), response.body
    while len(rest) > (size := next(sizes)):
        await writer.send(rest[:size])
        rest = rest[size:]
    await writer.end(rest)


# A response with incorrect headers or content


def _changed(change: _Change) -> _Action:
    """Deliver a changed response; an error response stays as it is."""

    async def action(writer: ResponseWriter) -> None:
        response = await writer.correct()
        await writer.deliver(change(response, writer.options) if response.status == 200 else response)

    return action


def _wrong_type(response: FakeResponse, options: Options) -> FakeResponse:
    return response.with_header("content-type", "audio/mpeg" if response.media_type != "audio/mpeg" else "audio/wav")


def _no_type(response: FakeResponse, options: Options) -> FakeResponse:
    return response.with_header("content-type", None)


def _odd_pcm(response: FakeResponse, options: Options) -> FakeResponse:
    _require_type(response, "audio/pcm")
    return response.with_body(response.body[:-1])


def _rate(text: Callable[[Options], str | None]) -> _Change:
    def change(response: FakeResponse, options: Options) -> FakeResponse:
        _require_type(response, "audio/pcm")
        return response.with_header("x-sample-rate", text(options))

    return change


def _wav(change: Callable[[bytes, int], bytes]) -> _Change:
    """Return a change to the WAV in the response, given the file and its rate."""

    def changed(response: FakeResponse, options: Options) -> FakeResponse:
        return _with_audio(response, change(_audio(response, "audio/wav"), options.rate))

    return changed


def _stereo(file: bytes, rate: int) -> bytes:
    left = np.frombuffer(file[_HEADER_BYTES:], "<i2")
    return _wav_file(np.stack([left, np.zeros_like(left)], axis=1).tobytes(), rate, channels=2)


def _at_16k(file: bytes, rate: int) -> bytes:
    samples = np.frombuffer(file[_HEADER_BYTES:], "<i2").astype(np.float32) / np.float32(32768)
    return encode(resample(Audio(samples, rate), 16_000), "wav")


def _run_on(response: FakeResponse, options: Options) -> FakeResponse:
    audio_format = "wav" if response.media_type == "application/json" else _FORMAT_OF[response.media_type]
    noise = np.random.default_rng(0).integers(-8000, 8000, round(options.runaway_s * options.rate), "<i2").astype("<i2").tobytes()
    file = _audio(response)
    if audio_format == "pcm":
        return _with_audio(response, file + noise)
    if audio_format == "wav":
        return _with_audio(response, _wav_file(file[_HEADER_BYTES:] + noise, options.rate))
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(file), dtype="float32")
    tail = np.frombuffer(noise, "<i2").astype(np.float32) / np.float32(32768)
    return _with_audio(response, encode(Audio(np.concatenate([samples, tail]), rate), audio_format))


def _bad_base64(response: FakeResponse, options: Options) -> FakeResponse:
    return _with_message(response, {"data": "*** this is not base64 ***"})


def _no_audio(response: FakeResponse, options: Options) -> FakeResponse:
    return _with_message(response, None)


def _cut_short(response: FakeResponse, options: Options) -> FakeResponse:
    _require_type(response, "application/json")
    body = json.loads(response.body)
    body["choices"][0]["finish_reason"] = "length"
    return response.with_body(json.dumps(body).encode())


def _error_event(response: FakeResponse, options: Options) -> FakeResponse:
    _require_type(response, EVENT_STREAM)
    events = response.body.split(b"\n\n")
    error = {"message": "the engine died", "type": "server_error", "param": None, "code": 500}
    return response.with_body(b"\n\n".join(events[: len(events) // 2]) + b"\n\n" + event("error", error=error))


def _wrong_json(response: FakeResponse, options: Options) -> FakeResponse:
    _require_type(response, "application/json")
    wrong = {key: 7 if isinstance(value, str) else {"0": value} for key, value in json.loads(response.body).items()}
    return response.with_body(json.dumps(wrong).encode())


def _require_type(response: FakeResponse, media_type: str) -> None:
    if response.media_type != media_type:
        raise ValueError(f"this fault applies to {media_type}, but the response is {response.media_type or 'of no type'}")


def _audio(response: FakeResponse, media_type: str | None = None) -> bytes:
    """Return the audio file in a response; a chat has a WAV in JSON. ``media_type`` is the content type that it must have."""
    if response.media_type == "application/json":
        return base64.b64decode(json.loads(response.body)["choices"][0]["message"]["audio"]["data"])
    if media_type is not None:
        _require_type(response, media_type)
    return response.body


def _with_audio(response: FakeResponse, file: bytes) -> FakeResponse:
    if response.media_type == "application/json":
        return _with_message(response, {"data": base64.b64encode(file).decode()})
    return response.with_body(file)


def _with_message(response: FakeResponse, audio: Mapping[str, str] | None) -> FakeResponse:
    """Return a chat response with ``audio`` merged into its audio; None removes the audio."""
    _require_type(response, "application/json")
    body = json.loads(response.body)
    message = body["choices"][0]["message"]
    message["audio"] = None if audio is None else message["audio"] | audio
    return response.with_body(json.dumps(body).encode())


def _json_response(body: object, status: int, headers: Mapping[str, str]) -> FakeResponse:
    response = _response(status, "application/json", json.dumps(body).encode())
    return replace(response, headers={**response.headers, **headers})


def _response(status: int, media_type: str, body: bytes) -> FakeResponse:
    return FakeResponse(status, {"content-type": media_type, "content-length": str(len(body))}, body)


def _wav_file(pcm: bytes, rate: int, channels: int = 1) -> bytes:
    """Return 16-bit samples as a WAV."""
    shape = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(pcm)) + b"WAVEfmt \x10\0\0\0" + shape + b"data" + struct.pack("<I", len(pcm)) + pcm


def _with_sizes(file: bytes, size: int) -> bytes:
    """Return a WAV with ``size`` in both length fields of its header."""
    packed = struct.pack("<I", size)
    return file[:4] + packed + file[8:40] + packed + file[_HEADER_BYTES:]


ACTIONS: Mapping[Fault, _Action] = {
    Fault.NEVER_ANSWERS: _never_respond,
    Fault.SLOW_HEADERS: _be_slow,
    Fault.HANGS_UP: _hang_up,
    Fault.RESETS: _reset,
    Fault.UNAUTHORIZED: _refuse(401, "authentication_error", "invalid or missing API key"),
    Fault.FORBIDDEN: _refuse(403, "permission_error", "this key may not use this model"),
    Fault.REDIRECT: _redirect,
    Fault.TOO_LONG: _refuse(400, "input_too_long", "input is too long"),
    Fault.BUSY_SECONDS: _refuse(429, "rate_limit_error", "too many requests", str),
    Fault.BUSY_DATE: _refuse(429, "rate_limit_error", "too many requests", _date),
    Fault.BUSY: _refuse(429, "rate_limit_error", "too many requests"),
    Fault.ERROR_500: _refuse(500, "server_error", "internal error"),
    Fault.ERROR_502: _send(502, "text/html", _HTML),
    Fault.ERROR_503: _refuse(503, "server_error", "the model is loading"),
    Fault.ERROR_503_SECONDS: _refuse(503, "server_error", "the model is loading", str),
    Fault.ECHO_400: _echo(400),
    Fault.ECHO_500: _echo(500),
    Fault.HTML: _send(200, "text/html", _HTML),
    Fault.JSON_ERROR: _json_error,
    Fault.EMPTY: _changed(_empty),
    Fault.GARBAGE: _changed(_garbage),
    Fault.GZIP_BOMB: _gzip_bomb,
    Fault.RESETS_MID_BODY: _reset_mid_body,
    Fault.SHORT_BODY: _shorten,
    Fault.UNFINISHED_CHUNKS: _leave_unfinished,
    Fault.STALLS: _stall,
    Fault.DRIPS: _drip,
    Fault.ODD_CHUNKS: _odd_chunks,
    Fault.WRONG_TYPE: _changed(_wrong_type),
    Fault.NO_TYPE: _changed(_no_type),
    Fault.ODD_PCM: _changed(_odd_pcm),
    Fault.RATE_WRONG: _changed(_rate(lambda options: str(2 * options.rate))),
    Fault.RATE_ZERO: _changed(_rate(lambda _: "0")),
    Fault.RATE_UNREADABLE: _changed(_rate(lambda _: "24 kHz or so")),
    Fault.RATE_ABSENT: _changed(_rate(lambda _: None)),
    Fault.WAV_SIZES_ZERO: _changed(_wav(lambda file, _: _with_sizes(file, 0))),
    Fault.WAV_SIZES_MAX: _changed(_wav(lambda file, _: _with_sizes(file, _SIZES_MAX))),
    Fault.WAV_TRUNCATED: _changed(_wav(lambda file, _: file[: _HEADER_BYTES + (len(file) - _HEADER_BYTES) // 4 * 2])),
    Fault.WAV_STEREO: _changed(_wav(_stereo)),
    Fault.WAV_16K: _changed(_wav(_at_16k)),
    Fault.RUNS_ON: _changed(_run_on),
    Fault.BAD_BASE64: _changed(_bad_base64),
    Fault.NO_AUDIO: _changed(_no_audio),
    Fault.CUT_SHORT: _changed(_cut_short),
    Fault.ERROR_EVENT: _changed(_error_event),
    Fault.WRONG_JSON: _changed(_wrong_json),
}
