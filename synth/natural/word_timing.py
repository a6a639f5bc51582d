"""Word times from the network's durations, calibrated to the audio.

A symbol sounds earlier than the durations say, and the duration of a space belongs to the word after it.
`benchmarks/natural_marks.py` measures the error that is left at fricatives and closures with visible edges. Beside a silence the
word starts or ends at its edge.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synth.audio.signal import Samples
from synth.natural.network import RATE
from synth.natural.pronunciation import Symbol

BETWEEN_SECONDS = 0.033
"""A word ends, and the next one starts, this much earlier than the durations place the space between them."""
INSIDE_SECONDS = 0.047
"""A symbol within a word sounds this much earlier than the durations place it."""

_SILENCE_DB = 40.0  # below the 95th percentile of the clip's windows of 10 ms
_LEAST_SILENCE, _LEAST_BREAK = 0.040, 0.100  # seconds: at punctuation, and elsewhere, where the closure of a stop is shorter
_LEAST_WORD = 0.060


class Stretch(NamedTuple):
    """A stretch of time, in seconds."""

    start: float
    end: float


def silent_stretches(samples: Samples) -> list[Stretch]:
    """Return the stretches covered by windows of 10 ms that are 40 dB below the loud ones."""
    window, hop = RATE // 100, RATE // 1000
    if len(samples) < window:
        return []
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    begins = np.arange(0, len(samples) - window + 1, hop)
    rms = np.sqrt((energy[begins + window] - energy[begins]).clip(0) / window)
    quiet = np.concatenate([[False], rms < np.percentile(rms, 95) * 10 ** (-_SILENCE_DB / 20), [False]])
    found: list[Stretch] = []
    for first, end in np.flatnonzero(np.diff(quiet.astype(np.int8))).reshape(-1, 2).tolist():
        stretch = Stretch(first * hop / RATE, ((end - 1) * hop + window) / RATE)
        if found and stretch.start <= found[-1].end:
            stretch = Stretch(found.pop().start, stretch.end)
        found.append(stretch)
    return found


def time_words(symbols: Sequence[Symbol], starts: NDArray[np.float64], samples: Samples) -> Mapping[int, Stretch]:
    """Return when each word that has a sound is heard, by its index.

    Args:
        symbols: the network's input, without the pads.
        starts: the second at which each symbol starts by the durations, and the end of the last; shape [len(symbols) + 1].
        samples: the audio.
    """
    members: dict[int, tuple[int, int]] = {}
    for position, symbol in enumerate(symbols):
        if symbol.word is not None:
            members[symbol.word] = members.get(symbol.word, (position, position))[0], position
    if not members:
        return {}
    words = list(members)
    quiet = silent_stretches(samples)
    seconds = len(samples) / RATE
    begins = [quiet[0].end if quiet and quiet[0].start == 0 else 0.0]
    ends: list[float] = []
    for before, word in pairwise(words):
        last, first = members[before][1], members[word][0]
        # A single vowel after a silence ("I") has too short a duration.
        border = Stretch(*(2 * [max(float(starts[last + 1]) - BETWEEN_SECONDS, begins[-1] + _LEAST_WORD)]))
        punctuated = first - last > 2
        least = _LEAST_SILENCE if punctuated else _LEAST_BREAK
        gap = _longest_within(quiet, float(starts[last]) - INSIDE_SECONDS, float(starts[first]), least)
        if gap is not None:
            border = gap
        elif punctuated:  # the duration of the punctuation belongs to the word before it
            border = Stretch(*(2 * [max(float(starts[first - 1]) - BETWEEN_SECONDS, begins[-1] + _LEAST_WORD)]))
        ends.append(min(border.start, seconds))
        begins.append(min(border.end, seconds))
    ends.append(quiet[-1].start if quiet and quiet[-1].end > seconds - 0.002 else seconds)
    return {word: Stretch(begin, max(begin, end)) for word, begin, end in zip(words, begins, ends, strict=True)}


def _longest_within(quiet: Sequence[Stretch], after: float, before: float, least: float) -> Stretch | None:
    """Return the longest silence whose middle lies between two times, if it lasts at least ``least`` seconds."""
    inside = [one for one in quiet if after < (one.start + one.end) / 2 < before and one.end - one.start >= least]
    return max(inside, key=lambda one: one.end - one.start, default=None)
