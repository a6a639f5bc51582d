"""Overload: ten times the service's throughput for a minute. How each request ends, and memory and latency before and after.

Requests are sent at a fixed rate, ten times what the service answered just before with eight clients, whether or not earlier ones
are answered. Every request must end with audio, 503 or 429, and the audio must belong to its text: it is compared with that of the
pipeline, sample for sample. Every request has a new seed, which the embedded voice ignores, so that no two share a synthesis.

python benchmarks/service_overload.py [--seconds 60] [--json FILE]
"""

import argparse
import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import own_server

from ai_core.pipeline import Job, collect
from ai_core.runtime import Runtime
from prosody_tagger.markup import parse
from synth.audio.encoding import encode

TEXTS = [parse(line).text for line in own_server.SENTENCES if line]
TIMES = 10
LATENCY_REQUESTS = 200
WARM_SECONDS = 10
MAX_OPEN = 4000
"""Open connections of this client; the service is configured to accept as many."""


async def expected() -> dict[str, str]:
    """Return for each text the digest of the pipeline's audio."""
    runtime = Runtime()
    try:
        return {text: digest(encode((await collect(Job(text), runtime)).audio, "pcm")) for text in TEXTS}
    finally:
        await runtime.close()


def digest(audio: bytes) -> str:
    return sha256(audio).hexdigest()


def body(seed: int) -> dict[str, object]:
    return {"text": TEXTS[seed % len(TEXTS)], "seed": seed, "format": "pcm"}


async def latencies(port: int, seeds: Iterator[int]) -> list[float]:
    """Return the seconds of sequential requests."""
    async with own_server.connection(port) as connection:
        return [(await connection.ask("POST", "/speak", body(next(seeds)))).seconds for _ in range(LATENCY_REQUESTS)]


async def answers_a_second(port: int, seconds: float, seeds: Iterator[int]) -> float:
    """Return the throughput with eight clients."""
    count = 0
    ends = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal count
        async with own_server.connection(port) as connection:
            while time.perf_counter() < ends:
                answer = await connection.ask("POST", "/speak", body(next(seeds)))
                count += answer.status == 200

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(8)))
    return count / (time.perf_counter() - began)


async def overload(
    port: int, rate: float, seconds: float, seeds: Iterator[int], known: dict[str, str]
) -> tuple[Counter[str], list[float]]:
    """Return how the requests ended, and the seconds that each refusal took."""
    ends: Counter[str] = Counter()
    refusals: list[float] = []
    idle: list[own_server.HttpConnection] = []
    under_way: set[asyncio.Task[None]] = set()

    async def one(seed: int) -> None:
        connection = idle.pop() if idle else own_server.HttpConnection(port)
        try:
            answer = await connection.ask("POST", "/speak", body(seed))
        except (own_server.IncompleteResponse, OSError) as error:
            ends[f"lost: {error}"] += 1
            return
        idle.append(connection)
        if answer.status == 200:
            ends["audio" if digest(answer.body) == known[TEXTS[seed % len(TEXTS)]] else "mixed"] += 1
        else:
            ends[str(answer.status)] += 1
            ends["without Retry-After"] += "retry-after" not in answer.headers
            refusals.append(answer.seconds)

    began = time.perf_counter()
    for number in range(round(rate * seconds)):
        if (wait := began + number / rate - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if len(under_way) >= MAX_OPEN:
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(one(next(seeds)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    for connection in idle:
        connection.close()
    ends["asked"] = round(rate * seconds)
    return ends, refusals


async def measure(seconds: float) -> dict[str, object]:
    known = await expected()
    seeds = itertools.count(1)
    with own_server.server(connections=MAX_OPEN + 100) as running:
        capacity = await answers_a_second(running.port, WARM_SECONDS, seeds)
        before = await latencies(running.port, seeds)
        megabytes, threads = running.megabytes(), running.threads()
        ended, refusals = await overload(running.port, TIMES * capacity, seconds, seeds, known)
        ended_with = running.megabytes()
        after = await latencies(running.port, seeds)
        return {
            "responses per second with 8 clients": capacity,
            "requests per second": TIMES * capacity,
            "ended": dict(ended),
            "refusal p50 ms": own_server.percentile(refusals, 50) * 1000,
            "refusal p99 ms": own_server.percentile(refusals, 99) * 1000,
            "memory before, MB": megabytes,
            "memory after, MB": ended_with,
            "memory after / before": ended_with / megabytes,
            "threads before": threads,
            "threads after": running.threads(),
            "latency before, p50 ms": own_server.percentile(before, 50) * 1000,
            "latency after, p50 ms": own_server.percentile(after, 50) * 1000,
            "latency after / before": own_server.middle(after) / own_server.middle(before),
            "permits and queue places in use at the end": sum(own_server.taken(running.metrics())),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    found = asyncio.run(measure(asked.seconds))
    own_server.report("Overload", found, asked.json)


if __name__ == "__main__":
    main()
