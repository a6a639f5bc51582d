"""Measures the marks of the embedded voice: ten sentences with one emph or pitch mark each, compared with the same without marks.

    python benchmarks/embedded_marks.py [--voice de]

For every mark and strength, the table gives: in how many of the ten sentences the marked word changed in the right direction; its
change in duration, energy (RMS), median F0 and rise of F0, as the smallest and the mean of the ten; and the largest change of any
other word. The rise is F0 in the last third of a word minus F0 in its first third.
"""

import argparse
import asyncio
import statistics
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from prosody_tagger.markup import MarkedText, parse
from synth.audio import pitch
from synth.base import Speech, SpeechRequest, Strength
from synth.embedded.backend import EmbeddedVoice

SENTENCES = (
    "I never said <>she stole my money.",
    "<>Nobody told me that the meeting had moved.",
    "We can finish all of it by the end of <>Thursday.",
    "It is <>in the box, not under it.",
    "You get the whole package for only <>$299 today!",
    "Members save <>30% on every order.",
    "Is that <>really what you wanted?",
    "If it rains, <>stop, and wait for the next train.",
    "The old house on the hill is <>not for sale.",
    "Please send <>Alexandra the extraordinarily long report.",
)
STRENGTHS: tuple[Strength, ...] = ("low", "medium", "high")
CONTOURS = ("pitch_rising", "pitch_falling")
DOWN = ("pitch_low", "pitch_falling")


@dataclass(frozen=True)
class Measured:
    """A spoken word: duration in seconds, RMS in dB, median F0 in Hz, and rise of F0 in semitones from first to last third."""

    seconds: float
    level: float
    hertz: float
    rise: float


@dataclass(frozen=True)
class Change:
    """The effect of a mark on a word: duration in per cent, energy in dB, median F0 and rise of F0 in semitones."""

    duration: float
    energy: float
    semitones: float
    rise: float


def measure(speech: Speech, index: int) -> Measured:
    """Measure the word with that index, by the times in ``speech``."""
    assert speech.words is not None
    word, rate = speech.words[index], speech.audio.rate
    sound = speech.audio.samples[round(word.start * rate) : round(word.end * rate)]
    frames = pitch.track(speech.audio.samples, rate)
    hop = pitch.hop(rate) / rate
    track = frames[round(word.start / hop) : round(word.end / hop) + 1]
    track = track[~np.isnan(track)]
    return Measured(
        seconds=word.end - word.start,
        level=10 * float(np.log10(max(np.mean(np.square(sound, dtype=np.float64)), 1e-12))) if len(sound) else -120.0,
        hertz=float(np.median(track)) if len(track) else float("nan"),
        rise=_rise(track),
    )


def _rise(track: NDArray[np.float64]) -> float:
    third = len(track) // 3
    if not third:
        return float("nan")
    return 12 * float(np.log2(np.median(track[-third:]) / np.median(track[:third])))


def change(before: Measured, after: Measured) -> Change:
    return Change(
        duration=100 * (after.seconds / before.seconds - 1) if before.seconds else 0.0,
        energy=after.level - before.level,
        semitones=12 * float(np.log2(after.hertz / before.hertz)),
        rise=after.rise - before.rise,
    )


async def speak(backend: EmbeddedVoice, text: MarkedText, name: str | None, strength: Strength) -> Speech:
    chunks = [chunk async for chunk in backend.speak(SpeechRequest(text, voice=name, strength=strength))]
    return chunks[0]


async def changes(mark: str, name: str | None, strength: Strength) -> list[tuple[Change, list[Change]]]:
    """Return for each sentence the change of the marked word, and the changes of the others."""
    backend = EmbeddedVoice()
    found = []
    for sentence in SENTENCES:
        marked = parse(sentence.replace("<>", f"<{mark}>"))
        plain = await speak(backend, MarkedText(marked.text), name, strength)
        spoken = await speak(backend, marked, name, strength)
        assert spoken.words is not None
        target = next(i for i, word in enumerate(spoken.words) if word.offset >= marked.marks[0].offset)
        each = [change(measure(plain, i), measure(spoken, i)) for i in range(len(spoken.words))]
        found.append((each.pop(target), each))
    await backend.close()
    return found


def holds(mark: str, word: Change) -> bool:
    """Whether the word changed in the direction of the mark."""
    if mark == "emph":
        return word.duration > 0 and word.energy > 0 and word.semitones > 0
    change_of_pitch = word.rise if mark in CONTOURS else word.semitones
    return change_of_pitch < 0 if mark in DOWN else change_of_pitch > 0


def table(name: str | None) -> Table:
    report = Table(title=f"Marks of the embedded voice {name or asyncio.run(EmbeddedVoice().voices())[0].name}, ten sentences")
    for column in ("mark", "strength", "holds", "duration %", "energy dB", "pitch st", "rise st", "others: most %", "dB", "st"):
        report.add_column(column, justify="left" if column in ("mark", "strength") else "right")
    for mark in ("emph", "pitch_high", "pitch_low", *CONTOURS):
        for strength in STRENGTHS:
            found = asyncio.run(changes(mark, name, strength))
            words = [word for word, _ in found]
            others = [other for _, rest in found for other in rest]
            report.add_row(
                mark,
                strength,
                f"{sum(holds(mark, word) for word in words)}/{len(words)}",
                *(
                    _smallest_and_mean([getattr(word, field) for word in words])
                    for field in ("duration", "energy", "semitones", "rise")
                ),
                *(f"{_largest([getattr(other, field) for other in others]):.2f}" for field in ("duration", "energy", "semitones")),
            )
    return report


def _smallest_and_mean(values: list[float]) -> str:
    mean = statistics.fmean(values)
    return f"{min(values, key=abs) if mean else 0.0:+.1f} ({mean:+.1f})"


def _largest(values: list[float]) -> float:
    return max((abs(value) for value in values if not np.isnan(value)), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voice", help="a name from `prosody voices`; the default is the embedded voice's own")
    Console(width=150).print(table(parser.parse_args().voice))


if __name__ == "__main__":
    main()
