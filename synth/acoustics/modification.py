"""Changes of duration, energy and pitch over time: prediction of the resulting contours, and application to the audio."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from synth.acoustics.contours import DEEPEST_DB, Contours
from synth.audio.psola import modify_curves
from synth.base import Audio, WordTime

Signal = NDArray[np.float64]

_NOTHING = 1e-6  # smaller changes count as none
_JOINED_FRAMES = 20  # changes with fewer unchanged frames between them are applied as one region
_CEILING = 0.985  # peak amplitude after limiting
_BLOCK_SECONDS = 0.005
_LIMITED_BLOCKS = 6  # on either side of a peak, over which the limiter fades in and out


@dataclass(frozen=True, slots=True, eq=False)
class Modification:
    """The change in each frame of `Contours`, as arrays of shape [frames].

    Attributes:
        stretch: natural logarithm of the duration factor.
        gain: dB.
        semitones: change of the pitch.
    """

    stretch: Signal
    gain: Signal
    semitones: Signal

    @classmethod
    def none(cls, frames: int) -> "Modification":
        """Return a modification of that many frames that changes nothing."""
        return cls(np.zeros(frames), np.zeros(frames), np.zeros(frames))

    def __add__(self, other: "Modification") -> "Modification":
        return Modification(self.stretch + other.stretch, self.gain + other.gain, self.semitones + other.semitones)

    def changed(self) -> NDArray[np.bool_]:
        """Return a mask of the frames that change."""
        changed: NDArray[np.bool_] = np.abs([self.stretch, self.gain, self.semitones]).max(axis=0) > _NOTHING
        return changed


def predict(contours: Contours, change: Modification, words: Sequence[WordTime]) -> tuple[Contours, list[WordTime]]:
    """Return the contours and word times that ``change`` will lead to, without changing any audio."""
    count = len(contours.energy)
    warp = np.concatenate([[0.0], np.cumsum(np.exp(change.stretch))])
    old = np.interp(np.arange(round(warp[-1])), warp, np.arange(count + 1.0))
    frames = np.minimum(np.round(old).astype(np.int64), count - 1)
    energy = np.asarray((contours.energy + change.gain)[frames])
    semitones = (contours.semitones + change.semitones)[frames]
    predicted = Contours(contours.step, np.maximum(energy - energy.max(), -DEEPEST_DB), semitones)
    return predicted, _warped(words, np.arange(count + 1.0) * contours.step, np.asarray(warp * contours.step))


def modify(audio: Audio, contours: Contours, change: Modification, words: Sequence[WordTime]) -> tuple[Audio, list[WordTime]]:
    """Apply ``change`` to ``audio`` and return it with the words at their new times.

    Samples outside the changed regions stay identical. The result never clips: peaks are limited.
    """
    rate, samples = audio.rate, audio.samples
    hop = contours.step * rate
    hertz = 2 ** (contours.semitones / 12)
    pieces: list[NDArray[np.float32]] = []
    old, new = [np.zeros(1)], [np.zeros(1)]
    position = length = 0
    for first, last in _regions(change):
        start, end = round(first * hop), min(len(samples), round(last * hop))
        if end <= start:
            continue
        frames = np.arange(start, end) / hop
        stretch, gain, semitones = (_at(frames, curve) for curve in (change.stretch, change.gain, change.semitones))
        piece, warp = modify_curves(samples, rate, start, np.exp(stretch), semitones, hertz)
        gains = np.interp(np.arange(len(piece)), warp, np.append(gain, gain[-1]))
        pieces += [samples[position:start], _limited(piece * 10 ** (gains / 20), rate).astype(np.float32)]
        length += start - position
        old.append(np.arange(start, end + 1.0))
        new.append(length + warp)
        length += len(piece)
        position = end
    pieces.append(samples[position:])
    old.append(np.array([float(len(samples))]))
    new.append(np.array([float(length + len(samples) - position)]))
    times = _warped(words, np.concatenate(old) / rate, np.concatenate(new) / rate)
    return Audio(np.concatenate(pieces), rate), times


def _regions(change: Modification) -> list[tuple[int, int]]:
    """Return the stretches of frames that change, with neighbouring ones joined."""
    changed = np.flatnonzero(change.changed())
    groups = np.split(changed, np.flatnonzero(np.diff(changed) > _JOINED_FRAMES) + 1)
    # A change fades in from the frame before its first and out until the frame after its last.
    return [(max(0, int(group[0]) - 1), int(group[-1]) + 1) for group in groups if len(group)]


def _at(frames: Signal, curve: Signal) -> Signal:
    return np.interp(frames, np.arange(len(curve)), curve)


def _warped(words: Sequence[WordTime], old: Signal, new: Signal) -> list[WordTime]:
    starts = np.interp([word.start for word in words], old, new).tolist()
    ends = np.interp([word.end for word in words], old, new).tolist()
    return [replace(word, start=start, end=end) for word, start, end in zip(words, starts, ends, strict=True)]


def _limited(sound: Signal, rate: int) -> Signal:
    """Turn ``sound`` down smoothly around the peaks where it would clip."""
    width = max(1, round(_BLOCK_SECONDS * rate))
    count = -(-len(sound) // width)
    peaks = np.abs(np.pad(sound, (0, count * width - len(sound)))).reshape(count, width).max(axis=1)
    gain = np.minimum(1.0, _CEILING / np.maximum(peaks, _CEILING))
    if gain.min() == 1.0:
        return sound
    reach = _LIMITED_BLOCKS
    least = np.lib.stride_tricks.sliding_window_view(np.pad(gain, 2 * reach, mode="edge"), 2 * reach + 1).min(axis=1)
    window = np.hanning(2 * reach + 3)[1:-1]
    smooth = np.convolve(least, window / window.sum(), "valid")
    limited: Signal = sound * np.interp(np.arange(len(sound)), (np.arange(count) + 0.5) * width, smooth)
    return limited
