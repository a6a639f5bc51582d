"""Measure the marks of the natural voice: emphasis, pitch, pauses, word times and speed.

    python benchmarks/natural_marks.py [--sentences test.txt] [--strengths medium] [--limit N] [--json natural.json]

Every sentence of benchmarks/sentences/test.txt has one emph. Settings are tuned on dev.txt alone. The table:

- on top: the share of sentences whose marked word is the most prominent, by `hearing.py`, which shares no code with the voice, and
  by the wavelet measure, which the voice itself looks at; also without the mark, and how often the first word is on top where the
  mark is on another;
- pitch: the share of pitch marks, each on a content word drawn at random, that move it by 2 semitones or more (`scores.pitch_of`);
- pauses: the share of pauses (250, 700 and 1500 ms, before a word drawn at random) within 5 ms, after the pipeline has made them;
- word times: error of the reported start of words at fricatives and closures with visible edges (`neural/landmarks.py`), after one
  constant for all, median and 90th percentile;
- real time factor: seconds of audio for each processor second of this process, with emphasis and without marks.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hearing
import numpy as np
import scores
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ai_core.pipeline import Job, collect
from ai_core.runtime import Runtime
from ai_core.settings import Settings
from prosody_tagger.markup import PITCHES, Mark, MarkedText, parse, plain
from synth.base import Speech, SpeechRequest, Strength
from synth.natural import backend
from synth.natural.backend import NaturalVoice
from synth.natural.network import RATE
from synth.natural.word_timing import INSIDE_SECONDS, Stretch

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER / "neural"))
from landmarks import landmarks  # noqa: E402

SEED = 7
PAUSES_MS = (250, 700, 1500)
PROGRESS = Console(stderr=True)


async def speak(voice: NaturalVoice, marked: MarkedText, strength: Strength = "medium") -> tuple[Speech, float]:
    """Return the speech and the processor seconds for it."""
    begun = time.process_time()
    chunks = [chunk async for chunk in voice.speak(SpeechRequest(marked, strength=strength))]
    return chunks[0], time.process_time() - begun


def on_top(speech: Speech) -> tuple[int, int]:
    """Return the most prominent word by `hearing.py` and by the wavelet measure."""
    assert speech.words is not None
    return hearing.most_prominent(speech.audio, speech.words), scores.most_prominent(speech.audio, speech.words)


async def emphasis(voice: NaturalVoice, texts: Sequence[MarkedText], strength: Strength) -> dict[str, float]:
    marked_top, plain_top, first_top = [], [], []
    seconds = {"marked": [0.0, 0.0], "plain": [0.0, 0.0]}
    missed = []
    for text in track(texts, f"emphasis, {strength}", console=PROGRESS):
        index = scores.stressed(text)
        for name, given, found in (("marked", text, marked_top), ("plain", plain(text.text), plain_top)):
            speech, spent = await speak(voice, given, strength)
            seconds[name][0] += speech.audio.seconds
            seconds[name][1] += spent
            tops = on_top(speech)
            found.append([top == index for top in tops])
            if name == "marked" and index:
                first_top.append(tops[0] == 0)
        if not all(marked_top[-1]):
            missed.append(text.text)
    for line in missed:
        PROGRESS.print(f"missed: {line}")
    return {
        "on top by hearing.py, %": 100 * float(np.mean(marked_top, axis=0)[0]),
        "on top by the wavelet, %": 100 * float(np.mean(marked_top, axis=0)[1]),
        "without the mark: by hearing.py, %": 100 * float(np.mean(plain_top, axis=0)[0]),
        "without the mark: by the wavelet, %": 100 * float(np.mean(plain_top, axis=0)[1]),
        "first word on top though another is marked, %": 100 * float(np.mean(first_top)),
        "real time factor with emphasis": seconds["marked"][0] / seconds["marked"][1],
        "real time factor without marks": seconds["plain"][0] / seconds["plain"][1],
    }


async def pitch(voice: NaturalVoice, texts: Sequence[MarkedText], strength: Strength) -> dict[str, float]:
    draw = random.Random(SEED)
    found: dict[str, list[bool]] = {kind: [] for kind in PITCHES}
    for text in track(texts, f"pitch, {strength}", console=PROGRESS):
        before, _ = await speak(voice, plain(text.text), strength)
        for kind, results in found.items():
            index = draw.choice(scores.content_words(text))
            marked = MarkedText(text.text, (Mark(kind, text.words[index].start),))
            after, _ = await speak(voice, marked, strength)
            assert before.words is not None
            assert after.words is not None
            results.append(scores.pitch_of(before.audio, before.words, after.audio, after.words, index, kind) >= 2)
    return {f"{kind}, %": 100 * float(np.mean(results)) for kind, results in found.items()}


async def pauses(texts: Sequence[MarkedText]) -> dict[str, float]:
    """Pauses through the pipeline, before a random word of each sentence."""
    draw = random.Random(SEED)
    settings = Settings(backend="natural", fallback="none")
    found: dict[int, list[float]] = {ms: [] for ms in PAUSES_MS}
    async with Runtime(settings) as runtime:
        for text in track(texts, "pauses", console=PROGRESS):
            for ms, errors in found.items():
                index = draw.randrange(1, len(text.words))
                marked = MarkedText(text.text, (Mark("pause_short", text.words[index].start, ms),))
                result = await collect(Job(marked, tag=False), runtime)
                level = scores.silence_level(result.audio.samples, result.audio.rate)
                silence = scores.slot_silences(result.audio, result.words, level)[index]
                errors.append(abs(silence.seconds - ms / 1000))
    everything = np.concatenate(list(found.values()))
    return {
        "within 5 ms, %": 100 * float(np.mean(everything <= 0.005)),
        **{f"{ms} ms within 5 ms, %": 100 * float(np.mean(np.array(errors) <= 0.005)) for ms, errors in found.items()},
        "error, 90th percentile, ms": 1000 * float(np.percentile(everything, 90)),
    }


async def word_times(texts: Sequence[MarkedText], voice: NaturalVoice) -> dict[str, float]:
    """The error of the reported starts of words, at the edges that `landmarks.py` finds."""
    errors: list[float] = []
    own = backend.time_words

    def recorded(symbols: Any, starts: Any, samples: Any) -> Any:
        times = own(symbols, starts, samples)
        clips.append((symbols, starts, samples, times))
        return times

    for text in track(texts, "word times", console=PROGRESS):
        clips: list[tuple[Any, Any, Any, dict[int, Stretch]]] = []
        backend.time_words = recorded
        try:
            await speak(voice, plain(text.text))
        finally:
            backend.time_words = own
        for symbols, starts, samples, times in clips:
            phones, seen = [], set()
            for symbol, start in zip(symbols, starts, strict=False):
                begins = symbol.word is not None and symbol.word not in seen and symbol.character not in "ˈˌ"
                seen |= {symbol.word} if begins else set()
                time_of = times[symbol.word].start if begins else float(start) - INSIDE_SECONDS
                phones.append({"phone": symbol.character, "word": symbol.word, "nominal": float(start), "start": time_of})
            errors += [late for name, _, late in landmarks({"phones": phones}, samples, RATE) if name == "between words"]
    left = np.array(errors) - np.median(errors)
    return {
        "landmarks": float(len(errors)),
        "constant, ms": 1000 * float(np.median(errors)),
        "median error, ms": 1000 * float(np.median(np.abs(left))),
        "90th percentile, ms": 1000 * float(np.percentile(np.abs(left), 90)),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", default="test.txt", help="dev.txt to tune, test.txt to report")
    parser.add_argument("--strengths", nargs="+", choices=["low", "medium", "high"], default=["medium"])
    parser.add_argument("--parts", nargs="+", choices=["emphasis", "pitch", "pauses", "times"], default=None)
    parser.add_argument("--limit", type=int, help="use the first so many sentences alone")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    lines = (FOLDER / "sentences" / asked.sentences).read_text(encoding="utf-8").splitlines()
    texts = [parse(line) for line in lines][: asked.limit]
    parts = asked.parts or ["emphasis", "pitch", "pauses", "times"]
    voice = NaturalVoice()
    await speak(voice, plain("The first request loads the network."))
    results: dict[str, dict[str, float]] = {}
    for strength in asked.strengths:
        if "emphasis" in parts:
            results[f"emphasis, {strength}"] = await emphasis(voice, texts, strength)
        if "pitch" in parts:
            results[f"pitch, {strength}"] = await pitch(voice, texts, strength)
    if "pauses" in parts:
        results["pauses"] = await pauses(texts)
    if "times" in parts:
        results["word times"] = await word_times(texts, voice)
    shown = Table("", "", "", title=f"The natural voice, {len(texts)} sentences of {asked.sentences}", title_justify="left")
    for group, rows in results.items():
        for name, value in rows.items():
            shown.add_row(group, name, f"{value:.1f}")
    Console(width=132).print(shown)
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
