"""Speaker-independent features of speech: mel-frequency cepstra and their deltas, with a hop of 5 ms.

S. Davis and P. Mermelstein, "Comparison of parametric representations for monosyllabic word recognition", IEEE Trans. ASSP 28
(1980); deltas after S. Furui, "Speaker-independent isolated word recognition using dynamic features of speech spectrum", IEEE
Trans. ASSP 34 (1986). Normalising mean and variance removes most of the effect of the speaker, the microphone and the loudness.
Of two recordings that are compared, the noise of one is added to the other, instead of being removed from the first: M. Gales and
S. Young, "Robust continuous speech recognition using parallel model combination", IEEE Trans. Speech and Audio Processing 4 (1996).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synth.base import Audio

Values = NDArray[np.float32]

HOP_SECONDS = 0.005

_WINDOW_SECONDS = 0.025
_BANDS = 26
_LOWEST_HZ, _HIGHEST_HZ = 80.0, 7600.0
_FLOOR = np.float32(1e-4)  # of a band's energy, as a share of its loud frames
_QUIETEST_DB = -45.0
_SPEECH_DB = -30.0  # frames louder than this define mean and variance
_REACH = 3  # frames on either side of a delta
_CHUNK = 2000  # frames per FFT batch

# The weight of each feature is r / sqrt(1 - r²), where r is the correlation of two voices that say the same text, measured on
# neural speech against formant synthesis. The cepstra start at the first; the zeroth, the level, is a feature of its own.
_CEPSTRA = np.array([1.15, 0.46, 0.55, 0.25, 0.06, 0.09], np.float32)
_CEPSTRA_SLOPES = np.array([0.70, 0.22, 0.35, 0.18, 0.09, 0.05], np.float32)
_LEVEL, _LEVEL_SLOPE = np.float32(0.08), np.float32(0.65)

# A clip may be nearly all silence, so the percentile of loud frames is taken over frames with at least this share of the maximum.
_AUDIBLE = 1e-5
_RECORDED = 1e-7  # frames below this share of the maximum are digital silence, which does not show a recording's noise
_LOUD_PERCENTILE = 93
_NOISE_PERCENTILE = 5


class Features(NamedTuple):
    """The features of a clip; frame k is centred on second ``k * HOP_SECONDS``.

    Attributes:
        values: float32 of shape [frames, features]; the Euclidean distance of two rows measures how different they sound.
        level: float32 of shape [frames], dB relative to the clip's loud frames; -120 for digital silence.
    """

    values: Values
    level: Values


def highest_hz(rate: int) -> float:
    """Return the highest frequency, in Hz, that is analysed at a sample rate."""
    return min(_HIGHEST_HZ, 0.475 * rate)


def band_energies(audio: Audio, top_hz: float) -> Values:
    """Return the energy of each mel band up to ``top_hz``, float32 of shape [frames, bands]: the input of `features`."""
    width = round(_WINDOW_SECONDS * audio.rate)
    size = 1 << (width - 1).bit_length()
    starts = np.round(np.arange(int(audio.seconds / HOP_SECONDS) + 1) * (HOP_SECONDS * audio.rate)).astype(np.int64) - width // 2
    window, filters = np.hanning(width).astype(np.float32), _filters(size, audio.rate, top_hz)
    found = np.empty((len(starts), _BANDS), np.float32)
    for first in range(0, len(starts), _CHUNK):
        chunk = starts[first : first + _CHUNK]
        low, high = int(chunk[0]), int(chunk[-1]) + width
        inside = audio.samples[max(0, low) : high]
        padded = np.pad(inside, (max(0, -low), max(0, high - max(0, low) - len(inside))))
        frames = np.lib.stride_tricks.sliding_window_view(padded, width)[chunk - low]
        spectrum = np.fft.rfft(frames * window, size, axis=1)
        found[first : first + _CHUNK] = (spectrum.real**2 + spectrum.imag**2) @ filters
    return found


def noise_level(bands: Values) -> Values:
    """Return the steady noise in each band of `band_energies`, shape [bands], as a share of the band's loud frames."""
    total = bands.sum(axis=1)
    recorded = bands[total >= _RECORDED * total.max()]
    found: Values = (np.percentile(recorded, _NOISE_PERCENTILE, axis=0) / _loud(bands)).astype(np.float32)
    return found


def features(bands: Values, added: Values | float = 0.0) -> Features:
    """Return the features of a clip from its `band_energies`, with noise ``added`` as `noise_level` returns it."""
    loud = _loud(bands)
    relative: Values = bands / loud + np.asarray(added, np.float32)
    level = _level(relative @ loud)
    speech = level > _SPEECH_DB
    if not speech.any():
        speech[:] = True
    cepstra = np.log(relative + _FLOOR) @ _cosines()
    height = np.maximum(level, _QUIETEST_DB)[:, None]
    parts = (
        _standard(cepstra, speech) * _CEPSTRA,
        _standard(_slope(cepstra), speech) * _CEPSTRA_SLOPES,
        (height - height[speech].mean()) * _LEVEL,
        _standard(_slope(height), speech) * _LEVEL_SLOPE,
    )
    return Features(np.concatenate(parts, axis=1), level)


def _level(total: Values) -> Values:
    """Return the level of each frame in dB, relative to the loud frames."""
    most = float(total.max())
    loud = float(np.percentile(total[total >= _AUDIBLE * most], _LOUD_PERCENTILE)) or 1.0
    level: Values = (10 * np.log10(total / np.float32(loud) + np.float32(1e-12))).astype(np.float32)
    return level


def _loud(bands: Values) -> Values:
    """Return the energy of the loud frames in each band, shape [bands]; it is never 0."""
    total = bands.sum(axis=1)
    most = float(total.max()) or 1.0
    loud: Values = np.percentile(bands[total >= _AUDIBLE * total.max()], _LOUD_PERCENTILE, axis=0).astype(np.float32)
    return loud + np.float32(most * 1e-9)


def _mel(hertz: float) -> float:
    return float(1127 * np.log1p(hertz / 700))


def _filters(size: int, rate: int, top_hz: float) -> Values:
    """Return triangular filters evenly spaced in mel, shape [size // 2 + 1, bands]."""
    edges = 700 * np.expm1(np.linspace(_mel(_LOWEST_HZ), _mel(top_hz), _BANDS + 2) / 1127)
    bins = np.arange(size // 2 + 1)[:, None] * (rate / size)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters: Values = np.clip(np.minimum(rising, falling), 0.0, None).astype(np.float32)
    return filters


def _cosines() -> Values:
    """Return the matrix of the discrete cosine transform from bands to cepstra."""
    angles = np.pi * np.outer(np.arange(_BANDS) + 0.5, np.arange(1, len(_CEPSTRA) + 1)) / _BANDS
    return np.cos(angles).astype(np.float32)


def _slope(values: Values) -> Values:
    """Return the deltas: the trend over `_REACH` frames on either side."""
    count = len(values)
    padded = np.pad(values, ((_REACH, _REACH), (0, 0)), "edge")
    slope = np.zeros_like(values)
    for reach in range(1, _REACH + 1):
        slope += np.float32(reach) * (padded[_REACH + reach :][:count] - padded[_REACH - reach :][:count])
    return slope


def _standard(values: Values, speech: NDArray[np.bool_]) -> Values:
    """Normalise ``values`` to mean 0 and variance 1 over the frames of ``speech``."""
    chosen = values[speech]
    standard: Values = (values - chosen.mean(axis=0)) / (chosen.std(axis=0) + np.float32(1e-3))
    return standard
