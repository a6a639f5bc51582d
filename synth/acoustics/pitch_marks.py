"""Pitch marks: a word made high, low, rising or falling."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from synth.acoustics.contours import Contours
from synth.acoustics.modification import Shape
from synth.base import Strength, WordTime

Signal = NDArray[np.float64]

_SEMITONES: Mapping[Strength, float] = {"low": 3.0, "medium": 4.5, "high": 6.0}
_PLACES = (0.0, 0.2, 0.8, 1.0)
_LEVELS: Mapping[str, tuple[float, ...]] = {"pitch_high": (0.8, 1.0, 1.0, 0.8), "pitch_low": (-0.8, -1.0, -1.0, -0.8)}
_TURNS: Mapping[str, tuple[float, ...]] = {
    "pitch_rising": (-0.4, -0.4, 0.6, 0.6),
    "pitch_falling": (0.6, 0.6, -0.4, -0.4),
}
"""The pitch of a word at `_PLACES` of what is voiced of it, as parts of the semitones: what is added, and what it becomes."""

_KEPT = 0.5  # of a turning word's own movement about its straight line
_FARTHEST = 12.0
_TAIL_SECONDS = 0.15  # of a sentence, at least, that turns with its last word
_HELD_FRAMES, _FADE_FRAMES = 3, 5  # beyond the word, for its times may err
_FEWEST_FRAMES = 6
_FAINT_DB = 30.0  # below the loudest frame of the word
_APART_FRAMES, _SHORT_FRAMES = 10, 10


def has_voice(sound: Contours, word: WordTime) -> bool:
    """Whether enough of a word is voiced for it to have a tune."""
    return len(_voiced(sound, word)) >= _FEWEST_FRAMES


def is_so(sound: Contours, word: WordTime, kind: str, strength: Strength) -> bool:
    """Whether a rising or falling word is that already, by as much as ``strength`` says."""
    if kind not in _TURNS:
        return False
    pitch = sound.semitones[_voiced(sound, word)]
    sign = 1.0 if kind == "pitch_rising" else -1.0
    turns = [sign * (np.median(pitch[-part:]) - np.median(pitch[:part])) for part in (len(pitch) // 3, len(pitch) // 4)]
    return bool(min(turns) >= _SEMITONES[strength])


def tune(sound: Contours, word: WordTime, kind: str, strength: Strength, *, ends: bool) -> Shape:
    """The change of pitch that a mark of ``kind`` asks for on ``word``; ``ends`` if that is the last of its sentence."""
    shape = Shape.of(len(sound.energy))
    clear = _voiced(sound, word)
    first, last = int(clear[0]), int(clear[-1])
    if kind in _TURNS and ends:
        first = max(0, min(first, last - round(_TAIL_SECONDS / sound.step)))
    start, end = _frames(sound, word)
    frames = np.arange(min(start, first), max(end, last + 1))
    wanted = np.interp((frames - first) / max(1, last - first), _PLACES, _LEVELS.get(kind) or _TURNS[kind]) * _SEMITONES[strength]
    if kind in _TURNS:
        # It becomes a line of its own, with some of its movement, and what is faint beyond follows.
        wanted += np.median(sound.semitones[clear]) - _pitch(sound, frames)
        wanted[first - frames[0] : last + 1 - frames[0]] += _KEPT * _about_line(sound, np.arange(first, last + 1))
    reach = _HELD_FRAMES + _FADE_FRAMES
    before, after = min(int(frames[0]), reach), min(len(shape.semitones) - int(frames[-1]) - 1, reach)
    fade = np.clip(np.arange(reach, 0, -1) / _FADE_FRAMES, 0.0, 1.0)
    change = np.concatenate([wanted[0] * fade[:before][::-1], wanted, wanted[-1] * fade[:after]])
    shape.semitones[frames[0] - before : frames[-1] + after + 1] = np.clip(change, -_FARTHEST, _FARTHEST)
    return shape


def _about_line(sound: Contours, frames: NDArray[np.int64]) -> Signal:
    """The pitch of the frames less the straight line through it."""
    pitch = _pitch(sound, frames)
    places = frames - frames.mean()
    centred = pitch - pitch.mean()
    return np.asarray(centred - places * (places @ centred) / max(1.0, float(places @ places)))


def _pitch(sound: Contours, frames: NDArray[np.int64]) -> Signal:
    """The pitch of the frames, with straight lines where there is no voice."""
    voiced = np.flatnonzero(~np.isnan(sound.semitones))
    return np.asarray(np.interp(frames, voiced, sound.semitones[voiced]))


def _frames(sound: Contours, word: WordTime) -> tuple[int, int]:
    """First frame and end of a word."""
    count = len(sound.energy)
    return min(count, max(0, round(word.start / sound.step))), min(count, max(0, round(word.end / sound.step) + 1))


def _voiced(sound: Contours, word: WordTime) -> NDArray[np.int64]:
    """The voiced frames of a word, without those that are too faint for their pitch to be heard, or apart and short."""
    start, end = _frames(sound, word)
    energy = sound.energy[start:end]
    is_heard = energy > energy.max(initial=-np.inf) - _FAINT_DB
    voiced = start + np.flatnonzero(is_heard & ~np.isnan(sound.semitones[start:end]))
    runs = np.split(voiced, np.flatnonzero(np.diff(voiced) > _APART_FRAMES) + 1)
    least = min(_SHORT_FRAMES, max(len(run) for run in runs))
    return np.concatenate([run for run in runs if len(run) >= least])
