"""Sound as samples: levels, silence, joining and resampling."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from synth.base import Audio

FRAME_SECONDS = 0.010
SILENCE_DB = 40.0
FADE_SECONDS = 0.002


def silence_level(audio: Audio) -> float:
    """The RMS below which a 10 ms frame of ``audio`` counts as silence: 40 dB under the 95th percentile of its frames."""
    frame = _frame(audio.rate)
    usable = len(audio.samples) // frame * frame
    if not usable:
        return 0.0
    rms = np.sqrt(np.mean(audio.samples[:usable].reshape(-1, frame).astype(np.float64) ** 2, axis=1))
    return float(np.percentile(rms, 95) * 10 ** (-SILENCE_DB / 20))


def quiet_edges(audio: Audio, level: float) -> tuple[int, int]:
    """Samples of silence at the start and at the end: what lies in 10 ms windows whose RMS is below ``level``.

    Windows that reach past an edge see zeros there, as they will once silence stands beside it. All silence: ``(n, 0)``.
    """
    frame = _frame(audio.rate)
    padded = np.concatenate([np.zeros(frame), audio.samples.astype(np.float64) ** 2, np.zeros(frame)])
    energy = np.concatenate([[0.0], np.cumsum(padded)])
    loud = np.flatnonzero(energy[frame:] - energy[:-frame] > level**2 * frame)
    if not len(loud):
        return len(audio.samples), 0
    # The last silent window before the first loud one ends one sample before it does; likewise at the end.
    lead = int(loud[0]) + frame - 1 - frame
    tail = len(audio.samples) - (int(loud[-1]) + 1 - frame)
    return max(0, min(lead, len(audio.samples))), max(0, min(tail, len(audio.samples)))


def silence(samples: int, rate: int) -> Audio:
    return Audio(np.zeros(samples, dtype=np.float32), rate)


def concatenate(parts: Sequence[Audio], rate: int) -> Audio:
    """All parts in a row; they must have the rate given."""
    return Audio(np.concatenate([np.zeros(0, dtype=np.float32), *(part.samples for part in parts)]), rate)


def resample(audio: Audio, rate: int) -> Audio:
    """``audio`` at another rate, in high quality; itself if it has that rate already."""
    if audio.rate == rate or not len(audio.samples):
        return audio if audio.rate == rate else silence(0, rate)
    import soxr

    samples: NDArray[np.float32] = soxr.resample(audio.samples, audio.rate, rate, quality="HQ")
    return Audio(samples, rate)


def _frame(rate: int) -> int:
    return max(1, round(FRAME_SECONDS * rate))
