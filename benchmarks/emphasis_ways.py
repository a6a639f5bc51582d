"""Compare two ways to emphasise a word of the embedded voice: its own marks, and plain speech that `realise` changes.

    python benchmarks/emphasis_ways.py [--voices en-us en-gb] [--strengths low medium high] [--json ways.json]

Every sentence of benchmarks/sentences/ (dev.txt and test.txt) is spoken with its one emph:

- open loop: the voice renders the mark itself, by fixed amounts (`synth.embedded.backend`);
- closed loop: the voice speaks the plain text, and `synth.acoustics.realise` emphasises the word at the voice's own word times,
  measuring the result and repeating until the word stands out.

The rows of the table:

- on top: the share of sentences whose marked word is the most prominent, by `hearing.py`, which shares no code with either way, and
  by the wavelet measure that the closed loop itself optimises;
- heard: the share of marks that `synth.acoustics.measure` calls realised, without a reference;
- other words: mean absolute change of duration (per cent), energy (dB) and pitch (semitones) against plain speech, and the share
  that comes to sound emphasised, by the rule of `scores.false_words`;
- processor time of a sentence with its mark, without that of espeak-ng's process, which is the same in every way; and first of all
  that of a whole request from plain text to audio (the tagger, the voice and the pipeline, with the open loop). Compare processor
  times within one run only.

Pitch marks are compared in the same way on a content word drawn at random: the share that moves by 2 semitones or more
(`scores.pitch_of`).
"""

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import embedded_marks
import hearing
import numpy as np
import scores
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ai_core.pipeline import Job, collect
from ai_core.runtime import Runtime
from prosody_tagger.markup import PITCHES, Mark, MarkedText, parse, plain
from synth.acoustics.contours import measure_contours
from synth.acoustics.measure import measure
from synth.acoustics.prominence import prominence_and_boundaries
from synth.acoustics.realise import realise
from synth.base import Audio, Strength, WordTime
from synth.embedded.backend import EmbeddedVoice

SENTENCES = Path(__file__).parent / "sentences"
SEED = 7
REQUESTS = 40
PROGRESS = Console(stderr=True)
TICK = os.sysconf("SC_CLK_TCK")


class Take(NamedTuple):
    """A sentence spoken in one way, and the processor seconds of this process for it."""

    audio: Audio
    words: tuple[WordTime, ...]
    seconds: float


@dataclass(frozen=True)
class MarkedClip:
    """A sentence with one mark, spoken plainly and in both ways."""

    marked: MarkedText
    plain: Take
    ways: dict[str, Take]


def engine_seconds() -> float:
    """Return the processor seconds of the child processes so far; espeak-ng runs in one."""
    total = 0
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICK


async def open_loop(voice: EmbeddedVoice, marked: MarkedText, name: str, strength: Strength) -> tuple[Audio, tuple[WordTime, ...]]:
    speech = await embedded_marks.speak(voice, marked, name, strength)
    assert speech.words is not None
    assert not speech.unrealised
    return speech.audio, speech.words


async def closed_loop(
    voice: EmbeddedVoice, marked: MarkedText, name: str, strength: Strength
) -> tuple[Audio, tuple[WordTime, ...]]:
    speech = await embedded_marks.speak(voice, plain(marked.text), name, strength)
    assert speech.words is not None
    made = await asyncio.to_thread(realise, replace(speech, unrealised=marked.marks), marked, strength=strength)
    return made.audio, made.words


async def plain_speech(
    voice: EmbeddedVoice, marked: MarkedText, name: str, strength: Strength
) -> tuple[Audio, tuple[WordTime, ...]]:
    return await open_loop(voice, plain(marked.text), name, strength)


Speak = Callable[[EmbeddedVoice, MarkedText, str, Strength], Awaitable[tuple[Audio, tuple[WordTime, ...]]]]
WAYS: dict[str, Speak] = {"open loop": open_loop, "closed loop": closed_loop}


async def spoken(texts: Sequence[MarkedText], voice: EmbeddedVoice, name: str, strength: Strength) -> list[MarkedClip]:
    async def timed(speak: Speak, marked: MarkedText) -> Take:
        begun = time.process_time()
        audio, words = await speak(voice, marked, name, strength)
        return Take(audio, words, time.process_time() - begun)

    clips = []
    for marked in track(texts, f"{name}, {strength}", transient=True, console=PROGRESS):
        ways = {way: await timed(speak, marked) for way, speak in WAYS.items()}
        clips.append(MarkedClip(marked, await timed(plain_speech, marked), ways))
    return clips


def with_emphasis(marked: MarkedText) -> MarkedText:
    """Return the text with its emph only."""
    return MarkedText(marked.text, tuple(mark for mark in marked.marks if mark.kind == "emph"))


def with_pitch(marked: MarkedText) -> MarkedText:
    """Return the text with one random pitch mark on a random content word, the same in every run."""
    draw = random.Random(f"{SEED} {marked.text}")
    word = marked.words[draw.choice(scores.content_words(marked))]
    return MarkedText(marked.text, (Mark(draw.choice(PITCHES), word.start),))


class MeasuredTake:
    """A take with its contours, which are computed once for all scores."""

    def __init__(self, take: Take) -> None:
        self.take, self.words = take, take.words
        self.contours = measure_contours(take.audio)

    def is_on_top(self, index: int) -> tuple[bool, bool]:
        """Return whether a word is the most prominent by hearing.py, and by the wavelet measure."""
        by_wavelet = int(np.argmax(prominence_and_boundaries(self.contours, self.words)[0]))
        return hearing.most_prominent(self.take.audio, self.words) == index, by_wavelet == index

    def word(self, index: int) -> tuple[float, float, float, float]:
        """Return duration in seconds, level in dB, and median and 90th percentile of the pitch in semitones of a word."""
        word, step = self.words[index], self.contours.step
        pitch = self.contours.semitones[round(word.start / step) : round(word.end / step) + 1]
        pitch = pitch[~np.isnan(pitch)]
        middle, top = np.percentile(pitch, (50, 90)).tolist() if len(pitch) else (float("nan"), float("nan"))
        return word.end - word.start, scores.level_db(self.take.audio, word), middle, top


def emphasis_rows(clips: Sequence[MarkedClip], references: Sequence[MeasuredTake], takes: Sequence[Take]) -> dict[str, float]:
    """Return how often the marked word stands out, and how much the other words change against plain speech."""
    tops: list[tuple[bool, bool]] = []
    realised: list[bool] = []
    changes: list[tuple[float, float, float]] = []
    false: list[bool] = []
    for clip, reference, take in zip(clips, references, takes, strict=True):
        marked, after = scores.stressed(clip.marked), MeasuredTake(take)
        tops.append(after.is_on_top(marked))
        realised += [mark.realised for mark in measure(take.audio, clip.marked, take.words).marks]
        for index, word in enumerate(clip.plain.words):
            if index == marked or word.end <= word.start:
                continue
            (seconds, level, middle, top), new = reference.word(index), after.word(index)
            changes.append((100 * (new[0] / seconds - 1), new[1] - level, new[2] - middle))
            signs = (
                new[0] > scores.FALSE_SECONDS * seconds,
                new[1] - level > scores.FALSE_DB,
                new[3] - top > scores.FALSE_SEMITONES,
            )
            false.append(sum(signs) >= 2)
    duration, energy, semitones = np.nanmean(np.abs(changes), axis=0).tolist()
    return {
        "on top by hearing.py, %": percent(by_hearing for by_hearing, _ in tops),
        "on top by wavelet, %": percent(by_wavelet for _, by_wavelet in tops),
        "heard by measure, %": percent(realised),
        "others: duration, %": duration,
        "others: energy, dB": energy,
        "others: pitch, st": semitones,
        "others: false, %": percent(false),
    }


def pitch_rows(clips: Sequence[MarkedClip], takes: Sequence[Take]) -> dict[str, float]:
    """Return the share of pitch marks that are realised, by kind."""
    moved: dict[str, list[float]] = {}
    for clip, take in zip(clips, takes, strict=True):
        mark = clip.marked.marks[0]
        index = scores.word_of(clip.marked, mark)
        semitones = scores.pitch_of(clip.plain.audio, clip.plain.words, take.audio, take.words, index, mark.kind)
        moved.setdefault(mark.kind, []).append(semitones)
    return {f"{kind} realised, %": percent(value >= scores.PITCH_SEMITONES for value in moved.get(kind, ())) for kind in PITCHES}


def percent(hits: Any) -> float:
    values = list(hits)
    return 100 * sum(values) / len(values) if values else float("nan")


async def compare(texts: Sequence[MarkedText], voice: EmbeddedVoice, name: str, strength: Strength) -> dict[str, dict[str, float]]:
    """Return the rows of the table by way; plain speech comes first."""
    clips = await spoken([with_emphasis(text) for text in texts], voice, name, strength)
    references = [MeasuredTake(clip.plain) for clip in clips]
    tops = [heard.is_on_top(scores.stressed(clip.marked)) for clip, heard in zip(clips, references, strict=True)]
    found = {
        "plain": {
            "on top by hearing.py, %": percent(by_hearing for by_hearing, _ in tops),
            "on top by wavelet, %": percent(by_wavelet for _, by_wavelet in tops),
            "processor ms a sentence": 1000 * float(np.mean([clip.plain.seconds for clip in clips])),
        }
    }
    turned = await spoken([with_pitch(text) for text in texts], voice, name, strength)
    for way in WAYS:
        takes = [clip.ways[way] for clip in clips]
        found[way] = {
            **emphasis_rows(clips, references, takes),
            **pitch_rows(turned, [clip.ways[way] for clip in turned]),
            "processor ms a sentence": 1000 * float(np.mean([take.seconds for take in takes])),
        }
    return found


async def whole_request(texts: Sequence[MarkedText], name: str) -> dict[str, float]:
    """Return the mean processor milliseconds of a request from plain text to audio, of this process and of espeak-ng's."""
    runtime = Runtime()
    for text in texts[:5]:  # loads the tagger, starts the engine and warms both up
        await collect(Job(text.text, backend="embedded", voice=name), runtime)
    chosen = texts[:REQUESTS]
    begun, engine = time.process_time(), engine_seconds()
    for text in chosen:
        await collect(Job(text.text, backend="embedded", voice=name), runtime)
    found = {
        "this process, ms": 1000 * (time.process_time() - begun) / len(chosen),
        "espeak-ng, ms": 1000 * (engine_seconds() - engine) / len(chosen),
    }
    await runtime.close()
    return found


def table(title: str, found: dict[str, dict[str, float]]) -> Table:
    shown = Table("", *found, title=title, title_justify="left")
    for row in found["open loop"]:
        shown.add_row(row, *(f"{part[row]:.2f}" if row in part else "" for part in found.values()))
    return shown


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voices", nargs="+", default=["en-us", "en-gb"], help="names from `prosody voices`")
    parser.add_argument("--strengths", nargs="+", choices=["low", "medium", "high"], default=["medium"])
    parser.add_argument("--limit", type=int, help="use only this many sentences, the first ones")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    lines = [line for name in ("dev.txt", "test.txt") for line in (SENTENCES / name).read_text(encoding="utf-8").splitlines()]
    texts = [parse(line) for line in lines][: asked.limit]
    console, voice = Console(width=132), EmbeddedVoice()
    results: dict[str, Any] = {"request": await whole_request(texts, asked.voices[0])}
    console.print(f"{len(texts)} sentences; a whole request takes {results['request']}")
    for name in asked.voices:
        for strength in asked.strengths:
            found = await compare(texts, voice, name, strength)
            results[f"{name} {strength}"] = found
            console.print(table(f"{name}, {strength}", found))
    await voice.close()
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
