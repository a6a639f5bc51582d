"""The endpoints for operators: liveness, readiness, metrics."""

from fastapi import APIRouter, Response
from pydantic import BaseModel
from starlette.responses import JSONResponse

from api.errors import documented
from api.service import ServiceDep

router = APIRouter(tags=["operations"])


class LiveOut(BaseModel):
    """Liveness check: the process responds."""

    live: bool = True


class ReadyOut(BaseModel):
    """Readiness check: whether texts can be spoken; if not, which parts are not ready and why."""

    ready: bool
    waiting_for: dict[str, str]


@router.get("/live", responses=documented(), summary="Is the process alive?")
async def live() -> LiveOut:
    return LiveOut()


@router.get(
    "/ready",
    response_model=ReadyOut,
    responses={**documented(), 503: {"model": ReadyOut, "description": "Not ready; the response names the missing parts."}},
    summary="Is the service ready to speak?",
)
async def ready(service: ServiceDep) -> Response:
    missing = await service.missing()
    found = ReadyOut(ready=not missing, waiting_for=missing)
    return JSONResponse(found.model_dump(), 503 if missing else 200)


@router.get(
    "/metrics",
    response_class=Response,
    responses={**documented(), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "For Prometheus."}},
    summary="Metrics for Prometheus",
)
async def metrics(service: ServiceDep) -> Response:
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
