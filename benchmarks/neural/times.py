"""Calibrate the network's own times to the audio.

Kokoro's durations place a symbol later than its sound, and the duration of a space belongs to the word after it. The constants
here were measured by `landmarks.py` over all voices, at fricatives and closures with visible edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

INSIDE = 0.047
"""Seconds by which a symbol within a word sounds earlier than the network's time."""

BETWEEN = 0.033
"""Seconds by which a word ends, and the next one starts, earlier than the network's time of the space between them."""

STRESS = "ˈˌ"
SILENCE_DB = 40.0
LEAST_SILENCE = 0.040
LEAST_BREAK = 0.100
"""Shortest silence, in seconds, that is a break without punctuation; the closure of a stop consonant is shorter."""

LEAST_WORD = 0.060


@dataclass(frozen=True)
class Token:
    """A symbol of the network's input and the index of its word, None between words."""

    symbol: str
    word: int | None


@dataclass(frozen=True)
class Span:
    """Start and end in seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


def silence_level(samples: NDArray[np.float32], rate: int) -> float:
    """Return the RMS that is 40 dB below the 95th percentile of the clip's 10 ms windows."""
    return float(np.percentile(_rms(samples, rate), 95) * 10 ** (-SILENCE_DB / 20))


def silences(samples: NDArray[np.float32], rate: int, level: float | None = None) -> list[Span]:
    """Return the stretches of 10 ms windows whose RMS is below ``level``, by default the clip's own level of silence."""
    rms = _rms(samples, rate)
    quiet = np.concatenate([[False], rms < (silence_level(samples, rate) if level is None else level), [False]])
    edges = np.flatnonzero(np.diff(quiet.astype(int)))
    window, hop = rate // 100, rate // 1000
    found: list[Span] = []
    for first, end in edges.reshape(-1, 2).tolist():
        span = Span(first * hop / rate, ((end - 1) * hop + window) / rate)
        if found and span.start <= found[-1].end:  # silent windows that overlap are one silence
            span = Span(found.pop().start, span.end)
        found.append(span)
    return found


def _rms(samples: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """Return the RMS of windows of 10 ms, every millisecond."""
    window, hop = rate // 100, rate // 1000
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    begins = np.arange(0, len(samples) - window + 1, hop)
    rms: NDArray[np.float64] = np.sqrt((energy[begins + window] - energy[begins]).clip(0) / window)
    return rms


def word_times(tokens: Sequence[Token], starts: NDArray[np.float64], samples: NDArray[np.float32], rate: int) -> list[Span]:
    """Return the time of each word: shifted by the constants, and moved to the edge of the sound next to silence.

    ``starts`` are the network's times, one for each token and the end of the last, in seconds.
    """
    members: dict[int, list[int]] = {}
    for index, token in enumerate(tokens):
        if token.word is not None:
            members.setdefault(token.word, []).append(index)
    quiet = silences(samples, rate)
    count = len(members)
    begins = np.zeros(count)
    finishes = np.zeros(count)
    begins[0] = quiet[0].end if quiet and quiet[0].start == 0 else 0.0
    finishes[-1] = quiet[-1].start if quiet and quiet[-1].end > len(samples) / rate - 0.002 else len(samples) / rate
    for word in range(1, count):
        last, first = members[word - 1][-1], members[word][0]
        # The network gives a single vowel after a silence ("I") too short a duration.
        finish = begin = max(starts[last + 1] - BETWEEN, begins[word - 1] + LEAST_WORD)
        is_punctuated = first - last > 2
        gap = _gap(quiet, starts[last] - INSIDE, starts[first], LEAST_SILENCE if is_punctuated else LEAST_BREAK)
        if gap:
            finish, begin = gap.start, gap.end
        elif is_punctuated:  # the duration of the punctuation belongs to the word before it
            finish = begin = max(starts[first - 1] - BETWEEN, begins[word - 1] + LEAST_WORD)
        finishes[word - 1], begins[word] = finish, begin
    return [Span(float(begin), float(finish)) for begin, finish in zip(begins, finishes, strict=True)]


def phone_times(tokens: Sequence[Token], starts: NDArray[np.float64], said: Sequence[Span]) -> list[Span | None]:
    """Return the time of each symbol of a word; None for a space or punctuation.

    A stress mark has no sound: its duration belongs to the vowel after it, and its own time is None.
    """
    found: list[Span | None] = []
    opened: int | None = None
    for index, token in enumerate(tokens):
        opened = index if opened is None else opened
        if token.word is None or token.symbol in STRESS:
            found.append(None)
            opened = opened if token.symbol in STRESS else None
            continue
        word = said[token.word]
        is_first = opened == 0 or tokens[opened - 1].word != token.word
        is_last = index + 1 == len(tokens) or tokens[index + 1].word != token.word
        start = word.start if is_first else float(np.clip(starts[opened] - INSIDE, word.start, word.end))
        end = word.end if is_last else float(np.clip(starts[index + 1] - INSIDE, word.start, word.end))
        found.append(Span(start, end))
        opened = None
    return found


def _gap(quiet: Sequence[Span], after: float, before: float, least: float) -> Span | None:
    """Return the longest silence whose middle lies between two times, if it lasts at least ``least`` seconds."""
    inside = [span for span in quiet if after < (span.start + span.end) / 2 < before and span.seconds >= least]
    return max(inside, key=lambda span: span.seconds, default=None)
