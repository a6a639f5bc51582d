"""Word times of recordings that come with a text alone, from a recogniser that shares nothing with our aligner."""

import json
import subprocess
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from prosody_tagger.segment import segment_words
from synth.base import WordTime

Heard = Sequence[tuple[str, float, float]]


def listen(python: Path, paths: Sequence[Path]) -> list[Heard]:
    """What neural/listen.py hears in each recording: its words, with their seconds."""
    worker = Path(__file__).parent / "neural" / "listen.py"
    lines = "".join(f"{path.resolve()}\n" for path in paths)
    done = subprocess.run([python, worker], input=lines, stdout=subprocess.PIPE, text=True, check=True, encoding="utf-8")
    return [[(word, start, end) for word, start, end in json.loads(line)["words"]] for line in done.stdout.splitlines()]


def times_of(text: str, heard: Heard, seconds: float) -> tuple[WordTime, ...]:
    """A time for each word of ``text``: that of the same word heard; between such words, an even share by letters."""
    runs = segment_words(text)
    cores = [run.core(text) for run in runs]
    matcher = SequenceMatcher(None, [_bare(core) for core in cores], [_bare(word) for word, _, _ in heard], autojunk=False)
    letters = np.concatenate([[0], np.cumsum([len(core) for core in cores])])
    places, clock = [0.0], [heard[0][1] if heard else 0.0]
    for block in matcher.get_matching_blocks():
        for step in range(block.size):
            _, start, end = heard[block.b + step]
            places += [float(letters[block.a + step]), float(letters[block.a + step + 1])]
            clock += [start, end]
    places.append(float(letters[-1]))
    clock.append(heard[-1][2] if heard else seconds)
    clock = list(np.maximum.accumulate(clock))
    starts = np.interp(letters[:-1] + 1e-6, places, clock)  # just after a word's edge, where the one before has ended
    ends = np.interp(letters[1:] - 1e-6, places, clock)
    return tuple(
        WordTime(core, run.core_start, float(start), float(max(start, end)))
        for core, run, start, end in zip(cores, runs, starts, ends, strict=True)
    )


def _bare(word: str) -> str:
    return "".join(character for character in word.casefold() if character.isalnum())
