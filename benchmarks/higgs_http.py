"""What the backend higgs-http adds to a server's own time: throughput, the delay of the first sound, cost over bare httpx.

The server is the fake of the tests, in a process of its own, on this machine. One run, one machine; compare ratios.

python benchmarks/higgs_http.py [--json]
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from fake_higgs import Options, serve

from prosody_tagger.markup import plain
from synth.base import SpeechRequest
from synth.higgs_http.backend import HiggsHttp, HiggsSettings

TEXTS = 32
AT_ONCE = 8
LATENCY = 0.3
REQUESTS = 200
ROUNDS = 5
FIRSTS = 20
SENTENCE, WORD = "It was a bright cold day in April, and the clocks were striking thirteen.", "Hello."
CHUNK_GAP = 0.05


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, and of this process's own work, which other processes on the machine disturb less."""

    clock: float
    work: float

    @classmethod
    def now(cls) -> "Cost":
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.clock - other.clock, self.work - other.work)


@contextmanager
def server(**options: float) -> Iterator[str]:
    """A fake in another process; gives its base URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(options, theirs))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def _serve(options: dict[str, float], pipe: Connection) -> None:
    with serve(Options(**options)) as fake:
        pipe.send(fake.url)
        pipe.recv()


@asynccontextmanager
async def voice_at(url: str) -> AsyncIterator[HiggsHttp]:
    voice = HiggsHttp(HiggsSettings(url=url, api_key="fake-key", max_connections=AT_ONCE))
    try:
        yield voice
    finally:
        await voice.close()


async def speak(voice: HiggsHttp, text: str) -> int:
    async with aclosing(voice.speak(SpeechRequest(plain(text)))) as speeches:
        return sum([len(speech.audio.samples) async for speech in speeches])


async def throughput(url: str) -> float:
    """Seconds for all texts; they have been spoken before, so that the server's delay is all that it takes."""
    texts = [f"This is text number {number}." for number in range(TEXTS)]
    async with voice_at(url) as voice:
        await asyncio.gather(*(speak(voice, text) for text in texts))
        began = time.perf_counter()
        await asyncio.gather(*(speak(voice, text) for text in texts))
        return time.perf_counter() - began


async def first_sound() -> list[float]:
    """Seconds from the server's first chunk to our first sound. The server is in this process: it tells when it sent."""
    delays = []
    with serve(Options(chunk_delay_ms=CHUNK_GAP * 1000)) as fake:
        async with voice_at(fake.url) as voice:
            for _ in range(FIRSTS + 2):
                async with aclosing(
                    voice.speak(SpeechRequest(plain("The first sound of this comes before the last.")))
                ) as speeches:
                    await anext(speeches)
                    delays.append(time.monotonic() - fake.requests[-1].sent[0])
    return delays[2:]


async def ours(url: str, text: str) -> Cost:
    async with voice_at(url) as voice:
        await speak(voice, text)
        began = Cost.now()
        for _ in range(REQUESTS):
            await speak(voice, text)
        return Cost.now() - began


async def bare(url: str, text: str) -> Cost:
    """The same requests, and the bytes of their answers."""
    body = {"model": "higgs-tts-3", "input": text, "response_format": "pcm", "stream": True, "voice": "default"}

    async def ask() -> int:
        async with client.stream("POST", f"{url}/audio/speech", json=body) as response:
            response.raise_for_status()
            return sum([len(chunk) async for chunk in response.aiter_raw()])

    async with httpx.AsyncClient(headers={"Authorization": "Bearer fake-key"}) as client:
        await ask()
        began = Cost.now()
        for _ in range(REQUESTS):
            await ask()
        return Cost.now() - began


def measure() -> list[dict[str, object]]:
    ideal = TEXTS / AT_ONCE * LATENCY
    with server(delay_ms=LATENCY * 1000) as url:
        taken = asyncio.run(throughput(url))
    delays = asyncio.run(first_sound())
    with server() as url:
        sentence, word = overhead(url, SENTENCE), overhead(url, WORD)
    return [
        {"what": f"{TEXTS} texts, {AT_ONCE} at once, latency {LATENCY:g} s: time / ideal", "value": taken / ideal, "most": 1.15},
        {"what": "first sound after the server's first chunk, median, ms", "value": statistics.median(delays) * 1000, "most": 20.0},
        {"what": "the same, slowest, ms", "value": max(delays) * 1000, "most": 20.0},
        {"what": f"{REQUESTS} sentences: time / bare httpx, median of {ROUNDS}", "value": sentence.clock, "most": 1.2},
        {"what": "the same in processor time of the client", "value": sentence.work, "most": None},
        {"what": f"{REQUESTS} single words: time / bare httpx, median of {ROUNDS}", "value": word.clock, "most": None},
        {"what": "the same in processor time of the client", "value": word.work, "most": None},
    ]


def overhead(url: str, text: str) -> Cost:
    """Our cost as a multiple of bare httpx's."""
    pairs = [(asyncio.run(ours(url, text)), asyncio.run(bare(url, text))) for _ in range(ROUNDS)]
    clock = statistics.median(mine.clock / theirs.clock for mine, theirs in pairs)
    return Cost(clock, statistics.median(mine.work / theirs.work for mine, theirs in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    asked = parser.parse_args()
    figures = measure()
    if asked.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        return
    table = Table("figure", "value", "must be at most")
    for figure in figures:
        table.add_row(str(figure["what"]), f"{figure['value']:.2f}", "" if figure["most"] is None else f"{figure['most']:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
