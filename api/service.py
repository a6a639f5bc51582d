"""The service behind the routes: it runs jobs within the limits, and cancels work when its client disconnects."""

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
from api.admission import SynthesisScheduler
from api.logs import LOGGED_CHARS
from api.metrics import Metrics
from api.settings import ApiSettings
from api.voice_store import VoiceStore, is_voice_id
from prosody_tagger.errors import ProsodyError
from synth.base import Reference

T = TypeVar("T")

_log = logging.getLogger(__name__)

MEASURING = "measuring"
"""Name of the limiter for measuring recordings."""
MARKING = "marking"
"""Name of the limiter for marking texts without speaking them."""


class ClientDisconnected(Exception):
    """The client has disconnected before the response."""


@dataclass(slots=True)
class Service:
    """Everything that the routes of one running service share."""

    runtime: Runtime
    api: ApiSettings
    metrics: Metrics = field(default_factory=Metrics)
    scheduler: SynthesisScheduler = field(init=False)
    store: VoiceStore = field(init=False)
    is_warm: bool = False
    _warm_up_task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.scheduler = SynthesisScheduler(self.api, self.metrics.watch)
        self.store = VoiceStore(self.api.voices, max_voices=self.api.max_voices, max_bytes=self.api.max_voices_bytes)

    @property
    def settings(self) -> Settings:
        return self.runtime.settings

    async def reference(self, voice: str | None) -> Reference | None:
        """Return the recording of an uploaded voice; None if ``voice`` is not the id of one.

        Raises:
            UnknownVoice: it is an id, but no voice is stored under it.
        """
        if voice is None or not is_voice_id(voice):
            return None
        return await asyncio.to_thread(self.store.get, voice)

    async def speak(self, job: Job) -> AsyncGenerator[Result, None]:
        """Speak the job a sentence at a time, within the limits of its backend. Identical concurrent jobs share one synthesis.

        Raises:
            ProsodyError: as `ai_core.pipeline.stream` does; BackendBusy if the queue is full.
        """
        backend = job.backend or self.settings.backend
        self.runtime.backend(backend)  # refuse an unknown name before it waits in a queue
        _log.debug("text", extra={"text": job.marked.text[:LOGGED_CHARS]})
        start = time.perf_counter()
        started = False
        with self.metrics.speaking(backend) as speech:
            results = self.scheduler.run((job, backend), backend, lambda: stream(job, self.runtime))
            async with aclosing(results):
                async for result in results:
                    if not started:
                        speech.first_audio(time.perf_counter() - start)
                        started = True
                    speech.add(result)
                    yield result

    async def collect(self, job: Job) -> Result:
        """Speak the whole job, and measure its marks if it asks for a report. Raises as `speak` does."""
        async with aclosing(self.speak(job)) as results:
            whole = join_results([result async for result in results])
        if not job.report:
            return whole
        async with self.scheduler.limiter(MEASURING).permit():
            return await with_report(whole, self.runtime, job.language)

    async def missing(self) -> dict[str, str]:
        """Return which parts are not ready to speak, each with the reason; empty if all are."""
        found: dict[str, str] = {}
        name = self.settings.backend
        try:
            reason = self.runtime.backend(name).unready()
            if reason is not None:
                found[f"backend {name}"] = reason
        except ProsodyError as error:
            found[f"backend {name}"] = str(error)
        if not self.is_warm:
            found["tagger"] = self._warm_up_state()
        return found

    def start_warm_up(self) -> None:
        """Start to load the tagger and the embedded voice in the background."""
        self._warm_up_state()

    def _warm_up_state(self) -> str:
        """Return why the warm-up is not done. Start it if it does not run, also after a failure, which is reported once."""
        task, self._warm_up_task = self._warm_up_task, None
        if task is not None and task.done() and (error := task.exception()) is not None:
            return str(error)
        self._warm_up_task = task or asyncio.create_task(self._warm_up())
        return "it is being loaded; ask again in a moment"

    async def _warm_up(self) -> None:
        """Load the tagger and start the embedded voice, so that the first request is as fast as the next."""
        await self.runtime.tagger()
        if self.settings.backend == ALIGNMENT_BACKEND:
            await collect(Job("Is everything ready?"), self.runtime)
        self.is_warm = True

    async def close(self) -> None:
        """Wait for the warm-up to end, then close every backend."""
        if self._warm_up_task is not None:
            await asyncio.gather(self._warm_up_task, return_exceptions=True)
        await self.runtime.close()


async def cancel_on_disconnect(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """Return the result of ``work``, which is cancelled if the client disconnects.

    Raises:
        ClientDisconnected: it did.
    """
    working = asyncio.ensure_future(work())
    disconnecting = asyncio.create_task(wait_for_disconnect(request))
    try:
        await asyncio.wait({working, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise ClientDisconnected
    finally:
        for task in (working, disconnecting):
            task.cancel()
        await asyncio.gather(working, disconnecting, return_exceptions=True)


async def wait_for_disconnect(request: Request) -> None:
    """Wait until the client has disconnected. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service_of)]
"""Type of a route's parameter that receives the service."""
