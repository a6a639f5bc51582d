"""From the network's own times to the sound.

Kokoro's durations place a symbol later than its sound, and a space's share belongs to the word after it. `landmarks.py` measures by
how much, at fricatives and closures whose edges the sound shows; the constants here are what it found, for all voices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

INSIDE = 0.047
"""Seconds by which a symbol is heard before its own time, within a word."""

BETWEEN = 0.033
"""Seconds by which a word is heard to end before the time of the space after it; there the next word starts."""

STRESS = "ˈˌ"
SILENCE_DB = 40.0
LEAST_SILENCE = 0.040
LEAST_BREAK = 0.100
"""Seconds of silence that are a break without punctuation: a stop before a vowel may fall silent for less."""

LEAST_WORD = 0.060


@dataclass(frozen=True)
class Token:
    """One symbol for the network: its word, or None between words."""

    symbol: str
    word: int | None


@dataclass(frozen=True)
class Span:
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


def silence_level(samples: NDArray[np.float32], rate: int) -> float:
    """The RMS of 10 ms that is 40 dB below the clip's 95th percentile."""
    return float(np.percentile(_rms(samples, rate), 95) * 10 ** (-SILENCE_DB / 20))


def silences(samples: NDArray[np.float32], rate: int, level: float | None = None) -> list[Span]:
    """Stretches of 10 ms windows whose RMS is below ``level``, by default the clip's own, the edges' with them."""
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
    """Of 10 ms, every millisecond."""
    window, hop = rate // 100, rate // 1000
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    begins = np.arange(0, len(samples) - window + 1, hop)
    rms: NDArray[np.float64] = np.sqrt((energy[begins + window] - energy[begins]).clip(0) / window)
    return rms


def word_times(tokens: Sequence[Token], starts: NDArray[np.float64], samples: NDArray[np.float32], rate: int) -> list[Span]:
    """When each word is heard: moved by the constants, and to the edge of the sound where there is a silence.

    ``starts`` are the network's own, one a token and the end of the last.
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
        # A lone vowel after a silence ("I") is given too little by the network.
        finish = begin = max(starts[last + 1] - BETWEEN, begins[word - 1] + LEAST_WORD)
        is_punctuated = first - last > 2
        gap = _gap(quiet, starts[last] - INSIDE, starts[first], LEAST_SILENCE if is_punctuated else LEAST_BREAK)
        if gap:
            finish, begin = gap.start, gap.end
        elif is_punctuated:  # the punctuation's share is the first word's, drawn out
            finish = begin = max(starts[first - 1] - BETWEEN, begins[word - 1] + LEAST_WORD)
        finishes[word - 1], begins[word] = finish, begin
    return [Span(float(begin), float(finish)) for begin, finish in zip(begins, finishes, strict=True)]


def phone_times(tokens: Sequence[Token], starts: NDArray[np.float64], said: Sequence[Span]) -> list[Span | None]:
    """When each symbol of a word is heard; None for a space or a sign.

    A stress mark has no sound: its share is that of the vowel after it, and its own span is None.
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
    """The longest silence whose middle lies between the two times, if it is long enough."""
    inside = [span for span in quiet if after < (span.start + span.end) / 2 < before and span.seconds >= least]
    return max(inside, key=lambda span: span.seconds, default=None)
