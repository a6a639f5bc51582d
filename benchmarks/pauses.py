"""Measure the lengths of pauses after the whole pipeline. Silence is what lies in 10 ms windows whose RMS, computed every
millisecond, is more than 40 dB below the 95th percentile of the audio.

python benchmarks/pauses.py
"""

import asyncio

import numpy as np

from ai_core.pipeline import Job, Result, collect
from ai_core.runtime import Runtime
from prosody_tagger.markup import Mark, MarkedText, parse
from prosody_tagger.segment import segment_words

SENTENCES = [
    "I never said she stole my money.",
    "You can pay with a card at the door.",
    "The train leaves from platform nine tonight.",
    "Nobody told us that the shop had moved.",
    "It costs only $299 if you order today.",
    "We keep what we promise to our customers.",
    "She put the kettle on and opened a window.",
    "Every third visitor comes back within a week.",
    "His brother bought two tickets for the concert.",
    "They found 30% savings without changing a thing.",
]
CASES = {
    "first": ("<pause_short:400ms>It works today.", 0, 400),
    "last": ("It works today.<pause_long>", -1, 700),
    "doubled": ("It works <pause_short><pause_short>today.", 1, 500),
    "timed": ("It works <pause_long:1234ms>today.", 1, 1234),
    "inside a word": ("It is unbe<pause_short:300ms>lievable.", 1, 300),
}


def silences(result: Result) -> list[tuple[float, float]]:
    """Return the start and end of each silence, in milliseconds."""
    x, rate = result.audio.samples.astype(np.float64), result.audio.rate
    window, hop = rate // 100, rate // 1000
    energy = np.concatenate([[0.0], np.cumsum(x**2)])
    starts = np.arange(0, len(x) - window + 1, hop)
    rms = np.sqrt((energy[starts + window] - energy[starts]).clip(0) / window)
    quiet = np.concatenate([[False], rms < np.percentile(rms, 95) / 100, [False]])
    edges = np.flatnonzero(np.diff(quiet.astype(int)))
    return [(float(a), float(b - 1 + 10)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


async def main() -> None:
    runtime = Runtime()
    hits = 0
    for sentence in SENTENCES:
        words = segment_words(sentence)
        word = words[len(words) // 2]
        result = await collect(Job(MarkedText(sentence, (Mark("pause_short", word.start),))), runtime)
        at = next(time.start for time in result.words if time.offset == word.core_start) * 1000
        found = min(silences(result), key=lambda span: abs(span[1] - at))
        length = found[1] - found[0]
        hits += abs(length - 250) <= 5
        print(f"{length:7.1f} ms before {word.core(sentence)!r}: {sentence}")
    print(f"{hits} of {len(SENTENCES)} within 5 ms of 250 ms")
    for name, (source, index, asked) in CASES.items():
        found_all = silences(await collect(Job(parse(source)), runtime))
        longest = sorted(found_all, key=lambda span: span[0] - span[1])[0]
        start, end = found_all[index] if index in (0, -1) else longest
        print(f"{name:14s} asked {asked} ms, got {end - start:.1f} ms")
    alone = await collect(Job(parse("<pause_long>")), runtime)
    print(
        f"{'alone':14s} asked 700 ms, got {alone.audio.seconds * 1000:.1f} ms, highest sample {np.abs(alone.audio.samples).max()}"
    )
    await runtime.close()


if __name__ == "__main__":
    asyncio.run(main())
