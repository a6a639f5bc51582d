"""Operations on samples: silence level and edges, concatenation, resampling."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from synth.base import Audio

Samples = NDArray[np.float32]
"""Mono samples, shape [n], in [-1, 1]."""

NO_SAMPLES: Samples = np.zeros(0, dtype=np.float32)

FRAME_SECONDS = 0.010
SILENCE_DB = 40.0
"""A frame this far below the loud parts of a recording counts as silence."""
FADE_SECONDS = 0.002


def silence_level(audio: Audio) -> float:
    """Return the RMS below which a 10 ms frame of ``audio`` counts as silence: 40 dB under the 95th percentile of its frames."""
    frame = _frame(audio.rate)
    usable = len(audio.samples) // frame * frame
    if not usable:
        return 0.0
    rms = np.sqrt(np.mean(audio.samples[:usable].reshape(-1, frame).astype(np.float64) ** 2, axis=1))
    return float(np.percentile(rms, 95) * 10 ** (-SILENCE_DB / 20))


def quiet_edges(audio: Audio, level: float) -> tuple[int, int]:
    """Return the number of silent samples at the start and at the end: those in 10 ms windows whose RMS is below ``level``.

    Windows that extend past an edge are padded with zeros, as if silence were appended. If all is silent, the result is ``(n, 0)``.
    """
    frame = _frame(audio.rate)
    padded = np.concatenate([np.zeros(frame), audio.samples.astype(np.float64) ** 2, np.zeros(frame)])
    energy = np.concatenate([[0.0], np.cumsum(padded)])
    loud = np.flatnonzero(energy[frame:] - energy[:-frame] > level**2 * frame)
    if not len(loud):
        return len(audio.samples), 0
    # The last silent window ends one sample before the first loud window does; likewise at the end.
    lead = int(loud[0]) + frame - 1 - frame
    tail = len(audio.samples) - (int(loud[-1]) + 1 - frame)
    return max(0, min(lead, len(audio.samples))), max(0, min(tail, len(audio.samples)))


def silence(samples: int, rate: int) -> Audio:
    """Return that many samples of digital silence at ``rate`` Hz."""
    return Audio(np.zeros(samples, dtype=np.float32), rate)


def concatenate(parts: Sequence[Audio], rate: int) -> Audio:
    """Return the parts joined one after another; each must have the sample rate ``rate``."""
    return Audio(np.concatenate([NO_SAMPLES, *(part.samples for part in parts)]), rate)


def resample(audio: Audio, rate: int) -> Audio:
    """Return ``audio`` resampled to ``rate`` Hz in high quality, or ``audio`` itself if it has that rate."""
    if audio.rate == rate or not len(audio.samples):
        return audio if audio.rate == rate else silence(0, rate)
    import soxr

    samples: Samples = soxr.resample(audio.samples, audio.rate, rate, quality="HQ")
    return Audio(samples, rate)


def _frame(rate: int) -> int:
    return max(1, round(FRAME_SECONDS * rate))
