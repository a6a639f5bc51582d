"""The pitch of a voice without what is most likely an error of the tracker."""

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]

_JUMP = 3.5  # semitones from one frame to the next, which no voice makes
_GAP_FRAMES = 3
_SHORT_FRAMES = 12
_REACH_FRAMES = 20  # voiced ones to either side, whose median is the voice's
_STRAY, _ODD = 4.5, 7.0  # semitones from there, of a short run and of any frame


def steady(semitones: Signal) -> Signal:
    """``semitones``, nan where there is no voice, with nan as well where they leap to a harmonic and back."""
    voiced = np.flatnonzero(~np.isnan(semitones))
    kept = semitones.copy()
    if not len(voiced):
        return kept
    values = semitones[voiced]
    padded = np.pad(values, _REACH_FRAMES, mode="edge")
    middle = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * _REACH_FRAMES + 1), axis=1)
    wrong = np.abs(values - middle) > _ODD
    ends = np.flatnonzero((np.abs(np.diff(values)) > _JUMP) | (np.diff(voiced) > _GAP_FRAMES + 1)) + 1
    for run in np.split(np.arange(len(values)), ends):
        if len(run) < _SHORT_FRAMES and abs(np.median(values[run]) - np.median(middle[run])) > _STRAY:
            wrong[run] = True
    kept[voiced[wrong]] = np.nan
    return kept
