"""The backend `higgs-http`: Higgs Audio on a server."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlsplit

import numpy as np

from prosody_tagger.markup import KINDS, Mark
from synth.base import Audio, Capabilities, Reference, Speech, SpeechRequest, Synthesizer, Voice
from synth.errors import BackendUnavailable, RefusedRequest
from synth.higgs_http.connections import Connections, ConnectionsPerLoop, closed_on_failure
from synth.higgs_http.dialects import DIALECTS, MAX_ERROR, MEDIA, SpeechPayload, read, recording_fields, registered_name
from synth.higgs_http.errors import SETTING, Endpoint, RequestFailed
from synth.higgs_http.lowering import plain_words, to_server_text
from synth.higgs_http.response import RATE, AudioResponse, BufferedBody
from synth.higgs_http.retries import RetryPolicy
from synth.higgs_http.settings import HiggsSettings, is_valid_key, is_valid_name
from synth.higgs_http.voices import RegisteredVoice, RegisteredVoices, SharedVoiceList
from synth.lowering import max_duration

__all__ = ["HiggsHttp", "HiggsSettings"]

_AT_ONCE = 4  # concurrent requests of one text, so that other texts get connections too
_MAX_BYTES_PER_SECOND = 48_000 * 2 * 4  # of audio: 48 kHz, stereo, 32 bits
_MAX_SEED = 2**63


@dataclass(frozen=True, slots=True)
class _PreparedRequest:
    """A checked request.

    Attributes:
        payload: what to send; its text is empty if there is nothing to speak.
        unrealised: marks that the payload does not express.
        warnings: options of the request that the dialect ignores.
        endpoint: the server, and the secrets of this request.
    """

    payload: SpeechPayload
    unrealised: tuple[Mark, ...]
    warnings: tuple[str, ...]
    endpoint: Endpoint


class HiggsHttp(Synthesizer):
    """Higgs Audio on a server. The constructor does no I/O; connections are opened by the first request.

    Texts are sent as plain words, with the model's own control tags where such a tag has the effect of a mark (see
    `higgs_http.lowering`). Where the server streams, each chunk is yielded as it arrives. Transient failures are retried until the
    first chunk has been yielded. One object may be used from several event loops; each has connections of its own.
    """

    name = "higgs-http"

    def __init__(self, settings: HiggsSettings | None = None) -> None:
        self._settings = settings = settings or HiggsSettings()
        self._dialect = dialect = DIALECTS[settings.dialect]
        base_url = str(settings.url or dialect.url).rstrip("/")
        self._host = urlsplit(base_url).netloc
        self._speech_url = f"{base_url}/{dialect.path}"
        self._voices_url = f"{base_url}/audio/voices"
        streams = settings.stream and dialect.streams
        self._audio_format = settings.response_format or ("pcm" if streams else dialect.audio_formats[0])
        self._streams = streams and self._audio_format == "pcm"
        self._tags = {**dialect.pitch_tags, **(dialect.pause_tags if settings.pauses == "tags" else {})}
        self._connections = ConnectionsPerLoop(settings)
        self._retries = RetryPolicy(settings.retries, settings.total_timeout)
        list_timeout = min(settings.connect_timeout, settings.read_timeout, settings.total_timeout)
        self._voice_list = SharedVoiceList(self._connections, self._voices_url, list_timeout)
        self._registered = RegisteredVoices()

    @property
    def capabilities(self) -> Capabilities:
        """No Higgs model stresses a word on request. A "rendered" mark is returned as unrealised where no tag can express it."""
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
        """Return the dialect's voices, or those that the server lists, the default first. Requests may name others.

        Raises:
            BackendUnavailable: the server's list is needed, and cannot be fetched.
        """
        known = self._dialect.presets
        if not known:
            known = tuple(Voice(name, "und") for name in await self._voice_list.names(self._endpoint(self._key())))
        default = self._settings.voice or self._dialect.default_voice
        first = [voice for voice in known if voice.name == default]
        if not first and self._settings.voice:
            first = [Voice(default, "und", f"set by {SETTING}VOICE")]
        return (*first, *(voice for voice in known if voice.name != default))

    def unready(self) -> str | None:
        """Return what is missing to send a request, without asking the server: a key, or a valid one. None if nothing is."""
        try:
            key = self._key()
        except BackendUnavailable as error:
            return str(error)
        if key is None and self._settings.url is None and self._dialect.key_variable:
            endpoint = self._endpoint(None)
            return f"{endpoint.host} requires an API key; set {endpoint.key_settings}"
        return None

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        """Speak one piece of text: in chunks if the server streams, else as a whole.

        A text without words yields audio of length 0, without a request to the server.

        Raises:
            RefusedRequest: the text is too long, speed or seed are not supported, or the server refuses the request.
            BackendUnavailable: no server, no key or a wrong one, no such model, or too many requests.
            BackendTimeout: the server took too long.
            BackendError: the server failed, or did not send speech.
        """
        if problem := self.unready():
            raise BackendUnavailable(problem)
        prepared = self._prepare(request)
        if not prepared.payload.text:
            yield Speech(Audio(np.zeros(0, dtype=np.float32), RATE), unrealised=prepared.unrealised)
            return
        connections = await self._connections.get()
        try:
            async with connections.slot(self._settings.total_timeout):
                deadline = asyncio.get_running_loop().time() + self._settings.total_timeout
                response = await self._request_speech(connections, prepared, deadline)
                try:
                    warnings = (*prepared.warnings, *response.pop_warnings())
                    yield Speech(Audio(response.first, RATE), unrealised=prepared.unrealised, warnings=warnings)
                    while (samples := await response.read()) is not None:
                        yield Speech(Audio(samples, RATE), warnings=response.pop_warnings())
                finally:
                    await response.close()
        except RequestFailed as failure:
            raise failure.error from None

    async def close(self) -> None:
        """Close the connections of this event loop. The next request opens others."""
        await self._connections.close()

    def _prepare(self, request: SpeechRequest) -> _PreparedRequest:
        """Check ``request`` and convert it to the payload.

        Raises:
            RefusedRequest: the text is too long, or an option is not supported.
        """
        dialect, settings = self._dialect, self._settings
        self._check_length(request.text.text)
        server_text = to_server_text(request.text, self._tags, unfinished=request.unfinished, breaks=request.breaks)
        self._check_length(server_text.text)  # tags and aliases may have made it longer
        self._check_speed(request.speed)
        warnings: tuple[str, ...] = ()
        seed = request.seed
        if seed is not None and not 0 <= seed < _MAX_SEED:
            raise RefusedRequest(f"seed {seed} is out of range; give 0 to {_MAX_SEED - 1}")
        if seed is not None and not dialect.seeds:
            warnings = (f"the seed was not used: the dialect {settings.dialect} has none, so the speech will vary",)
        reference = self._checked_reference(request.reference)
        payload = SpeechPayload(
            text=server_text.text,
            audio_format=self._audio_format,
            stream=self._streams and request.speed == 1.0,  # no server changes the speed of a stream
            max_seconds=max_duration(server_text.text, settings.max_seconds_per_char, request.speed),
            voice=self._checked_voice(request.voice),
            reference=reference,
            speed=request.speed,
            seed=seed,
        )
        texts = (request.text.text, server_text.text, *(alias.spoken for alias in request.text.aliases))
        endpoint = self._endpoint(self._key(), *texts, *([reference.text] if reference else []))
        return _PreparedRequest(payload, server_text.unrealised, warnings, endpoint)

    def _check_length(self, text: str) -> None:
        max_chars = self._dialect.max_chars
        if len(text) > max_chars:
            raise RefusedRequest(f"a text of {len(text)} characters is too long for one request; give at most {max_chars}")

    def _check_speed(self, speed: float) -> None:
        speeds = self._dialect.speeds
        if speeds is None and speed != 1.0:
            raise RefusedRequest(f"speed {speed:g} is not supported by the dialect {self._settings.dialect}; leave it at 1")
        if speeds is not None and not speeds[0] <= speed <= speeds[1]:
            raise RefusedRequest(f"speed {speed:g} is out of range; give {speeds[0]:g} to {speeds[1]:g}")

    def _checked_voice(self, name: str | None) -> str:
        voice = name if name is not None else self._settings.voice or self._dialect.default_voice
        if not is_valid_name(voice):
            raise RefusedRequest(
                f"{voice[:40]!r} is not a valid name of a voice; give at most 256 printable characters, without < or |"
            )
        return voice

    def _checked_reference(self, reference: Reference | None) -> Reference | None:
        """Return the recording with control tags removed from its transcript."""
        if reference is None:
            return None
        if reference.audio_format not in MEDIA:
            raise RefusedRequest(
                f"a recording in the format {reference.audio_format!r} cannot be sent; give one of {', '.join(MEDIA)}"
            )
        return replace(reference, text=plain_words(reference.text))

    def _key(self) -> str | None:
        """Return the API key to send, if there is one.

        Raises:
            BackendUnavailable: the environment holds one that cannot be sent.
        """
        if self._settings.api_key is not None:
            return self._settings.api_key.get_secret_value()
        variable = self._dialect.key_variable
        key = os.environ.get(variable, "").strip() if variable else ""
        if key and not is_valid_key(key):
            raise BackendUnavailable(f"{variable} holds a space or a character that no HTTP header can carry; correct it")
        return key or None

    def _endpoint(self, key: str | None, *texts: str) -> Endpoint:
        variable = self._dialect.key_variable
        key_settings = f"{SETTING}API_KEY" + (f" or {variable}" if variable else "")
        return Endpoint(self._host, key_settings, key, texts)

    async def _request_speech(self, connections: Connections, prepared: _PreparedRequest, deadline: float) -> AudioResponse:
        """Return a response once its first audio has arrived. Register the reference first if the settings require it.

        Raises:
            RequestFailed: all attempts failed.
        """
        reference = prepared.payload.reference
        if reference is None or self._settings.references == "inline":
            return await self._post_speech(connections, prepared, deadline)
        voice = await self._registered_voice(connections, prepared.endpoint, reference, deadline)
        try:
            return await self._post_speech(connections, _with_voice(prepared, voice), deadline)
        except RequestFailed as failure:
            if not failure.is_unknown_voice:
                raise
            self._registered.remove(reference.digest, voice)
        # The server has dropped the voice: register the recording again.
        voice = await self._registered_voice(connections, prepared.endpoint, reference, deadline)
        return await self._post_speech(connections, _with_voice(prepared, voice), deadline)

    async def _post_speech(self, connections: Connections, prepared: _PreparedRequest, deadline: float) -> AudioResponse:
        body = partial(self._dialect.body, prepared.payload, self._settings.model or self._dialect.model)
        content = await _encode_json(body, in_thread=prepared.payload.reference is not None)
        attempt = partial(self._attempt_speech, connections, prepared, content, deadline)
        return await self._retries.run(attempt, prepared.endpoint, deadline)

    async def _attempt_speech(
        self, connections: Connections, prepared: _PreparedRequest, content: bytes, deadline: float
    ) -> AudioResponse:
        payload, endpoint = prepared.payload, prepared.endpoint
        http_response = await connections.post(self._speech_url, content, endpoint)
        warnings: list[str] = []
        async with closed_on_failure(http_response, endpoint):
            audio = await self._dialect.audio(http_response, endpoint, warnings)
        max_bytes = round(payload.max_seconds * _MAX_BYTES_PER_SECOND) + MAX_ERROR
        body = BufferedBody(audio, max_bytes, deadline, self._retries.timed_out(endpoint), endpoint)
        response = AudioResponse(http_response, body, payload, endpoint, warnings)
        try:
            await response.begin(whole=not payload.stream)
        except BaseException:
            await response.close()
            raise
        return response

    async def _registered_voice(
        self, connections: Connections, endpoint: Endpoint, reference: Reference, deadline: float
    ) -> RegisteredVoice:
        """Return the voice that the server made from a recording; register it first if necessary, once for concurrent callers."""
        digest = reference.digest
        lock = connections.lock(digest)
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            raise self._retries.timed_out(endpoint) from None
        try:
            known = self._registered.find(digest)
            if known is not None:
                return known
            body = partial(_registration, reference, digest)
            content = await _encode_json(body, in_thread=True)
            attempt = partial(self._attempt_registration, connections, endpoint, content)
            return self._registered.add(digest, await self._retries.run(attempt, endpoint, deadline))
        finally:
            lock.release()

    async def _attempt_registration(self, connections: Connections, endpoint: Endpoint, content: bytes) -> str:
        response = await connections.post(self._voices_url, content, endpoint)
        async with closed_on_failure(response, endpoint):
            body = await read(response, MAX_ERROR)
        await response.aclose()
        name = registered_name(body or b"")
        if not is_valid_name(name):
            raise endpoint.invalid("accepted the recording, but returned no voice for it")
        return name


def _with_voice(prepared: _PreparedRequest, voice: RegisteredVoice) -> _PreparedRequest:
    return replace(prepared, payload=replace(prepared.payload, voice=voice.name, reference=None))


def _registration(reference: Reference, digest: str) -> dict[str, str]:
    return {**recording_fields(reference), "title": f"prosody {digest[:16]}"}


async def _encode_json(body: Callable[[], object], *, in_thread: bool) -> bytes:
    """Build and encode a body; in a thread if it holds a recording, to keep the event loop free."""

    def encode() -> bytes:
        return json.dumps(body(), ensure_ascii=False).encode()

    return await asyncio.to_thread(encode) if in_thread else encode()
