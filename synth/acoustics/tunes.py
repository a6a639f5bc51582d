"""Pitch marks: a word made high, low, rising or falling."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from synth.acoustics.contours import Contours
from synth.acoustics.shape import Shape
from synth.base import Intensity, WordTime

Signal = NDArray[np.float64]

_SEMITONES: Mapping[Intensity, float] = {"low": 3.0, "medium": 4.5, "high": 6.0}
_PLACES = (0.0, 0.2, 0.8, 1.0)
_LEVELS: Mapping[str, tuple[float, ...]] = {"pitch_high": (0.6, 1.0, 1.0, 0.6), "pitch_low": (-0.6, -1.0, -1.0, -0.6)}
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


def has_voice(sound: Contours, word: WordTime) -> bool:
    """Whether enough of a word is voiced for it to have a tune."""
    return len(_voiced(sound, word)) >= _FEWEST_FRAMES


def is_so(sound: Contours, word: WordTime, kind: str, intensity: Intensity) -> bool:
    """Whether a rising or falling word is that already, by as much as ``intensity`` says."""
    if kind not in _TURNS:
        return False
    pitch = sound.semitones[_voiced(sound, word)]
    sign = 1.0 if kind == "pitch_rising" else -1.0
    turns = [sign * (np.median(pitch[-part:]) - np.median(pitch[:part])) for part in (len(pitch) // 3, len(pitch) // 4)]
    return bool(min(turns) >= _SEMITONES[intensity])


def tune(sound: Contours, word: WordTime, kind: str, intensity: Intensity, *, ends: bool) -> Shape:
    """The change of pitch that a mark of ``kind`` asks for on ``word``; ``ends`` if that is the last of its sentence."""
    shape = Shape.of(len(sound.energy))
    voiced = _voiced(sound, word)
    first, last = int(voiced[0]), int(voiced[-1])
    if kind in _TURNS and ends:
        first = max(0, min(first, last - round(_TAIL_SECONDS / sound.step)))
    wanted = np.interp(np.linspace(0.0, 1.0, last - first + 1), _PLACES, _LEVELS.get(kind) or _TURNS[kind]) * _SEMITONES[intensity]
    if kind in _TURNS:
        wanted += _KEPT * _about_line(sound, first, last) - (_pitch(sound, first, last) - np.median(sound.semitones[voiced]))
    before, after = min(first, _HELD_FRAMES + _FADE_FRAMES), min(len(shape.semitones) - last - 1, _HELD_FRAMES + _FADE_FRAMES)
    fade = np.clip(np.arange(_HELD_FRAMES + _FADE_FRAMES, 0, -1) / _FADE_FRAMES, 0.0, 1.0)
    change = np.concatenate([wanted[0] * fade[:before][::-1], wanted, wanted[-1] * fade[:after]])
    shape.semitones[first - before : last + after + 1] = np.clip(change, -_FARTHEST, _FARTHEST)
    return shape


def _about_line(sound: Contours, first: int, last: int) -> Signal:
    """The pitch of the frames less the straight line through it."""
    pitch = _pitch(sound, first, last)
    frames = np.arange(len(pitch)) - (len(pitch) - 1) / 2
    centred = pitch - pitch.mean()
    return np.asarray(centred - frames * (frames @ centred) / max(1.0, float(frames @ frames)))


def _pitch(sound: Contours, first: int, last: int) -> Signal:
    """The pitch of the frames, with straight lines where there is no voice."""
    voiced = np.flatnonzero(~np.isnan(sound.semitones))
    return np.asarray(np.interp(np.arange(first, last + 1), voiced, sound.semitones[voiced]))


def _voiced(sound: Contours, word: WordTime) -> NDArray[np.int64]:
    """The voiced frames of a word, without those that are too faint for their pitch to be heard, or to be told."""
    first, last = max(0, round(word.start / sound.step)), max(0, round(word.end / sound.step))
    energy = sound.energy[first : last + 1]
    is_heard = energy > energy.max(initial=-np.inf) - _FAINT_DB
    return first + np.flatnonzero(is_heard & ~np.isnan(sound.semitones[first : last + 1]))
