"""What each word of a recording measures: duration, energy, pitch, prominence; and how far that departs from another reading."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synth.acoustics.contours import Contours
from synth.acoustics.prominence import prominence_and_boundaries
from synth.base import WordTime

Values = NDArray[np.float64]

_HEIGHT_PERCENTILE = 90  # of the pitch within a word: its peak, without what is off by a frame
_FEWEST_FRAMES = 6
_SHARE_OF_LONGEST = 1 / 3

STANDS_OUT = 3.0
"""What `apart` says of a word that sounds emphasised; in a plain reading one word in fifty to seventy does."""

EMPHATIC = 2.7
"""What `emphasis` says of a word that sounds emphasised; in a plain reading one word in fifteen does."""

_FEWEST_OTHERS = 3
_LEAST_SPREAD = 0.25  # of prominences; where they are more alike, the least difference would count as large

# By how much the words of one voice's plain reading spread around another's: the logarithm of the duration, dB, semitones.
_SPREADS = (0.2, 4.0, 2.5)
_FARTHEST = 2.5  # spreads; what lies beyond is more often an error of measurement


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """One value a word in each array, shape [words].

    Attributes:
        seconds: duration.
        energy: mean power between 400 and 4000 Hz, in dB below the loudest frame; nan for a word without length.
        height: the peak of the pitch, in semitones above 1 Hz; nan where no voice is.
        level: the median of the pitch, likewise.
        rise: the pitch of its last third less that of its first, in semitones; nan where there is too little voice.
        prominence, boundary: of `synth.acoustics.prominence`.
    """

    seconds: Values
    energy: Values
    height: Values
    level: Values
    rise: Values
    prominence: Values
    boundary: Values


def figures(sound: Contours, words: Sequence[WordTime]) -> Figures:
    """The figures of ``words`` in a recording with the contours ``sound``.

    Raises:
        BadInput: times that are no numbers or end before they start.
    """
    prominence, boundary = prominence_and_boundaries(sound, words)
    count = len(words)
    energy, height, level, rise = (np.full(count, np.nan) for _ in range(4))
    for index, word in enumerate(words):
        frames = slice(max(0, int(word.start / sound.step)), max(0, int(word.end / sound.step) + 1))
        power = sound.energy[frames]
        if word.end <= word.start or not len(power):
            continue
        energy[index] = 10 * np.log10(np.mean(10 ** (power / 10)))
        pitch = voiced_part(sound.semitones[frames])
        if len(pitch):
            height[index] = np.percentile(pitch, _HEIGHT_PERCENTILE)
            level[index] = np.median(pitch)
        rise[index] = rise_of(pitch)
    seconds = np.array([word.end - word.start for word in words], dtype=np.float64)
    return Figures(seconds, energy, height, level, rise, prominence, boundary)


def apart(prominence: float, others: Values) -> float:
    """By how many standard deviations of ``others`` a word's prominence is above their mean; 0 where there are too few to tell."""
    if len(others) < _FEWEST_OTHERS:
        return 0.0
    return float((prominence - others.mean()) / max(float(others.std()), _LEAST_SPREAD))


def voiced_part(semitones: Values) -> Values:
    """The pitch of a stretch without its gaps, and without short runs, which are more often the next word's than this one's."""
    voiced = np.flatnonzero(~np.isnan(semitones))
    runs = np.split(voiced, np.flatnonzero(np.diff(voiced) > 1) + 1)
    longest = max(len(run) for run in runs)
    kept: Values = semitones[np.concatenate([run for run in runs if len(run) >= _SHARE_OF_LONGEST * longest])]
    return kept


def rise_of(pitch: Values) -> float:
    """By how many semitones the last third of a contour is above the first; nan if it is short."""
    third = len(pitch) // 3
    if len(pitch) < _FEWEST_FRAMES:
        return float("nan")
    return float(np.median(pitch[-third:]) - np.median(pitch[:third]))


@dataclass(frozen=True, slots=True, eq=False)
class Departure:
    """How the words of one reading differ from the same words of another, beyond what all of them do: arrays of shape [words].

    Attributes:
        log_duration: natural logarithm of the ratio.
        energy: dB.
        semitones: of the pitch's peak.
        rise: the change of the rise, semitones; nan where one of them has none.
        level: semitones, of the pitch's median.
        prominence: the difference.
        score: of the first three together, in standard deviations of what separates two voices' plain readings.
    """

    log_duration: Values
    energy: Values
    semitones: Values
    rise: Values
    level: Values
    prominence: Values
    score: Values


def departure(read: Figures, plain: Figures, yardstick: NDArray[np.bool_] | None = None) -> Departure:
    """How ``read`` differs from ``plain``, another reading of the same words.

    ``yardstick``: the words whose median difference counts as none; by default all. Where something cannot be compared (a word
    that is not heard, or without voice) the difference is 0.
    """
    heard = (read.seconds > 0) & (plain.seconds > 0)
    level = heard if yardstick is None else heard & yardstick
    ratio = np.log(np.where(heard, read.seconds, 1.0) / np.where(heard, plain.seconds, 1.0))
    parts = [
        _beyond(np.where(heard, difference, np.nan), level)
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


def emphasis(read: Figures, plain: Figures) -> Values:
    """How much each word of ``read`` stands out: half its prominence, and its departure from ``plain``, anyone's plain reading."""
    return 0.5 * read.prominence + departure(read, plain).score


def _beyond(difference: Values, level: NDArray[np.bool_]) -> Values:
    """``difference`` less its median over ``level``, and 0 where it is nan."""
    known = difference[level & ~np.isnan(difference)]
    middle = float(np.median(known)) if len(known) else 0.0
    return np.where(np.isnan(difference), 0.0, difference - middle)
