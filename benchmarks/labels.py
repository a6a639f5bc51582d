"""Does `prosody label` hear the marks that were spoken? Sentences with known marks go to the embedded voice and are labelled blind.

    python benchmarks/labels.py [--sentences FILE] [--voice en-us --voice de] [--intensity medium] [--known-times]

"own" are the marks of the file, an emphasis a sentence and some pauses; "random" puts none to two emphases and perhaps a pause
before any words, function words too; "none" has no mark, so that all that is found is wrong. An emphasis counts when its very word
is marked, a pause when its slot is, whatever its length; "kind" is how many of those pauses are short or long as they were asked.
The plain reading that the labels are held against comes from the same engine, so this is the easy case: people depart from it by
themselves. With --known-times the voice's own word times take the place of the aligner's.
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
    marked = normalise(parse(source))
    return MarkedText(marked.text, tuple(mark for mark in marked.marks if mark.kind not in PITCHES))


def at_random(text: str, chance: random.Random) -> MarkedText:
    runs = segment_words(text)
    marks = [Mark("emph", run.start) for run in chance.sample(runs, chance.choice((0, 1, 1, 2)))]
    if len(runs) > 1 and chance.random() < 0.4:
        marks.append(Mark(chance.choice(PAUSES), chance.choice(runs[1:]).start))
    return normalise(MarkedText(text, tuple(marks)))


async def labelled(marked: MarkedText, voice: str, intensity: str, runtime: Runtime, known_times: bool) -> Label | None:
    """What is heard in the speech of ``marked``, or None if the aligner does not recognise it."""
    spoken = await collect(Job(marked, voice=voice, intensity=intensity), runtime)  # type: ignore[arg-type]
    guide = runtime.backend("embedded")
    if known_times:
        return label(spoken.audio, marked.text, spoken.words, plain=await read_plainly(marked.text, guide))
    try:
        return await label_recording(spoken.audio, marked.text, guide)
    except BadInput:
        return None


def count(asked: MarkedText, found: MarkedText, counts: Counter[str]) -> None:
    """Add hits, misses and false alarms of one sentence to ``counts``."""
    for name, kinds in (("emph", ("emph",)), ("pause", PAUSES)):
        wanted = {mark.offset: mark.kind for mark in asked.marks if mark.kind in kinds}
        heard = {mark.offset: mark.kind for mark in found.marks if mark.kind in kinds}
        counts[f"{name} hit"] += len(wanted.keys() & heard.keys())
        counts[f"{name} missed"] += len(wanted.keys() - heard.keys())
        counts[f"{name} false"] += len(heard.keys() - wanted.keys())
        counts[f"{name} kind"] += len(wanted.items() & heard.items())


def row(name: str, voice: str, counts: Counter[str]) -> list[str]:
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
        chance = random.Random(SEED)
        for name in ("own", "random", "none"):
            counts: Counter[str] = Counter()
            for line in lines:
                asked = own(line)
                if name != "own":
                    asked = at_random(asked.text, chance) if name == "random" else MarkedText(asked.text)
                found = await labelled(asked, voice, options.intensity, runtime, options.known_times)
                counts["sentences"] += 1
                counts["refused"] += found is None
                count(asked, found.marked if found else MarkedText(asked.text), counts)
            table.add_row(*row(name, voice, counts))
    await runtime.close()
    Console(width=130).print(table)


if __name__ == "__main__":
    asyncio.run(main())
