"""Ten thousand requests that schemathesis makes from the service's own description: right ones, and wrong ones of every kind.

An answer is a fault if it is 5xx (503 with Retry-After aside), or if its status, type, headers or body are not as described. Half
of the right requests that speak, mark or measure are given a text, a voice and a recording that are there. The service has its
real tagger, on loopback, in a process of its own; afterwards it must still be ready, with no place taken.

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
    """Something for the service to measure: what it says itself."""
    body = json.dumps({"text": SENTENCE}).encode()
    asked = urllib.request.Request(f"http://{own_server.HOST}:{port}/speak", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        sound: bytes = answer.read()
    return sound


def measure(cases: int, seed: int) -> dict[str, object]:
    with own_server.server() as running:
        began = time.perf_counter()
        url = f"http://{own_server.HOST}:{running.port}"
        # Half the run warms up what is made once; the memory of the other half is what requests leave behind.
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
        "places and turns taken afterwards": taken,
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
    own_server.report("The service against its own description", found, asked.json)
    sys.exit(1 if found["faults"] else 0)


if __name__ == "__main__":
    main()
