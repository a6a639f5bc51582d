"""The sound of the room in a recording: what a pause is filled with, so that it does not sound as if the recording had stopped."""

import numpy as np
from numpy.typing import NDArray

from synth.audio.signal import FRAME_SECONDS

Samples = NDArray[np.float32]

_FRAME_SECONDS = 0.020
_QUIETEST = 0.05  # of all frames, where none is silent
_HEADROOM_DB = 6.0  # under the level of silence, for the loudest 10 ms of the tone
_SEED = 0


def room_tone(samples: Samples, rate: int, level: float, length: int) -> Samples:
    """``length`` samples that sound like the quiet parts of ``samples``: noise of their mean spectrum and power.

    No 10 ms of it are louder than 6 dB under ``level``, the RMS below which sound is silence; where the room is louder than
    that, the tone is softer than the room. Digital silence where the quiet parts are. The same input is the same tone.
    """
    spectrum = _quiet_spectrum(samples, rate, level)
    if not length or not spectrum.any():
        return np.zeros(length, dtype=np.float32)
    size = 1 << (length - 1).bit_length()
    noise = np.random.default_rng(_SEED).standard_normal(size)
    bins = np.linspace(0.0, 1.0, size // 2 + 1)
    gains = np.interp(bins, np.linspace(0.0, 1.0, len(spectrum)), spectrum)
    tone = np.fft.irfft(np.fft.rfft(noise) * gains, size)[:length]
    allowed = level * 10 ** (-_HEADROOM_DB / 20)
    loudest = _loudest(tone, max(1, round(FRAME_SECONDS * rate)))
    shaped: Samples = (tone * min(1.0, allowed / max(loudest, 1e-12))).astype(np.float32)
    return shaped


def _quiet_spectrum(samples: Samples, rate: int, level: float) -> NDArray[np.float64]:
    """The amplitude by which to multiply the spectrum of white noise of power 1, at even steps from 0 Hz to half the rate."""
    width = max(2, 2 * round(_FRAME_SECONDS * rate / 2))
    count = len(samples) // width
    if not count:
        return np.zeros(2)
    frames = samples[: count * width].reshape(count, width)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    quiet = np.flatnonzero(power < level**2)
    if not len(quiet):
        quiet = np.argsort(power)[: max(1, round(_QUIETEST * count))]
    window = np.hanning(width)
    periodogram = np.abs(np.fft.rfft(frames[quiet] * window, axis=1)) ** 2 / np.sum(window**2)
    # The median: a click or the end of a word among the quiet frames is no part of the room.
    amplitude: NDArray[np.float64] = np.sqrt(np.median(periodogram, axis=0) / np.log(2))
    return amplitude


def _loudest(sound: NDArray[np.float64], width: int) -> float:
    """The greatest RMS of any ``width`` samples in a row."""
    energy = np.concatenate([[0.0], np.cumsum(sound**2)])
    width = min(width, len(sound))
    return float(np.sqrt(max(0.0, (energy[width:] - energy[:-width]).max()) / width))
