"""How the service stops and restarts: SIGTERM under load, then SIGKILL and a restart.

SIGTERM is sent while clients send requests, each on a connection of its own. A response that has started must be complete; a new
connection may be refused, and one without a started response may be closed. After SIGKILL, the time from the start of the process
until `/ready` is true is compared with that of a bare process that imports and loads the tagger. The two alternate, and the median
of the ratios is reported.

python benchmarks/service_ends.py [--rounds 5] [--json FILE]
"""

import argparse
import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import own_server

from prosody_tagger.markup import parse

TEXTS = [parse(line).text for line in own_server.SENTENCES if line]
LONG = " ".join(TEXTS[:5])
CLIENTS = 16
LOAD_SECONDS = 2.0
MAX_RATIO = 1.2

_BARE = "from prosody_tagger.tagger import ProsodyTagger; ProsodyTagger.load()"


async def terminate_under_load() -> Counter[str]:
    """Return how the requests and the process of a server end that gets SIGTERM under load."""
    ended: Counter[str] = Counter()
    with own_server.server() as running:
        terminated = False

        async def client(number: int) -> None:
            seed = number * 1_000_000
            while True:
                seed += 1
                async with own_server.connection(running.port) as connection:
                    body = {"text": LONG, "seed": seed, "stream": seed % 2 == 0, "format": "wav"}
                    try:
                        await connection.send("POST", "/speak", body)
                    except OSError:
                        ended["refused after SIGTERM" if terminated else "refused before SIGTERM"] += 1
                        return
                    try:
                        answer = await connection.answer()
                    except own_server.IncompleteResponse:
                        # Sent after the server stopped accepting: no byte of a response was sent.
                        ended["broken" if connection.answered or not terminated else "closed before any response"] += 1
                        return
                    ended[f"{answer.status} after SIGTERM" if terminated else f"{answer.status}"] += 1

        clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
        await asyncio.sleep(LOAD_SECONDS)
        terminated = True
        running.process.send_signal(signal.SIGTERM)
        began = time.perf_counter()
        await asyncio.gather(*clients)
        status = await asyncio.to_thread(running.process.wait, 60)
        ended[f"server ended with {status}"] += 1
        ended["server ended after ms"] = round((time.perf_counter() - began) * 1000)
    return ended


def loaded() -> float:
    """Return the seconds that a bare process takes to load the tagger."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _BARE], check=True, cwd=own_server.ROOT, capture_output=True)
    return time.perf_counter() - began


def restarted() -> float:
    """Return the seconds from the start of a server until it is ready; then kill it."""
    began = time.perf_counter()
    running = own_server.start()
    try:
        running.wait_until_ready()
        return time.perf_counter() - began
    finally:
        running.process.kill()
        running.process.wait()


def measure(rounds: int) -> dict[str, object]:
    ended = asyncio.run(terminate_under_load())
    loaded(), restarted()
    pairs = [(loaded(), restarted()) for _ in range(rounds)]
    return {
        "SIGTERM": dict(ended),
        "broken answers": ended["broken"],
        "tagger loaded in a bare process, s": own_server.middle([bare for bare, _ in pairs]),
        "ready after SIGKILL and restart, s": own_server.middle([ours for _, ours in pairs]),
        f"ratio (at most {MAX_RATIO:g})": own_server.middle([ours / bare for bare, ours in pairs]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    found = measure(asked.rounds)
    own_server.report("Ends", found, asked.json)


if __name__ == "__main__":
    main()
