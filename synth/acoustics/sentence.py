"""Emphasis and pitch marks made in the sound of one sentence."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from synth.acoustics import tunes
from synth.acoustics.contours import contours
from synth.acoustics.emphasis import stands_out, stressed
from synth.acoustics.shape import Shape, made
from synth.acoustics.steady import steady
from synth.base import Audio, Intensity, WordTime

_STRENGTHS: Mapping[Intensity, float] = {"low": 0.8, "medium": 1.15, "high": 1.5}


@dataclass(frozen=True, slots=True, eq=False)
class Reshaped:
    """A sentence after its marks were made: its sound, its words at their new times, and the marks that no voice was there for."""

    audio: Audio
    words: list[WordTime]
    voiceless: tuple[tuple[int, str], ...] = ()


def reshape_sentence(audio: Audio, words: Sequence[WordTime], wanted: Iterable[tuple[int, str]], intensity: Intensity) -> Reshaped:
    """Make ``wanted``, pairs of a word's index and the kind of a mark; what is so already is left as it is.

    Args:
        audio: the sentence and nothing else.
        words: all words of the sentence.
        wanted: each word must be heard.
        intensity: how much is done.
    """
    sound = contours(audio)
    sound = sound._replace(semitones=steady(sound.semitones))
    heard = [index for index, word in enumerate(words) if word.end > word.start]
    shape = Shape.of(len(sound.energy))
    marked: list[int] = []
    voiceless: list[tuple[int, str]] = []
    for index, kind in wanted:
        if kind == "emph":
            if np.isnan(sound.semitones).all():
                voiceless.append((index, kind))
            else:
                marked.append(index)
        elif not tunes.has_voice(sound, words[index]):
            voiceless.append((index, kind))
        elif not tunes.is_so(sound, words[index], kind, intensity):
            shape += tunes.tune(sound, words[index], kind, intensity, ends=index == heard[-1])
    if marked and not all(stands_out(sound, words, index) for index in marked):
        return Reshaped(*stressed(audio, sound, words, marked, _STRENGTHS[intensity], shape), tuple(voiceless))
    if shape.changed().any():
        return Reshaped(*made(audio, sound, shape, words), tuple(voiceless))
    return Reshaped(audio, list(words), tuple(voiceless))
