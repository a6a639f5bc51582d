"""The endpoints for those who run the service."""

from fastapi import APIRouter, Response
from pydantic import BaseModel
from starlette.responses import JSONResponse

from api.errors import documented
from api.service import Here

router = APIRouter(tags=["operations"])


class Live(BaseModel):
    """The process answers."""

    live: bool = True


class Ready(BaseModel):
    """Whether texts can be spoken; ``waiting_for`` says why not, by part."""

    ready: bool
    waiting_for: dict[str, str]


@router.get("/live", responses=documented(), summary="Does the process answer?")
async def live() -> Live:
    return Live()


@router.get(
    "/ready",
    response_model=Ready,
    responses={**documented(), 503: {"model": Ready, "description": "Not yet; the answer says what is missing."}},
    summary="Can texts be spoken?",
)
async def ready(service: Here) -> Response:
    missing = await service.unready()
    found = Ready(ready=not missing, waiting_for=missing)
    return JSONResponse(found.model_dump(), 503 if missing else 200)


@router.get(
    "/metrics",
    response_class=Response,
    responses={**documented(), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "For Prometheus."}},
    summary="Counters, for Prometheus",
)
async def metrics(service: Here) -> Response:
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
