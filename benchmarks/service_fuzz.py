"""Ten thousand requests that schemathesis generates from the OpenAPI description, valid and invalid.

A response is a fault if its status is 5xx (except 503 with Retry-After), or if its status, type, headers or body do not match the
description. Half of the valid requests to speak, mark or measure get a text, a voice and a recording that exist. The service runs
on loopback in its own process, with the shipped tagger; afterwards it must be ready, with no permit in use.

python benchmarks/service_fuzz.py [--cases 10000] [--seed 0] [--json FILE]
"""

import argparse
import json
import sys
import time
import urllib.request
from pathlib import Path

import own_server
from rich.console import Console

sys.path.insert(0, str(own_server.ROOT / "tests" / "api"))
from fuzz import SENTENCE, fuzz


def recording(port: int) -> bytes:
    """Return a recording to measure: the service's own speech."""
    body = json.dumps({"text": SENTENCE}).encode()
    asked = urllib.request.Request(f"http://{own_server.HOST}:{port}/speak", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        sound: bytes = answer.read()
    return sound


def measure(cases: int, seed: int) -> dict[str, object]:
    with own_server.server() as running:
        began = time.perf_counter()
        url = f"http://{own_server.HOST}:{running.port}"
        # The first half fills caches; memory that grows in the second half is left behind by requests.
        first = fuzz(url, cases // 2, seed=seed, recording=recording(running.port), progress=print_progress)
        megabytes = running.megabytes()
        second = fuzz(url, cases - first.cases, seed=seed + 1, recording=recording(running.port), progress=print_progress)
        after = running.megabytes()
        running.wait_until_ready()
        taken = own_server.taken(running.metrics())
    statuses = first.statuses + second.statuses
    return {
        "cases": first.cases + second.cases,
        "seconds": time.perf_counter() - began,
        "statuses": {str(status): first.count(status) + second.count(status) for status in sorted({key[1] for key in statuses})},
        "slowest answer, seconds": max(first.slowest, second.slowest),
        "memory after / at half time": after / megabytes,
        "permits and queue places in use afterwards": taken,
        "faults": [[*fault, sent] for fault, sent in (first.faults | second.faults).items()],
    }


def print_progress(line: str) -> None:
    Console(stderr=True).print(line, highlight=False, markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    found = measure(asked.cases, asked.seed)
    own_server.report("The service against its OpenAPI description", found, asked.json)
    sys.exit(1 if found["faults"] else 0)


if __name__ == "__main__":
    main()
