"""A thousand clients that leave at random moments, 20 at a time: what they leave behind, and how soon a place is free again.

Half of them speak a sentence, half a text of a minute; a third of all ask for a stream. Afterwards no place may be taken, no text
wait, and no more threads be there than before. Then one client at a time takes a place with a long text and leaves: the time until
`/metrics` shows none taken counts the asking too. asyncio tasks cannot be seen from outside: as everything that is under way holds
a place, a thread or memory, those are what is looked at.

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
MOST_MS = 100
SETTLE = 5.0


async def leave(port: int, seed: int, chance: random.Random) -> str:
    """Ask, stay for a while, leave. Tells whether the answer had come before."""
    text = LONG if chance.random() < 0.5 else TEXTS[seed % len(TEXTS)]
    body: dict[str, object] = {"text": text, "seed": seed, "stream": chance.random() < 1 / 3, "format": "wav"}
    async with own_server.connection(port) as connection:
        # Most leave early: then the request is being read, waits, is tagged, or is at its first sentence.
        stay = LONGEST_STAY * chance.random() ** 2
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stay):
                return str((await connection.ask("POST", "/speak", body)).status)
    return "left"


async def crowd(port: int, clients: int) -> dict[str, int]:
    chance = random.Random(8)
    places = asyncio.Semaphore(AT_ONCE)
    ended: dict[str, int] = {}

    async def one(seed: int) -> None:
        async with places:
            how = await leave(port, seed, chance)
            ended[how] = ended.get(how, 0) + 1

    await asyncio.gather(*(one(seed) for seed in range(1, clients + 1)))
    return ended


async def freed(port: int) -> list[float]:
    """Seconds from a client's leaving in the middle of a text until no place is taken."""
    chance = random.Random(9)
    times = []
    async with own_server.connection(port) as watching:
        for seed in range(FREED):
            leaving = own_server.HttpConnection(port)
            await leaving.send("POST", "/speak", {"text": LONG, "seed": seed, "stream": seed % 2 == 0, "format": "wav"})
            await own_server.until_taken(watching, True)
            await asyncio.sleep(0.2 * chance.random())
            began = time.perf_counter()
            leaving.close()
            await own_server.until_taken(watching, False)
            times.append(time.perf_counter() - began)
    return times


async def settled(port: int) -> float:
    """Places still taken, once they are none or a while has passed."""
    async with own_server.connection(port) as watching:
        return await own_server.until_taken(watching, False, SETTLE)


async def measure(clients: int) -> dict[str, object]:
    with own_server.server() as running:
        await crowd(running.port, 100)  # every thread that the service ever needs is there after these
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
            "places and turns taken afterwards": taken,
            "threads before and after": (threads, threads_after),
            "memory after / before": megabytes_after / megabytes,
            "freed after, p50 ms": own_server.percentile(times, 50) * 1000,
            f"freed after, slowest of {FREED}, ms (at most {MOST_MS})": max(times) * 1000,
            "a request afterwards": last.status,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    found = asyncio.run(measure(asked.clients))
    own_server.report("Clients that leave", found, asked.json)


if __name__ == "__main__":
    main()
