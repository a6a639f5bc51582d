"""Continuous wavelet transform with the Mexican hat wavelet, and its ridges.

C. Torrence and G. P. Compo, "A practical guide to wavelet analysis", Bulletin of the American Meteorological Society 79 (1998),
scaled as in their equation 11, so that the sum over all scales reconstructs the signal.
"""

import math

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]
Frames = NDArray[np.int64]

SCALES_PER_OCTAVE = 4
_RECONSTRUCTION = math.sqrt(2 * math.pi / math.gamma(2.5)) / (SCALES_PER_OCTAVE * 3.541 * 0.867)
_REACH = 4.0  # the most frames that a ridge may move from one scale to the next, divided by the square root of the scale


def scale_of(length: float) -> float:
    """Return the scale at which the positive lobe of the wavelet, half a period, is ``length`` frames long."""
    return length * math.sqrt(2.5) / math.pi


def transform(signal: Signal, scales: Signal) -> Signal:
    """Return the coefficients of ``signal``, shape [n], at ``scales`` in frames: shape [len(scales), n].

    The signal is treated as periodic, so pad it.
    """
    angular = 2 * math.pi * np.fft.rfftfreq(len(signal))
    stretched = (scales[:, None] * angular) ** 2
    coefficients: Signal = np.fft.irfft(np.fft.rfft(signal) * stretched * np.exp(-stretched / 2), len(signal), axis=1)
    return coefficients * _RECONSTRUCTION


def ridges(coefficients: Signal, scales: Signal) -> tuple[Frames, Signal]:
    """Return the lines of maximum amplitude: their frames, in order, and the sum of the coefficients along each.

    A line starts at a maximum of the first scale and follows the slope uphill to a maximum of the next scale. Where several lines
    meet, the strongest continues and the others end.
    """
    at = _maxima(coefficients[0])
    total = coefficients[0][at]
    path = at[:, None]
    ended: list[tuple[Frames, Signal]] = []
    for row, scale in zip(coefficients[1:], scales[1:], strict=True):
        tops = _maxima(row)
        if not len(at) or not len(tops):
            break
        top = _uphill(row, tops, at)
        near = np.abs(tops[top] - at) < _REACH * math.sqrt(scale)
        order = np.lexsort((total, top))
        strongest = order[np.append(np.diff(top[order]) > 0, True)]
        continues = np.zeros(len(at), dtype=bool)
        continues[strongest] = True
        continues &= near
        ended.append(_lines_of(path[~continues], total[~continues]))
        at = tops[top[continues]]
        total = total[continues] + row[at]
        path = np.column_stack([path[continues], at])
    ended.append(_lines_of(path, total))
    frames = np.concatenate([frame for frame, _ in ended])
    strengths = np.concatenate([strength for _, strength in ended])
    order = np.argsort(frames, kind="stable")
    return frames[order], strengths[order]


def _lines_of(path: Frames, total: Signal) -> tuple[Frames, Signal]:
    """Return the frame of each line at its middle scale, and its strength; none for lines of a single scale."""
    if path.shape[1] == 1:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    return path[:, (path.shape[1] - 1) // 2], total


def _maxima(row: Signal) -> Frames:
    return np.flatnonzero((row[1:-1] > row[:-2]) & (row[1:-1] >= row[2:])) + 1


def _uphill(row: Signal, tops: Frames, frames: Frames) -> Frames:
    """Return for each frame the index of the top that the slope leads up to."""
    right = np.searchsorted(tops, frames)
    rises = row[np.minimum(frames + 1, len(row) - 1)] > row[frames]
    at_top = tops[np.minimum(right, len(tops) - 1)] == frames
    return np.clip(np.where(rises | at_top, right, right - 1), 0, len(tops) - 1)
