"""Responses that several dialects share."""

from collections.abc import Sequence

from fastapi import Response
from fastapi.responses import StreamingResponse

from .speech import MEDIA_TYPES


def audio_response(content: bytes, audio_format: str, *, stream: bool) -> Response:
    """Return audio. A streamed response has no Content-Length; `ResponseWriter.deliver` splits it into chunks."""
    if stream:
        return StreamingResponse(iter([content]), media_type=MEDIA_TYPES[audio_format])
    return Response(content, media_type=MEDIA_TYPES[audio_format])


def model_list(names: Sequence[str]) -> dict[str, object]:
    """Return the names as OpenAI's list of models."""
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "bosonai"} for name in names]}
