"""Emphasis: how to change a sentence so that the marked words stand out.

The word itself grows longer, louder and higher, most of all its stressed vowel, and the other words are eased: softer, shorter and
with less movement of pitch, those beside it and after it the most, as speakers do. How much of it a sentence needs is found out by
measuring, first on what its contours would become, then on the sound: what stands out as much as the word is eased further and the
word is raised further, until the word comes first, or as far as still sounds natural.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synth.acoustics.contours import Contours, contours
from synth.acoustics.modification import Shape, foreseen, made
from synth.acoustics.prominence import prominence_and_boundaries
from synth.base import Audio, WordTime

Signal = NDArray[np.float64]
Points = list[tuple[float, float]]

# What raising by 1 does to a marked word.
_STRETCH, _USUAL_SECONDS, _STRETCH_RANGE, _MOST_STRETCH = 0.35, 0.30, (0.75, 1.8), 2.3  # short words are stretched more
_GAIN_DB = 4.0
_RISE, _ABOVE, _HIGHEST_RISE = 3.0, 2.5, 8.0  # semitones: at least, above the others, at most
_VOICED_STRETCH, _VOICELESS_STRETCH = 0.6, 0.3  # of that of the nucleus

# The nucleus: where energy in dB and pitch, at so many dB a semitone, are highest together, and as far as they are near that.
_PITCH_DB, _VOICELESS_DB, _NUCLEUS_DB, _SMOOTH_FRAMES = 2.0, 20.0, 8.0, 10

# What easing by 1 does to the others, and how much each is eased from the start.
_EASED_DB, _EASED_MOVEMENT, _EASED_LENGTH = 2.0, 0.6, 0.06
_MOST_EASED_MOVEMENT, _DEEPEST_FALL = 0.8, 5.0
_BEFORE, _AFTER, _BESIDE = 0.4, 0.7, 0.4
_BASE_PERCENT, _TOP_PERCENT = 15, 98

_ROUNDS, _TRIES = 8, 3
_EASE_STEP, _MOST_EASE = 0.35, 2.1
_RAISE_STEP, _MOST_RAISE = 0.12, 1.5
_CLEARLY, _ALREADY = 1.15, 1.5  # times as prominent as any other word
_MARGIN, _FAR = 1.0, 1.5  # above any other word in the sum of the features, each in standard deviations
_JITTER_SECONDS = (-0.025, 0.025)  # by which the times of the words may be wrong


class _Nucleus(NamedTuple):
    """The frames ``[start, end)`` of a word's stressed vowel, and the peak in them."""

    start: int
    peak: int
    end: int


def stand_out(sound: Contours, words: Sequence[WordTime], marked: Collection[int]) -> bool:
    """Whether the words of index ``marked`` are by far the most prominent of ``words`` already."""
    is_marked = np.isin(np.arange(len(words)), list(marked))
    if is_marked.all():
        return False
    prominence, features = _prominences(sound, words, (0.0,))[0], _features(sound, words)
    is_clear = prominence[is_marked].min() > _ALREADY * prominence[~is_marked].max()
    return bool(is_clear and features[is_marked].min() > features[~is_marked].max() + _FAR)


def stressed(
    audio: Audio, sound: Contours, words: Sequence[WordTime], marked: Collection[int], strength: float, also: Shape
) -> tuple[Audio, list[WordTime]]:
    """A sentence with the words of index ``marked`` made to stand out, and all its words at their new times.

    Args:
        audio: the sentence and nothing else.
        sound: its contours.
        words: its words.
        marked: those to stress; each must be heard.
        strength: 1 for a clear emphasis.
        also: what else to change.
    """
    stress = _Stress(sound, words, marked, strength)
    best: tuple[float, Audio, list[WordTime]] | None = None
    for _ in range(_TRIES):
        made_audio, made_words = made(audio, sound, stress.planned() + also, words)
        margin = stress.judge(contours(made_audio), made_words)
        if best is None or margin > best[0]:
            best = margin, made_audio, made_words
        if margin >= 1.0:
            break
    assert best is not None
    return best[1], best[2]


class _Stress:
    """How much each word of a sentence is raised or eased for the marked ones to stand out."""

    def __init__(self, sound: Contours, words: Sequence[WordTime], marked: Collection[int], strength: float) -> None:
        count = len(words)
        self._sound, self._words = sound, words
        self._marked = np.isin(np.arange(count), list(marked))
        self._spans = _spans(sound, words)
        self._voiced = ~np.isnan(sound.semitones)
        self._pitch = _bridged(sound.semitones)
        self._most_raise = _MOST_RAISE * strength
        self._raise = np.full(count, strength)
        beside = np.convolve(self._marked, (1, 0, 1))[1:-1] > 0
        after = np.arange(count) > np.flatnonzero(self._marked)[0]
        self._ease = (np.where(after, _AFTER, _BEFORE) + _BESIDE * beside) * strength

    def planned(self) -> Shape:
        """The change by which the marked words will stand out most, as far as can be foreseen."""
        best: tuple[float, Shape] | None = None
        for _ in range(_ROUNDS):
            shape = self._shape()
            margin = self.judge(*foreseen(self._sound, shape, self._words))
            if best is None or margin > best[0]:
                best = margin, shape
            if margin >= 1.0:
                break
        assert best is not None
        return best[1]

    def judge(self, sound: Contours, words: Sequence[WordTime]) -> float:
        """By how much the least of the marked words stands out, at least 1 where it is enough; where not, more is done next."""
        marked, others = self._marked, ~self._marked
        if not others.any():
            return np.inf
        prominences = _prominences(sound, words, (0.0,))
        if prominences[0, marked].min() >= _CLEARLY * prominences[0, others].max():
            prominences = np.concatenate([prominences, _prominences(sound, words, _JITTER_SECONDS)])
        features = _features(sound, words) + _MARGIN * others
        least, most = prominences[:, marked].min(axis=1), prominences[:, others].max(axis=1)
        is_rival, is_weak = _CLEARLY * prominences > least[:, None], prominences < _CLEARLY * most[:, None]
        rivals = others & (is_rival.any(axis=0) | (features > features[marked].min()))
        weak = marked & (is_weak.any(axis=0) | (features < features[others].max()))
        self._ease[rivals] = np.minimum(self._ease[rivals] + _EASE_STEP, _MOST_EASE)
        self._raise[weak] = np.minimum(self._raise[weak] + _RAISE_STEP, self._most_raise)
        margin = float((least / np.maximum(_CLEARLY * most, 1e-9)).min())
        return min(margin, 1.0 + float(features[marked].min() - features[others].max())) if rivals.any() else max(margin, 1.0)

    def _shape(self) -> Shape:
        """What is done to the sentence."""
        shape = Shape.of(len(self._pitch))
        self._ease_others(shape)
        inside = np.zeros(len(self._pitch), dtype=bool)
        for start, end in self._spans[self._marked]:
            inside[start:end] = True
        eased = (self._pitch + shape.semitones)[self._voiced & ~inside]
        top = float(np.percentile(eased, _TOP_PERCENT)) if len(eased) else -np.inf
        for index in np.flatnonzero(self._marked):
            self._raise_word(shape, int(index), top)
        return shape

    def _ease_others(self, shape: Shape) -> None:
        """Softer, shorter, and closer to the base of the voice; smoothly from word to word."""
        points: Points = []
        for (start, end), ease, marked in zip(self._spans.tolist(), self._ease.tolist(), self._marked.tolist(), strict=True):
            if end <= start:
                continue
            depth = 0.0 if marked else ease
            inset = min(3, (end - start) // 3)
            points += [(start + inset, depth), (end - inset, depth)]
            shape.stretch[start:end] = np.log1p(-_EASED_LENGTH * depth)
        ease = _curve(len(self._pitch), [(points[0][0] - 4, 0.0), *points, (points[-1][0] + 4, 0.0)])
        shape.gain[:] = -_EASED_DB * ease
        if self._voiced.any():
            base = np.percentile(self._pitch[self._voiced], _BASE_PERCENT)
            movement = np.maximum(self._pitch - base, 0.0) * np.minimum(_EASED_MOVEMENT * ease, _MOST_EASED_MOVEMENT)
            shape.semitones[:] = -np.minimum(movement, _DEEPEST_FALL * np.minimum(ease, 1.0))

    def _raise_word(self, shape: Shape, index: int, top: float) -> None:
        """Longer, louder and higher; in pitch at least by some, and above ``top``."""
        start, end = self._spans[index].tolist()
        strength = float(self._raise[index])
        nucleus = self._nucleus(start, end)
        weight = np.where(self._voiced[start:end], _VOICED_STRETCH, _VOICELESS_STRETCH)
        weight[nucleus.start - start : nucleus.end - start] = 1.0
        least, most = _STRETCH_RANGE
        shortness = float(np.clip(np.sqrt(_USUAL_SECONDS / ((end - start) * self._sound.step)), least, most))
        stretch = 1.0 + _STRETCH * strength * shortness * weight / weight.mean()
        shape.stretch[start:end] = np.log(np.minimum(stretch, _MOST_STRETCH))
        gain, rise = _GAIN_DB * strength, 0.0
        if self._voiced[start:end].any():
            peak = self._pitch[start:end][self._voiced[start:end]].max()
            rise = float(np.clip(top + _ABOVE * strength - peak, _RISE * strength, _HIGHEST_RISE))
        after = max(end, nucleus.end + 1)
        shape.semitones[:] += _curve(
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
        shape.gain[:] += _curve(
            len(self._pitch),
            [(start - 3, 0.0), (nucleus.start, gain), (nucleus.end, gain), (after, 0.5 * gain), (after + 4, 0.0)],
        )

    def _nucleus(self, start: int, end: int) -> _Nucleus:
        voiced, pitch = self._voiced[start:end], self._pitch[start:end]
        height = _smoothed(self._sound.energy)[start:end].copy()
        if voiced.any():
            height += np.where(voiced, _PITCH_DB * (pitch - np.median(pitch[voiced])), -_VOICELESS_DB)
        peak = int(np.argmax(height))
        low = np.flatnonzero(height < height[peak] - _NUCLEUS_DB)
        first = int(low[low < peak].max(initial=-1)) + 1
        last = int(low[low > peak].min(initial=len(height)))
        return _Nucleus(start + first, start + peak, start + last)


def _prominences(sound: Contours, words: Sequence[WordTime], shifts: Sequence[float]) -> Signal:
    """The prominence of each word, were the times so many seconds wrong: shape [len(shifts), len(words)]."""
    end = len(sound.energy) * sound.step
    moved = ([word.moved(0, float(np.clip(shift, -word.start, end - word.end))) for word in words] for shift in shifts)
    return np.array([prominence_and_boundaries(sound, shifted)[0] for shifted in moved])


def _features(sound: Contours, words: Sequence[WordTime]) -> Signal:
    """For each word the sum of length by letters, greatest energy and highest pitch, each in standard deviations."""
    rows = []
    for word, (start, end) in zip(words, _spans(sound, words).tolist(), strict=True):
        pitch = sound.semitones[start:end]
        pitch = pitch[~np.isnan(pitch)]
        rows.append(
            (
                np.log(max(1, end - start) / max(1, len(word.word))),
                sound.energy[start : max(end, start + 1)].max(initial=sound.energy.min()),
                np.percentile(pitch, 90) if len(pitch) else np.nan,
            )
        )
    table = np.array(rows)
    pitches = table[:, 2]
    pitches[np.isnan(pitches)] = np.nanmin(pitches) if not np.isnan(pitches).all() else 0.0
    features: Signal = ((table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-9)).sum(axis=1)
    return features


def _spans(sound: Contours, words: Sequence[WordTime]) -> NDArray[np.int64]:
    """First frame and end of each word, shape [len(words), 2]."""
    times = np.array([(word.start, word.end) for word in words]).reshape(-1, 2)
    return np.clip(np.round(times / sound.step), 0, len(sound.energy)).astype(np.int64)


def _bridged(semitones: Signal) -> Signal:
    """The pitch with straight lines where there is no voice."""
    voiced = np.flatnonzero(~np.isnan(semitones))
    return np.interp(np.arange(len(semitones)), voiced, semitones[voiced]) if len(voiced) else np.zeros(len(semitones))


def _smoothed(energy: Signal) -> Signal:
    window = np.hanning(_SMOOTH_FRAMES + 2)[1:-1]
    padded = np.pad(energy, (_SMOOTH_FRAMES // 2, _SMOOTH_FRAMES - 1 - _SMOOTH_FRAMES // 2), mode="edge")
    smooth: Signal = np.convolve(padded, window / window.sum(), "valid")
    return smooth


def _curve(count: int, points: Points) -> Signal:
    """Straight lines between the points, frame by frame."""
    places, values = zip(*points, strict=True)
    return np.asarray(np.interp(np.arange(count), places, values))
