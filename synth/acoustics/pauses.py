"""Insert pauses of exact length into a recording, filled with its own room tone.

A pause is realised when the silence at its slot has the requested length. So the silence that is already there is measured, the
difference is inserted, and the result is measured again, all by the same definition of silence (`synth.audio.signal`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from synth.audio.signal import FRAME_SECONDS, silence_level
from synth.base import Audio, WordTime

Samples = NDArray[np.float32]
Run = tuple[int, int]
"""Samples ``[start, end)``."""

_SLACK_SECONDS = 0.040  # error of word times that is allowed for
_BREAK_SECONDS = 0.120  # silence longer than the closure of a stop consonant
_SLOPE_DB_PER_SECOND = 300.0  # a cut is this much quieter for each second of distance from the slot
_QUIET_FADE_SECONDS = 0.005  # fade within silence,
_CUT_FADE_SECONDS = 0.008  # where sound is cut,
_EDGE_FADE_SECONDS = 0.001  # and at the edges of the recording
_HUSH = 0.4  # share of its amplitude by which a lengthened silence is attenuated
_ROUNDS = 6  # of measuring and correcting the inserted lengths
_MOST_EXTRA_SECONDS = 0.050  # the most that is inserted beyond the requested length, for the fades at its ends
_CLOSE_SECONDS = 0.0005  # accepted error of a length
_FLOOR = 0.1  # share of the original silence level below which it never falls, as in a clip that is almost all pause

# Room tone
_TONE_FRAME_SECONDS = 0.020
_QUIETEST = 0.05  # share of all frames that count as quiet where none is silent
_HEADROOM_DB = 6.0  # from the loudest 10 ms of the tone to the level of silence
_SEED = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """The position of a pause, in samples.

    Attributes:
        first, last: the positions of the slots before and after, the limits of the search.
        start, end: approximately the end of the sound before the pause and the beginning of the sound after it.
        wanted: the requested length of the silence.
        ends, begins: words before index ``ends`` end before the pause, words from index ``begins`` on begin after it. They differ
            if the pause lies within a word.
    """

    first: int
    last: int
    start: int
    end: int
    wanted: int
    ends: int
    begins: int


@dataclass(frozen=True, slots=True)
class _Insertion:
    """Room tone to insert.

    Attributes:
        position: the sample before which it is inserted.
        half: half the length of the fades on either side, in samples.
        length: its length in samples.
        silence: the silence that is there already.
        fades_out, fades_in: whether there is sound before it that fades out, and after it that fades in.
    """

    position: int
    half: int
    length: int
    silence: Run
    fades_out: bool = True
    fades_in: bool = True


def insert_pauses(audio: Audio, gaps: Sequence[Gap], words: Sequence[WordTime]) -> tuple[Audio, tuple[WordTime, ...]]:
    """Insert pauses and return the audio and the words at their new times.

    ``gaps`` are in order and do not overlap. If a gap already contains silence, the missing length is inserted in its middle; if
    not, the sound is cut where it is quietest. Silence that is longer than requested is kept.
    """
    rate, least = audio.rate, _FLOOR * silence_level(audio)
    level = max(least, _level_with(audio, sum(gap.wanted for gap in gaps)))
    insertions = _without_overlaps([_insertion(audio, gap, level) for gap in gaps])
    extra = _samples(_MOST_EXTRA_SECONDS, rate)
    tone = room_tone(audio.samples, rate, level, max((gap.wanted for gap in gaps), default=0) + 2 * extra)
    composed = _compose(audio, insertions, tone)
    for _ in range(_ROUNDS):
        level = max(least, silence_level(composed))
        better = []
        for gap, insertion, silent in zip(gaps, insertions, _silent_lengths(composed, insertions, gaps, level), strict=True):
            length = min(max(0, insertion.length + gap.wanted - silent), gap.wanted + extra)
            better.append(replace(insertion, length=length))
        if all(abs(new.length - old.length) <= _CLOSE_SECONDS * rate for new, old in zip(better, insertions, strict=True)):
            break
        insertions, composed = better, _compose(audio, better, tone)
    return composed, _moved(words, gaps, insertions, rate)


def silent_runs(audio: Audio, level: float, first: int, last: int) -> list[Run]:
    """Return the runs within ``[first, last)`` that are covered by 10 ms windows whose RMS is below ``level``.

    Beyond the edges of the recording, windows contain zeros, as if it were surrounded by silence.
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
    """Return the approximate silence level of ``audio`` with ``silent`` more samples of silence."""
    return silence_level(Audio(np.concatenate([audio.samples, np.zeros(silent, dtype=np.float32)]), audio.rate))


def _insertion(audio: Audio, gap: Gap, level: float) -> _Insertion:
    """Return where and how much to insert for a gap."""
    count = len(audio.samples)
    run = _silence_of(audio, gap, level)
    if run:
        start, end = run
        half = min(_samples(_QUIET_FADE_SECONDS, audio.rate), (end - start) // 2)
        return _Insertion((start + end) // 2, half, max(0, gap.wanted - (end - start)), run)
    opens, closes = gap.start <= 0, gap.end >= count
    if opens or closes:
        half = min(_samples(_EDGE_FADE_SECONDS, audio.rate), count // 2)
        position = half if opens else count - half
        silence = (0, 0) if opens else (count, count)
        return _Insertion(position, half, gap.wanted, silence, fades_out=not opens, fades_in=opens)
    position = _quietest_position(audio, gap, level)
    half = min(_samples(_CUT_FADE_SECONDS, audio.rate), position, count - position)
    return _Insertion(position, half, gap.wanted, (position, position))


def _without_overlaps(insertions: Sequence[_Insertion]) -> list[_Insertion]:
    """Return the insertions in order, with fades that do not overlap even if word times are wrong."""
    apart: list[_Insertion] = []
    end = 0
    for insertion in insertions:
        position = max(insertion.position, end)
        half = min(insertion.half, position - end)
        apart.append(replace(insertion, position=position, half=half))
        end = position + half
    return apart


def _silence_of(audio: Audio, gap: Gap, level: float) -> Run | None:
    """Return the silence that a gap already has: at an edge of the recording the one that touches it, else the longest."""
    runs = _runs_near(audio, level, gap, 0)
    if gap.start <= 0:
        return next((run for run in runs if run[0] == 0), None)
    if gap.end >= len(audio.samples):
        return next((run for run in runs if run[1] == len(audio.samples)), None)

    own = [run for run in runs if _is_own(run, gap, audio.rate)]
    return max(own, key=lambda run: run[1] - run[0], default=None)


def _is_own(run: Run, gap: Gap, rate: int) -> bool:
    """Return whether a silence belongs to the gap: it overlaps it, or it is long and no other slot is nearer.

    Short silences before and after it are closures of stop consonants, which belong to their words.
    """
    distance = max(0, run[0] - gap.end, gap.start - run[1])
    if run[1] - run[0] < _BREAK_SECONDS * rate:
        return distance == 0
    return distance <= min(max(0, run[0] - gap.first), max(0, gap.last - run[1]))


def _runs_near(audio: Audio, level: float, gap: Gap, shift: int, length: int = 0) -> list[Run]:
    """Return the silent runs that overlap a gap that is now ``shift`` samples later and ``length`` samples longer.

    The search extends by the requested length on either side, so longer runs may be cut off.
    """
    first, last = gap.first + shift, gap.last + shift + length
    runs = silent_runs(audio, level, max(0, first - gap.wanted), min(len(audio.samples), last + gap.wanted))
    return [(start, end) for start, end in runs if end >= first and start <= last]


def _quietest_position(audio: Audio, gap: Gap, level: float) -> int:
    """Return where to cut a gap without silence: at the 10 ms with the least energy, with a penalty for distance from the slot.

    The release after the closure of a stop consonant that ends the word before still belongs to that word.
    """
    frame, slack = _samples(FRAME_SECONDS, audio.rate), _samples(_SLACK_SECONDS, audio.rate)
    low = max((gap.first + gap.start) // 2, gap.start - slack)
    high = min((gap.end + gap.last) // 2, gap.end + slack)
    low = max([low, *(end for _, end in silent_runs(audio, level, low, gap.start) if end < gap.start)])
    positions = np.arange(low, high + 1)
    power = 10 * np.log10(np.maximum(_window_energy(audio, low - frame // 2, high - frame // 2, frame), 1e-12))
    distance = np.maximum(0, np.maximum(positions - gap.end, gap.start - positions)) / audio.rate
    return low + int(np.argmin(power + _SLOPE_DB_PER_SECOND * distance))


def _window_energy(audio: Audio, first: int, last: int, width: int) -> NDArray[np.float64]:
    """Return the sum of squares of each window of ``width`` samples that starts at ``first`` to ``last``, with zeros outside."""
    start, end = max(0, first), max(0, last + width)
    squares = np.square(audio.samples[start:end], dtype=np.float64)
    padded = np.pad(squares, (start - first, last + width - start - len(squares)))
    total = np.concatenate([[0.0], np.cumsum(padded)])
    energy: NDArray[np.float64] = total[width:] - total[:-width]
    return energy


def _compose(audio: Audio, insertions: Sequence[_Insertion], tone: Samples) -> Audio:
    """Return the audio with the tone inserted.

    The sound and the tone are crossfaded at both ends of an insertion: their weights sum to 1 at every sample, and an insertion
    of length 0 changes nothing.
    """
    samples = _hushed(audio, insertions)
    out = np.zeros(len(samples) + sum(insertion.length for insertion in insertions), dtype=np.float32)
    edges: list[_Insertion | None] = [None, *(insertion for insertion in insertions if insertion.length), None]
    shift = 0
    for before, after in pairwise(edges):
        shift += before.length if before else 0
        start = before.position - before.half if before else 0
        end = after.position + after.half if after else len(samples)
        part = samples[start:end].copy()
        if before:
            part[: 2 * before.half] *= (1.0 - _fade(before.half)) * before.fades_in
        if after:
            part[len(part) - 2 * after.half :] *= _fade(after.half) * after.fades_out
            weight = np.ones(after.length + 2 * after.half, dtype=np.float32)
            weight[: 2 * after.half] -= _fade(after.half)
            weight[after.length :] -= 1.0 - _fade(after.half)
            begin = after.position - after.half + shift
            out[begin : begin + len(weight)] += tone[: len(weight)] * weight
        out[start + shift : end + shift] += part
    return Audio(out, audio.rate)


def _hushed(audio: Audio, insertions: Sequence[_Insertion]) -> Samples:
    """Return the samples with lengthened silences attenuated a little, so that all of each is below the level of silence."""
    samples = audio.samples.copy()
    for insertion in insertions:
        start, end = insertion.silence
        fade = min(_samples(_QUIET_FADE_SECONDS, audio.rate), (end - start) // 2)
        if insertion.length and fade:
            slopes = np.interp(np.arange(end - start), [0, fade, end - start - fade, end - start], [0.0, 1.0, 1.0, 0.0])
            samples[start:end] *= (1.0 - _HUSH * slopes).astype(np.float32)
    return samples


def _fade(half: int) -> Samples:
    """Return a raised-cosine fade from 1 to 0 of ``2 * half`` samples."""
    return (0.5 + 0.5 * np.cos(np.pi * (np.arange(2 * half) + 0.5) / max(1, 2 * half))).astype(np.float32)


def _silent_lengths(composed: Audio, insertions: Sequence[_Insertion], gaps: Sequence[Gap], level: float) -> list[int]:
    """Return the length of the silence around the middle of each insertion."""
    lengths: list[int] = []
    shift = 0
    for insertion, gap in zip(insertions, gaps, strict=True):
        runs = _runs_near(composed, level, gap, shift, insertion.length)
        middle = insertion.position + shift + insertion.length // 2
        shift += insertion.length
        lengths.append(next((end - start for start, end in runs if start <= middle <= end), 0))
    return lengths


def _moved(words: Sequence[WordTime], gaps: Sequence[Gap], insertions: Sequence[_Insertion], rate: int) -> tuple[WordTime, ...]:
    """Return the words at their times after the insertions; silence at a slot is not part of the words beside it."""
    starts = np.array([word.start for word in words])
    ends = np.array([word.end for word in words])
    for gap, insertion in zip(reversed(gaps), reversed(insertions), strict=True):
        before, after = insertion.silence[0] / rate, insertion.silence[1] / rate
        added = insertion.length / rate
        for times, first in ((starts, gap.begins), (ends, gap.ends)):
            times[:first] = np.minimum(times[:first], before)
            times[first:] = np.maximum(times[first:], after) + added
    return tuple(
        replace(word, start=start, end=end) for word, start, end in zip(words, starts.tolist(), ends.tolist(), strict=True)
    )


def room_tone(samples: Samples, rate: int, level: float, length: int) -> Samples:
    """Return ``length`` samples that sound like the quiet parts of ``samples``: noise with their median spectrum.

    No 10 ms of it are louder than 6 dB below ``level``, the RMS of silence; if the room is louder, the tone is softer than the
    room. It is digital silence if the quiet parts are. The same input gives the same tone.
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
    loudest = _loudest_rms(tone, max(1, round(FRAME_SECONDS * rate)))
    shaped: Samples = (tone * min(1.0, allowed / max(loudest, 1e-12))).astype(np.float32)
    return shaped


def _quiet_spectrum(samples: Samples, rate: int, level: float) -> NDArray[np.float64]:
    """Return the amplitudes for shaping white noise of power 1, at even steps from 0 Hz to half the sample rate."""
    width = max(2, 2 * round(_TONE_FRAME_SECONDS * rate / 2))
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
    # The median ignores a click or the end of a word among the quiet frames.
    amplitude: NDArray[np.float64] = np.sqrt(np.median(periodogram, axis=0) / np.log(2))
    return amplitude


def _loudest_rms(sound: NDArray[np.float64], width: int) -> float:
    """Return the greatest RMS of any ``width`` consecutive samples."""
    energy = np.concatenate([[0.0], np.cumsum(sound**2)])
    width = min(width, len(sound))
    return float(np.sqrt(max(0.0, (energy[width:] - energy[:-width]).max()) / width))


def _samples(seconds: float, rate: int) -> int:
    return max(1, round(seconds * rate))
