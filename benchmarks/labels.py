"""Measure `prosody label`: sentences with known marks are spoken by the embedded voice, and the labels compared with the marks.

    python benchmarks/labels.py [--sentences FILE] [--voice en-us --voice de] [--intensity medium] [--known-times]

"own" are the marks of the file, one emphasis per sentence and some pauses; "random" places none to two emphases and sometimes a
pause before any words, function words included; "none" has no marks, so every label is wrong. An emphasis counts if the same word
is labelled, a pause if the same slot is, whatever its length; "kind" counts the pauses labelled short or long as requested.
The plain reading for comparison comes from the same engine, so this is an easy case: human speakers differ from it even without
marks. With --known-times the voice's own word times replace those of the aligner.
"""

import argparse
import asyncio
import random
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ai_core.pipeline import Job, collect
from ai_core.runtime import Runtime
from prosody_tagger.errors import BadInput
from prosody_tagger.markup import PAUSES, PITCHES, Mark, MarkedText, normalise, parse
from prosody_tagger.segment import segment_words
from synth.acoustics.label import Label, label, label_recording
from synth.acoustics.reference_reading import read_plainly

SENTENCES = Path(__file__).parent / "sentences" / "test.txt"
SEED = 1


def own(source: str) -> MarkedText:
    """Return the marked text without its pitch marks, which are not labelled."""
    marked = normalise(parse(source))
    return MarkedText(marked.text, tuple(mark for mark in marked.marks if mark.kind not in PITCHES))


def at_random(text: str, draw: random.Random) -> MarkedText:
    """Return the text with random marks."""
    words = segment_words(text)
    marks = [Mark("emph", word.start) for word in draw.sample(words, draw.choice((0, 1, 1, 2)))]
    if len(words) > 1 and draw.random() < 0.4:
        marks.append(Mark(draw.choice(PAUSES), draw.choice(words[1:]).start))
    return normalise(MarkedText(text, tuple(marks)))


async def labelled(marked: MarkedText, voice: str, intensity: str, runtime: Runtime, known_times: bool) -> Label | None:
    """Speak ``marked`` and return its labels, or None if the alignment is not trusted."""
    spoken = await collect(Job(marked, voice=voice, intensity=intensity), runtime)  # type: ignore[arg-type]
    backend = runtime.backend("embedded")
    if known_times:
        return label(spoken.audio, marked.text, spoken.words, plain=await read_plainly(marked.text, backend))
    try:
        return await label_recording(spoken.audio, marked.text, backend)
    except BadInput:
        return None


def count(spoken: MarkedText, labelled: MarkedText, counts: Counter[str]) -> None:
    """Add hits, misses and false alarms of one sentence to ``counts``."""
    for name, kinds in (("emph", ("emph",)), ("pause", PAUSES)):
        wanted = {mark.offset: mark.kind for mark in spoken.marks if mark.kind in kinds}
        found = {mark.offset: mark.kind for mark in labelled.marks if mark.kind in kinds}
        counts[f"{name} hit"] += len(wanted.keys() & found.keys())
        counts[f"{name} missed"] += len(wanted.keys() - found.keys())
        counts[f"{name} false"] += len(found.keys() - wanted.keys())
        counts[f"{name} kind"] += len(wanted.items() & found.items())


def row(name: str, voice: str, counts: Counter[str]) -> list[str]:
    """Return a row of the table."""
    cells = [name, voice, str(counts["sentences"]), str(counts["refused"])]
    for kind in ("emph", "pause"):
        hit, missed, false = (counts[f"{kind} {what}"] for what in ("hit", "missed", "false"))
        cells += [f"{hit}/{hit + missed}", str(false), f"{2 * hit / (2 * hit + missed + false):.3f}" if hit + missed else "-"]
    return [*cells, f"{counts['pause kind']}/{counts['pause hit']}"]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=Path, default=SENTENCES, help="marked text, one sentence a line")
    parser.add_argument("--voice", action="append", help="a name from `prosody voices`; may be repeated")
    parser.add_argument("--intensity", choices=("low", "medium", "high"), default="medium")
    parser.add_argument("--known-times", action="store_true")
    options = parser.parse_args()
    lines = options.sentences.read_text(encoding="utf-8").splitlines()
    times = "known times" if options.known_times else "aligned"
    table = Table(title=f"Labels of the embedded voice, {options.intensity}, {times}, {options.sentences.name}")
    for column in ("marks", "voice", "sentences", "refused", "emph", "false", "F1", "pauses", "false", "F1", "kind"):
        table.add_column(column)
    runtime = Runtime()
    for voice in options.voice or ["en-us", "en-gb-scotland"]:
        draw = random.Random(SEED)
        for name in ("own", "random", "none"):
            counts: Counter[str] = Counter()
            for line in lines:
                asked = own(line)
                if name != "own":
                    asked = at_random(asked.text, draw) if name == "random" else MarkedText(asked.text)
                found = await labelled(asked, voice, options.intensity, runtime, options.known_times)
                counts["sentences"] += 1
                counts["refused"] += found is None
                count(asked, found.marked if found else MarkedText(asked.text), counts)
            table.add_row(*row(name, voice, counts))
    await runtime.close()
    Console(width=130).print(table)


if __name__ == "__main__":
    asyncio.run(main())
