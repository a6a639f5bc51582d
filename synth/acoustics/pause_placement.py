"""Where in a recording the pauses of a text belong."""

from collections.abc import Sequence

import numpy as np
import regex

from prosody_tagger.markup import Mark
from prosody_tagger.segment import Word, word_after
from synth.acoustics.pauses import Gap, Run, silent_runs
from synth.audio.signal import silence_level
from synth.base import Audio, WordTime

_SPLITTABLE_SECONDS = 0.160  # a shorter word has no place for a pause within it
_SPLIT_SLACK = 0.2  # of a word, by which the letters may err
_BREAK_SECONDS = 0.080  # silence that may be a pause of the speaker; what is shorter may be within a word
_FARTHEST_SECONDS = 0.5
_PUNCTUATION = regex.compile(r"[\p{P}\n--[\p{Pd}'’]]|\s\p{Pd}|\p{Pd}\s|--|[\u2012-\u2015]", regex.V1)


def gaps_by_times(
    audio: Audio, runs: Sequence[Word], words: Sequence[WordTime], pauses: Sequence[Mark]
) -> tuple[list[Gap], list[Mark]]:
    """A gap for each slot that has ``pauses``, as the times of ``words`` tell, and the pauses that no sensible place was found for.

    A word that is not heard has no slot of its own: its pauses belong to the silence between those that are.
    """
    heard = [index for index, word in enumerate(words) if word.end > word.start]
    wanted: dict[tuple[int, float], int] = {}  # by how many heard words begin before it, and the share of the last one if within it
    unrealised: list[Mark] = []
    for mark in pauses:
        index = word_after(runs, mark.offset)
        before = int(np.searchsorted(heard, len(words) if index is None else index))
        share = 0.0
        if index is not None and before < len(heard) and heard[before] == index:
            share = _share(runs[index], mark.offset)
        if share and words[heard[before]].end - words[heard[before]].start < _SPLITTABLE_SECONDS:
            unrealised.append(mark)
            continue
        key = before, share
        wanted[key] = wanted.get(key, 0) + round(mark.silence_ms / 1000 * audio.rate)
    times = [_span(words[index], audio) for index in heard]
    gaps = [_gap(before, share, length, heard, times, audio, len(words)) for (before, share), length in sorted(wanted.items())]
    return gaps, unrealised


def _share(run: Word, offset: int) -> float:
    """How much of a word's core lies before ``offset``: 0 where all of it follows."""
    return max(0, offset - run.core_start) / (run.core_end - run.core_start)


def _span(word: WordTime, audio: Audio) -> Run:
    return round(word.start * audio.rate), round(word.end * audio.rate)


def _gap(before: int, share: float, wanted: int, heard: Sequence[int], times: Sequence[Run], audio: Audio, count: int) -> Gap:
    """The gap after ``before`` heard words of ``count`` words, or within the one that follows them."""
    length = len(audio.samples)
    if share:
        start, end = times[before]
        at, slack = start + round(share * (end - start)), round(_SPLIT_SLACK * (end - start))
        return Gap(max(start, at - slack), min(end, at + slack), at, at, wanted, heard[before], heard[before] + 1)
    index = heard[before] if before < len(heard) else count
    ended, begun = times[:before][-1:], times[before:][:1]
    first, start = ended[0] if ended else (0, 0)
    end, last = begun[0] if begun else (length, length)
    start, end = sorted((start, end))
    return Gap(first, last, max(first, start), min(last, end), wanted, index, index)


def gaps_by_silences(audio: Audio, text: str, runs: Sequence[Word], pauses: Sequence[Mark]) -> tuple[list[Gap], list[Mark]]:
    """As `gaps_by_times`, without times: a pause at punctuation belongs to the silence that the speaker made for it.

    Silences and punctuation are put side by side in order, each pair as near as the share of letters says. What has no partner
    within half a second is left, and so is every pause elsewhere, but for the edges of the text.
    """
    length, margin = len(audio.samples), round(_BREAK_SECONDS * audio.rate)
    slots = [index for index in range(1, len(runs)) if _PUNCTUATION.search(text, runs[index - 1].core_end, runs[index].core_start)]
    silences = {0: (0, 0), **_silences(audio, runs, slots), len(runs): (length, length)}
    wanted: dict[int, int] = {}
    unrealised: list[Mark] = []
    for mark in pauses:
        index = word_after(runs, mark.offset)
        slot = len(runs) if index is None else index
        if slot not in silences or (index is not None and _share(runs[index], mark.offset)):
            unrealised.append(mark)
        else:
            wanted[slot] = wanted.get(slot, 0) + round(mark.silence_ms / 1000 * audio.rate)
    gaps = []
    for slot, samples in sorted(wanted.items()):
        start, end = silences[slot]
        gaps.append(Gap(max(0, start - margin), min(length, end + margin), start, end, samples, slot, slot))
    return gaps, unrealised


def _silences(audio: Audio, runs: Sequence[Word], slots: Sequence[int]) -> dict[int, Run]:
    """The silence for each of ``slots`` that has one, by dynamic programming over both in order."""
    length, shortest = len(audio.samples), _BREAK_SECONDS * audio.rate
    silences = [(start, end) for start, end in silent_runs(audio, silence_level(audio), 0, length) if end - start >= shortest]
    silent = np.cumsum([0, *(end - start for start, end in silences)])
    letters = np.cumsum([0, *(run.core_end - run.core_start for run in runs)])
    expected = letters[np.array(slots, dtype=np.int64)] / max(1, letters[-1]) * (length - silent[-1]) / audio.rate
    breaks = [index for index, (start, end) in enumerate(silences) if start > 0 and end < length]
    heard = np.array([(silences[index][0] - silent[index]) / audio.rate for index in breaks])
    gain = _FARTHEST_SECONDS - np.abs(expected[:, None] - heard[None])
    best = np.zeros((len(slots) + 1, len(breaks) + 1))
    for row, column in np.ndindex(gain.shape):
        best[row + 1, column + 1] = max(best[row, column] + gain[row, column], best[row, column + 1], best[row + 1, column])
    found: dict[int, Run] = {}
    row, column = gain.shape
    while row and column:
        if best[row, column] == best[row - 1, column]:
            row -= 1
        elif best[row, column] == best[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            found[slots[row]] = silences[breaks[column]]
    return found
