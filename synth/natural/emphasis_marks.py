"""Emphasis and pitch marks as changes of an utterance: durations, pitch and energy, before the decoder makes the sound.

An emphasised word is longer, most of all its stressed vowel, higher than every other word, and louder; the others are a little
softer. Their melody stays, because flattening it is heard as a worse voice. The amounts were tuned on benchmarks/sentences/dev.txt;
`benchmarks/natural_marks.py` measures them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from synth.base import Strength
from synth.natural.network import FRAME_SECONDS, VOICED_HZ
from synth.natural.pronunciation import PRIMARY_STRESS, SECONDARY_STRESS
from synth.natural.utterance import Curve, Utterance, eased_curve

_LEVEL = 1e6  # a frame far outside every utterance, from where a curve is level


@dataclass(frozen=True, slots=True)
class EmphasisAmounts:
    """How strongly an emphasised word is changed. Pitch in semitones, energy in the network's unit of about 2.7 dB.

    Attributes:
        vowel, rest: factors of the duration of the stressed vowel, and of the rest of the word; for a word of 0.3 s.
        rise: the least rise of the pitch.
        above: how far the word's peak lies above that of the other words.
        apart: other words are lowered where they come closer to the word's peak than this.
        energy: the least gain of energy.
        louder: how far the vowel's energy lies above the loud part of the other words.
        softer: how far the energy of the other words is lowered.
    """

    vowel: float
    rest: float
    rise: float
    above: float
    apart: float
    energy: float
    louder: float
    softer: float

    def stronger(self) -> "EmphasisAmounts":
        """Return amounts for another attempt, where the word did not stand out."""
        return replace(
            self,
            vowel=min(self.vowel + 0.15, max(2.3, self.vowel)),
            rest=min(self.rest + 0.12, max(1.9, self.rest)),
            above=min(self.above + 0.5, max(4.5, self.above)),
            apart=min(self.apart + 0.5, max(4.5, self.apart)),
            louder=min(self.louder + 0.25, max(1.25, self.louder)),
        )


EMPHASIS: Mapping[Strength, EmphasisAmounts] = {
    "low": EmphasisAmounts(vowel=1.5, rest=1.3, rise=1.5, above=2.0, apart=2.0, energy=0.5, louder=0.25, softer=0.35),
    "medium": EmphasisAmounts(vowel=1.8, rest=1.5, rise=2.5, above=3.0, apart=3.0, energy=0.7, louder=0.5, softer=0.5),
    "high": EmphasisAmounts(vowel=2.1, rest=1.7, rise=3.5, above=4.0, apart=4.0, energy=0.9, louder=0.75, softer=0.65),
}
PITCH_SEMITONES: Mapping[Strength, float] = {"low": 3.0, "medium": 4.5, "high": 6.0}
"""How far a pitch mark moves its word."""

_HIGHEST_RISE = 8.0
_MOST_ENERGY = 2.5
_WORD_SECONDS = 0.30  # the factors of duration hold for a word of this length
_LENGTH_RANGE = (0.75, 1.8)  # and are scaled by this much for longer and shorter ones
_FADE_FRAMES = 5
_SMOOTH = np.hanning(11)[1:-1] / np.hanning(11)[1:-1].sum()  # over 100 ms
_BASE_PERCENTILE = 15
_SLOPE_KEPT = 0.25  # of the distance by which another word comes too close to the peak


def emphasise(utterance: Utterance, words: Collection[int], amounts: EmphasisAmounts) -> None:
    """Make ``words`` stand out. Each must have a sound."""
    nuclei = {word: utterance.nuclei(word) for word in words}
    utterance.stretch(_length_factors(utterance, nuclei, amounts))
    length = len(utterance.pitch)
    spans = {word: utterance.heard(*utterance.span(word)) for word in words}
    others = np.ones(length, dtype=bool)
    for start, end in spans.values():
        others[start:end] = False
    weight = np.convolve(np.pad(others.astype(np.float64), 4, mode="edge"), _SMOOTH, "valid")  # 1 in the other words
    semitones, energy = utterance.semitones(), utterance.energy - amounts.softer * weight
    others &= utterance.voiced()
    base = _percentile(semitones, _BASE_PERCENTILE, 0.0)
    top = _percentile(semitones[others], 98, base)
    loud = _percentile(energy[others], 90, 0.0)
    change, gain, peaks = np.zeros(length), -amounts.softer * weight, []
    for word, (start, end) in spans.items():
        peak = _percentile(semitones[start:end], 90, base)
        rise = float(np.clip(top + amounts.above - peak, amounts.rise, _HIGHEST_RISE))
        peaks.append(peak + rise)
        first, last = nuclei[word][0], nuclei[word][-1]
        begin, finish = utterance.heard(max(first - 1, utterance.span(word)[0]), last + 1)
        change += _raised(length, (start, end), (begin, finish), (0.9 * rise, rise, 0.85 * rise))
        own = _percentile(utterance.energy[begin:finish], 75, 0.0)
        up = float(np.clip(loud + amounts.louder - own, amounts.energy, _MOST_ENERGY))
        gain += _raised(length, (start, end), (begin, finish), (up, up, up), fade=3)
    over = np.nan_to_num(semitones + change - (min(peaks) - amounts.apart))
    change -= (1 - _SLOPE_KEPT) * np.maximum(over, 0) * weight
    utterance.bend(change)
    utterance.strengthen(gain)


def ease(utterance: Utterance, word: int, amount: float) -> None:
    """Bring a word that rivals the emphasised one closer to the voice's lowest pitch, and make it softer; 0 leaves it as it is."""
    start, end = utterance.heard(*utterance.span(word))
    length = len(utterance.pitch)
    weight = eased_curve(length, [(-_LEVEL, 0), (start - 3, 0), (start + 1, 1), (end - 1, 1), (end + 3, 0), (_LEVEL, 0)])
    semitones = utterance.semitones()
    above = np.nan_to_num(np.maximum(semitones - _percentile(semitones, _BASE_PERCENTILE, 0.0), 0))
    utterance.bend(-above * np.clip(0.5 * amount * weight, 0, 0.8))
    utterance.strengthen(-0.8 * amount * weight)


def turn(utterance: Utterance, word: int, kind: str, semitones: float) -> bool:
    """Make a word high, low, rising or falling, by ``semitones``. Return whether it has enough voice for that."""
    start, end = utterance.heard(*utterance.span(word))
    voiced = np.flatnonzero(utterance.voiced()[start:end]) + start
    if len(voiced) < 2:
        return False
    length, before = len(utterance.pitch), utterance.pitch
    if kind in ("pitch_high", "pitch_low"):
        bend = semitones if kind == "pitch_high" else -semitones
        points = [(-_LEVEL, 0.0), (start - 4, 0.0), (start + 1, bend), (end - 1, bend), (end + 4, 0.0), (_LEVEL, 0.0)]
    else:
        sign = 1.0 if kind == "pitch_rising" else -1.0
        own = utterance.semitones()[voiced]
        part = max(1, len(voiced) // 4)
        missing = semitones - sign * float(np.median(own[-part:]) - np.median(own[:part]))
        if missing <= 0:
            return True
        half = sign * min(1.3 * missing, 11.0) / 2  # 1.3: the sound moves less than the curve
        first, last = int(voiced[0]), int(voiced[-1])
        quarter = 0.25 * (last - first)
        points = [
            (-_LEVEL, 0.0),
            (min(start, first) - 7, 0.0),
            (min(start, first) - 2, -half),
            (first + quarter, -half),
            (last - quarter, half),
            (max(end, last) + 2, half),
            (max(end, last) + 8, 0.0),
            (_LEVEL, 0.0),
        ]
    utterance.bend(eased_curve(length, points))
    low, high = np.percentile(before[before > VOICED_HZ], [5, 95])  # beyond its own range the voice sounds unnatural
    limited = np.clip(utterance.pitch, np.minimum(before, 0.85 * low), np.maximum(before, 1.4 * high))
    utterance.pitch = np.where(utterance.voiced(), limited, utterance.pitch).astype(np.float32)
    return True


def _length_factors(utterance: Utterance, nuclei: Mapping[int, list[int]], amounts: EmphasisAmounts) -> Curve:
    """Return the factor of each symbol's length: short words are stretched more, long ones less."""
    factors = np.ones(len(utterance.frames))
    for word, vowels in nuclei.items():
        first, end = utterance.span(word)
        seconds = max(1, int(utterance.frames[first:end].sum())) * FRAME_SECONDS
        scale = float(np.clip(np.sqrt(_WORD_SECONDS / seconds), *_LENGTH_RANGE))
        factors[first:end] = 1 + (amounts.rest - 1) * scale
        for vowel in vowels:
            factors[vowel] = 1 + (amounts.vowel - 1) * scale
            if vowel > 1 and utterance.symbols[vowel - 2].character in (PRIMARY_STRESS, SECONDARY_STRESS):
                factors[vowel - 1] = factors[vowel]
    return factors


def _raised(
    length: int, word: tuple[int, int], vowel: tuple[int, int], heights: tuple[float, float, float], fade: int = _FADE_FRAMES
) -> Curve:
    """Return a hill over a word: ``heights`` at the start, middle and end of its stressed vowel, 0 outside the word."""
    begin, finish = vowel
    return eased_curve(
        length,
        [
            (-_LEVEL, 0.0),
            (min(word[0], begin) - fade, 0.0),
            (begin, heights[0]),
            ((begin + finish) / 2, heights[1]),
            (finish, heights[2]),
            (max(word[1], finish + 1) + fade, 0.0),
            (_LEVEL, 0.0),
        ],
    )


def _percentile(values: NDArray[np.floating], percent: float, default: float) -> float:
    """Return a percentile of the values that are not NaN; ``default`` where there are none."""
    values = values[~np.isnan(values)]
    return float(np.percentile(values, percent)) if len(values) else default
