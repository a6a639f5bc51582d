"""``/fake``: sets the fault of a running fake, and lists the requests that it has received."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from .faults import Fault
from .state import Fake


class FaultPlan(BaseModel):
    """Arguments of `Fake.misbehave`."""

    model_config = ConfigDict(extra="forbid")

    fault: Fault | None
    times: int | None = Field(default=None, ge=0)
    after: int = Field(default=0, ge=0)
    path: str | None = None


def router(fake: Fake) -> APIRouter:
    routes = APIRouter()

    @routes.put("/fault", status_code=204)
    async def set_fault(body: FaultPlan) -> None:
        fake.misbehave(body.fault, times=body.times, after=body.after, path=body.path)

    @routes.get("/requests")
    async def requests() -> list[dict[str, object]]:
        return [
            {
                "method": each.method,
                "path": each.path,
                "fault": each.fault,
                "status": each.status,
                "left": each.disconnected is not None,
                "body": each.body.decode(errors="replace"),
            }
            for each in fake.requests
        ]

    return routes
