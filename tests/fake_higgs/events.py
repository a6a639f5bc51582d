"""A stream of speech as server-sent events, the form of OpenAI's that newer vLLM gives by default."""

import base64
import json

from .line import cut

EVENT_STREAM = "text/event-stream"


def speech_events(audio: bytes, form: str, chunk_bytes: int) -> bytes:
    """All events of one answer: a delta for every chunk, then the end."""
    deltas = [
        event("delta", audio=base64.b64encode(chunk).decode(), response_format=form) for chunk in cut(audio, chunk_bytes) if chunk
    ]
    usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    return b"".join([*deltas, event("done", usage=usage)])


def event(name: str, **data: object) -> bytes:
    kind = f"speech.audio.{name}"
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()
