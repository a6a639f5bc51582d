"""Pitch, length and loudness of words, changed in the sound itself.

Pitch-synchronous overlap-add: E. Moulines and F. Charpentier, "Pitch-synchronous waveform processing techniques for text-to-speech
synthesis using diphones", Speech Communication 9 (1990). The sound of a word is taken apart into grains, one a pitch period where
it is voiced, and put together with the grains closer or further apart, more of them or fewer. Spectrum and voice stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from synth.audio import pitch

Samples = NDArray[np.float32]
Curve = NDArray[np.float64]
Places = NDArray[np.int64]

Points = tuple[tuple[float, float], ...]
"""Points of (place in 0..1 of what is voiced of a word, semitones), with straight lines between them."""

_CONTEXT_SECONDS = 0.060
_CONTEXT_FRAMES = 12
_NOISE_HOP_SECONDS = 0.005
_RAMP_SECONDS = 0.015
_PEAK = 0.99
_CONSONANT_STRETCH = 0.4  # of what voiced sound is stretched: speakers lengthen vowels
_SEARCH = 0.15  # of a period, around where the next one should be
_FEWEST_PULSES = 3
_BRIDGED_FRAMES = 3  # without a clear pitch, where it moves too fast to be measured


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of the samples ``[start, end)``: the factor of their duration, and by how much energy and pitch change."""

    start: int
    end: int
    stretch: float
    gain_db: float
    semitones: Points


def modify(samples: Samples, rate: int, edits: Sequence[Edit], lowest: float = pitch.LOWEST_HZ) -> tuple[Samples, Curve, Curve]:
    """Apply ``edits``, which are in order and do not overlap. What lies outside them stays as it is, sample for sample.

    Args:
        samples: float32 of shape [n].
        rate: Hz.
        edits: what to change.
        lowest: the lowest pitch of the voice, Hz.

    Returns:
        The new samples; and, for `numpy.interp`, points of time of the old sound and the same of the new, in samples.
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
    """The sound from ``start`` on with its length and pitch changed as the curves say, sample by sample.

    Args:
        samples: float32 of shape [n].
        rate: Hz.
        start: the first sample to change.
        stretch: factors of duration, shape [m]; what follows the m samples stays.
        semitones: changes of pitch, shape [m].
        hertz: the fundamental frequency of ``samples`` in the frames of `pitch.track`.

    Returns:
        The new sound of these m samples, and for each of them, end included, where it lies in it.
    """
    end, hop = start + len(stretch), pitch.hop(rate)
    first, last = max(0, start // hop - _CONTEXT_FRAMES), end // hop + _CONTEXT_FRAMES
    context = samples[first * hop : (last + 1) * hop]
    runs = _voiced_runs(context, rate, start - first * hop, end - first * hop, hertz[first : last + 1])
    warp = _whole(np.concatenate([[0.0], np.cumsum(stretch)]))
    bend = np.append(semitones, semitones[-1:])
    return _overlap_add(samples, start, _grains(runs, warp, rate, bend), round(warp[-1])), warp


def _edited(samples: Samples, rate: int, edit: Edit, lowest: float) -> tuple[Samples, Curve]:
    """The new sound of one edit, and for every sample of the old one, end included, where it lies in the new one."""
    count = edit.end - edit.start
    margin = round(_CONTEXT_SECONDS * rate)
    origin = max(0, edit.start - margin)
    context = samples[origin : edit.end + margin]
    runs = _voiced_runs(context, rate, edit.start - origin, edit.end - origin, pitch.track(context, rate, lowest))
    weight = np.full(count, _CONSONANT_STRETCH)
    for pulses in runs:
        weight[pulses[0] : pulses[-1]] = 1.0
    slope = 1.0 + weight * (edit.stretch - 1.0) * count / weight.sum()
    warp = _whole(np.concatenate([[0.0], np.cumsum(slope)]))
    sound = _overlap_add(samples, edit.start, _grains(runs, warp, rate, _bend(runs, warp, edit.semitones)), round(warp[-1]))
    return _with_level(sound, samples[edit.start : edit.end], rate, edit.gain_db), warp


def _whole(warp: Curve) -> Curve:
    """``warp`` with its end at a whole sample."""
    scaled: Curve = warp * max(1, round(warp[-1])) / warp[-1]
    return scaled


def _bend(runs: list[Places], warp: Curve, points: Points) -> Curve:
    """The change of pitch at every sample of the old sound, end included."""
    if not runs:
        return np.zeros(len(warp))
    places, values = zip(*points, strict=True)
    first, last = warp[runs[0][0]], warp[runs[-1][-1]]
    return np.asarray(np.interp((warp - first) / (last - first), places, values))


def _voiced_runs(context: Samples, rate: int, first: int, limit: int, frequency: Curve) -> list[Places]:
    """The pitch pulses of each voiced stretch of ``[first, limit)``, one a period, counted from ``first``.

    ``frequency`` is that of ``context``, in Hz, in the frames of `pitch.track`.
    """
    voiced = np.flatnonzero(~np.isnan(frequency))
    runs = []
    for run in np.split(voiced, np.flatnonzero(np.diff(voiced) > _BRIDGED_FRAMES + 1) + 1):
        places = run * pitch.hop(rate)
        inside = places[(places >= first) & (places <= limit)]
        if len(inside) < 2:
            continue
        periods = rate / np.interp(np.arange(len(context)), places, frequency[run])
        pulses = _pulses(context.astype(np.float64), int(inside[0]), int(inside[-1]), periods)
        if len(pulses) >= _FEWEST_PULSES:
            runs.append(pulses - first)
    return runs


def _pulses(sound: Curve, start: int, end: int, periods: Curve) -> Places:
    """One place a period in ``[start, end)``: from the strongest peak on, each where the sound is most like at the one before."""
    strongest = start + int(np.argmax(np.abs(sound[start:end])))
    found = [strongest]
    for direction in (1, -1):
        place = _next_pulse(sound, strongest, direction * float(periods[strongest]))
        while start <= place < end:
            found.append(place)
            place = _next_pulse(sound, place, direction * float(periods[place]))
    return np.array(sorted(found))


def _next_pulse(sound: Curve, place: int, distance: float) -> int:
    """The place about ``distance`` from ``place`` where the sound is most like there."""
    half, slack = round(abs(distance) / 2), round(abs(distance) * _SEARCH)
    expected = place + round(distance)
    low, high = expected - slack - half, expected + slack + half + 1
    if min(low, place - half) < 0 or max(high, place + half + 1) > len(sound):
        return expected
    template, reach = sound[place - half : place + half + 1], sound[low:high]
    energy = np.convolve(reach**2, np.ones(len(template)), "valid")
    likeness = np.correlate(reach, template, "valid") / np.sqrt(np.maximum(energy, 1e-12))
    return expected - slack + int(np.argmax(likeness))


def _grains(runs: list[Places], warp: Curve, rate: int, semitones: Curve) -> list[tuple[int, int]]:
    """Where each grain stands in the new sound and where it was in the old, both counted from their starts and ends included.

    ``semitones`` is the change of pitch at every sample of the old sound, end included.
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


def _voiced_grains(pulses: Places, new: Places, old: Curve, ratio: Curve) -> list[tuple[int, int]]:
    """A whole number of periods from the first pulse to the last, each ``ratio`` times as frequent as it was."""
    interval = np.clip(np.searchsorted(pulses, old, "right") - 1, 0, len(pulses) - 2)
    phase = np.concatenate([[0.0], np.cumsum(ratio / np.diff(pulses)[interval])])[:-1]
    turns = np.linspace(0.0, phase[-1], max(1, round(phase[-1])) + 1)
    places = np.round(np.interp(turns, phase, new)).astype(np.int64)
    nearest = np.abs(old[places - new[0]][:, None] - pulses[None]).argmin(axis=1)
    return list(zip(places.tolist(), pulses[nearest].tolist(), strict=True))


def _noise_grains(start: int, end: int, warp: Curve, rate: int) -> list[tuple[int, int]]:
    """Grains for what is not voiced between two places of the new sound: evenly spaced, each from where that is in the old."""
    spacing = round(_NOISE_HOP_SECONDS * rate)
    places = np.arange(start + spacing, end - spacing // 2, spacing)
    sources = np.round(np.interp(places, warp, np.arange(len(warp)))).astype(np.int64)
    return list(zip(places.tolist(), sources.tolist(), strict=True))


def _overlap_add(samples: Samples, start: int, grains: list[tuple[int, int]], total: int) -> Curve:
    """Lay the grains over each other. Each fades out while the next fades in, so that the weights sum to 1."""
    sound = np.zeros(total)
    for (place, source), (next_place, next_source) in pairwise(grains):
        width = next_place - place
        fade = 0.5 + 0.5 * np.cos(np.pi * np.arange(width) / width)
        leaving = _taken(samples, start + source, width)
        coming = _taken(samples, start + next_source - width, width)
        sound[place:next_place] = fade * leaving + (1.0 - fade) * coming
    return sound


def _taken(samples: Samples, start: int, width: int) -> Samples:
    """``width`` samples from ``start`` on, with zeros where there are none."""
    before, after = max(0, -start), max(0, start + width - len(samples))
    inside = samples[max(0, start) : max(0, start + width)]
    return np.pad(inside, (before, after))[:width] if before or after else inside


def _with_level(sound: Curve, before: Samples, rate: int, gain_db: float) -> Samples:
    """``sound`` at ``gain_db`` over the level of ``before``, or as much as fits, faded into its neighbours."""
    old, new = (float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) for part in (before, sound))
    if not old or not new:
        return sound.astype(np.float32)
    gain = min(10 ** (gain_db / 20) * old / new, _PEAK / float(np.abs(sound).max()))
    ramp = min(round(_RAMP_SECONDS * rate), len(sound) // 2)
    envelope = np.interp(np.arange(len(sound)), [0, ramp, len(sound) - ramp, len(sound)], [0.0, 1.0, 1.0, 0.0])
    shaped: Samples = (sound * gain**envelope).astype(np.float32)
    return shaped
