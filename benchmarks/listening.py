"""Word times of recordings from a speech recogniser that is independent of our aligner."""

import json
import subprocess
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from prosody_tagger.segment import segment_words
from synth.base import WordTime

RecognisedWords = Sequence[tuple[str, float, float]]
"""Words with their start and end in seconds."""


def recognise(python: Path, paths: Sequence[Path]) -> list[RecognisedWords]:
    """Return the words that neural/listen.py recognises in each recording; ``python`` is that of its environment."""
    worker = Path(__file__).parent / "neural" / "listen.py"
    lines = "".join(f"{path.resolve()}\n" for path in paths)
    done = subprocess.run([python, worker], input=lines, stdout=subprocess.PIPE, text=True, check=True, encoding="utf-8")
    return [[(word, start, end) for word, start, end in json.loads(line)["words"]] for line in done.stdout.splitlines()]


def times_of(text: str, recognised: RecognisedWords, seconds: float) -> tuple[WordTime, ...]:
    """Return a time for each word of ``text``: that of the same recognised word, and between those interpolated by letters."""
    words = segment_words(text)
    cores = [word.core(text) for word in words]
    matcher = SequenceMatcher(None, [_bare(core) for core in cores], [_bare(word) for word, _, _ in recognised], autojunk=False)
    letters = np.concatenate([[0], np.cumsum([len(core) for core in cores])])
    positions, times = [0.0], [recognised[0][1] if recognised else 0.0]
    for block in matcher.get_matching_blocks():
        for step in range(block.size):
            _, start, end = recognised[block.b + step]
            positions += [float(letters[block.a + step]), float(letters[block.a + step + 1])]
            times += [start, end]
    positions.append(float(letters[-1]))
    times.append(recognised[-1][2] if recognised else seconds)
    times = list(np.maximum.accumulate(times))
    starts = np.interp(letters[:-1] + 1e-6, positions, times)  # just after the end of the word before
    ends = np.interp(letters[1:] - 1e-6, positions, times)
    return tuple(
        WordTime(core, word.core_start, float(start), float(max(start, end)))
        for core, word, start, end in zip(cores, words, starts, ends, strict=True)
    )


def _bare(word: str) -> str:
    return "".join(character for character in word.casefold() if character.isalnum())
