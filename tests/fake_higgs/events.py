"""Streams of speech as server-sent events: OpenAI's format, the default of newer versions of vLLM."""

import base64
import json

from .writer import split

EVENT_STREAM = "text/event-stream"


def speech_events(audio: bytes, audio_format: str, chunk_bytes: int) -> bytes:
    """Return all events of one response: a delta for each chunk, then the end."""
    deltas = [
        event("delta", audio=base64.b64encode(chunk).decode(), response_format=audio_format)
        for chunk in split(audio, chunk_bytes)
        if chunk
    ]
    usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    return b"".join([*deltas, event("done", usage=usage)])


def event(name: str, **data: object) -> bytes:
    """Return one event of the type ``speech.audio.NAME``."""
    kind = f"speech.audio.{name}"
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()
