"""Tracks the fundamental frequency (F0) of a voice by autocorrelation.

P. Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled sound", Proc.
Institute of Phonetic Sciences 17 (1993): the autocorrelation of a windowed frame, divided by that of the window. Instead of
Boersma's Viterbi path through the candidates, only candidates near the median F0 of the voice are kept.
"""

import numpy as np
from numpy.typing import NDArray

Track = NDArray[np.float64]

LOWEST_HZ = 50.0
_RANGE_OCTAVES = 3.0
_WINDOW_PERIODS = 2.75  # length of the window, in periods of the lowest F0
_HOP_SECONDS = 0.005
_MIN_CORRELATION = 0.4  # autocorrelation above which a frame is voiced; 1 for a perfectly periodic signal
_MIN_ENERGY_DB = -35.0  # relative to the loudest frame
_OCTAVE_COST = 0.1  # per octave; favours the shortest period, because two periods correlate as well as one
_MAX_DEVIATION_OCTAVES = 0.85  # from the median F0


def hop(rate: int) -> int:
    """Return the number of samples between frames of `track`: 5 ms, rounded to an even number."""
    return 2 * round(_HOP_SECONDS * rate / 2)


def track(samples: NDArray[np.float32], rate: int, lowest: float = LOWEST_HZ) -> Track:
    """Return the F0 of every frame in Hz, shape [n // hop + 1], NaN where there is no voice.

    Frame k is centred on sample ``k * hop(rate)``.

    Args:
        samples: float32 of shape [n].
        rate: sample rate, Hz.
        lowest: lowest F0 to find, Hz; the highest is three octaves above. The window is 2.75 periods of it long, so a value just
            below the voice's range gives the best time resolution.
    """
    found = np.full(len(samples) // hop(rate) + 1, np.nan)
    half = rate / 2  # enough for a voice, at half the work
    frames = _frames(samples, hop(rate) // 2, round(_WINDOW_PERIODS * half / lowest), len(found))
    energy = np.mean(frames**2, axis=1)
    longest = int(half / lowest)
    lags = np.arange(int(longest / 2**_RANGE_OCTAVES), longest)
    window = np.hanning(frames.shape[1])
    correlation = _autocorrelation(frames * window, longest + 1) / _autocorrelation(window[None], longest + 1)
    scores = correlation[:, lags] - _OCTAVE_COST * np.log2(lags / lags[0])
    scores[energy <= energy.max() * 10 ** (_MIN_ENERGY_DB / 10)] = -np.inf
    scores[:, 1:-1][(scores[:, 1:-1] < scores[:, :-2]) | (scores[:, 1:-1] <= scores[:, 2:])] = -np.inf
    scores[:, [0, -1]] = -np.inf
    rows, best = _best(scores, correlation, lags)
    if not len(rows):
        return found
    # A voice stays near its median F0, taken from the most periodic frames. Candidates far from it are harmonics or noise.
    periodicity = correlation[rows, best]
    median = np.median(best[periodicity >= np.median(periodicity)])
    scores[:, np.abs(np.log2(lags / median)) > _MAX_DEVIATION_OCTAVES] = -np.inf
    rows, best = _best(scores, correlation, lags)
    before, at, after = (correlation[rows, best + shift] for shift in (-1, 0, 1))
    bend = np.minimum(before - 2 * at + after, -1e-12)
    found[rows] = half / (best + np.clip((before - after) / (2 * bend), -0.5, 0.5))
    return found


def _frames(samples: NDArray[np.float32], step: int, width: int, count: int) -> Track:
    """Return ``count`` frames at half the sample rate, with their means subtracted."""
    halved = samples[: len(samples) // 2 * 2].reshape(-1, 2).mean(axis=1, dtype=np.float64)
    padded = np.pad(halved, (width // 2, width + step))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::step][:count]
    centred: Track = frames - frames.mean(axis=1, keepdims=True)
    return centred


def _best(scores: Track, correlation: Track, lags: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the voiced frames, and the lag of the best score in each."""
    best = scores.argmax(axis=1)
    rows = np.arange(len(scores))
    voiced = np.flatnonzero(np.isfinite(scores[rows, best]) & (correlation[rows, lags[best]] > _MIN_CORRELATION))
    return voiced, lags[best[voiced]]


def _autocorrelation(frames: Track, lags: int) -> Track:
    """Return the autocorrelation of every row at lags 0 to ``lags - 1``, normalised to 1 at lag 0."""
    size = 1 << (frames.shape[1] + lags - 1).bit_length()
    power = np.abs(np.fft.rfft(frames, size, axis=1)) ** 2
    found: Track = np.fft.irfft(power, size, axis=1)[:, :lags]
    normalised: Track = found / np.maximum(found[:, :1], 1e-12)
    return normalised
