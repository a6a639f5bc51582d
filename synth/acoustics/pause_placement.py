"""Find where in a recording the pauses of a text belong."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import regex

from prosody_tagger.markup import Mark
from prosody_tagger.segment import Word, word_after
from synth.acoustics.pauses import Gap, Run, silent_runs
from synth.audio.signal import silence_level
from synth.base import Audio, WordTime

_SPLITTABLE_SECONDS = 0.160  # a shorter word is not split by a pause
_SPLIT_SLACK = 0.2  # error of a position computed from letters, as a share of the word's length
_BREAK_SECONDS = 0.080  # shortest silence that may be a pause of the speaker; shorter ones may lie within a word
_FARTHEST_SECONDS = 0.5  # between a silence and the position that punctuation has by the share of letters
_PUNCTUATION = regex.compile(r"[\p{P}\n--[\p{Pd}'’]]|\s\p{Pd}|\p{Pd}\s|--|[\u2012-\u2015]", regex.V1)


def gaps_by_times(
    audio: Audio, text_words: Sequence[Word], words: Sequence[WordTime], pauses: Sequence[Mark]
) -> tuple[list[Gap], list[Mark]]:
    """Return a gap for each slot with ``pauses``, from the times of ``words``; and the pauses within words too short to split.

    A word that is not audible has no slot of its own: its pauses belong to the gap between the audible words around it.
    """
    audible = [index for index, word in enumerate(words) if word.end > word.start]
    # By the number of audible words before the gap, and the share of the next word before it if it lies within that word.
    wanted: dict[tuple[int, float], int] = {}
    unrealised: list[Mark] = []
    for mark in pauses:
        index = word_after(text_words, mark.offset)
        before = int(np.searchsorted(audible, len(words) if index is None else index))
        share = 0.0
        if index is not None and before < len(audible) and audible[before] == index:
            share = _share_before(text_words[index], mark.offset)
        if share and words[audible[before]].end - words[audible[before]].start < _SPLITTABLE_SECONDS:
            unrealised.append(mark)
            continue
        key = before, share
        wanted[key] = wanted.get(key, 0) + round(mark.silence_ms / 1000 * audio.rate)
    times = [(round(words[index].start * audio.rate), round(words[index].end * audio.rate)) for index in audible]
    gaps = [_gap(before, share, length, audible, times, audio, len(words)) for (before, share), length in sorted(wanted.items())]
    return gaps, unrealised


def _share_before(word: Word, offset: int) -> float:
    """Return the share of a word's core that lies before ``offset``; 0 if all of it follows."""
    return max(0, offset - word.core_start) / (word.core_end - word.core_start)


def _gap(before: int, share: float, wanted: int, audible: Sequence[int], times: Sequence[Run], audio: Audio, count: int) -> Gap:
    """Return the gap after ``before`` audible words of ``count`` words; with a ``share``, within the word that follows them."""
    length = len(audio.samples)
    if share:
        start, end = times[before]
        at, slack = start + round(share * (end - start)), round(_SPLIT_SLACK * (end - start))
        return Gap(max(start, at - slack), min(end, at + slack), at, at, wanted, audible[before], audible[before] + 1)
    index = audible[before] if before < len(audible) else count
    ended, begun = times[:before][-1:], times[before:][:1]
    first, start = ended[0] if ended else (0, 0)
    end, last = begun[0] if begun else (length, length)
    start, end = sorted((start, end))
    return Gap(first, last, max(first, start), min(last, end), wanted, index, index)


def gaps_by_silences(audio: Audio, text: str, text_words: Sequence[Word], pauses: Sequence[Mark]) -> tuple[list[Gap], list[Mark]]:
    """Return gaps as `gaps_by_times` does, without word times: a pause at punctuation belongs to the speaker's own silence there.

    Silences and punctuation are matched in order, by the position that the share of letters predicts. Punctuation without a
    silence within half a second is left out, and so is every pause elsewhere, except at the edges of the text.
    """
    length, margin = len(audio.samples), round(_BREAK_SECONDS * audio.rate)
    pairs = enumerate(pairwise(text_words), 1)
    slots = [index for index, (word, after) in pairs if _PUNCTUATION.search(text, word.core_end, after.core_start)]
    silences = {0: (0, 0), **_matched_silences(audio, text_words, slots), len(text_words): (length, length)}
    wanted: dict[int, int] = {}
    unrealised: list[Mark] = []
    for mark in pauses:
        index = word_after(text_words, mark.offset)
        slot = len(text_words) if index is None else index
        if slot not in silences or (index is not None and _share_before(text_words[index], mark.offset)):
            unrealised.append(mark)
        else:
            wanted[slot] = wanted.get(slot, 0) + round(mark.silence_ms / 1000 * audio.rate)
    gaps = []
    for slot, samples in sorted(wanted.items()):
        start, end = silences[slot]
        gaps.append(Gap(max(0, start - margin), min(length, end + margin), start, end, samples, slot, slot))
    return gaps, unrealised


def _matched_silences(audio: Audio, text_words: Sequence[Word], slots: Sequence[int]) -> dict[int, Run]:
    """Return the silence of each of ``slots`` that has one, matched in order by dynamic programming."""
    length, shortest = len(audio.samples), _BREAK_SECONDS * audio.rate
    silences = [(start, end) for start, end in silent_runs(audio, silence_level(audio), 0, length) if end - start >= shortest]
    silent = np.cumsum([0, *(end - start for start, end in silences)])
    letters = np.cumsum([0, *(word.core_end - word.core_start for word in text_words)])
    expected = letters[np.array(slots, dtype=np.int64)] / max(1, letters[-1]) * (length - silent[-1]) / audio.rate
    breaks = [index for index, (start, end) in enumerate(silences) if start > 0 and end < length]
    measured = np.array([(silences[index][0] - silent[index]) / audio.rate for index in breaks])
    gain = _FARTHEST_SECONDS - np.abs(expected[:, None] - measured[None])
    best = np.zeros((len(slots) + 1, len(breaks) + 1))
    for row, column in np.ndindex(gain.shape):
        best[row + 1, column + 1] = max(best[row, column] + gain[row, column], best[row, column + 1], best[row + 1, column])
    matched: dict[int, Run] = {}
    row, column = gain.shape
    while row and column:
        if best[row, column] == best[row - 1, column]:
            row -= 1
        elif best[row, column] == best[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            matched[slots[row]] = silences[breaks[column]]
    return matched
