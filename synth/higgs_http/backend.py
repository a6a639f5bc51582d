"""Higgs Audio behind HTTP: Boson's cloud, its chat form, and self-hosted servers that speak OpenAI's form."""

import asyncio
import json
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import numpy as np

from prosody_tagger.markup import KINDS, Mark
from synth.base import Audio, Capabilities, Reference, Speech, SpeechRequest, Synthesizer, Voice
from synth.errors import BackendTimeout, BackendUnavailable, RefusedRequest
from synth.higgs_http.body import Body
from synth.higgs_http.connections import Connections, PerLoop
from synth.higgs_http.dialects import DIALECTS, MAX_ERROR, MEDIA, Order, read, recording, registered_voice
from synth.higgs_http.errors import BAD_ENVIRONMENT, SETTING, Fault, Peer
from synth.higgs_http.lowering import lower, plain_words
from synth.higgs_http.registered import Registered, RegisteredVoices
from synth.higgs_http.response import RATE, Answer
from synth.higgs_http.settings import HiggsSettings, fits_header, is_name
from synth.lowering import max_duration

if TYPE_CHECKING:
    import ssl

    import httpx

__all__ = ["HiggsHttp", "HiggsSettings"]


_VOICES_PATH = "audio/voices"
_ERROR_SECONDS = 2.0  # for the body of an error, which only says more of what is known already
_WAIT_SECONDS = (0.2, 4.0)  # before the second try, and at most before any
_AT_ONCE = 4  # requests of one text; other connections are for other texts
_WIDEST = 48_000 * 2 * 4  # bytes a second of sound that is passed on: 48 kHz, stereo, 32 bits
_MAX_SEED = 2**63

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Task:
    """A request, ready to be sent.

    Attributes:
        order: what is to be spoken; its text is empty if nothing is.
        unrealised: marks that are not in it.
        warnings: what it leaves out.
        peer: who is to speak it.
        headers: of every HTTP request for it.
    """

    order: Order
    unrealised: tuple[Mark, ...]
    warnings: tuple[str, ...]
    peer: Peer
    headers: dict[str, str]


class HiggsHttp(Synthesizer):
    """Higgs Audio on a server. Making one costs nothing: it connects when it first speaks.

    Texts go out as plain words, with the model's own tags for marks where those do what the mark asks (`higgs_http.lowering`).
    Where the server streams, each chunk is passed on as soon as it has come. Until the first is passed on, what may pass is tried
    again. One object may be used from several event loops; each has its own connections, which end with it.
    """

    name = "higgs-http"

    def __init__(self, settings: HiggsSettings | None = None) -> None:
        self._settings = settings or HiggsSettings()
        self._dialect = dialect = DIALECTS[self._settings.dialect]
        self._base = str(self._settings.url or dialect.url).rstrip("/")
        streams = self._settings.stream and dialect.streams
        self._form = self._settings.response_format or ("pcm" if streams else dialect.forms[0])
        self._streams = streams and self._form == "pcm"
        self._tags = {**dialect.pitch_tags, **(dialect.pause_tags if self._settings.pauses == "tags" else {})}
        self._connections = PerLoop(self._client, self._settings.max_connections)
        self._registered = RegisteredVoices()

    @property
    def capabilities(self) -> Capabilities:
        """No Higgs model stresses a word when asked. A "rendered" mark comes back as left where its tag cannot do what it asks."""

        return Capabilities(
            marks={kind: "rendered" if kind in self._tags else "realised" for kind in KINDS},
            rate=RATE,
            languages=self._dialect.languages,
            max_chars=self._dialect.max_chars,
            streaming=self._streams,
            references=True,
            speed=self._dialect.speeds is not None,
            at_once=min(_AT_ONCE, self._settings.max_connections),
        )

    async def voices(self) -> tuple[Voice, ...]:
        """The dialect's, or those that the server lists; others may be asked for by name.

        Raises:
            BackendUnavailable: only the server knows, and does not say.
        """
        known = self._dialect.presets or await asyncio.to_thread(self._served_voices)
        default = self._settings.voice or self._dialect.default_voice
        first = [voice for voice in known if voice.name == default]
        if not first and self._settings.voice:
            first = [Voice(default, "und", "set by PROSODY_HIGGS__VOICE")]
        return (*first, *(voice for voice in known if voice.name != default))

    def unready(self) -> str | None:
        try:
            key = self._key()
        except BackendUnavailable as error:
            return str(error)
        if key is None and self._settings.url is None and self._dialect.key_variable:
            return f"{self._peer().where} wants an API key; set {self._peer().keys}"
        return None

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        """Speak one piece: a chunk at a time if the server streams, else as one.

        A piece without words is silence of no length, and nobody is asked.

        Raises:
            RefusedRequest: text too long, a speed or a seed that cannot be asked for, or the server refuses it.
            BackendUnavailable: no server, no key, a key that is not accepted, no such model, or too many requests.
            BackendTimeout: the server took too long.
            BackendError: it failed, or what it sent is no speech.
        """
        if why := self.unready():
            raise BackendUnavailable(why)
        task = self._task(request)
        if not task.order.text:
            yield Speech(Audio(np.zeros(0, dtype=np.float32), RATE), unrealised=task.unrealised)
            return
        connections = await self._connections.get()
        try:
            async with connections.turn(self._settings.total_timeout):
                deadline = asyncio.get_running_loop().time() + self._settings.total_timeout
                answer = await self._answer(connections, task, deadline)
                try:
                    yield Speech(Audio(answer.first, RATE), unrealised=task.unrealised, warnings=(*task.warnings, *answer.news()))
                    while (samples := await answer.read()) is not None:
                        yield Speech(Audio(samples, RATE), warnings=answer.news())
                finally:
                    await answer.close()
        except Fault as fault:
            raise fault.error from None

    async def close(self) -> None:
        """Close the connections of this event loop. Speaking again opens others."""
        await self._connections.close()

    def _task(self, request: SpeechRequest) -> _Task:
        dialect, settings = self._dialect, self._settings
        self._check_length(request.text.text)
        lowered = lower(request.text, self._tags, unfinished=request.unfinished, breaks=request.breaks)
        self._check_length(lowered.text)  # tags and aliases may have made it longer
        self._check_speed(request.speed)
        warnings: tuple[str, ...] = ()
        seed = request.seed
        if seed is not None and not 0 <= seed < _MAX_SEED:
            raise RefusedRequest(f"seed {seed} is out of range; give 0 to {_MAX_SEED - 1}")
        if seed is not None and not dialect.seeds:
            warnings = (f"the seed was not used: the dialect {settings.dialect} takes none, so the next time may sound otherwise",)
        reference = self._checked_reference(request.reference)
        order = Order(
            text=lowered.text,
            form=self._form,
            stream=self._streams and request.speed == 1.0,  # no server changes the rate of what it streams
            seconds=max_duration(lowered.text, settings.max_seconds_per_char, request.speed),
            voice=self._checked_voice(request.voice),
            reference=reference,
            speed=request.speed,
            seed=seed,
        )
        spoken = (request.text.text, lowered.text, *(alias.spoken for alias in request.text.aliases))
        key = self._key()
        peer = self._peer(key, *spoken, *([reference.text] if reference else []))
        return _Task(order, lowered.unrealised, warnings, peer, {"Authorization": f"Bearer {key}"} if key else {})

    def _check_length(self, text: str) -> None:
        most = self._dialect.max_chars
        if len(text) > most:
            raise RefusedRequest(f"a text of {len(text)} characters is too long for one request; give at most {most} at a time")

    def _check_speed(self, speed: float) -> None:
        speeds = self._dialect.speeds
        if speeds is None and speed != 1.0:
            raise RefusedRequest(f"speed {speed:g} cannot be asked of the dialect {self._settings.dialect}; leave it at 1")
        if speeds is not None and not speeds[0] <= speed <= speeds[1]:
            raise RefusedRequest(f"speed {speed:g} is out of range; give {speeds[0]:g} to {speeds[1]:g}")

    def _checked_voice(self, name: str | None) -> str:
        voice = name if name is not None else self._settings.voice or self._dialect.default_voice
        if not is_name(voice):
            raise RefusedRequest(f"the voice {voice[:40]!r} is no name; give at most 256 printable characters, without < or |")
        return voice

    def _checked_reference(self, reference: Reference | None) -> Reference | None:
        """The recording with its words made fit to be sent."""
        if reference is None:
            return None
        if reference.form not in MEDIA:
            raise RefusedRequest(f"a recording of the form {reference.form!r} cannot be sent; give one of {', '.join(MEDIA)}")
        return replace(reference, text=plain_words(reference.text))

    def _key(self) -> str | None:
        """The key to send.

        Raises:
            BackendUnavailable: the environment holds one that cannot be sent.
        """
        if self._settings.api_key is not None:
            return self._settings.api_key.get_secret_value()
        variable = self._dialect.key_variable
        key = os.environ.get(variable, "").strip() if variable else ""
        if key and not fits_header(key):
            raise BackendUnavailable(f"{variable} holds a space or a character that no HTTP header can carry; set it anew")
        return key or None

    def _peer(self, key: str | None = None, *texts: str) -> Peer:
        variable = self._dialect.key_variable
        keys = f"{SETTING}API_KEY" + (f" or {variable}" if variable else "")
        return Peer(urlsplit(self._base).netloc, keys, key is not None, tuple(filter(None, (key, *texts))))

    def _client(self) -> "httpx.AsyncClient":
        import httpx

        try:
            return httpx.AsyncClient(
                headers={"Accept-Encoding": "identity"},  # so that what is read is as long as what was sent
                timeout=httpx.Timeout(self._settings.read_timeout, connect=self._settings.connect_timeout, pool=None),
                verify=_trusted(),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=self._settings.max_connections),
            )
        except (OSError, ImportError, ValueError, httpx.InvalidURL):
            raise BackendUnavailable(BAD_ENVIRONMENT) from None

    async def _answer(self, connections: Connections, task: _Task, deadline: float) -> Answer:
        """An answer that has begun to sound.

        Raises:
            Fault: there is none.
        """
        if task.order.reference is None or self._settings.references == "inline":
            return await self._spoken(connections, task, deadline)
        voice = await self._voice_of(connections, task, task.order.reference, deadline)
        try:
            return await self._spoken(connections, _with_voice(task, voice), deadline)
        except Fault as fault:
            if not fault.blames_voice:
                raise
            self._registered.forget(task.order.reference.digest, voice)
        # The server has forgotten it since.
        voice = await self._voice_of(connections, task, task.order.reference, deadline)
        return await self._spoken(connections, _with_voice(task, voice), deadline)

    async def _spoken(self, connections: Connections, task: _Task, deadline: float) -> Answer:
        body = partial(self._dialect.body, task.order, self._settings.model or self._dialect.model)
        content = await _encoded(body, in_thread=task.order.reference is not None)
        return await self._tried(partial(self._speech, connections, task, content, deadline), task.peer, deadline)

    async def _speech(self, connections: Connections, task: _Task, content: bytes, deadline: float) -> Answer:
        """One try."""
        response = await self._post(connections, task, self._dialect.path, content)
        warnings: list[str] = []
        async with _closed_on_failure(response, task.peer):
            sound = await self._dialect.sound(response, task.peer, warnings)
        most = round(task.order.seconds * _WIDEST) + MAX_ERROR
        body = Body(sound, most, (deadline, self._late(task.peer)), task.peer)
        answer = Answer(response, body, task.order, task.peer, warnings)
        try:
            await answer.begin(whole=not task.order.stream)
        except BaseException:
            await answer.close()
            raise
        return answer

    async def _voice_of(self, connections: Connections, task: _Task, reference: Reference, deadline: float) -> Registered:
        """The voice that the server keeps of a recording; registered if it is new, once however many ask at the same time."""
        digest = reference.digest
        lock = connections.lock(digest)
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            raise self._late(task.peer) from None
        try:
            known = self._registered.find(digest)
            if known is not None:
                return known
            body = partial(_registration, reference, digest)
            content = await _encoded(body, in_thread=True)
            voice = await self._tried(partial(self._register, connections, task, content), task.peer, deadline)
            return self._registered.keep(digest, voice)
        finally:
            lock.release()

    async def _register(self, connections: Connections, task: _Task, content: bytes) -> str:
        """One try."""
        response = await self._post(connections, task, _VOICES_PATH, content)
        async with _closed_on_failure(response, task.peer):
            body = await read(response, MAX_ERROR)
        await response.aclose()
        voice = registered_voice(body or b"")
        if not is_name(voice):
            raise task.peer.broken("took the recording, but named no voice for it")
        return voice

    async def _post(self, connections: Connections, task: _Task, path: str, content: bytes) -> "httpx.Response":
        """A successful answer, of which the headers have come.

        Raises:
            Fault: there is none.
        """
        import httpx

        headers = {"Content-Type": "application/json", **task.headers}
        request = connections.client.build_request("POST", _url(self._base, path), content=content, headers=headers)
        try:
            response = await connections.client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise task.peer.failed(error) from None
        async with _closed_on_failure(response, task.peer):
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if not response.is_success:
                body = b"" if encoding != "identity" else await _error_body(response)
                raise task.peer.refused(response.status_code, body, response.headers.get("retry-after"))
            if encoding != "identity":
                raise task.peer.broken(f"sent its answer compressed ({encoding[:20]!r}), which was not asked for")
        return response

    async def _tried(self, step: Callable[[], Awaitable[_Result]], peer: Peer, deadline: float) -> _Result:
        """What ``step`` gives, tried again as long as that may help and time is left."""
        import stamina

        earlier: Fault | None = None

        def again(error: Exception) -> bool | float:
            nonlocal earlier
            if not isinstance(error, Fault):  # being cancelled comes by here too
                return False
            earlier = error
            if isinstance(error.retry, bool):
                return error.retry
            wait = error.retry + random.uniform(0.0, 0.1)  # not everybody at the same instant
            return wait if wait < deadline - asyncio.get_running_loop().time() else False

        async def trying() -> _Result:
            try:
                return await step()
            except Fault as fault:
                made = fault
            first, most = _WAIT_SECONDS
            tries = stamina.retry_context(
                again, attempts=self._settings.retries + 1, timeout=None, wait_initial=first, wait_max=most, wait_jitter=first
            )
            async for attempt in tries:
                with attempt:
                    if attempt.num == 1:
                        raise made  # it stands outside because it mostly is the only one
                    result = await step()
            return result

        try:
            async with asyncio.timeout_at(deadline):
                return await trying()
        except TimeoutError:
            raise self._late(peer, earlier) from None

    def _late(self, peer: Peer, earlier: Fault | None = None) -> Fault:
        before = f" (before that: {earlier})" if earlier else ""
        late = f"{peer.where} was not done within {self._settings.total_timeout:g} s{before}"
        return Fault(BackendTimeout(f"{late}; raise {SETTING}TOTAL_TIMEOUT if it is that slow"))

    def _served_voices(self) -> tuple[Voice, ...]:
        """What the server lists."""
        from synth.higgs_http.voices import listed_voices

        key = self._key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        seconds = min(self._settings.connect_timeout, self._settings.read_timeout, self._settings.total_timeout)
        names = listed_voices(f"{self._base}/{_VOICES_PATH}", headers, seconds, self._peer(key))
        return tuple(Voice(name, "und") for name in names)


@lru_cache(maxsize=1)
def _trusted() -> "ssl.SSLContext":
    """The certificates that are trusted. They take 25 ms to read, and every event loop has a client of its own."""
    import httpx

    return httpx.create_ssl_context()


def _with_voice(task: _Task, registered: Registered) -> _Task:
    return replace(task, order=replace(task.order, voice=registered.voice, reference=None))


def _registration(reference: Reference, digest: str) -> dict[str, str]:
    return {**recording(reference), "title": f"prosody {digest[:16]}"}


@lru_cache(maxsize=8)
def _url(base: str, path: str) -> "httpx.URL":
    import httpx

    return httpx.URL(f"{base}/{path}")  # parsed once: that costs as much as the rest of making a request


async def _encoded(body: Callable[[], object], *, in_thread: bool) -> bytes:
    """A body as JSON; in a thread where it holds a recording, which takes a while."""

    def encode() -> bytes:
        return json.dumps(body(), ensure_ascii=False).encode()

    return await asyncio.to_thread(encode) if in_thread else encode()


@asynccontextmanager
async def _closed_on_failure(response: "httpx.Response", peer: Peer) -> AsyncIterator[None]:
    """Closes the response if the block fails, and turns what httpx raises there into a `Fault`."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        await response.aclose()
        raise peer.failed(error) from None
    except BaseException:
        await response.aclose()
        raise


async def _error_body(response: "httpx.Response") -> bytes:
    """What an error says, as far as it comes soon and is short."""
    import httpx

    try:
        async with asyncio.timeout(_ERROR_SECONDS):
            return await read(response, MAX_ERROR) or b""
    except (TimeoutError, httpx.HTTPError):
        return b""
