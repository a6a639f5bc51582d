"""Changes pitch, duration and loudness of recorded words by pitch-synchronous overlap-add (PSOLA).

E. Moulines and F. Charpentier, "Pitch-synchronous waveform processing techniques for text-to-speech synthesis using diphones",
Speech Communication 9 (1990). A word is split into grains, one a pitch period where it is voiced, and rebuilt with the grains
closer together or further apart, repeated or left out. The spectrum, and so the timbre of the voice, does not change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from synth.audio import pitch
from synth.audio.signal import Samples

Curve = NDArray[np.float64]
"""A value for every sample, shape [n]."""
SampleIndices = NDArray[np.int64]

PitchPoints = tuple[tuple[float, float], ...]
"""Pitch contour as points (position in the voiced part of a word, 0 to 1; semitones), interpolated linearly."""

_CONTEXT_SECONDS = 0.060  # audio on either side of an edit that pitch tracking sees
_CONTEXT_FRAMES = 12  # the same in frames of `pitch.track`
_NOISE_HOP_SECONDS = 0.005  # spacing of grains in unvoiced speech
_RAMP_SECONDS = 0.015  # fade of a gain change at the edges of an edit
_PEAK = 0.99  # highest amplitude after a gain
_CONSONANT_STRETCH = 0.4  # lengthening of unvoiced speech relative to voiced speech: speakers mostly lengthen vowels
_SEARCH = 0.15  # search range for the next pulse, as a fraction of a period
_MIN_PULSES = 3  # of a voiced run; shorter runs are treated as unvoiced
_BRIDGED_FRAMES = 3  # longest gap within a voiced run, where the pitch changes too fast to be tracked


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of the samples ``[start, end)``.

    Attributes:
        stretch: factor of the duration.
        gain_db: change of the level, dB.
        semitones: change of the pitch over the voiced part.
    """

    start: int
    end: int
    stretch: float
    gain_db: float
    semitones: PitchPoints


def modify(samples: Samples, rate: int, edits: Sequence[Edit], lowest: float = pitch.LOWEST_HZ) -> tuple[Samples, Curve, Curve]:
    """Apply edits to a recording. Samples outside the edits do not change.

    Args:
        samples: float32 of shape [n].
        rate: sample rate, Hz.
        edits: changes, in order and without overlap.
        lowest: lowest F0 of the voice, Hz.

    Returns:
        The new samples, and two arrays of the same length for `numpy.interp`: positions in the old samples and the corresponding
        positions in the new ones.
    """
    pieces: list[Samples] = []
    old, new = [np.zeros(1)], [np.zeros(1)]
    position = length = 0
    for edit in edits:
        piece, warp = _edited(samples, rate, edit, lowest)
        pieces += [samples[position : edit.start], piece]
        length += edit.start - position
        old.append(np.arange(edit.start, edit.end + 1.0))
        new.append(length + warp)
        length += len(piece)
        position = edit.end
    pieces.append(samples[position:])
    old.append(np.array([float(len(samples))]))
    new.append(np.array([float(length + len(samples) - position)]))
    return np.concatenate(pieces), np.concatenate(old), np.concatenate(new)


def modify_curves(samples: Samples, rate: int, start: int, stretch: Curve, semitones: Curve, hertz: Curve) -> tuple[Curve, Curve]:
    """Change duration and pitch of the m samples from ``start`` on by curves with a value for every sample.

    Args:
        samples: float32 of shape [n].
        rate: sample rate, Hz.
        start: the first sample to change.
        stretch: factors of the duration, shape [m].
        semitones: changes of the pitch, shape [m].
        hertz: F0 of ``samples``, in Hz, in the frames of `pitch.track`.

    Returns:
        The new samples, float64, and the position in them of each of the m samples and of their end, shape [m + 1].
    """
    end, hop = start + len(stretch), pitch.hop(rate)
    first, last = max(0, start // hop - _CONTEXT_FRAMES), end // hop + _CONTEXT_FRAMES
    context = samples[first * hop : (last + 1) * hop]
    runs = _voiced_runs(context, rate, start - first * hop, end - first * hop, hertz[first : last + 1])
    warp = _ending_whole(np.concatenate([[0.0], np.cumsum(stretch)]))
    changes = np.append(semitones, semitones[-1:])
    return _overlap_add(samples, start, _grains(runs, warp, rate, changes), round(warp[-1])), warp


def _edited(samples: Samples, rate: int, edit: Edit, lowest: float) -> tuple[Samples, Curve]:
    """Return the new samples of one edit, and the position in them of every old sample and of the end."""
    count = edit.end - edit.start
    margin = round(_CONTEXT_SECONDS * rate)
    origin = max(0, edit.start - margin)
    context = samples[origin : edit.end + margin]
    runs = _voiced_runs(context, rate, edit.start - origin, edit.end - origin, pitch.track(context, rate, lowest))
    weight = np.full(count, _CONSONANT_STRETCH)
    for pulses in runs:
        weight[pulses[0] : pulses[-1]] = 1.0
    slope = 1.0 + weight * (edit.stretch - 1.0) * count / weight.sum()
    warp = _ending_whole(np.concatenate([[0.0], np.cumsum(slope)]))
    sound = _overlap_add(
        samples, edit.start, _grains(runs, warp, rate, _pitch_changes(runs, warp, edit.semitones)), round(warp[-1])
    )
    return _with_level(sound, samples[edit.start : edit.end], rate, edit.gain_db), warp


def _ending_whole(warp: Curve) -> Curve:
    """Return ``warp`` scaled so that it ends at a whole sample."""
    scaled: Curve = warp * max(1, round(warp[-1])) / warp[-1]
    return scaled


def _pitch_changes(runs: list[SampleIndices], warp: Curve, points: PitchPoints) -> Curve:
    """Return the change of pitch in semitones at every old sample and at the end."""
    if not runs:
        return np.zeros(len(warp))
    positions, values = zip(*points, strict=True)
    first, last = warp[runs[0][0]], warp[runs[-1][-1]]
    return np.asarray(np.interp((warp - first) / (last - first), positions, values))


def _voiced_runs(context: Samples, rate: int, first: int, limit: int, frequency: Curve) -> list[SampleIndices]:
    """Return the pitch pulses of each voiced run in ``[first, limit)``, one a period, as offsets from ``first``.

    ``frequency`` is the F0 of ``context``, in Hz, in the frames of `pitch.track`.
    """
    voiced = np.flatnonzero(~np.isnan(frequency))
    runs = []
    for run in np.split(voiced, np.flatnonzero(np.diff(voiced) > _BRIDGED_FRAMES + 1) + 1):
        positions = run * pitch.hop(rate)
        inside = positions[(positions >= first) & (positions <= limit)]
        if len(inside) < 2:
            continue
        periods = rate / np.interp(np.arange(len(context)), positions, frequency[run])
        pulses = _pulses(context.astype(np.float64), int(inside[0]), int(inside[-1]), periods)
        if len(pulses) >= _MIN_PULSES:
            runs.append(pulses - first)
    return runs


def _pulses(sound: Curve, start: int, end: int, periods: Curve) -> SampleIndices:
    """Return one sample index a period in ``[start, end)``.

    Starts at the strongest peak; each further pulse is where the signal correlates best with the signal around the previous one.
    """
    strongest = start + int(np.argmax(np.abs(sound[start:end])))
    found = [strongest]
    for direction in (1, -1):
        pulse = _next_pulse(sound, strongest, direction * float(periods[strongest]))
        while start <= pulse < end:
            found.append(pulse)
            pulse = _next_pulse(sound, pulse, direction * float(periods[pulse]))
    return np.array(sorted(found))


def _next_pulse(sound: Curve, pulse: int, distance: float) -> int:
    """Return the index about ``distance`` samples from ``pulse`` where the signal correlates best with that around ``pulse``."""
    half, slack = round(abs(distance) / 2), round(abs(distance) * _SEARCH)
    expected = pulse + round(distance)
    low, high = expected - slack - half, expected + slack + half + 1
    if min(low, pulse - half) < 0 or max(high, pulse + half + 1) > len(sound):
        return expected
    template, reach = sound[pulse - half : pulse + half + 1], sound[low:high]
    energy = np.convolve(reach**2, np.ones(len(template)), "valid")
    correlation = np.correlate(reach, template, "valid") / np.sqrt(np.maximum(energy, 1e-12))
    return expected - slack + int(np.argmax(correlation))


def _grains(runs: list[SampleIndices], warp: Curve, rate: int, semitones: Curve) -> list[tuple[int, int]]:
    """Return the grains as pairs (position in the new signal, position in the old signal), with start and end included.

    ``semitones`` is the change of pitch at every old sample and at the end.
    """
    total, count = round(warp[-1]), len(warp) - 1
    grains = [(0, 0)]
    for pulses in runs:
        first, last = round(warp[pulses[0]]), round(warp[pulses[-1]])
        grains += _noise_grains(grains[-1][0], first, warp, rate)
        new = np.arange(first, last + 1)
        old = np.interp(new, warp, np.arange(count + 1))
        grains += _voiced_grains(pulses, new, old, 2.0 ** (np.interp(old, np.arange(count + 1), semitones) / 12))
    grains += _noise_grains(grains[-1][0], total, warp, rate)
    grains.append((total, count))
    return [grain for grain, following in pairwise(grains) if following[0] > grain[0]] + [grains[-1]]


def _voiced_grains(pulses: SampleIndices, new: SampleIndices, old: Curve, ratio: Curve) -> list[tuple[int, int]]:
    """Return the grains of a voiced run: a whole number of periods, their frequency multiplied by ``ratio``."""
    interval = np.clip(np.searchsorted(pulses, old, "right") - 1, 0, len(pulses) - 2)
    phase = np.concatenate([[0.0], np.cumsum(ratio / np.diff(pulses)[interval])])[:-1]
    turns = np.linspace(0.0, phase[-1], max(1, round(phase[-1])) + 1)
    positions = np.round(np.interp(turns, phase, new)).astype(np.int64)
    nearest = np.abs(old[positions - new[0]][:, None] - pulses[None]).argmin(axis=1)
    return list(zip(positions.tolist(), pulses[nearest].tolist(), strict=True))


def _noise_grains(start: int, end: int, warp: Curve, rate: int) -> list[tuple[int, int]]:
    """Return evenly spaced grains for unvoiced speech between two positions of the new signal, each from its position in the
    old."""
    spacing = round(_NOISE_HOP_SECONDS * rate)
    positions = np.arange(start + spacing, end - spacing // 2, spacing)
    sources = np.round(np.interp(positions, warp, np.arange(len(warp)))).astype(np.int64)
    return list(zip(positions.tolist(), sources.tolist(), strict=True))


def _overlap_add(samples: Samples, start: int, grains: list[tuple[int, int]], total: int) -> Curve:
    """Add the grains up. Each fades out while the next fades in, so the weights sum to 1."""
    sound = np.zeros(total)
    for (position, source), (next_position, next_source) in pairwise(grains):
        width = next_position - position
        fade = 0.5 + 0.5 * np.cos(np.pi * np.arange(width) / width)
        leaving = _slice(samples, start + source, width)
        coming = _slice(samples, start + next_source - width, width)
        sound[position:next_position] = fade * leaving + (1.0 - fade) * coming
    return sound


def _slice(samples: Samples, start: int, width: int) -> Samples:
    """Return ``width`` samples from ``start`` on, padded with zeros beyond the edges."""
    before, after = max(0, -start), max(0, start + width - len(samples))
    inside = samples[max(0, start) : max(0, start + width)]
    return np.pad(inside, (before, after))[:width] if before or after else inside


def _with_level(sound: Curve, before: Samples, rate: int, gain_db: float) -> Samples:
    """Return ``sound`` at ``gain_db`` above the level of ``before``, limited to `_PEAK` and faded at its edges."""
    old, new = (float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) for part in (before, sound))
    if not old or not new:
        return sound.astype(np.float32)
    gain = min(10 ** (gain_db / 20) * old / new, _PEAK / float(np.abs(sound).max()))
    ramp = min(round(_RAMP_SECONDS * rate), len(sound) // 2)
    envelope = np.interp(np.arange(len(sound)), [0, ramp, len(sound) - ramp, len(sound)], [0.0, 1.0, 1.0, 0.0])
    shaped: Samples = (sound * gain**envelope).astype(np.float32)
    return shaped
