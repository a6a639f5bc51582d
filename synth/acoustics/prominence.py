"""Prominence of each word and strength of the boundary after it, computed from the audio and the word times.

A. Suni, J. Šimko, D. Aalto and M. Vainio, "Hierarchical representation and estimation of prosody using continuous wavelet
transform", Computer Speech & Language 45 (2017). Pitch, energy and word durations are combined into one signal; lines of maximum
amplitude in its wavelet transform are prominences, lines of minimum amplitude are boundaries. The settings are those that the
authors' program uses for LibriTTS, the speech of the Helsinki Prosody Corpus, on which the tagger is trained. They were not
fitted to our marks. The program's defaults (three octaves below the word up to its own, more energy, less duration) detect fewer
of our marks.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from synth.acoustics.contours import Contours, interpolated, measure_contours
from synth.acoustics.wavelet import SCALES_PER_OCTAVE, Frames, Signal, ridges, scale_of, transform
from synth.base import Audio, WordTime

_WEIGHTS = {"pitch": 1.0, "energy": 0.5, "duration": 1.0}
_FLOOR = 0.1  # added to each factor of the product, whose range is 1
_PROMINENCE_OCTAVES = (-2, 1)  # around the scale of a word of mean length
_BOUNDARY_OCTAVES = (-1, 2)
_SHORTEST_WORD_FRAMES = 8.0
_PITCH_FRAMES, _ENERGY_FRAMES, _DURATION_FRAMES, _TREND_FRAMES = 10, 10, 20, 800  # lengths of the smoothing windows


def prominence(audio: Audio, words: Sequence[WordTime]) -> NDArray[np.float64]:
    """Return the prominence of each word, shape [len(words)].

    It is 0 for a word that does not stand out at all and for one without length; about 2 is an emphasis. The unit is the standard
    deviation of the recording's signal, so values of different recordings are not comparable.

    Raises:
        BadInput: audio that cannot be measured, or times that are NaN or infinite, or end before they start.
    """
    return prominence_and_boundaries(measure_contours(audio), words)[0]


def boundaries(audio: Audio, words: Sequence[WordTime]) -> NDArray[np.float64]:
    """Return the strength of the boundary after each word, shape [len(words)], in the unit of `prominence`; 0 for no boundary.

    After the last word silence is assumed.

    Raises:
        BadInput: as for `prominence`.
    """
    return prominence_and_boundaries(measure_contours(audio), words)[1]


def prominence_and_boundaries(contours: Contours, words: Sequence[WordTime]) -> tuple[Signal, Signal]:
    """Return `prominence` and `boundaries` at once, from the contours of the recording.

    Raises:
        BadInput: times that are NaN or infinite, or end before they start.
    """
    spans = _spans(contours, words)
    lengths = spans[:, 1] - spans[:, 0]
    audible = np.flatnonzero(lengths > 0)
    prominences, strengths = np.zeros(len(words)), np.zeros(len(words))
    if not len(audible):
        return prominences, strengths
    spans = spans[audible]
    unit = scale_of(max(float(lengths[audible].mean()), _SHORTEST_WORD_FRAMES))
    signal = _signal(contours, spans)
    margin = math.ceil(8 * unit * 2 ** _BOUNDARY_OCTAVES[1])
    size = 1 << (len(signal) + 2 * margin - 1).bit_length()
    padded = np.pad(signal, (margin, size - len(signal) - margin), constant_values=signal.min())
    tops, heights = _lines(padded, unit, _PROMINENCE_OCTAVES)
    bottoms, depths = _lines(-padded, unit, _BOUNDARY_OCTAVES)
    peaks, prominences[audible] = _strongest(tops - margin, heights, spans)
    between = np.column_stack([peaks, np.append(peaks[1:], np.inf)])
    strengths[audible] = _strongest(bottoms - margin, depths, between)[1]
    return prominences, strengths


def _spans(contours: Contours, words: Sequence[WordTime]) -> Signal:
    """Return the start and end of each word in frames, clipped to the recording, shape [len(words), 2]."""
    times = np.array([(word.start, word.end) for word in words], dtype=np.float64).reshape(-1, 2)
    for word, (start, end) in zip(words, times, strict=True):
        if not (math.isfinite(start) and math.isfinite(end) and start <= end):
            raise BadInput(f"the word {word.word!r} has the times {start:g} to {end:g} s; give finite times in order")
    return np.clip(times / contours.step, 0, len(contours.energy))


def _signal(contours: Contours, spans: Signal) -> Signal:
    """Return pitch, energy and duration combined into one signal of mean 0 and standard deviation 1, shape [frames]."""
    parts = {
        "pitch": _smooth(interpolated(contours.semitones), _PITCH_FRAMES),
        "energy": _smooth(10 ** (contours.energy / 60), _ENERGY_FRAMES),  # the cube root of the amplitude
        "duration": _smooth(_durations(spans, len(contours.energy)), _DURATION_FRAMES),
    }
    product = np.ones(len(contours.energy))
    for name, part in parts.items():
        product *= _scaled(part) ** _WEIGHTS[name]
    product -= _smooth(product, _TREND_FRAMES)
    deviation = product.std()
    normal: Signal = (product - product.mean()) / deviation if deviation > 1e-9 else np.zeros(len(product))
    return normal


def _durations(spans: Signal, count: int) -> Signal:
    """Return the logarithm of the word durations as a signal of ``count`` frames.

    Each word's value lies at its middle, that of the shortest word in gaps, with straight lines between them.
    """
    logs = np.log(spans[:, 1] - spans[:, 0] + 1)
    gaps = np.flatnonzero(spans[1:, 0] - spans[:-1, 1] > 1)
    at = np.concatenate([[0.0], spans.mean(axis=1), (spans[gaps, 1] + spans[gaps + 1, 0]) / 2, [float(count)]])
    values = np.concatenate([[logs.mean()], logs, np.full(len(gaps), logs.min()), [logs.mean()]])
    order = np.argsort(at, kind="stable")
    signal: Signal = np.interp(np.arange(count), at[order], values[order])
    return signal


def _scaled(part: Signal) -> Signal:
    """Scale a signal to the range from `_FLOOR` to 1 + `_FLOOR`; return ones for a constant signal."""
    spread = np.ptp(part)
    return (part - part.min()) / spread + _FLOOR if spread > 1e-9 else np.ones(len(part))


def _smooth(signal: Signal, frames: int) -> Signal:
    """Return the moving average with a raised-cosine window of ``frames``."""
    window = np.hanning(frames + 2)[1:-1]
    padded = np.pad(signal, (frames // 2, frames - 1 - frames // 2), mode="edge")
    size = 1 << (len(padded) + frames - 1).bit_length()
    convolved = np.fft.irfft(np.fft.rfft(padded, size) * np.fft.rfft(window / window.sum(), size), size)
    smooth: Signal = convolved[frames - 1 : frames - 1 + len(signal)]
    return smooth


def _lines(signal: Signal, unit: float, octaves: tuple[int, int]) -> tuple[Frames, Signal]:
    """Return the frames and strengths of the lines of maximum amplitude."""
    first, last = octaves
    scales = unit * 2.0 ** np.arange(first, last, 1 / SCALES_PER_OCTAVE)
    return ridges(transform(signal, scales), scales)


def _strongest(frames: Frames, strengths: Signal, spans: Signal) -> tuple[Signal, Signal]:
    """Return the frame and strength of the strongest line in each span; its middle and 0 if no line there is positive."""
    at, best = spans.mean(axis=1), np.zeros(len(spans))
    firsts = np.searchsorted(frames, spans[:, 0])
    ends = np.searchsorted(frames, spans[:, 1], side="right")
    for index, (first, end) in enumerate(zip(firsts, ends, strict=True)):
        if end > first:
            line = first + int(np.argmax(strengths[first:end]))
            if strengths[line] > 0:
                at[index], best[index] = frames[line], strengths[line]
    return at, best
