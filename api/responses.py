"""Sound and events on their way to a client who may leave at any moment."""

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
from api.service import gone
from prosody_tagger.errors import ProsodyError
from prosody_tagger.markup import render
from synth.audio.encoding import MEDIA_TYPES, Encoder, encode
from synth.base import Audio

MAX_HEADER = 4_000
"""Longest value of a header of ours; clients and proxies refuse long ones."""

_INSTANT = ("wav", "pcm")  # coded in less time than a thread takes to start
_PREFIX = "X-Prosody-"

_log = logging.getLogger(__name__)


def _described(kind: str, **fields: str) -> dict[str, Any]:
    """An event of this kind whose fields are of these types."""
    properties = {"type": {"const": kind}, **{name: {"type": found.split("|")} for name, found in fields.items()}}
    return {"type": "object", "required": list(properties), "properties": properties}


EVENT: dict[str, Any] = {
    "oneOf": [
        _described(
            "speech.sentence",
            text="string",
            marked="string",
            words="array",
            backend="string",
            fallback="string|null",
            warnings="array",
        ),
        _described("speech.audio.delta", audio="string"),
        _described("speech.audio.done", usage="object", seconds="number"),
        _described("error", error="object"),
    ]
}
"""What each event of a stream holds, as JSON. The audio is base64; an error is the last event."""

SOUND: dict[str, Any] = {
    "description": "The audio; with Accept: application/json one object; with Accept: text/event-stream events as it is made.",
    "content": {
        **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()},
        "text/event-stream": {
            "itemSchema": {
                "type": "object",
                "required": ["data"],
                "properties": {"data": {"type": "string", "contentMediaType": "application/json", "contentSchema": EVENT}},
            },
        },
    },
    "headers": {
        f"X-Prosody-{name}": {"schema": {"type": "string"}, "description": f"{about} Percent-encoded."}
        for name, about in {
            "Reply": "The reply that is spoken.",
            "Marked": "The text with its marks.",
            "Backend": "Who spoke.",
            "Fallback": "Who was asked first, if somebody else had to speak.",
            "Warnings": "What was not done as asked.",
            "Timings": "Seconds that each step took.",
        }.items()
    },
}
"""What the endpoints that speak answer with, for their description."""


class Stream(Response):
    """Chunks as they come. When the client leaves, their source is closed at once."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], media_type: str, headers: Mapping[str, str]) -> None:
        self._chunks = chunks
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(gone(Request(scope, receive)))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
            else:
                scope.setdefault("state", {})["gone"] = True
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._chunks.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for chunk in self._chunks:
                if chunk:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except ProsodyError as error:
            # The status has been sent. A connection that breaks off tells every client that this was not all.
            _log.warning("an answer was broken off by %s", type(error).__name__)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def coded(audio: Audio, form: str) -> bytes:
    """A whole file."""
    return encode(audio, form) if form in _INSTANT else await asyncio.to_thread(encode, audio, form)


class Coder:
    """An encoder that is let go of in any case, and does not hold up the event loop."""

    def __init__(self, form: str, rate: int) -> None:
        self._form = form
        self._encoder = Encoder(form, rate)
        self._coding: asyncio.Future[bytes] | None = None
        self.lead_in = self._encoder.lead_in

    async def encode(self, audio: Audio) -> bytes:
        if self._form in _INSTANT:
            return self._encoder.encode(audio)
        self._coding = asyncio.get_running_loop().run_in_executor(None, self._encoder.encode, audio)
        return await asyncio.shield(self._coding)

    def finish(self) -> bytes:
        return self._encoder.finish()

    def let_go(self) -> None:
        """Close the encoder; once its thread is done with it, for who was cancelled does not end the thread."""
        if self._coding is None or self._coding.done():
            self._encoder.finish()
        else:
            self._coding.add_done_callback(lambda _: self._encoder.finish())


async def as_audio(results: AsyncIterator[Result], first: Result, form: str) -> AsyncGenerator[bytes, None]:
    """``first`` and the rest of the results, as the bytes of one file."""
    coder = Coder(form, first.audio.rate)
    try:
        yield await coder.encode(first.audio)
        async for result in results:
            yield await coder.encode(result.audio)
        yield coder.finish()
    finally:
        coder.let_go()


async def as_events(results: AsyncIterator[Result], first: Result, form: str) -> AsyncGenerator[bytes, None]:
    """``first`` and the rest, as server-sent events: OpenAI's, and one of ours for each sentence with its marks and word times."""
    coder = Coder(form, first.audio.rate)
    offset, seconds = 0, coder.lead_in
    characters = 0

    async def sentence(result: Result) -> bytes:
        nonlocal offset, seconds, characters
        shown = result_json(result, None)
        words = [word.moved(offset, seconds) for word in result.words]
        data = await coder.encode(result.audio)
        offset += len(result.marked.text)
        seconds += result.audio.seconds
        characters += len(result.marked.text)
        sound = _delta(data) if data else b""
        if not result.marked.text:  # more of the sentence before
            return sound
        event = _event(
            "speech.sentence",
            text=shown["text"],
            marked=shown["marked"],
            words=[{"word": w.word, "offset": w.offset, "start": round(w.start, 4), "end": round(w.end, 4)} for w in words],
            backend=result.backend,
            fallback=result.fallback,
            warnings=shown["warnings"],
        )
        return event + sound

    try:
        yield await sentence(first)
        async for result in results:
            yield await sentence(result)
        if rest := coder.finish():
            yield _delta(rest)
        made = round(seconds * 1000)
        usage = {"input_tokens": characters, "output_tokens": made, "total_tokens": characters + made}
        yield _event("speech.audio.done", usage=usage, seconds=round(seconds - coder.lead_in, 4))
    except ProsodyError as error:
        # The status has been sent: what went wrong can only be said here.
        yield _event("error", error={"message": str(error), "type": "server_error", "code": "interrupted", "param": None})
        raise  # for clients that do not read the event
    finally:
        coder.let_go()


def _delta(data: bytes) -> bytes:
    return _event("speech.audio.delta", audio=base64.b64encode(data).decode())


def _event(kind: str, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"type": kind, **fields}, ensure_ascii=False).encode() + b"\n\n"


def headers_of(result: Result, reply: str | None = None, *, whole: bool = True) -> dict[str, str]:
    """What was done, in headers, percent-encoded; what is too long for one is named in ``X-Prosody-Omitted``.

    Of a stream (not ``whole``) only that is told which is known when its first audio leaves.
    """
    told = {
        "Reply": reply,
        "Marked": render(result.marked) if whole else None,
        "Backend": result.backend,
        "Fallback": result.fallback,
        "Warnings": "; ".join(result.warnings) or None,
        "Seconds": f"{result.audio.seconds:.4f}" if whole else None,
        "Marks-Heard": f"{result.report.realised} of {result.report.asked}" if result.report else None,
    }
    headers = {_PREFIX + name: quote(value) for name, value in told.items() if value is not None}
    omitted = [name for name, value in headers.items() if len(value) > MAX_HEADER]
    for name in omitted:
        del headers[name]
    if omitted:
        headers[_PREFIX + "Omitted"] = ", ".join(omitted)
    headers["X-Sample-Rate"] = str(result.audio.rate)
    headers[_PREFIX + "Timings"] = ", ".join(f"{name}={seconds:.4f}" for name, seconds in result.timings.items())
    return headers


async def stream_answer(
    results: AsyncGenerator[Result, None], form: str, characters: int, *, events: bool = False, reply: str | None = None
) -> Response:
    """An answer that begins with the first sentence of a text of so many ``characters``.

    A text of one sentence is sent whole, with its length in its header.

    Raises:
        ProsodyError: what keeps the first sentence from being spoken.
    """
    try:
        first = await anext(results)
    except BaseException:
        await results.aclose()
        raise
    if not events and first.complete and len(first.marked.text) >= characters:
        async with aclosing(results):
            together = join_results([first, *[result async for result in results]])
        return Response(await coded(together.audio, form), 200, headers_of(together, reply), MEDIA_TYPES[form])
    chunks = as_events(results, first, form) if events else as_audio(results, first, form)
    media_type = "text/event-stream" if events else MEDIA_TYPES[form]
    return Stream(_closing(chunks, results), media_type, headers_of(first, reply, whole=False))


async def _closing(chunks: AsyncGenerator[bytes, None], results: AsyncGenerator[Result, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(results), aclosing(chunks):
        async for chunk in chunks:
            yield chunk
