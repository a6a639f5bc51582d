"""The audio of one response: buffered, decoded while it arrives, at one sample rate, and no longer than the text can take."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import numpy as np
import regex
from numpy.typing import NDArray

from synth.audio.file_types import sniff
from synth.audio.signal import FADE_SECONDS
from synth.audio.stream_decoding import StreamDecoder, TruncatedAudio
from synth.errors import BackendError
from synth.higgs_http.dialects import MEDIA, SpeechPayload, media_of
from synth.higgs_http.errors import Endpoint, RequestFailed

if TYPE_CHECKING:
    import httpx

RATE = 24_000
"""Sample rate of every Higgs model, Hz."""

_PLAUSIBLE_RATES = range(8_000, 96_001)

Samples = NDArray[np.float32]


class BufferedBody:
    """Reads a response body in a task of its own, so that a slow consumer does not hold up the server.

    Args:
        chunks: the body as it arrives.
        max_bytes: the most bytes that the buffer holds.
        deadline: when the body must have ended, in the event loop's time.
        timed_out: the failure if it has not.
        endpoint: the server.
    """

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], max_bytes: int, deadline: float, timed_out: RequestFailed, endpoint: Endpoint
    ) -> None:
        self._chunks = chunks
        self._max_bytes = max_bytes
        self._deadline = deadline
        self._timed_out = timed_out
        self._endpoint = endpoint
        self._buffer: list[bytes] = []
        self._size = 0  # of the buffer, in bytes
        self._changed = asyncio.Event()
        self._failure: RequestFailed | None = None
        self._reader = asyncio.create_task(self._read())

    async def take(self) -> bytes | None:
        """Wait for data and empty the buffer. Return at least one byte, or None at the end.

        Raises:
            RequestFailed: the body broke off; everything before that has been returned.
        """
        await self._changed.wait()
        if self._buffer:
            taken = b"".join(self._buffer)
            self._buffer, self._size = [], 0
            if not self._reader.done():
                self._changed.clear()
            return taken
        if self._failure is not None:
            raise self._failure
        return self._reader.result()  # None; raises an unexpected error of the task

    async def close(self) -> None:
        """Stop reading. Safe to call twice."""
        if not self._reader.done():
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._chunks.aclose()

    async def _read(self) -> None:
        import httpx

        try:
            async with asyncio.timeout_at(self._deadline):
                async for chunk in self._chunks:
                    if not chunk:
                        continue
                    self._size += len(chunk)
                    if self._size > self._max_bytes:
                        raise self._endpoint.invalid(f"sent more than {self._max_bytes} bytes for one piece")
                    self._buffer.append(chunk)
                    if len(self._buffer) == 1:
                        self._changed.set()
        except RequestFailed as failure:
            self._failure = failure
        except httpx.HTTPError as error:
            self._failure = self._endpoint.connection_error(error)
        except TimeoutError:
            self._failure = self._timed_out
        finally:
            self._changed.set()


class AudioResponse:
    """A successful response, read as audio of `RATE`.

    Args:
        response: the HTTP response, whose headers have arrived.
        body: its encoded audio.
        payload: the request.
        endpoint: the server.
        warnings: what the dialect warns of.

    Attributes:
        first: the samples that `begin` has read.
    """

    def __init__(
        self, response: "httpx.Response", body: BufferedBody, payload: SpeechPayload, endpoint: Endpoint, warnings: list[str]
    ) -> None:
        self.first: Samples = np.zeros(0, dtype=np.float32)
        self._warnings = warnings
        self._response = response
        self._body = body
        self._audio_format = payload.audio_format
        self._endpoint = endpoint
        self._max_seconds = payload.max_seconds
        self._remaining = round(payload.max_seconds * RATE)  # samples until the longest duration is reached
        self._decoder: StreamDecoder | None = None
        self._returned = 0  # samples
        self._ended = False
        self._failure: RequestFailed | None = None

    async def begin(self, *, whole: bool) -> None:
        """Read the first samples, or all of them if ``whole``.

        Raises:
            RequestFailed: there are none.
        """
        chunks = [samples] if (samples := await self.read()) is not None else []
        while whole and (samples := await self.read()) is not None:
            chunks.append(samples)
        if not chunks:
            raise self._endpoint.invalid("sent speech without any audio", retry=True)
        self.first = np.concatenate(chunks) if whole else chunks[0]

    async def read(self) -> Samples | None:
        """Return the next samples, at least one; None at the end.

        Raises:
            RequestFailed: the response broke off, or is not audio. Everything decoded before that has been returned.
        """
        while not self._ended:
            samples = await self._next()
            if len(samples):
                self._returned += len(samples)
                return samples
        if self._failure is not None:
            raise self._failure
        return None

    def pop_warnings(self) -> tuple[str, ...]:
        """Return the warnings since the last call."""
        popped = tuple(self._warnings)
        self._warnings.clear()
        return popped

    async def close(self) -> None:
        """Close the connection, unless the response has been read to its end. Safe to call twice."""
        self._ended = True
        await self._body.close()
        await self._response.aclose()

    async def _next(self) -> Samples:
        try:
            data = await self._body.take()
            samples = self._decode(data) if data is not None else await self._finish()
        except RequestFailed as failure:
            return self._flush(failure)
        except BackendError as error:
            error_with_host = type(error)(f"{self._endpoint.host}: {error}")
            return self._flush(RequestFailed(error_with_host, retry=isinstance(error, TruncatedAudio)))
        if len(samples) > self._remaining:
            return await self._cut(samples)
        self._remaining -= len(samples)
        return samples

    def _decode(self, data: bytes) -> Samples:
        if self._decoder is None:
            self._decoder = StreamDecoder(self._detected_format(data), RATE, self._source_rate())
        return self._decoder.feed(data)

    async def _finish(self) -> Samples:
        self._ended = True
        if self._decoder is None:
            return self.first[:0]
        if self._returned:
            return self._decoder.finish()
        return await asyncio.to_thread(self._decoder.finish)  # a compressed file is decoded as a whole at its end

    def _flush(self, failure: RequestFailed) -> Samples:
        """End with ``failure``. Return what the decoder still holds, if earlier samples have been returned."""
        self._ended, self._failure = True, failure
        if self._decoder is None or not self._returned:
            return self.first[:0]
        try:
            return self._decoder.finish()[: self._remaining]
        except BackendError:
            return self.first[:0]

    async def _cut(self, samples: Samples) -> Samples:
        """Return ``samples`` up to the longest duration, faded out; close the response without reading the rest."""
        fade = round(FADE_SECONDS * RATE)
        kept = samples[: max(self._remaining, fade)].copy()
        length = min(fade, len(kept))
        kept[len(kept) - length :] *= np.linspace(1, 0, length, dtype=np.float32)
        self._remaining = 0
        await self.close()
        self._warnings.append(
            f"the speech exceeded {self._max_seconds:.1f} s, more than this text can take, and was cut there; try again"
        )
        return kept

    def _detected_format(self, data: bytes) -> str:
        """Return the format of the body: the requested one, unless content type and first bytes agree on another."""
        found = sniff(data)
        return found if found is not None and MEDIA.get(found) == media_of(self._response) else self._audio_format

    def _source_rate(self) -> int:
        """Return the sample rate that the headers give for raw samples, in Hz.

        Raises:
            RequestFailed: the headers say that there are several channels, or not 16 bits a sample.
        """
        if self._audio_format != "pcm":
            return RATE
        raw = self._response.headers.raw  # a lookup in httpx.Headers takes longer than this whole function
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}
        media = headers.get("content-type", "")
        given = headers.get("x-sample-rate") or _media_parameter(media, "rate")
        channels = headers.get("x-channels") or _media_parameter(media, "channels")
        if channels not in (None, "1"):
            raise self._endpoint.invalid("sends more than one channel, where one was expected")
        if headers.get("x-bit-depth") not in (None, "16"):
            raise self._endpoint.invalid("sends samples that do not have the 16 bits expected")
        rate = int(given) if given is not None and regex.fullmatch(r"[0-9]{1,6}", given) else 0
        if given is None or rate == RATE:
            return RATE
        if rate not in _PLAUSIBLE_RATES:
            self._warnings.append(f"{self._endpoint.host} gives no plausible sample rate; {RATE} Hz was assumed")
            return RATE
        self._warnings.append(
            f"{self._endpoint.host} reports a sample rate of {rate} Hz, but Higgs has {RATE}; "
            "if the speech is too fast or too slow, the server's figure is wrong"
        )
        return rate


def _media_parameter(media: str, name: str) -> str | None:
    """Return a parameter of a content type, such as ``rate`` in ``audio/pcm; rate=24000``."""
    for parameter in media.split(";")[1:]:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == name:
            return value.strip().strip('"')
    return None
