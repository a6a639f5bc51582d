"""Compare two ways to emphasise a word of the embedded voice: its own marks, and plain speech that `realise` changes.

    python benchmarks/emphasis_ways.py [--voices en-us en-gb] [--strengths low medium high] [--json ways.json]

Every sentence of benchmarks/sentences/ (dev.txt and test.txt) is spoken with its one emph:

- open loop: the voice renders the mark itself, by fixed amounts (`synth.embedded.backend`);
- closed loop: the voice speaks the plain text, and `synth.acoustics.realise` emphasises the word at the voice's own word times,
  measuring the result and repeating until the word stands out.

The rows of the table:

- on top: the share of sentences whose marked word is the most prominent, by `hearing.py`, which shares no code with either way, and
  by the wavelet measure that the closed loop itself optimises;
- heard: the share of marks that `synth.acoustics.measure` calls realised, without a reference and against plain speech;
- other words: mean absolute change of duration (per cent), energy (dB) and pitch (semitones) against plain speech, and false words
  (`scores.false_words`);
- processor time per sentence of speech with the mark, of both processes (this one and espeak-ng's), and of a whole request: the
  tagger, the voice and the pipeline around it as they are today. Compare processor times within one run only.

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
from prosody_tagger.segment import segment_words
from synth.acoustics.measure import measure
from synth.acoustics.realise import realise
from synth.base import Audio, Strength, WordTime
from synth.embedded.backend import EmbeddedVoice

SENTENCES = Path(__file__).parent / "sentences"
SEED = 7
REQUESTS = 40
PROGRESS = Console(stderr=True)
TICK = os.sysconf("SC_CLK_TCK")


class Take(NamedTuple):
    """A sentence as one way speaks it, and the processor seconds of that, without those of the engine's process."""

    audio: Audio
    words: tuple[WordTime, ...]
    seconds: float


@dataclass(frozen=True)
class Clip:
    """A sentence with one mark, spoken plainly and in both ways."""

    marked: MarkedText
    plain: Take
    ways: dict[str, Take]


def engine_seconds() -> float:
    """Processor seconds of the child processes so far: espeak-ng runs in one."""
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


async def spoken(texts: Sequence[MarkedText], voice: EmbeddedVoice, name: str, strength: Strength) -> list[Clip]:
    async def timed(speak: Speak, marked: MarkedText) -> Take:
        begun = time.process_time()
        audio, words = await speak(voice, marked, name, strength)
        return Take(audio, words, time.process_time() - begun)

    clips = []
    for marked in track(texts, f"{name}, {strength}", transient=True, console=PROGRESS):
        ways = {way: await timed(speak, marked) for way, speak in WAYS.items()}
        clips.append(Clip(marked, await timed(plain_speech, marked), ways))
    return clips


def with_emphasis(marked: MarkedText) -> MarkedText:
    """The text with its emph alone."""
    return MarkedText(marked.text, tuple(mark for mark in marked.marks if mark.kind == "emph"))


def with_pitch(marked: MarkedText) -> MarkedText:
    """The text with one pitch mark on a content word, both drawn at random, the same at every run."""
    draw = random.Random(f"{SEED} {marked.text}")
    word = segment_words(marked.text)[draw.choice(scores.content_words(marked))]
    return MarkedText(marked.text, (Mark(draw.choice(PITCHES), word.start),))


def on_top(clips: Sequence[Clip], takes: Sequence[Take]) -> dict[str, float]:
    indices = [scores.stressed(clip.marked) for clip in clips]
    pairs = list(zip(takes, indices, strict=True))
    return {
        "on top by hearing.py, %": percent(hearing.most_prominent(take.audio, take.words) == at for take, at in pairs),
        "on top by wavelet, %": percent(scores.most_prominent(take.audio, take.words) == at for take, at in pairs),
    }


def heard(clips: Sequence[Clip], takes: Sequence[Take]) -> dict[str, float]:
    alone, compared = [], []
    for clip, take in zip(clips, takes, strict=True):
        reference = clip.plain.audio, clip.plain.words
        alone += [mark.realised for mark in measure(take.audio, clip.marked, take.words).marks]
        compared += [mark.realised for mark in measure(take.audio, clip.marked, take.words, reference=reference).marks]
    return {"heard, %": percent(alone), "heard against plain, %": percent(compared)}


def others(clips: Sequence[Clip], takes: Sequence[Take]) -> dict[str, float]:
    """How much the words without a mark change against plain speech."""
    changes: list[tuple[float, float, float]] = []
    hits = count = 0
    for clip, take in zip(clips, takes, strict=True):
        old_pitch, new_pitch = scores.PitchTrack(clip.plain.audio, clip.plain.words), scores.PitchTrack(take.audio, take.words)
        marked = scores.stressed(clip.marked)
        for index, (old, new) in enumerate(zip(clip.plain.words, take.words, strict=True)):
            if index == marked or old.end <= old.start:
                continue
            duration = 100 * ((new.end - new.start) / (old.end - old.start) - 1)
            energy = scores.level_db(take.audio, new) - scores.level_db(clip.plain.audio, old)
            changes.append((duration, energy, new_pitch.median(index, index) - old_pitch.median(index, index)))
        false, of = scores.false_words(clip.plain.audio, clip.plain.words, take.audio, take.words, clip.marked)
        hits, count = hits + false, count + of
    duration, energy, semitones = np.nanmean(np.abs(changes), axis=0).tolist()
    return {
        "others: duration, %": duration,
        "others: energy, dB": energy,
        "others: pitch, st": semitones,
        "others: false, %": 100 * hits / count,
    }


def pitches(clips: Sequence[Clip], takes: Sequence[Take]) -> dict[str, float]:
    """The share of each kind of pitch mark that is true."""
    moved: dict[str, list[float]] = {}
    for clip, take in zip(clips, takes, strict=True):
        mark = clip.marked.marks[0]
        index = scores.word_of(clip.marked, mark)
        semitones = scores.pitch_of(clip.plain.audio, clip.plain.words, take.audio, take.words, index, mark.kind)
        moved.setdefault(mark.kind, []).append(semitones)
    return {f"{kind} true, %": percent(value >= scores.PITCH_SEMITONES for value in moved.get(kind, ())) for kind in PITCHES}


def percent(hits: Any) -> float:
    values = list(hits)
    return 100 * sum(values) / len(values) if values else float("nan")


async def compare(texts: Sequence[MarkedText], voice: EmbeddedVoice, name: str, strength: Strength) -> dict[str, dict[str, float]]:
    """The rows of the table for each way."""
    clips = await spoken([with_emphasis(text) for text in texts], voice, name, strength)
    turned = await spoken([with_pitch(text) for text in texts], voice, name, strength)
    found = {"plain": on_top(clips, [clip.plain for clip in clips])}
    for way in WAYS:
        takes = [clip.ways[way] for clip in clips]
        found[way] = {
            **on_top(clips, takes),
            **heard(clips, takes),
            **others(clips, takes),
            **pitches(turned, [clip.ways[way] for clip in turned]),
        }
    for way, takes in {
        "plain": [clip.plain for clip in clips],
        **{way: [clip.ways[way] for clip in clips] for way in WAYS},
    }.items():
        found[way]["processor ms a sentence"] = 1000 * float(np.mean([take.seconds for take in takes]))
    return found


async def whole_request(texts: Sequence[MarkedText], name: str) -> dict[str, float]:
    """Processor milliseconds of a request from plain text to audio, of this process and of the engine's, on average."""
    runtime = Runtime()
    await collect(Job(texts[0].text, backend="embedded", voice=name), runtime)  # loads the tagger and starts the engine
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
    parser.add_argument("--strengths", nargs="+", choices=["low", "medium", "high"], default=["low", "medium", "high"])
    parser.add_argument("--limit", type=int, help="use the first so many sentences alone")
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
