"""What the dialects' answers have in common."""

from collections.abc import Sequence

from fastapi import Response
from fastapi.responses import StreamingResponse

from .speech import MEDIA_TYPES


def audio_answer(content: bytes, form: str, *, stream: bool) -> Response:
    """Raw audio. A streamed one has no Content-Length; `front` cuts it into chunks."""
    if stream:
        return StreamingResponse(iter([content]), media_type=MEDIA_TYPES[form])
    return Response(content, media_type=MEDIA_TYPES[form])


def model_list(names: Sequence[str]) -> dict[str, object]:
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "bosonai"} for name in names]}
