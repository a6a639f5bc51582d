"""What one service is made of, and the way of a job through it."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends
from starlette.requests import Request

from ai_core.alignment import ALIGNMENT_BACKEND
from ai_core.job import Job, Result, join_results
from ai_core.measurement import with_report
from ai_core.pipeline import collect, stream
from ai_core.runtime import Runtime
from ai_core.settings import Settings
from api.admission import Stage
from api.logs import LONGEST_TEXT
from api.metrics import Metrics
from api.settings import ApiSettings
from api.voice_store import ReferenceStore, is_voice_id
from prosody_tagger.errors import ProsodyError
from synth.base import Reference

T = TypeVar("T")

_log = logging.getLogger(__name__)

MEASURING = "measuring"
"""The gate before what is measured, and `MARKING` that before what is only marked."""
MARKING = "marking"


class ClientGone(Exception):
    """Nobody is there any more to hear the answer."""


@dataclass(slots=True)
class Service:
    """The parts of one running service."""

    runtime: Runtime
    api: ApiSettings
    metrics: Metrics = field(default_factory=Metrics)
    stage: Stage = field(init=False)
    store: ReferenceStore = field(init=False)
    _loading: asyncio.Task[None] | None = None
    is_warm: bool = False

    def __post_init__(self) -> None:
        self.stage = Stage(self.api, self.metrics.watch)
        self.store = ReferenceStore(self.api.voices, max_voices=self.api.max_voices, max_bytes=self.api.max_voices_bytes)

    @property
    def settings(self) -> Settings:
        return self.runtime.settings

    def backend_of(self, job: Job) -> str:
        return job.backend or self.settings.backend

    async def reference(self, voice: str | None) -> Reference | None:
        """The recording of an uploaded voice; None if ``voice`` is the name of a backend's.

        Raises:
            UnknownVoice: no recording is kept under this id.
        """
        if voice is None or not is_voice_id(voice):
            return None
        return await asyncio.to_thread(self.store.get, voice)

    async def speak(self, job: Job) -> AsyncGenerator[Result, None]:
        """The job, a sentence at a time, in a place of its backend; identical jobs at one time are one.

        Raises:
            ProsodyError: as `ai_core.pipeline.stream` does; Busy where there is no place.
        """
        backend = self.backend_of(job)
        self.runtime.backend(backend)  # an unknown one is refused before it waits
        _log.debug("text", extra={"text": job.marked.text[:LONGEST_TEXT]})
        began = time.perf_counter()
        heard_any = False
        with self.metrics.speaking(backend) as spoken:
            async with aclosing(self.stage.perform((job, backend), backend, lambda: stream(job, self.runtime))) as heard:
                async for result in heard:
                    if not heard_any:
                        spoken.first(time.perf_counter() - began)
                        heard_any = True
                    spoken.add(result)
                    yield result

    async def collect(self, job: Job) -> Result:
        """The whole job, with its report if it asks for one. Raises as `speak` does."""
        async with aclosing(self.speak(job)) as results:
            whole = join_results([result async for result in results])
        if not job.report:
            return whole
        async with self.stage.gate(MEASURING).place():
            return await with_report(whole, self.runtime, job.language)

    async def unready(self) -> dict[str, str]:
        """What keeps the service from speaking, by part; empty if nothing."""
        found: dict[str, str] = {}
        name = self.settings.backend
        try:
            why = self.runtime.backend(name).unready()
            if why is not None:
                found[f"backend {name}"] = why
        except ProsodyError as error:
            found[f"backend {name}"] = str(error)
        if not self.is_warm:
            found["tagger"] = self._warming()
        return found

    def load(self) -> None:
        """Begin to load what every request needs."""
        self._warming()

    def _warming(self) -> str:
        """Why nothing is warm yet. That is done in the background, and again after a failure."""
        task, self._loading = self._loading, None
        if task is not None and task.done() and (error := task.exception()) is not None:
            return str(error)
        self._loading = task or asyncio.create_task(self._warm_up())
        return "it is being loaded; ask again in a moment"

    async def _warm_up(self) -> None:
        """Load the tagger, and have the embedded voice say a word, so that no request waits for what is slow only once."""
        await self.runtime.tagger()
        if self.settings.backend == ALIGNMENT_BACKEND:
            await collect(Job("Is everything ready?"), self.runtime)
        self.is_warm = True

    async def close(self) -> None:
        """Let go of everything."""
        if self._loading is not None:
            await asyncio.gather(self._loading, return_exceptions=True)
        await self.runtime.close()


async def unless_gone(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """What ``work`` gives; it is cancelled as soon as the client leaves.

    Raises:
        ClientGone: the client has left.
    """
    working = asyncio.ensure_future(work())
    leaving = asyncio.create_task(gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise ClientGone
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def gone(request: Request) -> None:
    """Wait until the client has left. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def service_of(request: Request) -> Service:
    """The service that a request has come to."""
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(service_of)]
"""For the parameter of a route that is to be given its service."""
