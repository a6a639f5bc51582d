"""Measure the overhead of the backend higgs-http: throughput, delay of the first audio, cost relative to httpx alone.

The server is the fake of the tests, in a process of its own on this machine. Compare ratios; absolute times depend on the machine.

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
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that tests/synth is not imported as the package synth
from fake_higgs import Options, serve

from prosody_tagger.markup import plain
from synth.base import SpeechRequest
from synth.higgs_http.backend import HiggsHttp, HiggsSettings

TEXTS = 32
AT_ONCE = 8  # concurrent requests
LATENCY = 0.3  # of the server, in seconds
REQUESTS = 200  # of one round
ROUNDS = 5
FIRSTS = 20  # measurements of the first audio, after two more to warm up
SENTENCE, WORD = "It was a bright cold day in April, and the clocks were striking thirteen.", "Hello."
CHUNK_GAP = 0.05  # between two chunks of the server, in seconds


@dataclass(frozen=True)
class Cost:
    """Wall-clock time and processor time of this process, in seconds; other processes disturb the second less."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Cost":
        """Return the current readings; the cost is the difference of two."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall - other.wall, self.cpu - other.cpu)


@contextmanager
def server(**options: float) -> Iterator[str]:
    """Run a fake server in another process; yield its base URL."""
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=_serve, args=(options, child))
    process.start()
    try:
        yield parent.recv()
    finally:
        parent.send(None)
        process.join()


def _serve(options: dict[str, float], pipe: Connection) -> None:
    with serve(Options(**options)) as fake:
        pipe.send(fake.url)
        pipe.recv()


@asynccontextmanager
async def backend_at(url: str) -> AsyncIterator[HiggsHttp]:
    backend = HiggsHttp(HiggsSettings(url=url, api_key="fake-key", max_connections=AT_ONCE))
    try:
        yield backend
    finally:
        await backend.close()


async def speak(backend: HiggsHttp, text: str) -> int:
    """Speak a text; return the number of samples."""
    async with aclosing(backend.speak(SpeechRequest(plain(text)))) as speeches:
        return sum([len(speech.audio.samples) async for speech in speeches])


async def throughput(url: str) -> float:
    """Return the seconds for all texts. They are spoken once before, so that the fake has their audio and only its delay counts."""
    texts = [f"This is text number {number}." for number in range(TEXTS)]
    async with backend_at(url) as backend:
        await asyncio.gather(*(speak(backend, text) for text in texts))
        began = time.perf_counter()
        await asyncio.gather(*(speak(backend, text) for text in texts))
        return time.perf_counter() - began


async def first_audio() -> list[float]:
    """Return the seconds from the server's first chunk to our first audio. The server is in this process and records its times."""
    delays = []
    with serve(Options(chunk_delay_ms=CHUNK_GAP * 1000)) as fake:
        async with backend_at(fake.url) as backend:
            for _ in range(FIRSTS + 2):
                async with aclosing(
                    backend.speak(SpeechRequest(plain("The first sound of this comes before the last.")))
                ) as speeches:
                    await anext(speeches)
                    delays.append(time.monotonic() - fake.requests[-1].sent[0])
    return delays[2:]


async def backend_cost(url: str, text: str) -> Cost:
    """Measure `REQUESTS` requests through the backend."""
    async with backend_at(url) as backend:
        await speak(backend, text)
        began = Cost.now()
        for _ in range(REQUESTS):
            await speak(backend, text)
        return Cost.now() - began


async def httpx_cost(url: str, text: str) -> Cost:
    """Measure the same requests with httpx alone, which reads the bytes of the responses."""
    body = {"model": "higgs-tts-3", "input": text, "response_format": "pcm", "stream": True, "voice": "default"}

    async def post() -> int:
        async with client.stream("POST", f"{url}/audio/speech", json=body) as response:
            response.raise_for_status()
            return sum([len(chunk) async for chunk in response.aiter_raw()])

    async with httpx.AsyncClient(headers={"Authorization": "Bearer fake-key"}) as client:
        await post()
        began = Cost.now()
        for _ in range(REQUESTS):
            await post()
        return Cost.now() - began


def measure() -> list[dict[str, object]]:
    """Return the figures, with their limits where there are any."""
    ideal = TEXTS / AT_ONCE * LATENCY
    with server(delay_ms=LATENCY * 1000) as url:
        seconds = asyncio.run(throughput(url))
    delays = asyncio.run(first_audio())
    with server() as url:
        sentence, word = overhead(url, SENTENCE), overhead(url, WORD)
    return [
        {
            "what": f"{TEXTS} texts, {AT_ONCE} concurrent, latency {LATENCY:g} s: time / ideal",
            "value": seconds / ideal,
            "most": 1.15,
        },
        {"what": "first audio after the server's first chunk, median, ms", "value": statistics.median(delays) * 1000, "most": 20.0},
        {"what": "the same, maximum, ms", "value": max(delays) * 1000, "most": 20.0},
        {"what": f"{REQUESTS} sentences: time / httpx alone, median of {ROUNDS}", "value": sentence.wall, "most": 1.2},
        {"what": "the same in processor time of the client", "value": sentence.cpu, "most": None},
        {"what": f"{REQUESTS} single words: time / httpx alone, median of {ROUNDS}", "value": word.wall, "most": None},
        {"what": "the same in processor time of the client", "value": word.cpu, "most": None},
    ]


def overhead(url: str, text: str) -> Cost:
    """Return the cost of the backend as a multiple of that of httpx: the medians of all rounds."""
    pairs = [(asyncio.run(backend_cost(url, text)), asyncio.run(httpx_cost(url, text))) for _ in range(ROUNDS)]
    wall = statistics.median(backend.wall / bare.wall for backend, bare in pairs)
    return Cost(wall, statistics.median(backend.cpu / bare.cpu for backend, bare in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    figures = measure()
    if arguments.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        return
    table = Table("figure", "value", "must be at most")
    for figure in figures:
        table.add_row(str(figure["what"]), f"{figure['value']:.2f}", "" if figure["most"] is None else f"{figure['most']:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
