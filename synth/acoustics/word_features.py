"""Duration, energy, pitch and prominence of each word of a recording, and how they differ from another reading."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synth.acoustics.contours import Contours
from synth.acoustics.prominence import prominence_and_boundaries
from synth.base import WordTime

Values = NDArray[np.float64]

_HEIGHT_PERCENTILE = 90  # of the pitch within a word: its peak without single wrong frames
_FEWEST_FRAMES = 6  # voiced, for a rise to be measured
_SHARE_OF_LONGEST = 1 / 3  # shorter voiced runs more often belong to a neighbouring word

STANDS_OUT = 3.0
"""The `prominence_z` from which on a word counts as emphasised; one in fifty to seventy words of a plain reading reaches it."""

EMPHATIC = 2.7
"""The `emphasis_score` from which on a word counts as emphasised; one in fifteen words of a plain reading reaches it."""

_FEWEST_OTHERS = 3
_LEAST_SPREAD = 0.25  # least standard deviation of prominences, so that small differences of similar words do not count as large

# Standard deviations between the words of two voices' plain readings: the logarithm of the duration, dB, semitones.
_SPREADS = (0.2, 4.0, 2.5)
_FARTHEST = 2.5  # clip, in these standard deviations; larger differences are more often errors of measurement


@dataclass(frozen=True, slots=True, eq=False)
class WordFeatures:
    """The features of the words of a recording, as arrays of shape [words].

    Attributes:
        seconds: duration.
        energy: mean power between 400 and 4000 Hz, in dB relative to the loudest frame; nan for a word without length.
        height: the peak of the pitch, in semitones above 1 Hz; nan without voice.
        level: the median of the pitch, in semitones above 1 Hz; nan without voice.
        rise: the pitch of the last third minus that of the first, in semitones; nan with too little voice.
        prominence, boundary: as in `synth.acoustics.prominence`.
    """

    seconds: Values
    energy: Values
    height: Values
    level: Values
    rise: Values
    prominence: Values
    boundary: Values


def word_features(contours: Contours, words: Sequence[WordTime]) -> WordFeatures:
    """Return the features of ``words`` in a recording with those ``contours``.

    Raises:
        BadInput: times that are NaN or infinite, or end before they start.
    """
    prominence, boundary = prominence_and_boundaries(contours, words)
    count = len(words)
    energy, height, level, rise = (np.full(count, np.nan) for _ in range(4))
    for index, word in enumerate(words):
        frames = slice(max(0, int(word.start / contours.step)), max(0, int(word.end / contours.step) + 1))
        power = contours.energy[frames]
        if word.end <= word.start or not len(power):
            continue
        energy[index] = 10 * np.log10(np.mean(10 ** (power / 10)))
        pitch = voiced_part(contours.semitones[frames])
        if len(pitch):
            height[index] = np.percentile(pitch, _HEIGHT_PERCENTILE)
            level[index] = np.median(pitch)
        rise[index] = rise_of(pitch)
    seconds = np.array([word.end - word.start for word in words], dtype=np.float64)
    return WordFeatures(seconds, energy, height, level, rise, prominence, boundary)


def prominence_z(prominence: float, others: Values) -> float:
    """Return a word's prominence in standard deviations above the mean of the ``others``; 0 if these are fewer than three."""
    if len(others) < _FEWEST_OTHERS:
        return 0.0
    return float((prominence - others.mean()) / max(float(others.std()), _LEAST_SPREAD))


def voiced_part(semitones: Values) -> Values:
    """Return the pitch of the voiced frames, without short runs, which more often belong to a neighbouring word."""
    voiced = np.flatnonzero(~np.isnan(semitones))
    runs = np.split(voiced, np.flatnonzero(np.diff(voiced) > 1) + 1)
    longest = max(len(run) for run in runs)
    kept: Values = semitones[np.concatenate([run for run in runs if len(run) >= _SHARE_OF_LONGEST * longest])]
    return kept


def rise_of(pitch: Values) -> float:
    """Return by how many semitones the last third of a pitch contour is above the first; nan if it is too short."""
    third = len(pitch) // 3
    if len(pitch) < _FEWEST_FRAMES:
        return float("nan")
    return float(np.median(pitch[-third:]) - np.median(pitch[:third]))


@dataclass(frozen=True, slots=True, eq=False)
class Departure:
    """Differences between the words of two readings, beyond the difference that all words share, as arrays of shape [words].

    Attributes:
        log_duration: natural logarithm of the ratio of the durations.
        energy: dB.
        semitones: of the pitch's peak.
        rise: semitones; nan if one of the words has no rise.
        level: semitones, of the pitch's median.
        prominence: the difference.
        score: the first three together, in standard deviations between two voices' plain readings.
    """

    log_duration: Values
    energy: Values
    semitones: Values
    rise: Values
    level: Values
    prominence: Values
    score: Values


def departure(read: WordFeatures, plain: WordFeatures, baseline: NDArray[np.bool_] | None = None) -> Departure:
    """Return how ``read`` differs from ``plain``, another reading of the same words.

    The median difference of the words in the mask ``baseline`` (by default all) is subtracted. Where a value is missing, as in a
    word that is not audible or has no voice, the difference is 0.
    """
    audible = (read.seconds > 0) & (plain.seconds > 0)
    base = audible if baseline is None else audible & baseline
    ratio = np.log(np.where(audible, read.seconds, 1.0) / np.where(audible, plain.seconds, 1.0))
    parts = [
        _minus_median(np.where(audible, difference, np.nan), base)
        for difference in (ratio, read.energy - plain.energy, read.height - plain.height, read.level - plain.level)
    ]
    scaled = [np.clip(part / spread, -_FARTHEST, _FARTHEST) for part, spread in zip(parts, _SPREADS, strict=False)]
    return Departure(
        log_duration=parts[0],
        energy=parts[1],
        semitones=parts[2],
        rise=read.rise - plain.rise,
        level=parts[3],
        prominence=read.prominence - plain.prominence,
        score=np.sum(scaled, axis=0) / np.sqrt(len(scaled)),
    )


def emphasis_score(read: WordFeatures, plain: WordFeatures) -> Values:
    """Return how much each word stands out: half its prominence plus its departure from ``plain``, any voice's plain reading."""
    return 0.5 * read.prominence + departure(read, plain).score


def _minus_median(difference: Values, base: NDArray[np.bool_]) -> Values:
    """Return ``difference`` minus its median over ``base``, and 0 where it is nan."""
    known = difference[base & ~np.isnan(difference)]
    middle = float(np.median(known)) if len(known) else 0.0
    return np.where(np.isnan(difference), 0.0, difference - middle)
