"""The sound of one answer: decoded while it comes, at one rate, and no longer than the text can take."""

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import regex
from numpy.typing import NDArray

from synth.audio.decoding import StreamDecoder, TruncatedAudio, sniff
from synth.audio.signal import FADE_SECONDS
from synth.errors import BackendError
from synth.higgs_http.body import Body
from synth.higgs_http.dialects import MEDIA, Order, media_of
from synth.higgs_http.errors import Fault, Peer

if TYPE_CHECKING:
    import httpx

RATE = 24_000
"""Sample rate of every Higgs model, Hz."""

_BELIEVABLE = range(8_000, 96_001)

Samples = NDArray[np.float32]


class Answer:
    """A successful answer, read as sound of `RATE`.

    Args:
        response: whose headers have come.
        body: its sound as it was coded.
        order: what was asked for.
        peer: who answers.
        warnings: what its dialect has to say of it.

    Attributes:
        warnings: what the caller should know, so far.
        first: what `begin` has read.
    """

    def __init__(self, response: "httpx.Response", body: Body, order: Order, peer: Peer, warnings: list[str]) -> None:
        self.warnings = warnings
        self.first: Samples = np.zeros(0, dtype=np.float32)
        self._response = response
        self._body = body
        self._form = order.form
        self._peer = peer
        self._seconds = order.seconds
        self._room = round(order.seconds * RATE)  # samples that may still come
        self._decoder: StreamDecoder | None = None
        self._passed = 0
        self._ended = False
        self._broken: Fault | None = None

    async def begin(self, *, whole: bool) -> None:
        """Read the first of the sound, or all of it if ``whole``.

        Raises:
            Fault: there is none.
        """
        parts = [samples] if (samples := await self.read()) is not None else []
        while whole and (samples := await self.read()) is not None:
            parts.append(samples)
        if not parts:
            raise self._peer.broken("sent speech without any sound", retry=True)
        self.first = np.concatenate(parts) if whole else parts[0]

    async def read(self) -> Samples | None:
        """The next samples, at least one; None at the end.

        Raises:
            Fault: the answer broke off, or is no sound. What had come until then was returned before.
        """
        while not self._ended:
            samples = await self._next()
            if len(samples):
                self._passed += len(samples)
                return samples
        if self._broken is not None:
            raise self._broken
        return None

    def news(self) -> tuple[str, ...]:
        """The warnings since this was last asked."""
        found = tuple(self.warnings)
        self.warnings.clear()
        return found

    async def close(self) -> None:
        """Close the connection, unless all of the answer has been read. Safe to call twice."""
        self._ended = True
        await self._body.close()
        await self._response.aclose()

    async def _next(self) -> Samples:
        try:
            data = await self._body.take()
            samples = self._decode(data) if data is not None else await self._finish()
        except Fault as fault:
            return self._rest(fault)
        except BackendError as error:
            return self._rest(Fault(type(error)(f"{self._peer.where}: {error}"), retry=isinstance(error, TruncatedAudio)))
        if len(samples) > self._room:
            return await self._cut(samples)
        self._room -= len(samples)
        return samples

    def _decode(self, data: bytes) -> Samples:
        if self._decoder is None:
            self._decoder = StreamDecoder(self._named_form(data), RATE, self._source_rate())
        return self._decoder.feed(data)

    async def _finish(self) -> Samples:
        self._ended = True
        if self._decoder is None:
            return self.first[:0]
        if self._passed:
            return self._decoder.finish()
        return await asyncio.to_thread(self._decoder.finish)  # all of a compressed file is decoded at its end

    def _rest(self, fault: Fault) -> Samples:
        """What the decoder still holds of an answer that broke, if its beginning has been passed on."""
        self._ended, self._broken = True, fault
        if self._decoder is None or not self._passed:
            return self.first[:0]
        try:
            return self._decoder.finish()[: self._room]
        except BackendError:
            return self.first[:0]

    async def _cut(self, samples: Samples) -> Samples:
        """The last samples that there is room for, faded out; the rest of the answer is left unread."""
        fade = round(FADE_SECONDS * RATE)
        kept = samples[: max(self._room, fade)].copy()
        length = min(fade, len(kept))
        kept[len(kept) - length :] *= np.linspace(1, 0, length, dtype=np.float32)
        self._room = 0
        await self.close()
        self.warnings.append(
            f"the speech ran on past {self._seconds:.1f} s, longer than this text can take, and was cut there; speak it again"
        )
        return kept

    def _named_form(self, data: bytes) -> str:
        """What the body is: as asked, unless its type names another form and its first bytes agree."""
        found = sniff(data)
        return found if found is not None and MEDIA.get(found) == media_of(self._response) else self._form

    def _source_rate(self) -> int:
        """The rate that the headers name for bare samples.

        Raises:
            Fault: they name more than one channel, or not 16 bits.
        """
        if self._form != "pcm":
            return RATE
        raw = self._response.headers.raw  # each look into httpx.Headers costs more than all of this
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}
        media = headers.get("content-type", "")
        said = headers.get("x-sample-rate") or _parameter(media, "rate")
        channels = headers.get("x-channels") or _parameter(media, "channels")
        if channels not in (None, "1"):
            raise self._peer.broken("sends more than one channel, where one was expected")
        if headers.get("x-bit-depth") not in (None, "16"):
            raise self._peer.broken("sends samples that do not have the 16 bits expected")
        rate = int(said) if said is not None and regex.fullmatch(r"[0-9]{1,6}", said) else 0
        if said is None or rate == RATE:
            return RATE
        if rate not in _BELIEVABLE:
            self.warnings.append(f"{self._peer.where} gives no sample rate that can be; {RATE} Hz was taken")
            return RATE
        self.warnings.append(
            f"{self._peer.where} says that its sound has {rate} Hz, where Higgs has {RATE}; if the speech is too fast or too slow, "
            "that is not so"
        )
        return rate


def _parameter(media: str, name: str) -> str | None:
    """A parameter of a content type, such as ``rate`` in ``audio/pcm; rate=24000``."""
    for part in media.split(";")[1:]:
        key, _, value = part.partition("=")
        if key.strip().lower() == name:
            return value.strip().strip('"')
    return None
