"""Emphasis: how much to change a sentence so that its marked words stand out.

A marked word becomes longer, louder and higher, most of all its stressed vowel. The other words are reduced, as speakers do:
softer, shorter and with less pitch movement, most of all those beside and after it. The amount is found by measurement, first on
the predicted contours and then on the modified audio: words that rival the marked one are reduced further and the marked one is
raised further, until it is the most prominent, or a limit of naturalness is reached.

The embedded voice renders its marks without this loop, by fixed amounts: its word times are exact, the amounts suffice in 92 to 96
of 100 sentences, and the loop would make a request 3.6 times as expensive (benchmarks/results/2026-11-30-emphasis-ways.md).

The constants were tuned with benchmarks/realisation.py on neural speech of benchmarks/sentences/dev.txt; the figures in
benchmarks/results/2026-11-21-acoustics.md are those of test.txt.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synth.acoustics.contours import Contours, interpolated, measure_contours
from synth.acoustics.modification import Modification, modify, predict
from synth.acoustics.prominence import prominence_and_boundaries
from synth.base import Audio, WordTime

Signal = NDArray[np.float64]
Points = list[tuple[float, float]]
"""Points (frame, value) with straight lines between them."""

# The change of a marked word at a raise of 1.
_STRETCH, _USUAL_SECONDS, _STRETCH_RANGE, _MOST_STRETCH = 0.35, 0.30, (0.75, 1.8), 2.3  # short words are stretched more
_GAIN_DB = 4.0
_RISE, _ABOVE, _HIGHEST_RISE = 3.0, 2.5, 8.0  # semitones: the least rise, the height above other words, the greatest rise
_VOICED_STRETCH, _VOICELESS_STRETCH = 0.6, 0.3  # outside the nucleus, as shares of the nucleus's stretch

# The nucleus lies around the maximum of energy (dB) plus pitch (_PITCH_DB a semitone) and extends down to _NUCLEUS_DB below it.
_PITCH_DB, _VOICELESS_DB, _NUCLEUS_DB, _SMOOTH_FRAMES = 2.0, 20.0, 8.0, 10

# The change of the other words at a reduction of 1, its limits, and the initial reductions.
_REDUCED_DB, _REDUCED_MOVEMENT, _REDUCED_LENGTH = 2.0, 0.6, 0.06
_MOST_REDUCED_MOVEMENT, _DEEPEST_FALL = 0.8, 5.0
_BEFORE, _AFTER, _BESIDE = 0.4, 0.7, 0.4
_BASE_PERCENT, _TOP_PERCENT = 15, 98  # percentiles of the pitch: the base of the voice, the top of the other words

_ROUNDS, _TRIES = 8, 3  # on predicted contours, on modified audio
_REDUCE_STEP, _MOST_REDUCED = 0.35, 2.1
_RAISE_STEP, _MOST_RAISED = 0.12, 1.5
_CLEARLY, _ALREADY = 1.15, 1.5  # ratio to the prominence of the next word: to be reached, and sufficient without any change
_MARGIN, _FAR = 1.0, 1.5  # the same for the sum of features, in standard deviations above the next word
_JITTER_SECONDS = (-0.025, 0.025)  # errors of word times that the result must tolerate


class _Nucleus(NamedTuple):
    """The frames ``[start, end)`` of a word's stressed vowel, and the peak within them."""

    start: int
    peak: int
    end: int


def stand_out(contours: Contours, words: Sequence[WordTime], marked: Collection[int]) -> bool:
    """Return whether the words of index ``marked`` already are by far the most prominent of ``words``."""
    is_marked = np.isin(np.arange(len(words)), list(marked))
    if is_marked.all():
        return False
    prominence, features = _prominences(contours, words, (0.0,))[0], _features(contours, words)
    is_clear = prominence[is_marked].min() > _ALREADY * prominence[~is_marked].max()
    return bool(is_clear and features[is_marked].min() > features[~is_marked].max() + _FAR)


def emphasise(
    audio: Audio, contours: Contours, words: Sequence[WordTime], marked: Collection[int], strength: float, also: Modification
) -> tuple[Audio, list[WordTime]]:
    """Make some words of a sentence stand out; return its audio and its words at their new times.

    Args:
        audio: the sentence and nothing else.
        contours: its energy and pitch.
        words: all of its words.
        marked: indices of the words to emphasise; each must have a length.
        strength: 1 for a clear emphasis.
        also: a further modification of the sentence.
    """
    plan = _EmphasisPlan(contours, words, marked, strength)
    best: tuple[float, Audio, list[WordTime]] | None = None
    for _ in range(_TRIES):
        modified, moved = modify(audio, contours, plan.best_modification() + also, words)
        margin = plan.adjust(measure_contours(modified), moved)
        if best is None or margin > best[0]:
            best = margin, modified, moved
        if margin >= 1.0:
            break
    assert best is not None
    return best[1], best[2]


class _EmphasisPlan:
    """How much each word of a sentence is raised or reduced so that the marked ones stand out."""

    def __init__(self, contours: Contours, words: Sequence[WordTime], marked: Collection[int], strength: float) -> None:
        count = len(words)
        self._contours, self._words = contours, words
        self._marked = np.isin(np.arange(count), list(marked))
        self._spans = _spans(contours, words)
        self._voiced = ~np.isnan(contours.semitones)
        self._pitch = interpolated(contours.semitones)
        self._most_raised = _MOST_RAISED * strength
        self._raise = np.full(count, strength)
        beside = np.convolve(self._marked, (1, 0, 1))[1:-1] > 0
        after = np.arange(count) > np.flatnonzero(self._marked)[0]
        self._reduce = (np.where(after, _AFTER, _BEFORE) + _BESIDE * beside) * strength

    def best_modification(self) -> Modification:
        """Return the modification after which the marked words are predicted to stand out most."""
        best: tuple[float, Modification] | None = None
        for _ in range(_ROUNDS):
            change = self._modification()
            margin = self.adjust(*predict(self._contours, change, self._words))
            if best is None or margin > best[0]:
                best = margin, change
            if margin >= 1.0:
                break
        assert best is not None
        return best[1]

    def adjust(self, contours: Contours, words: Sequence[WordTime]) -> float:
        """Return by how much the least prominent marked word stands out, 1 or more if enough; if not, increase the changes.

        It is infinite if every word is marked.
        """
        marked, others = self._marked, ~self._marked
        if not others.any():
            return np.inf
        prominences = _prominences(contours, words, (0.0,))
        if prominences[0, marked].min() >= _CLEARLY * prominences[0, others].max():
            prominences = np.concatenate([prominences, _prominences(contours, words, _JITTER_SECONDS)])
        features = _features(contours, words) + _MARGIN * others
        least, most = prominences[:, marked].min(axis=1), prominences[:, others].max(axis=1)
        is_rival, is_weak = _CLEARLY * prominences > least[:, None], prominences < _CLEARLY * most[:, None]
        rivals = others & (is_rival.any(axis=0) | (features > features[marked].min()))
        weak = marked & (is_weak.any(axis=0) | (features < features[others].max()))
        self._reduce[rivals] = np.minimum(self._reduce[rivals] + _REDUCE_STEP, _MOST_REDUCED)
        self._raise[weak] = np.minimum(self._raise[weak] + _RAISE_STEP, self._most_raised)
        margin = float((least / np.maximum(_CLEARLY * most, 1e-9)).min())
        return min(margin, 1.0 + float(features[marked].min() - features[others].max())) if rivals.any() else max(margin, 1.0)

    def _modification(self) -> Modification:
        """Return the modification of the sentence for the present amounts."""
        change = Modification.none(len(self._pitch))
        self._reduce_others(change)
        inside = np.zeros(len(self._pitch), dtype=bool)
        for start, end in self._spans[self._marked]:
            inside[start:end] = True
        others = (self._pitch + change.semitones)[self._voiced & ~inside]
        top = float(np.percentile(others, _TOP_PERCENT)) if len(others) else -np.inf
        for index in np.flatnonzero(self._marked):
            self._raise_word(change, int(index), top)
        return change

    def _reduce_others(self, change: Modification) -> None:
        """Make the other words softer, shorter and closer to the base of the voice, with smooth transitions."""
        points: Points = []
        for (start, end), reduction, marked in zip(self._spans.tolist(), self._reduce.tolist(), self._marked.tolist(), strict=True):
            if end <= start:
                continue
            depth = 0.0 if marked else reduction
            inset = min(3, (end - start) // 3)
            points += [(start + inset, depth), (end - inset, depth)]
            change.stretch[start:end] = np.log1p(-_REDUCED_LENGTH * depth)
        reduction_curve = _curve(len(self._pitch), [(points[0][0] - 4, 0.0), *points, (points[-1][0] + 4, 0.0)])
        change.gain[:] = -_REDUCED_DB * reduction_curve
        if self._voiced.any():
            base = np.percentile(self._pitch[self._voiced], _BASE_PERCENT)
            share = np.minimum(_REDUCED_MOVEMENT * reduction_curve, _MOST_REDUCED_MOVEMENT)
            fall = np.maximum(self._pitch - base, 0.0) * share
            change.semitones[:] = -np.minimum(fall, _DEEPEST_FALL * np.minimum(reduction_curve, 1.0))

    def _raise_word(self, change: Modification, index: int, top: float) -> None:
        """Make a word longer, louder and higher: by at least `_RISE` semitones, and to above ``top``."""
        start, end = self._spans[index].tolist()
        strength = float(self._raise[index])
        nucleus = self._nucleus(start, end)
        weight = np.where(self._voiced[start:end], _VOICED_STRETCH, _VOICELESS_STRETCH)
        weight[nucleus.start - start : nucleus.end - start] = 1.0
        least, most = _STRETCH_RANGE
        shortness = float(np.clip(np.sqrt(_USUAL_SECONDS / ((end - start) * self._contours.step)), least, most))
        stretch = 1.0 + _STRETCH * strength * shortness * weight / weight.mean()
        change.stretch[start:end] = np.log(np.minimum(stretch, _MOST_STRETCH))
        gain, rise = _GAIN_DB * strength, 0.0
        if self._voiced[start:end].any():
            peak = self._pitch[start:end][self._voiced[start:end]].max()
            rise = float(np.clip(top + _ABOVE * strength - peak, _RISE * strength, _HIGHEST_RISE))
        after = max(end, nucleus.end + 1)
        change.semitones[:] += _curve(
            len(self._pitch),
            [
                (start - 6, 0.0),
                (max(start - 5, nucleus.start - 6), 0.8 * rise),
                (nucleus.peak, rise),
                (nucleus.end, 0.9 * rise),
                (after, 0.5 * rise),
                (after + 8, 0.0),
            ],
        )
        change.gain[:] += _curve(
            len(self._pitch),
            [(start - 3, 0.0), (nucleus.start, gain), (nucleus.end, gain), (after, 0.5 * gain), (after + 4, 0.0)],
        )

    def _nucleus(self, start: int, end: int) -> _Nucleus:
        """Return the stressed vowel of the word with the frames ``[start, end)``."""
        voiced, pitch = self._voiced[start:end], self._pitch[start:end]
        height = _smoothed(self._contours.energy)[start:end].copy()
        if voiced.any():
            height += np.where(voiced, _PITCH_DB * (pitch - np.median(pitch[voiced])), -_VOICELESS_DB)
        peak = int(np.argmax(height))
        low = np.flatnonzero(height < height[peak] - _NUCLEUS_DB)
        first = int(low[low < peak].max(initial=-1)) + 1
        last = int(low[low > peak].min(initial=len(height)))
        return _Nucleus(start + first, start + peak, start + last)


def _prominences(contours: Contours, words: Sequence[WordTime], shifts: Sequence[float]) -> Signal:
    """Return the prominence of each word with its times shifted by some seconds, shape [len(shifts), len(words)]."""
    end = len(contours.energy) * contours.step
    moved = ([word.moved(0, float(np.clip(shift, -word.start, end - word.end))) for word in words] for shift in shifts)
    return np.array([prominence_and_boundaries(contours, shifted)[0] for shifted in moved])


def _features(contours: Contours, words: Sequence[WordTime]) -> Signal:
    """Return for each word the sum of length per letter, greatest energy and highest pitch, each in standard deviations."""
    rows = []
    for word, (start, end) in zip(words, _spans(contours, words).tolist(), strict=True):
        pitch = contours.semitones[start:end]
        pitch = pitch[~np.isnan(pitch)]
        rows.append(
            (
                np.log(max(1, end - start) / max(1, len(word.word))),
                contours.energy[start : max(end, start + 1)].max(initial=contours.energy.min()),
                np.percentile(pitch, 90) if len(pitch) else np.nan,
            )
        )
    table = np.array(rows)
    pitches = table[:, 2]
    pitches[np.isnan(pitches)] = np.nanmin(pitches) if not np.isnan(pitches).all() else 0.0
    features: Signal = ((table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-9)).sum(axis=1)
    return features


def _spans(contours: Contours, words: Sequence[WordTime]) -> NDArray[np.int64]:
    """Return the first frame and the end of each word, shape [len(words), 2]."""
    times = np.array([(word.start, word.end) for word in words]).reshape(-1, 2)
    return np.clip(np.round(times / contours.step), 0, len(contours.energy)).astype(np.int64)


def _smoothed(energy: Signal) -> Signal:
    window = np.hanning(_SMOOTH_FRAMES + 2)[1:-1]
    padded = np.pad(energy, (_SMOOTH_FRAMES // 2, _SMOOTH_FRAMES - 1 - _SMOOTH_FRAMES // 2), mode="edge")
    smooth: Signal = np.convolve(padded, window / window.sum(), "valid")
    return smooth


def _curve(count: int, points: Points) -> Signal:
    """Return straight lines between the points as a curve of ``count`` frames."""
    frames, values = zip(*points, strict=True)
    return np.asarray(np.interp(np.arange(count), frames, values))
