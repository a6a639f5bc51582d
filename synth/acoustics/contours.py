"""Energy and fundamental frequency of speech over time."""

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
"""Energy is clipped at this far below the loudest frame."""

_BAND_HZ = (400.0, 4000.0)
_WINDOW_SECONDS = 0.025
_CHUNK_FRAMES = 4000
_MARGIN_FRAMES = 20  # computed on either side of a chunk and discarded
_SHORTEST_FRAMES = 4  # shorter voiced runs are removed

# Octave jumps of the pitch tracker
_JUMP = 3.5  # semitones from one frame to the next; no voice changes so fast
_GAP_FRAMES = 3
_SHORT_FRAMES = 12
_REACH_FRAMES = 20  # voiced frames on either side, whose median is the voice's level
_STRAY, _ODD = 4.5, 7.0  # semitones from that level: a short run or a single frame further away is an error


class Contours(NamedTuple):
    """Energy and pitch of a recording; frame k is centred on ``k * step`` seconds.

    Attributes:
        step: seconds from one frame to the next, about 5 ms.
        energy: shape [frames], of the band from 400 to 4000 Hz, in dB relative to the loudest frame (0 to -`DEEPEST_DB`); all 0
            for silence.
        semitones: shape [frames], the fundamental frequency in semitones above 1 Hz; nan where there is no voice.
    """

    step: float
    energy: Signal
    semitones: Signal


def check(audio: Audio) -> None:
    """Refuse audio that cannot be measured.

    Raises:
        BadInput: no samples, not mono, NaN or infinity, or a rate below `LOWEST_RATE`.
    """
    samples = audio.samples
    if samples.ndim != 1:
        raise BadInput(f"the audio has the shape {list(samples.shape)}; give one channel")
    if not len(samples):
        raise BadInput("the audio has 0 samples; give a recording")
    if audio.rate < LOWEST_RATE:
        raise BadInput(f"a rate of {audio.rate} Hz is too low for speech; give {LOWEST_RATE} Hz or more")
    broken = len(samples) - int(np.count_nonzero(np.isfinite(samples)))
    if broken:
        raise BadInput(f"{broken} of {len(samples)} samples are NaN or infinite; export the recording again")


def measure_contours(audio: Audio) -> Contours:
    """Return energy and pitch of ``audio``.

    Raises:
        BadInput: as for `check`.
    """
    check(audio)
    power = _by_chunks(audio, _band_power)
    decibels = 10 * np.log10(np.maximum(power, 1e-30))
    energy = np.maximum(decibels - decibels.max(), -DEEPEST_DB) if power.any() else np.zeros(len(power))
    hertz = _by_chunks(audio, _pitch) if power.any() else np.full(len(power), np.nan)
    return Contours(pitch.hop(audio.rate) / audio.rate, energy, _without_short_runs(12 * np.log2(hertz)))


def without_octave_jumps(semitones: Signal) -> Signal:
    """Return ``semitones`` with nan where the pitch tracker most likely jumped to a harmonic and back."""
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


def interpolated(semitones: Signal) -> Signal:
    """Return the pitch with straight lines across frames without voice; zeros if no frame is voiced."""
    voiced = np.flatnonzero(~np.isnan(semitones))
    return np.interp(np.arange(len(semitones)), voiced, semitones[voiced]) if len(voiced) else np.zeros(len(semitones))


def _by_chunks(audio: Audio, function: Callable[[NDArray[np.float32], int], Signal]) -> Signal:
    """Apply ``function`` chunk by chunk, so that memory stays bounded for recordings of any length."""
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


def _without_short_runs(semitones: Signal) -> Signal:
    """Return ``semitones`` with nan in voiced runs that are too short to be speech."""
    voiced = np.concatenate([[False], ~np.isnan(semitones), [False]])
    edges = np.flatnonzero(np.diff(voiced.astype(np.int8)))
    kept = semitones.copy()
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start < _SHORTEST_FRAMES:
            kept[start:end] = np.nan
    return kept
