"""How much each word stands out, and how strong the boundary after it is, from the sound alone.

A. Suni, J. Šimko, D. Aalto and M. Vainio, "Hierarchical representation and estimation of prosody using continuous wavelet
transform", Computer Speech & Language 45 (2017). Pitch, energy and the words' durations make one signal; lines of maximum amplitude
in its wavelet transform are prominences, lines of minimum amplitude are boundaries. The settings are those of the
paper's own program for LibriTTS, the speech of the Helsinki Prosody Corpus, from which the tagger learns. None is fitted to our
marks, but the program's defaults (three octaves below the word to its own, more energy, less duration) were tried as well, and find
fewer of them.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from synth.acoustics.contours import Contours, contours
from synth.acoustics.wavelet import SCALES_PER_OCTAVE, Places, Signal, ridges, scale_of, transform
from synth.base import Audio, WordTime

_WEIGHTS = {"pitch": 1.0, "energy": 0.5, "duration": 1.0}
_FLOOR = 0.1  # the least that a part of the product can be, where 1 is the range of it
_PROMINENCE_OCTAVES = (-2, 1)  # around the scale of a word of mean length
_BOUNDARY_OCTAVES = (-1, 2)
_SHORTEST_WORD_FRAMES = 8.0
_PITCH_FRAMES, _ENERGY_FRAMES, _DURATION_FRAMES, _TREND_FRAMES = 10, 10, 20, 800  # over which each is smoothed


def prominence(audio: Audio, words: Sequence[WordTime]) -> NDArray[np.float64]:
    """The prominence of each word, shape [len(words)].

    It is 0 for a word that does not stand out at all, and for one without length. About 2 is an emphasis. The unit is the
    standard deviation of the clip's signal, so compare words of one recording.

    Raises:
        BadInput: audio that cannot be measured, or times that are no numbers or end before they start.
    """
    return prominence_and_boundaries(contours(audio), words)[0]


def boundaries(audio: Audio, words: Sequence[WordTime]) -> NDArray[np.float64]:
    """The strength of the boundary after each word, shape [len(words)], in the unit of `prominence`; 0 where there is none.

    After the last word silence is assumed.

    Raises:
        BadInput: as `prominence`.
    """
    return prominence_and_boundaries(contours(audio), words)[1]


def prominence_and_boundaries(sound: Contours, words: Sequence[WordTime]) -> tuple[Signal, Signal]:
    """Both at once, from the contours of the recording.

    Raises:
        BadInput: times that are no numbers or end before they start.
    """
    spans = _spans(sound, words)
    lengths = spans[:, 1] - spans[:, 0]
    heard = np.flatnonzero(lengths > 0)
    prominences, strengths = np.zeros(len(words)), np.zeros(len(words))
    if not len(heard):
        return prominences, strengths
    spans = spans[heard]
    unit = scale_of(max(float(lengths[heard].mean()), _SHORTEST_WORD_FRAMES))
    signal = _signal(sound, spans)
    margin = math.ceil(8 * unit * 2 ** _BOUNDARY_OCTAVES[1])
    size = 1 << (len(signal) + 2 * margin - 1).bit_length()
    padded = np.pad(signal, (margin, size - len(signal) - margin), constant_values=signal.min())
    tops, heights = _lines(padded, unit, _PROMINENCE_OCTAVES)
    bottoms, depths = _lines(-padded, unit, _BOUNDARY_OCTAVES)
    places, prominences[heard] = _strongest(tops - margin, heights, spans)
    between = np.column_stack([places, np.append(places[1:], np.inf)])
    strengths[heard] = _strongest(bottoms - margin, depths, between)[1]
    return prominences, strengths


def _spans(sound: Contours, words: Sequence[WordTime]) -> Signal:
    """Start and end of each word, in frames, within the recording: shape [len(words), 2]."""
    times = np.array([(word.start, word.end) for word in words], dtype=np.float64).reshape(-1, 2)
    for word, (start, end) in zip(words, times, strict=True):
        if not (math.isfinite(start) and math.isfinite(end) and start <= end):
            raise BadInput(f"the word {word.word!r} is said to be heard from {start:g} to {end:g} s; give times in order")
    return np.clip(times / sound.step, 0, len(sound.energy))


def _signal(sound: Contours, spans: Signal) -> Signal:
    """Pitch, energy and duration as one signal of mean 0 and deviation 1, shape [frames]."""
    parts = {
        "pitch": _smooth(_bridged(sound.semitones), _PITCH_FRAMES),
        "energy": _smooth(10 ** (sound.energy / 60), _ENERGY_FRAMES),  # the cube root of the amplitude
        "duration": _smooth(_durations(spans, len(sound.energy)), _DURATION_FRAMES),
    }
    product = np.ones(len(sound.energy))
    for name, part in parts.items():
        product *= _scaled(part) ** _WEIGHTS[name]
    product -= _smooth(product, _TREND_FRAMES)
    deviation = product.std()
    normal: Signal = (product - product.mean()) / deviation if deviation > 1e-9 else np.zeros(len(product))
    return normal


def _bridged(semitones: Signal) -> Signal:
    """The pitch with straight lines where there is no voice."""
    voiced = np.flatnonzero(~np.isnan(semitones))
    if not len(voiced):
        return np.zeros(len(semitones))
    return np.interp(np.arange(len(semitones)), voiced, semitones[voiced])


def _durations(spans: Signal, count: int) -> Signal:
    """The logarithm of the words' durations as a signal: each at the middle of its word, that of the shortest in gaps."""
    logs = np.log(spans[:, 1] - spans[:, 0] + 1)
    gaps = np.flatnonzero(spans[1:, 0] - spans[:-1, 1] > 1)
    at = np.concatenate([[0.0], spans.mean(axis=1), (spans[gaps, 1] + spans[gaps + 1, 0]) / 2, [float(count)]])
    values = np.concatenate([[logs.mean()], logs, np.full(len(gaps), logs.min()), [logs.mean()]])
    order = np.argsort(at, kind="stable")
    signal: Signal = np.interp(np.arange(count), at[order], values[order])
    return signal


def _scaled(part: Signal) -> Signal:
    spread = np.ptp(part)
    return (part - part.min()) / spread + _FLOOR if spread > 1e-9 else np.ones(len(part))


def _smooth(signal: Signal, frames: int) -> Signal:
    """A moving average with a raised-cosine window of ``frames``."""
    window = np.hanning(frames + 2)[1:-1]
    padded = np.pad(signal, (frames // 2, frames - 1 - frames // 2), mode="edge")
    size = 1 << (len(padded) + frames - 1).bit_length()
    convolved = np.fft.irfft(np.fft.rfft(padded, size) * np.fft.rfft(window / window.sum(), size), size)
    smooth: Signal = convolved[frames - 1 : frames - 1 + len(signal)]
    return smooth


def _lines(signal: Signal, unit: float, octaves: tuple[int, int]) -> tuple[Places, Signal]:
    """Where the lines of maximum amplitude are, and how strong."""
    first, last = octaves
    scales = unit * 2.0 ** np.arange(first, last, 1 / SCALES_PER_OCTAVE)
    return ridges(transform(signal, scales), scales)


def _strongest(places: Places, strengths: Signal, spans: Signal) -> tuple[Signal, Signal]:
    """For each span the place and the strength of its strongest line: its middle and 0 where none is positive."""
    at, best = spans.mean(axis=1), np.zeros(len(spans))
    firsts = np.searchsorted(places, spans[:, 0])
    ends = np.searchsorted(places, spans[:, 1], side="right")
    for index, (first, end) in enumerate(zip(firsts, ends, strict=True)):
        if end > first:
            line = first + int(np.argmax(strengths[first:end]))
            if strengths[line] > 0:
                at[index], best[index] = places[line], strengths[line]
    return at, best
