"""The continuous wavelet transform of a signal with the Mexican hat, and the ridges in it.

C. Torrence and G. P. Compo, "A practical guide to wavelet analysis", Bulletin of the American Meteorological Society 79 (1998),
scaled as in their equation 11, so that the scales add up to the signal.
"""

import math

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]
Places = NDArray[np.int64]

SCALES_PER_OCTAVE = 4
_RECONSTRUCTION = math.sqrt(2 * math.pi / math.gamma(2.5)) / (SCALES_PER_OCTAVE * 3.541 * 0.867)
_REACH = 4.0  # how far a ridge may move from one scale to the next, in frames, times the square root of the scale


def scale_of(length: float) -> float:
    """The scale whose positive lobe, half a period of its wavelet, is ``length`` long."""
    return length * math.sqrt(2.5) / math.pi


def transform(signal: Signal, scales: Signal) -> Signal:
    """The coefficients of ``signal``, shape [n], at ``scales`` in frames: shape [len(scales), n].

    The signal counts as going round in a ring; pad it.
    """
    angular = 2 * math.pi * np.fft.rfftfreq(len(signal))
    stretched = (scales[:, None] * angular) ** 2
    coefficients: Signal = np.fft.irfft(np.fft.rfft(signal) * stretched * np.exp(-stretched / 2), len(signal), axis=1)
    return coefficients * _RECONSTRUCTION


def ridges(coefficients: Signal, scales: Signal) -> tuple[Places, Signal]:
    """The lines of maximum amplitude: where each lies, in frames and in order, and the sum of the coefficients along it.

    A line starts at a maximum of the first scale and climbs, scale by scale, to the maximum uphill from it. Where several meet,
    the strongest goes on and the others end.
    """
    at = _maxima(coefficients[0])
    total = coefficients[0][at]
    path = at[:, None]
    found: list[tuple[Places, Signal]] = []
    for row, scale in zip(coefficients[1:], scales[1:], strict=True):
        tops = _maxima(row)
        if not len(at) or not len(tops):
            break
        top = _uphill(row, tops, at)
        near = np.abs(tops[top] - at) < _REACH * math.sqrt(scale)
        order = np.lexsort((total, top))
        strongest = order[np.append(np.diff(top[order]) > 0, True)]
        goes_on = np.zeros(len(at), dtype=bool)
        goes_on[strongest] = True
        goes_on &= near
        found.append(_ended(path[~goes_on], total[~goes_on]))
        at = tops[top[goes_on]]
        total = total[goes_on] + row[at]
        path = np.column_stack([path[goes_on], at])
    found.append(_ended(path, total))
    places = np.concatenate([place for place, _ in found])
    strengths = np.concatenate([strength for _, strength in found])
    order = np.argsort(places, kind="stable")
    return places[order], strengths[order]


def _ended(path: Places, total: Signal) -> tuple[Places, Signal]:
    """Lines that end: each lies where its middle scale has it. One that left its first scale never is none."""
    if path.shape[1] == 1:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    return path[:, (path.shape[1] - 1) // 2], total


def _maxima(row: Signal) -> Places:
    return np.flatnonzero((row[1:-1] > row[:-2]) & (row[1:-1] >= row[2:])) + 1


def _uphill(row: Signal, tops: Places, places: Places) -> Places:
    """For each place the index of the top that the slope leads to."""
    right = np.searchsorted(tops, places)
    rises = row[np.minimum(places + 1, len(row) - 1)] > row[places]
    at_top = tops[np.minimum(right, len(tops) - 1)] == places
    return np.clip(np.where(rises | at_top, right, right - 1), 0, len(tops) - 1)
