"""Time to the first audio on /v1/audio/speech for texts of 1, 10, 100 and 300 sentences: it must not grow with the text.

The first audio is the first byte after the WAV header. The texts alternate, all start with the same sentence, and the client
disconnects at the first audio, so that nothing runs beside the next request. The last column is the time to the complete audio,
measured once.

python benchmarks/service_first_audio.py [--rounds 15] [--json FILE]
"""

import argparse
import asyncio
import itertools
import json
from pathlib import Path

import own_server

from prosody_tagger.markup import parse

SENTENCES = (1, 10, 100, 300)
TEXTS = [parse(line).text for line in own_server.SENTENCES if line]
MAX_CHARS = 20_000


def text_of(sentences: int) -> str:
    """Return a text with that number of sentences: the first is always the same, the others short enough for the length limit."""
    short = sorted(TEXTS[1:], key=len)[:40]
    text = " ".join([TEXTS[0], *itertools.islice(itertools.cycle(short), sentences - 1)])
    assert len(text) <= MAX_CHARS
    return text


async def first_audio(port: int, sentences: int, seed: int) -> float:
    """Return the seconds to the first audio."""
    async with own_server.connection(port) as connection:
        body = {"model": "prosody", "input": text_of(sentences), "voice": "alloy", "response_format": "wav", "seed": seed}
        await connection.send("POST", "/v1/audio/speech", body)
        return await connection.first_audio()


async def whole(port: int, sentences: int, seed: int) -> float:
    """Return the seconds to the complete audio."""
    async with own_server.connection(port) as connection:
        body = {"model": "prosody", "input": text_of(sentences), "voice": "alloy", "response_format": "wav", "seed": seed}
        answer = await connection.ask("POST", "/v1/audio/speech", body)
        assert answer.status == 200, answer.body[:300]
        return answer.seconds


async def measure(rounds: int) -> list[dict[str, float]]:
    seeds = itertools.count(1)
    with own_server.server() as running:
        times: dict[int, list[float]] = {count: [] for count in SENTENCES}
        async with own_server.connection(running.port) as watching:
            for number in range(rounds + 2):
                for count in SENTENCES:
                    spent = await first_audio(running.port, count, next(seeds))
                    await own_server.until_taken(watching, False)
                    if number >= 2:
                        times[count].append(spent)
        base = own_server.middle(times[SENTENCES[0]])
        return [
            {
                "sentences": count,
                "characters": len(text_of(count)),
                "first audio p50 ms": own_server.middle(times[count]) * 1000,
                "slowest ms": max(times[count]) * 1000,
                "over one sentence": own_server.middle(times[count]) / base,
                "all of it s": await whole(running.port, count, next(seeds)),
            }
            for count in SENTENCES
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    found = asyncio.run(measure(asked.rounds))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    own_server.show("Time to first audio", list(found[0]), [list(row.values()) for row in found])


if __name__ == "__main__":
    main()
