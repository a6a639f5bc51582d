"""A thousand clients that disconnect at random times, 20 at a time: what they leave behind, and how soon a permit is free again.

Half of them request a sentence, half a text of a minute; a third of all request a stream. Afterwards no permit may be in use, no
text may wait, and there may be no more threads than before. Then one client at a time requests a long text and disconnects; the
time until `/metrics` shows no permit in use includes the polling. asyncio tasks cannot be observed from outside; permits, threads
and memory can, and every running job has some of them.

python benchmarks/service_leavers.py [--clients 1000] [--json FILE]
"""

import argparse
import asyncio
import contextlib
import random
import time
from pathlib import Path

import own_server

from prosody_tagger.markup import parse

TEXTS = [parse(line).text for line in own_server.SENTENCES if line]
LONG = " ".join(TEXTS[:20])
AT_ONCE = 20
LONGEST_STAY = 1.0
FREED = 40
MAX_MS = 100
SETTLE = 5.0


async def leave(port: int, seed: int, generator: random.Random) -> str:
    """Send a request and disconnect after a random time. Return the status, or "left" if no response was complete by then."""
    text = LONG if generator.random() < 0.5 else TEXTS[seed % len(TEXTS)]
    body: dict[str, object] = {"text": text, "seed": seed, "stream": generator.random() < 1 / 3, "format": "wav"}
    async with own_server.connection(port) as connection:
        # Most disconnect early, while the request is read, queued, tagged, or at its first sentence.
        stay = LONGEST_STAY * generator.random() ** 2
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stay):
                return str((await connection.ask("POST", "/speak", body)).status)
    return "left"


async def crowd(port: int, clients: int) -> dict[str, int]:
    generator = random.Random(8)
    clients_at_once = asyncio.Semaphore(AT_ONCE)
    ended: dict[str, int] = {}

    async def one(seed: int) -> None:
        async with clients_at_once:
            how = await leave(port, seed, generator)
            ended[how] = ended.get(how, 0) + 1

    await asyncio.gather(*(one(seed) for seed in range(1, clients + 1)))
    return ended


async def freed(port: int) -> list[float]:
    """Return the seconds from each disconnect in the middle of a text until no permit is in use."""
    generator = random.Random(9)
    times = []
    async with own_server.connection(port) as watching:
        for seed in range(FREED):
            leaving = own_server.HttpConnection(port)
            await leaving.send("POST", "/speak", {"text": LONG, "seed": seed, "stream": seed % 2 == 0, "format": "wav"})
            await own_server.until_taken(watching, True)
            await asyncio.sleep(0.2 * generator.random())
            began = time.perf_counter()
            leaving.close()
            await own_server.until_taken(watching, False)
            times.append(time.perf_counter() - began)
    return times


async def settled(port: int) -> float:
    """Return the permits still in use after at most `SETTLE` seconds."""
    async with own_server.connection(port) as watching:
        return await own_server.until_taken(watching, False, SETTLE)


async def measure(clients: int) -> dict[str, object]:
    with own_server.server() as running:
        await crowd(running.port, 100)  # starts every thread that the service ever needs
        await settled(running.port)
        threads, megabytes = running.threads(), running.megabytes()
        ended = await crowd(running.port, clients)
        taken = await settled(running.port)
        threads_after, megabytes_after = running.threads(), running.megabytes()
        times = await freed(running.port)
        async with own_server.connection(running.port) as connection:
            last = await connection.ask("POST", "/speak", {"text": TEXTS[0]})
        return {
            "clients": clients,
            "ended": ended,
            "cancelled, as the service counts": running.metrics()["prosody_cancellations_total"],
            "permits and queue places in use afterwards": taken,
            "threads before and after": (threads, threads_after),
            "memory after / before": megabytes_after / megabytes,
            "freed after, p50 ms": own_server.percentile(times, 50) * 1000,
            f"freed after, slowest of {FREED}, ms (at most {MAX_MS})": max(times) * 1000,
            "a request afterwards": last.status,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    found = asyncio.run(measure(asked.clients))
    own_server.report("Clients that disconnect", found, asked.json)


if __name__ == "__main__":
    main()
