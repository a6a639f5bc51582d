"""Pauses cut into a recording, to the sample.

A pause is true when the silence at its slot is the length asked. So the silence that is there already is measured, what lacks is
put in, and what came out is measured again: all by the one rule of what silence is (`synth.audio.signal`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from synth.acoustics.tone import room_tone
from synth.audio.signal import FRAME_SECONDS, silence_level
from synth.base import Audio, WordTime

Samples = NDArray[np.float32]
Run = tuple[int, int]

_SLACK_SECONDS = 0.040  # by which word times err
_BREAK_SECONDS = 0.120  # silence that is longer than the closure of a stop
_SLOPE_DB_PER_SECOND = 300.0  # by which a cut away from the slot must be quieter
_QUIET_FADE_SECONDS = 0.005
_HUSH = 0.4  # of its amplitude
_CUT_FADE_SECONDS = 0.008
_EDGE_FADE_SECONDS = 0.001
_ROUNDS = 6
_MOST_EXTRA_SECONDS = 0.050  # that a pause is longer than asked, for the fades at its ends
_CLOSE_SECONDS = 0.0005
_FLOOR = 0.1  # of the recording's own level of silence: a clip that is nearly all pause tells little of its speech


@dataclass(frozen=True, slots=True)
class Gap:
    """Where a pause belongs, in samples.

    Attributes:
        first, last: the slots before and after are there.
        start, end: the sound before it ends and the sound after it begins about here.
        wanted: the length of the silence.
        ends, begins: words before index ``ends`` end before it, and words from index ``begins`` on begin after it. They differ
            where the pause lies within a word.
    """

    first: int
    last: int
    start: int
    end: int
    wanted: int
    ends: int
    begins: int


@dataclass(frozen=True, slots=True)
class _Cut:
    """``length`` samples of tone put in at ``place``, with a fade of ``half`` samples to either side.

    ``silence`` is where it is silent already. ``leaves`` and ``enters``: whether there is sound before and after the cut, which
    fades out and in.
    """

    place: int
    half: int
    length: int
    silence: Run
    leaves: bool = True
    enters: bool = True


def put_in(audio: Audio, gaps: Sequence[Gap], words: Sequence[WordTime]) -> tuple[Audio, tuple[WordTime, ...]]:
    """``audio`` with the pauses put in, and the words at their new times.

    ``gaps`` are in order and do not overlap. Where silence lies in a gap already, the pause is put into the midst of it, and is
    so much shorter; else the sound is cut where it is quietest. Silence that is longer than was asked stays.
    """
    rate, least = audio.rate, _FLOOR * silence_level(audio)
    level = max(least, _level_with(audio, sum(gap.wanted for gap in gaps)))
    cuts = _apart([_cut(audio, gap, level) for gap in gaps])
    extra = _samples(_MOST_EXTRA_SECONDS, rate)
    tone = room_tone(audio.samples, rate, level, max((gap.wanted for gap in gaps), default=0) + 2 * extra)
    composed = _composed(audio, cuts, tone)
    for _ in range(_ROUNDS):
        level = max(least, silence_level(composed))
        better = []
        for gap, cut, silent in zip(gaps, cuts, _lengths(composed, cuts, gaps, level), strict=True):
            length = min(max(0, cut.length + gap.wanted - silent), gap.wanted + extra)
            better.append(replace(cut, length=length))
        if all(abs(new.length - old.length) <= _CLOSE_SECONDS * rate for new, old in zip(better, cuts, strict=True)):
            break
        cuts, composed = better, _composed(audio, better, tone)
    return composed, _moved(words, gaps, cuts, rate)


def silent_runs(audio: Audio, level: float, first: int, last: int) -> list[Run]:
    """Stretches ``[start, end)`` of ``[first, last)`` that lie in 10 ms windows whose RMS is below ``level``.

    Windows that reach past the edges of the recording see zeros there, as they will once silence stands beside it.
    """
    frame = _samples(FRAME_SECONDS, audio.rate)
    low = first - frame
    quiet = _window_energy(audio, low, last, frame) <= level**2 * frame
    steps = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]])))
    runs: list[Run] = []
    for begin, end in steps.reshape(-1, 2).tolist():
        start, stop = max(first, low + begin), min(last, low + end - 1 + frame)
        if runs and start <= runs[-1][1]:
            runs[-1] = runs[-1][0], stop
        elif stop > start:
            runs.append((start, stop))
    return runs


def _level_with(audio: Audio, silent: int) -> float:
    """About the level of silence of ``audio`` once it holds ``silent`` samples more of it, which count among its frames."""
    return silence_level(Audio(np.concatenate([audio.samples, np.zeros(silent, dtype=np.float32)]), audio.rate))


def _cut(audio: Audio, gap: Gap, level: float) -> _Cut:
    count = len(audio.samples)
    run = _silence(audio, gap, level)
    if run:
        start, end = run
        half = min(_samples(_QUIET_FADE_SECONDS, audio.rate), (end - start) // 2)
        return _Cut((start + end) // 2, half, max(0, gap.wanted - (end - start)), run)
    opens, closes = gap.start <= 0, gap.end >= count
    if opens or closes:
        half = min(_samples(_EDGE_FADE_SECONDS, audio.rate), count // 2)
        place = half if opens else count - half
        return _Cut(place, half, gap.wanted, (0, 0) if opens else (count, count), leaves=not opens, enters=opens)
    place = _quietest(audio, gap, level)
    half = min(_samples(_CUT_FADE_SECONDS, audio.rate), place, count - place)
    return _Cut(place, half, gap.wanted, (place, place))


def _apart(cuts: Sequence[_Cut]) -> list[_Cut]:
    """The cuts in order, with fades that do not overlap, however the times of the words lie."""
    apart: list[_Cut] = []
    position = 0
    for cut in cuts:
        place = max(cut.place, position)
        half = min(cut.half, place - position)
        apart.append(replace(cut, place=place, half=half))
        position = place + half
    return apart


def _silence(audio: Audio, gap: Gap, level: float) -> Run | None:
    """The silence that a gap has already: at the edges of the recording what touches them, else the longest that is near."""
    runs = _runs_near(audio, level, gap, 0)
    if gap.start <= 0:
        return next((run for run in runs if run[0] == 0), None)
    if gap.end >= len(audio.samples):
        return next((run for run in runs if run[1] == len(audio.samples)), None)

    own = [run for run in runs if _is_own(run, gap, audio.rate)]
    return max(own, key=lambda run: run[1] - run[0], default=None)


def _is_own(run: Run, gap: Gap, rate: int) -> bool:
    """Whether a silence is that of the gap: it lies there, or it is long and no other slot is nearer.

    Short ones before and after it are the closures of stops, which belong to their words.
    """
    distance = max(0, run[0] - gap.end, gap.start - run[1])
    if run[1] - run[0] < _BREAK_SECONDS * rate:
        return distance == 0
    return distance <= min(max(0, run[0] - gap.first), max(0, gap.last - run[1]))


def _runs_near(audio: Audio, level: float, gap: Gap, shift: int, length: int = 0) -> list[Run]:
    """The silent runs that reach into a gap which is ``shift`` samples later and ``length`` longer by now.

    What they measure is right up to the length wanted, which is as far as is looked.
    """
    first, last = gap.first + shift, gap.last + shift + length
    runs = silent_runs(audio, level, max(0, first - gap.wanted), min(len(audio.samples), last + gap.wanted))
    return [(start, end) for start, end in runs if end >= first and start <= last]


def _quietest(audio: Audio, gap: Gap, level: float) -> int:
    """Where to cut a gap without silence: where 10 ms have the least energy, the nearer to the slot the better.

    The sound after the closure of a stop that ends the word before still belongs to that word.
    """
    frame, slack = _samples(FRAME_SECONDS, audio.rate), _samples(_SLACK_SECONDS, audio.rate)
    low = max((gap.first + gap.start) // 2, gap.start - slack)
    high = min((gap.end + gap.last) // 2, gap.end + slack)
    low = max([low, *(end for _, end in silent_runs(audio, level, low, gap.start) if end < gap.start)])
    places = np.arange(low, high + 1)
    power = 10 * np.log10(np.maximum(_window_energy(audio, low - frame // 2, high - frame // 2, frame), 1e-12))
    distance = np.maximum(0, np.maximum(places - gap.end, gap.start - places)) / audio.rate
    return low + int(np.argmin(power + _SLOPE_DB_PER_SECOND * distance))


def _window_energy(audio: Audio, first: int, last: int, width: int) -> NDArray[np.float64]:
    """The sum of squares of each ``width`` samples that start at ``first`` to ``last``; outside the recording there are zeros."""
    start, end = max(0, first), max(0, last + width)
    squares = np.square(audio.samples[start:end], dtype=np.float64)
    padded = np.pad(squares, (start - first, last + width - start - len(squares)))
    total = np.concatenate([[0.0], np.cumsum(padded)])
    energy: NDArray[np.float64] = total[width:] - total[:-width]
    return energy


def _composed(audio: Audio, cuts: Sequence[_Cut], tone: Samples) -> Audio:
    """The sound with the tone put in at the cuts.

    At a cut the sound before fades out while the tone fades in, and so at its end: at every sample the weights sum to 1, and a
    cut of length 0 changes nothing.
    """
    samples = _hushed(audio, cuts)
    out = np.zeros(len(samples) + sum(cut.length for cut in cuts), dtype=np.float32)
    edges: list[_Cut | None] = [None, *(cut for cut in cuts if cut.length), None]
    shift = 0
    for before, after in pairwise(edges):
        shift += before.length if before else 0
        start = before.place - before.half if before else 0
        end = after.place + after.half if after else len(samples)
        part = samples[start:end].copy()
        if before:
            part[: 2 * before.half] *= (1.0 - _fade(before.half)) * before.enters
        if after:
            part[len(part) - 2 * after.half :] *= _fade(after.half) * after.leaves
            weight = np.ones(after.length + 2 * after.half, dtype=np.float32)
            weight[: 2 * after.half] -= _fade(after.half)
            weight[after.length :] -= 1.0 - _fade(after.half)
            begin = after.place - after.half + shift
            out[begin : begin + len(weight)] += tone[: len(weight)] * weight
        out[start + shift : end + shift] += part
    return Audio(out, audio.rate)


def _hushed(audio: Audio, cuts: Sequence[_Cut]) -> Samples:
    """The samples with the silences that are lengthened turned down a little, so that all of each is silence by any measure."""
    samples = audio.samples.copy()
    for cut in cuts:
        start, end = cut.silence
        fade = min(_samples(_QUIET_FADE_SECONDS, audio.rate), (end - start) // 2)
        if cut.length and fade:
            slopes = np.interp(np.arange(end - start), [0, fade, end - start - fade, end - start], [0.0, 1.0, 1.0, 0.0])
            samples[start:end] *= (1.0 - _HUSH * slopes).astype(np.float32)
    return samples


def _fade(half: int) -> Samples:
    """From 1 to 0 in ``2 * half`` samples."""
    return (0.5 + 0.5 * np.cos(np.pi * (np.arange(2 * half) + 0.5) / max(1, 2 * half))).astype(np.float32)


def _lengths(composed: Audio, cuts: Sequence[_Cut], gaps: Sequence[Gap], level: float) -> list[int]:
    """How long the silence is that lies around the middle of each cut."""
    found: list[int] = []
    shift = 0
    for cut, gap in zip(cuts, gaps, strict=True):
        runs = _runs_near(composed, level, gap, shift, cut.length)
        middle = cut.place + shift + cut.length // 2
        shift += cut.length
        found.append(next((end - start for start, end in runs if start <= middle <= end), 0))
    return found


def _moved(words: Sequence[WordTime], gaps: Sequence[Gap], cuts: Sequence[_Cut], rate: int) -> tuple[WordTime, ...]:
    """The words after the pauses were put in; silence at a slot is no part of the words beside it."""
    starts = np.array([word.start for word in words])
    ends = np.array([word.end for word in words])
    for gap, cut in zip(reversed(gaps), reversed(cuts), strict=True):
        before, after = cut.silence[0] / rate, cut.silence[1] / rate
        added = cut.length / rate
        for times, first in ((starts, gap.begins), (ends, gap.ends)):
            times[:first] = np.minimum(times[:first], before)
            times[first:] = np.maximum(times[first:], after) + added
    return tuple(
        replace(word, start=start, end=end) for word, start, end in zip(words, starts.tolist(), ends.tolist(), strict=True)
    )


def _samples(seconds: float, rate: int) -> int:
    return max(1, round(seconds * rate))
