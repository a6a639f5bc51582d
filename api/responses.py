"""Audio responses: whole files and streams, whose generation stops when the client disconnects."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ai_core.job import Result, join_results
from ai_core.results import result_json
from api.service import wait_for_disconnect
from prosody_tagger.errors import ProsodyError
from prosody_tagger.markup import render
from synth.audio.encoding import MEDIA_TYPES, Encoder, encode
from synth.base import Audio

MAX_HEADER = 4_000
"""Longest value of a header with details, in characters; clients and proxies refuse long ones."""

_INSTANT_FORMATS = ("wav", "pcm")
"""Formats that are encoded in less time than it takes to start a thread."""

_PREFIX = "X-Prosody-"

_log = logging.getLogger(__name__)


class AudioStreamResponse(Response):
    """Streams chunks as they are generated. When the client disconnects, the generator is closed immediately."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], media_type: str, headers: Mapping[str, str]) -> None:
        self._chunks = chunks
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        disconnecting = asyncio.create_task(wait_for_disconnect(Request(scope, receive)))
        try:
            await asyncio.wait({sending, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
            else:
                scope.setdefault("state", {})["disconnected"] = True
        finally:
            for task in (sending, disconnecting):
                task.cancel()
            await asyncio.gather(sending, disconnecting, return_exceptions=True)
            await self._chunks.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for chunk in self._chunks:
                if chunk:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except ProsodyError as error:
            # The status was sent already. Without an end of the body the connection breaks, so no client takes it for complete.
            _log.warning("a stream was cut off by %s", type(error).__name__)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def encode_file(audio: Audio, audio_format: str) -> bytes:
    """Return ``audio`` as a whole file, without blocking the event loop."""
    if audio_format in _INSTANT_FORMATS:
        return encode(audio, audio_format)
    return await asyncio.to_thread(encode, audio, audio_format)


class _StreamEncoder:
    """An encoder that does not block the event loop, and can be closed while its thread still works."""

    def __init__(self, audio_format: str, rate: int) -> None:
        self._format = audio_format
        self._encoder = Encoder(audio_format, rate)
        self._working: asyncio.Future[bytes] | None = None
        self.lead_in = self._encoder.lead_in

    async def encode(self, audio: Audio) -> bytes:
        if self._format in _INSTANT_FORMATS:
            return self._encoder.encode(audio)
        self._working = asyncio.get_running_loop().run_in_executor(None, self._encoder.encode, audio)
        return await asyncio.shield(self._working)

    def finish(self) -> bytes:
        return self._encoder.finish()

    def close(self) -> None:
        """Close the encoder, after its thread if that still works: cancelling a task does not end a thread."""
        if self._working is None or self._working.done():
            self._encoder.finish()
        else:
            self._working.add_done_callback(lambda _: self._encoder.finish())


async def _audio_chunks(results: AsyncIterator[Result], first: Result, audio_format: str) -> AsyncGenerator[bytes, None]:
    """Yield ``first`` and the other results as the bytes of one file."""
    encoder = _StreamEncoder(audio_format, first.audio.rate)
    try:
        yield await encoder.encode(first.audio)
        async for result in results:
            yield await encoder.encode(result.audio)
        yield encoder.finish()
    finally:
        encoder.close()


async def _event_chunks(results: AsyncIterator[Result], first: Result, audio_format: str) -> AsyncGenerator[bytes, None]:
    """Yield ``first`` and the other results as server-sent events.

    These are OpenAI's, and one ``speech.sentence`` for each sentence, with its marks and word times; see `api.openapi.EVENT`.
    """
    encoder = _StreamEncoder(audio_format, first.audio.rate)
    seconds = encoder.lead_in
    characters = 0

    async def result_events(result: Result) -> bytes:
        nonlocal seconds, characters
        words = [word.moved(characters, seconds) for word in result.words]
        data = await encoder.encode(result.audio)
        seconds += result.audio.seconds
        characters += len(result.marked.text)
        audio = _delta_event(data) if data else b""
        if not result.marked.text:  # more audio of the sentence before
            return audio
        shown = result_json(result, None)
        sentence = _event(
            "speech.sentence",
            text=shown["text"],
            marked=shown["marked"],
            words=[{"word": w.word, "offset": w.offset, "start": round(w.start, 4), "end": round(w.end, 4)} for w in words],
            backend=result.backend,
            fallback=result.fallback,
            warnings=shown["warnings"],
        )
        return sentence + audio

    try:
        yield await result_events(first)
        async for result in results:
            yield await result_events(result)
        if rest := encoder.finish():
            yield _delta_event(rest)
        milliseconds = round(seconds * 1000)
        usage = {"input_tokens": characters, "output_tokens": milliseconds, "total_tokens": characters + milliseconds}
        yield _event("speech.audio.done", usage=usage, seconds=round(seconds - encoder.lead_in, 4))
    except ProsodyError as error:
        # The status was sent already, so the error is an event. Raising also breaks the connection, for clients that ignore it.
        yield _event("error", error={"message": str(error), "type": "server_error", "code": "interrupted", "param": None})
        raise
    finally:
        encoder.close()


def _delta_event(data: bytes) -> bytes:
    return _event("speech.audio.delta", audio=base64.b64encode(data).decode())


def _event(kind: str, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"type": kind, **fields}, ensure_ascii=False).encode() + b"\n\n"


def result_headers(result: Result, reply: str | None = None, *, complete: bool = True) -> dict[str, str]:
    """Return headers that describe the result, percent-encoded. Values that are too long are listed in ``X-Prosody-Omitted``.

    For the first result of a stream (not ``complete``), headers that describe the whole text are left out.
    """
    values = {
        "Reply": reply,
        "Marked": render(result.marked) if complete else None,
        "Backend": result.backend,
        "Fallback": result.fallback,
        "Warnings": "; ".join(result.warnings) or None,
        "Seconds": f"{result.audio.seconds:.4f}" if complete else None,
        "Marks-Heard": f"{result.report.realised} of {result.report.asked}" if result.report else None,
    }
    headers = {_PREFIX + name: quote(value) for name, value in values.items() if value is not None}
    omitted = [name for name, value in headers.items() if len(value) > MAX_HEADER]
    for name in omitted:
        del headers[name]
    if omitted:
        headers[_PREFIX + "Omitted"] = ", ".join(omitted)
    headers["X-Sample-Rate"] = str(result.audio.rate)
    headers[_PREFIX + "Timings"] = ", ".join(f"{name}={seconds:.4f}" for name, seconds in result.timings.items())
    return headers


async def streaming_response(
    results: AsyncGenerator[Result, None], audio_format: str, characters: int, *, events: bool = False, reply: str | None = None
) -> Response:
    """Return a response that starts with the first sentence.

    A text that is a single sentence is sent whole, with its length in the header, unless as events.

    Args:
        results: the results of the job; closed at the end.
        audio_format: a key of `MEDIA_TYPES`.
        characters: length of the whole text.
        events: send server-sent events instead of plain audio.
        reply: the reply that is spoken, if it is one.

    Raises:
        ProsodyError: the first sentence cannot be spoken.
    """
    try:
        first = await anext(results)
    except BaseException:
        await results.aclose()
        raise
    if not events and first.complete and len(first.marked.text) >= characters:
        async with aclosing(results):
            whole = join_results([first, *[result async for result in results]])
        return Response(await encode_file(whole.audio, audio_format), 200, result_headers(whole, reply), MEDIA_TYPES[audio_format])
    chunks = _event_chunks(results, first, audio_format) if events else _audio_chunks(results, first, audio_format)
    media_type = "text/event-stream" if events else MEDIA_TYPES[audio_format]
    return AudioStreamResponse(_closing(chunks, results), media_type, result_headers(first, reply, complete=False))


async def _closing(chunks: AsyncGenerator[bytes, None], results: AsyncGenerator[Result, None]) -> AsyncGenerator[bytes, None]:
    """Yield ``chunks``, and close both generators at the end."""
    async with aclosing(results), aclosing(chunks):
        async for chunk in chunks:
            yield chunk
