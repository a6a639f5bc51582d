"""How each fault is done."""

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

from .events import EVENT_STREAM, event
from .faults import Fault
from .line import Answer, Line, cut, for_ever
from .options import Options
from .refusal import Refusal, error_body
from .speech import MEDIA_TYPES
from .wav import HEADER_BYTES, SIZES_MAX, wav, with_sizes

_Way = Callable[[Line], Awaitable[None]]
_Change = Callable[[Answer, Options], Answer]

_HTML = b"<!doctype html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
_FORMS = {media_type: form for form, media_type in MEDIA_TYPES.items()}
_ODD_SIZES = (1, 997, 3, 4801)


async def misbehave(line: Line) -> None:
    """Do what `Received.fault` says.

    Raises:
        ValueError: the answer is of a kind that cannot be spoiled so (a WAV's fault where PCM was asked for).
    """
    assert line.received.fault is not None
    await WAYS[line.received.fault](line)


# Before the answer


async def _never_answer(line: Line) -> None:
    await for_ever()


async def _be_slow(line: Line) -> None:
    await asyncio.sleep(line.options.slow_ms / 1000)
    await line.deliver_proper()


async def _hang_up(line: Line) -> None:
    await line.delay()
    await line.hang_up()


async def _reset(line: Line) -> None:
    await line.delay()
    await line.reset()


# An error


def _refuse(status: int, kind: str, message: str, retry_after: Callable[[int], str] | None = None) -> _Way:
    async def way(line: Line) -> None:
        body = error_body(Refusal(status, kind, message), line.options.dialect, line.received.path)
        headers = {"retry-after": retry_after(line.options.retry_after_s)} if retry_after else {}
        await line.deliver(_json(body, status, headers))

    return way


def _date(seconds: int) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


def _echo(status: int) -> _Way:
    async def way(line: Line) -> None:
        key = line.received.headers.get("authorization", "")
        message = f"cannot serve {line.received.body.decode(errors='replace')} with {key}"
        body = error_body(Refusal(status, "invalid_request_error", message), line.options.dialect, line.received.path)
        await line.deliver(_json(body, status, {}))

    return way


async def _redirect(line: Line) -> None:
    await line.deliver(_answer(307, "text/plain", b"").with_header("location", "/v1/elsewhere"))


def _send(status: int, kind: str, body: bytes) -> _Way:
    async def way(line: Line) -> None:
        await line.deliver(_answer(status, kind, body))

    return way


# 200, but no speech


async def _json_error(line: Line) -> None:
    body = error_body(Refusal(500, "server_error", "the model is overloaded"), line.options.dialect, line.received.path)
    await line.deliver(_json(body, 200, {}))


def _empty(answer: Answer, options: Options) -> Answer:
    return answer.with_body(b"")


def _garbage(answer: Answer, options: Options) -> Answer:
    return answer.with_body(np.random.default_rng(0).bytes(20_000))


async def _gzip_bomb(line: Line) -> None:
    proper = await line.proper()
    await line.deliver(proper.with_body(_bomb()).with_header("content-encoding", "gzip"))


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    """256 MB of zeros, packed. After a full flush nothing refers back, so one block may stand there any number of times."""
    zeros, times, check = bytes(1 << 20), 256, 0
    for _ in range(times):
        check = zlib.crc32(zeros, check)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    trailer = struct.pack("<II", check, times * len(zeros))
    return b"\x1f\x8b\x08" + bytes(7) + block * times + packer.flush(zlib.Z_FINISH) + trailer


# The right answer, badly delivered


async def _half(line: Line, answer: Answer) -> None:
    """Half of the answer, past uvicorn, with time for the client to read it."""
    await line.start_raw(answer)
    half = answer.body[: len(answer.body) // 2]
    line.send_raw(cut(half, line.options.chunk_bytes), chunked=answer.streamed)
    await asyncio.sleep(line.options.cut_ms / 1000)


async def _reset_mid_body(line: Line) -> None:
    await _half(line, await line.proper())
    await line.reset()


async def _shorten(line: Line) -> None:
    answer = await line.proper()
    await _half(line, answer.with_header("content-length", str(len(answer.body))))
    await line.hang_up()


async def _leave_unfinished(line: Line) -> None:
    await _half(line, (await line.proper()).with_header("content-length", None))
    await line.hang_up()


async def _stall(line: Line) -> None:
    answer = await line.proper()
    await line.start(answer)
    for piece in cut(answer.body[: len(answer.body) // 2], line.options.chunk_bytes):
        await line.send(piece)
    await for_ever()


async def _drip(line: Line) -> None:
    answer = (await line.proper()).with_header("content-length", None)
    await line.start(answer)
    for drop in cycle(cut(answer.body, 2)):
        await line.send(drop)
        await asyncio.sleep(line.options.drip_ms / 1000)


async def _odd_chunks(line: Line) -> None:
    answer = (await line.proper()).with_header("content-length", None)
    await line.start(answer)
    sizes, rest = cycle(_ODD_SIZES), answer.body
    while len(rest) > (size := next(sizes)):
        await line.send(rest[:size])
        rest = rest[size:]
    await line.end(rest)


# An answer that says something wrong of itself


def _changed(change: _Change) -> _Way:
    """Deliver the answer changed; an error stays as it is."""

    async def way(line: Line) -> None:
        answer = await line.proper()
        await line.deliver(change(answer, line.options) if answer.status == 200 else answer)

    return way


def _wrong_type(answer: Answer, options: Options) -> Answer:
    return answer.with_header("content-type", "audio/mpeg" if answer.kind != "audio/mpeg" else "audio/wav")


def _no_type(answer: Answer, options: Options) -> Answer:
    return answer.with_header("content-type", None)


def _odd_pcm(answer: Answer, options: Options) -> Answer:
    _want(answer, "audio/pcm")
    return answer.with_body(answer.body[:-1])


def _rate(text: Callable[[Options], str | None]) -> _Change:
    def change(answer: Answer, options: Options) -> Answer:
        _want(answer, "audio/pcm")
        return answer.with_header("x-sample-rate", text(options))

    return change


def _wav(change: Callable[[bytes, int], bytes]) -> _Change:
    """A change to the WAV in the answer, given the file and its rate."""

    def changed(answer: Answer, options: Options) -> Answer:
        return _with_audio(answer, change(_audio(answer, "audio/wav"), options.rate))

    return changed


def _stereo(file: bytes, rate: int) -> bytes:
    left = np.frombuffer(file[HEADER_BYTES:], "<i2")
    return wav(np.stack([left, np.zeros_like(left)], axis=1).tobytes(), rate, channels=2)


def _at_16k(file: bytes, rate: int) -> bytes:
    samples = np.frombuffer(file[HEADER_BYTES:], "<i2").astype(np.float32) / np.float32(32768)
    return encode(resample(Audio(samples, rate), 16_000), "wav")


def _run_on(answer: Answer, options: Options) -> Answer:
    form = "wav" if answer.kind == "application/json" else _FORMS[answer.kind]
    noise = np.random.default_rng(0).integers(-8000, 8000, round(options.runaway_s * options.rate), "<i2").astype("<i2").tobytes()
    file = _audio(answer)
    if form == "pcm":
        return _with_audio(answer, file + noise)
    if form == "wav":
        return _with_audio(answer, wav(file[HEADER_BYTES:] + noise, options.rate))
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(file), dtype="float32")
    tail = np.frombuffer(noise, "<i2").astype(np.float32) / np.float32(32768)
    return _with_audio(answer, encode(Audio(np.concatenate([samples, tail]), rate), form))


def _bad_base64(answer: Answer, options: Options) -> Answer:
    return _with_message(answer, {"data": "*** this is not base64 ***"})


def _no_audio(answer: Answer, options: Options) -> Answer:
    return _with_message(answer, None)


def _cut_short(answer: Answer, options: Options) -> Answer:
    _want(answer, "application/json")
    body = json.loads(answer.body)
    body["choices"][0]["finish_reason"] = "length"
    return answer.with_body(json.dumps(body).encode())


def _error_event(answer: Answer, options: Options) -> Answer:
    _want(answer, EVENT_STREAM)
    events = answer.body.split(b"\n\n")
    error = {"message": "the engine died", "type": "server_error", "param": None, "code": 500}
    return answer.with_body(b"\n\n".join(events[: len(events) // 2]) + b"\n\n" + event("error", error=error))


def _wrong_json(answer: Answer, options: Options) -> Answer:
    _want(answer, "application/json")
    wrong = {key: 7 if isinstance(value, str) else {"0": value} for key, value in json.loads(answer.body).items()}
    return answer.with_body(json.dumps(wrong).encode())


def _want(answer: Answer, kind: str) -> None:
    if answer.kind != kind:
        raise ValueError(f"this fault needs an answer of {kind}, but what was asked for is {answer.kind or 'of no type'}")


def _audio(answer: Answer, kind: str | None = None) -> bytes:
    """The file in an answer, which a chat wraps in JSON (always a WAV). ``kind`` is the content type that it must have."""
    if answer.kind == "application/json":
        return base64.b64decode(json.loads(answer.body)["choices"][0]["message"]["audio"]["data"])
    if kind is not None:
        _want(answer, kind)
    return answer.body


def _with_audio(answer: Answer, file: bytes) -> Answer:
    if answer.kind == "application/json":
        return _with_message(answer, {"data": base64.b64encode(file).decode()})
    return answer.with_body(file)


def _with_message(answer: Answer, audio: Mapping[str, str] | None) -> Answer:
    """A chat's answer with that in the place of its audio."""
    _want(answer, "application/json")
    body = json.loads(answer.body)
    message = body["choices"][0]["message"]
    message["audio"] = None if audio is None else message["audio"] | audio
    return answer.with_body(json.dumps(body).encode())


def _json(body: object, status: int, headers: Mapping[str, str]) -> Answer:
    answer = _answer(status, "application/json", json.dumps(body).encode())
    return replace(answer, headers={**answer.headers, **headers})


def _answer(status: int, kind: str, body: bytes) -> Answer:
    return Answer(status, {"content-type": kind, "content-length": str(len(body))}, body)


WAYS: Mapping[Fault, _Way] = {
    Fault.NEVER_ANSWERS: _never_answer,
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
    Fault.WAV_SIZES_ZERO: _changed(_wav(lambda file, _: with_sizes(file, 0))),
    Fault.WAV_SIZES_MAX: _changed(_wav(lambda file, _: with_sizes(file, SIZES_MAX))),
    Fault.WAV_TRUNCATED: _changed(_wav(lambda file, _: file[: HEADER_BYTES + (len(file) - HEADER_BYTES) // 4 * 2])),
    Fault.WAV_STEREO: _changed(_wav(_stereo)),
    Fault.WAV_16K: _changed(_wav(_at_16k)),
    Fault.RUNS_ON: _changed(_run_on),
    Fault.BAD_BASE64: _changed(_bad_base64),
    Fault.NO_AUDIO: _changed(_no_audio),
    Fault.CUT_SHORT: _changed(_cut_short),
    Fault.ERROR_EVENT: _changed(_error_event),
    Fault.WRONG_JSON: _changed(_wrong_json),
}
