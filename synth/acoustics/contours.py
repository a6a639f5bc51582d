"""How loud a voice is and how high, over time."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from synth.audio import pitch
from synth.base import Audio

Signal = NDArray[np.float64]

LOWEST_HZ = 60.0
LOWEST_RATE = 4000
DEEPEST_DB = 60.0
"""Energy this far below the loudest frame, or further, counts as this far below it."""

_BAND_HZ = (400.0, 4000.0)
_WINDOW_SECONDS = 0.025
_CHUNK_FRAMES = 4000
_MARGIN_FRAMES = 20
_SHORTEST_FRAMES = 4


class Contours(NamedTuple):
    """Frame k is centred on ``k * step`` seconds.

    Attributes:
        step: seconds from one frame to the next, about 5 ms.
        energy: of the band from 400 to 4000 Hz, in dB below the loudest frame, at most `DEEPEST_DB`; all 0 for silence.
        semitones: the fundamental frequency above 1 Hz; nan where there is no voice.
    """

    step: float
    energy: Signal
    semitones: Signal


def check(audio: Audio) -> None:
    """Refuse what cannot be measured.

    Raises:
        BadInput: no samples, not mono, samples that are no numbers, or a rate below `LOWEST_RATE`.
    """
    samples = audio.samples
    if samples.ndim != 1:
        raise BadInput(f"the audio has the shape {list(samples.shape)}; give one channel")
    if not len(samples):
        raise BadInput("the audio holds 0 samples; give a recording with sound in it")
    if audio.rate < LOWEST_RATE:
        raise BadInput(f"a rate of {audio.rate} Hz is too low for speech; give {LOWEST_RATE} Hz or more")
    broken = len(samples) - int(np.count_nonzero(np.isfinite(samples)))
    if broken:
        raise BadInput(f"{broken} of {len(samples)} samples are NaN or infinite; export the recording again")


def contours(audio: Audio) -> Contours:
    """Energy and pitch of ``audio``.

    Raises:
        BadInput: as `check`.
    """
    check(audio)
    power = _by_chunks(audio, _band_power)
    decibels = 10 * np.log10(np.maximum(power, 1e-30))
    energy = np.maximum(decibels - decibels.max(), -DEEPEST_DB) if power.any() else np.zeros(len(power))
    hertz = _by_chunks(audio, _pitch) if power.any() else np.full(len(power), np.nan)
    return Contours(pitch.hop(audio.rate) / audio.rate, energy, _without_specks(12 * np.log2(hertz)))


def _by_chunks(audio: Audio, function: Callable[[NDArray[np.float32], int], Signal]) -> Signal:
    """``function`` over the whole, a stretch at a time, so that memory stays small however long it is."""
    hop = pitch.hop(audio.rate)
    count = len(audio.samples) // hop + 1
    pieces = []
    for first in range(0, count, _CHUNK_FRAMES):
        before = min(first, _MARGIN_FRAMES)
        wanted = min(_CHUNK_FRAMES, count - first)
        stop = (first + wanted + _MARGIN_FRAMES) * hop
        pieces.append(function(audio.samples[(first - before) * hop : stop], audio.rate)[before : before + wanted])
    return np.concatenate(pieces)


def _band_power(samples: NDArray[np.float32], rate: int) -> Signal:
    hop, width = pitch.hop(rate), round(_WINDOW_SECONDS * rate)
    padded = np.pad(samples, (width // 2, width))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::hop][: len(samples) // hop + 1]
    size = 1 << (width - 1).bit_length()
    spectrum = np.fft.rfft(frames * np.hanning(width), size, axis=1)
    low, high = (round(edge * size / rate) for edge in _BAND_HZ)
    band = spectrum[:, low : high + 1]
    power: Signal = np.sum(band.real**2 + band.imag**2, axis=1)
    return power


def _pitch(samples: NDArray[np.float32], rate: int) -> Signal:
    return pitch.track(samples, rate, LOWEST_HZ)


def _without_specks(semitones: Signal) -> Signal:
    """Without the voiced runs that are too short to be a voice."""
    voiced = np.concatenate([[False], ~np.isnan(semitones), [False]])
    edges = np.flatnonzero(np.diff(voiced.astype(np.int8)))
    kept = semitones.copy()
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start < _SHORTEST_FRAMES:
            kept[start:end] = np.nan
    return kept
