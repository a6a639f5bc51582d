"""Pitch marks: make a word high, low, rising or falling."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from synth.acoustics.contours import Contours, interpolated
from synth.acoustics.modification import Modification
from synth.base import Strength, WordTime

Signal = NDArray[np.float64]

_SEMITONES: Mapping[Strength, float] = {"low": 3.0, "medium": 4.5, "high": 6.0}
_POSITIONS = (0.0, 0.2, 0.8, 1.0)
_LEVELS: Mapping[str, tuple[float, ...]] = {"pitch_high": (0.8, 1.0, 1.0, 0.8), "pitch_low": (-0.8, -1.0, -1.0, -0.8)}
_TURNS: Mapping[str, tuple[float, ...]] = {
    "pitch_rising": (-0.4, -0.4, 0.6, 0.6),
    "pitch_falling": (0.6, 0.6, -0.4, -0.4),
}
"""The pitch at `_POSITIONS` of the voiced part of a word, as shares of `_SEMITONES`: `_LEVELS` are added, `_TURNS` replace it."""

_KEPT = 0.5  # share of a turning word's own movement about its straight line
_FARTHEST = 12.0  # semitones, the greatest change
_TAIL_SECONDS = 0.15  # the shortest end of a sentence that turns with its last word
_HELD_FRAMES, _FADE_FRAMES = 3, 5  # beyond the word, as its times may be wrong: change held, change faded
_FEWEST_FRAMES = 6  # voiced, the minimum for a pitch mark
_FAINT_DB = 30.0  # below the loudest frame of the word; the pitch of fainter frames is not audible
_APART_FRAMES, _SHORT_FRAMES = 10, 10  # voiced runs that are further apart are separate; short separate ones are ignored


def has_voice(contours: Contours, word: WordTime) -> bool:
    """Return whether enough of a word is voiced for a pitch mark."""
    return len(_voiced(contours, word)) >= _FEWEST_FRAMES


def is_realised(contours: Contours, word: WordTime, kind: str, strength: Strength) -> bool:
    """Return whether a word already rises or falls by the amount of ``strength``; always false for high and low."""
    if kind not in _TURNS:
        return False
    pitch = contours.semitones[_voiced(contours, word)]
    sign = 1.0 if kind == "pitch_rising" else -1.0
    turns = [sign * (np.median(pitch[-part:]) - np.median(pitch[:part])) for part in (len(pitch) // 3, len(pitch) // 4)]
    return bool(min(turns) >= _SEMITONES[strength])


def pitch_change(contours: Contours, word: WordTime, kind: str, strength: Strength, *, is_last: bool) -> Modification:
    """Return the modification for a mark of ``kind`` on ``word``.

    The word must have voice (`has_voice`). ``is_last`` says that it is the last of its sentence: then a rise or fall extends over
    at least the last 150 ms.
    """
    change = Modification.none(len(contours.energy))
    clear = _voiced(contours, word)
    first, last = int(clear[0]), int(clear[-1])
    if kind in _TURNS and is_last:
        first = max(0, min(first, last - round(_TAIL_SECONDS / contours.step)))
    start, end = _frames(contours, word)
    frames = np.arange(min(start, first), max(end, last + 1))
    shares = _LEVELS.get(kind) or _TURNS[kind]
    wanted = np.interp((frames - first) / max(1, last - first), _POSITIONS, shares) * _SEMITONES[strength]
    if kind in _TURNS:
        # The word's pitch is replaced by the new line plus some of its own movement; fainter frames around it follow.
        pitch = interpolated(contours.semitones)
        wanted += np.median(contours.semitones[clear]) - pitch[frames]
        wanted[first - frames[0] : last + 1 - frames[0]] += _KEPT * _detrended(pitch[first : last + 1])
    reach = _HELD_FRAMES + _FADE_FRAMES
    before, after = min(int(frames[0]), reach), min(len(change.semitones) - int(frames[-1]) - 1, reach)
    fade = np.clip(np.arange(reach, 0, -1) / _FADE_FRAMES, 0.0, 1.0)
    semitones = np.concatenate([wanted[0] * fade[:before][::-1], wanted, wanted[-1] * fade[:after]])
    change.semitones[frames[0] - before : frames[-1] + after + 1] = np.clip(semitones, -_FARTHEST, _FARTHEST)
    return change


def _detrended(pitch: Signal) -> Signal:
    """Return the pitch minus the straight line through it."""
    frames = np.arange(len(pitch)) - (len(pitch) - 1) / 2
    centred = pitch - pitch.mean()
    return np.asarray(centred - frames * (frames @ centred) / max(1.0, float(frames @ frames)))


def _frames(contours: Contours, word: WordTime) -> tuple[int, int]:
    """Return the first frame and the end of a word."""
    count = len(contours.energy)
    return min(count, max(0, round(word.start / contours.step))), min(count, max(0, round(word.end / contours.step) + 1))


def _voiced(contours: Contours, word: WordTime) -> NDArray[np.int64]:
    """Return the voiced frames of a word, without those too faint for their pitch to be audible and short separate runs."""
    start, end = _frames(contours, word)
    energy = contours.energy[start:end]
    is_audible = energy > energy.max(initial=-np.inf) - _FAINT_DB
    voiced = start + np.flatnonzero(is_audible & ~np.isnan(contours.semitones[start:end]))
    runs = np.split(voiced, np.flatnonzero(np.diff(voiced) > _APART_FRAMES) + 1)
    least = min(_SHORT_FRAMES, max(len(run) for run in runs))
    return np.concatenate([run for run in runs if len(run) >= least])
