"""The fundamental frequency of a voice, by autocorrelation.

P. Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled sound", Proc.
Institute of Phonetic Sciences 17 (1993): the autocorrelation of a windowed frame, divided by that of the window. In place of his
path through the candidates, those count that lie near the middle of the voice.
"""

import numpy as np
from numpy.typing import NDArray

Track = NDArray[np.float64]

LOWEST_HZ = 50.0
_RANGE_OCTAVES = 3.0
_WINDOW_PERIODS = 2.75  # of the lowest pitch
_HOP_SECONDS = 0.005
_VOICED = 0.4  # of 1, the autocorrelation of what repeats without change
_QUIETEST_DB = -35.0  # below the loudest frame
_OCTAVE_COST = 0.1  # without a preference for short periods, two are as good as one
_REACH_OCTAVES = 0.85


def hop(rate: int) -> int:
    """Samples from one frame of `track` to the next: 5 ms, an even number."""
    return 2 * round(_HOP_SECONDS * rate / 2)


def track(samples: NDArray[np.float32], rate: int, lowest: float = LOWEST_HZ) -> Track:
    """The fundamental frequency in Hz of every frame, shape [n // hop + 1], nan where there is no voice.

    Frame k is centred on sample ``k * hop``, with ``hop(rate)``. What is sought lies between ``lowest`` Hz and three octaves above;
    the window is two or three periods of the lowest long, so a value near the voice's own finds more.
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
    scores[energy <= energy.max() * 10 ** (_QUIETEST_DB / 10)] = -np.inf
    scores[:, 1:-1][(scores[:, 1:-1] < scores[:, :-2]) | (scores[:, 1:-1] <= scores[:, 2:])] = -np.inf
    scores[:, [0, -1]] = -np.inf
    rows, best = _best(scores, correlation, lags)
    if not len(rows):
        return found
    # A voice stays around its middle, which its clearest frames tell. What seems to leave it is a harmonic, or noise.
    clearness = correlation[rows, best]
    middle = np.median(best[clearness >= np.median(clearness)])
    scores[:, np.abs(np.log2(lags / middle)) > _REACH_OCTAVES] = -np.inf
    rows, best = _best(scores, correlation, lags)
    before, at, after = (correlation[rows, best + shift] for shift in (-1, 0, 1))
    bend = np.minimum(before - 2 * at + after, -1e-12)
    found[rows] = half / (best + np.clip((before - after) / (2 * bend), -0.5, 0.5))
    return found


def _frames(samples: NDArray[np.float32], step: int, width: int, count: int) -> Track:
    """``count`` frames of half the rate, without their means."""
    halved = samples[: len(samples) // 2 * 2].reshape(-1, 2).mean(axis=1, dtype=np.float64)
    padded = np.pad(halved, (width // 2, width + step))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::step][:count]
    centred: Track = frames - frames.mean(axis=1, keepdims=True)
    return centred


def _best(scores: Track, correlation: Track, lags: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The frames with a voice, and in each the lag of the best score."""
    place = scores.argmax(axis=1)
    rows = np.arange(len(scores))
    voiced = np.flatnonzero(np.isfinite(scores[rows, place]) & (correlation[rows, lags[place]] > _VOICED))
    return voiced, lags[place[voiced]]


def _autocorrelation(frames: Track, lags: int) -> Track:
    """Of every row, at lags from 0 on, with 1 at lag 0."""
    size = 1 << (frames.shape[1] + lags - 1).bit_length()
    power = np.abs(np.fft.rfft(frames, size, axis=1)) ** 2
    found: Track = np.fft.irfft(power, size, axis=1)[:, :lags]
    normalised: Track = found / np.maximum(found[:, :1], 1e-12)
    return normalised
