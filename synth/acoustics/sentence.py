"""Emphasis and pitch marks made in the sound of one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prosody_tagger.markup import Mark
from synth.acoustics import pitch_marks as tunes
from synth.acoustics.contours import Contours, contours
from synth.acoustics.emphasis import stand_out, stressed
from synth.acoustics.modification import Shape, made
from synth.acoustics.steady import steady
from synth.base import Audio, Strength, WordTime

_STRENGTHS: Mapping[Strength, float] = {"low": 0.8, "medium": 1.15, "high": 1.5}

_FEWEST_FRAMES = 2  # of a word


@dataclass(frozen=True, slots=True, eq=False)
class Reshaped:
    """A sentence after its marks were made: its sound, its words at their new times, and the marks that no voice was there for."""

    audio: Audio
    words: list[WordTime]
    unrealised: tuple[tuple[int, Mark], ...]


def reshape_sentence(audio: Audio, words: Sequence[WordTime], wanted: Sequence[tuple[int, Mark]], strength: Strength) -> Reshaped:
    """Make emphasis and pitch marks in the sound of a sentence. What is so already is left as it is.

    Args:
        audio: the sentence and nothing else.
        words: all words of the sentence.
        wanted: marks, each with the index of its word.
        strength: how much is done.
    """
    sound = contours(audio)
    sound = sound._replace(semitones=steady(sound.semitones))
    heard = [index for index, word in enumerate(words) if word.end > word.start]
    unrealised = tuple((index, mark) for index, mark in wanted if not _can_bear(sound, words[index], mark.kind))
    shape = Shape.of(len(sound.energy))
    stressed_words: set[int] = set()
    for index, mark in wanted:
        if (index, mark) in unrealised or tunes.is_so(sound, words[index], mark.kind, strength):
            continue
        if mark.kind == "emph":
            stressed_words.add(index)
        else:
            shape += tunes.tune(sound, words[index], mark.kind, strength, ends=index == heard[-1])
    if stressed_words and not stand_out(sound, words, stressed_words):
        return Reshaped(*stressed(audio, sound, words, stressed_words, _STRENGTHS[strength], shape), unrealised)
    if shape.changed().any():
        return Reshaped(*made(audio, sound, shape, words), unrealised)
    return Reshaped(audio, list(words), unrealised)


def _can_bear(sound: Contours, word: WordTime, kind: str) -> bool:
    """Whether there is enough voice for a mark: in the sentence for emphasis, in the word itself for pitch."""
    if kind == "emph":
        return word.end - word.start >= _FEWEST_FRAMES * sound.step and not np.isnan(sound.semitones).all()
    return tunes.has_voice(sound, word)
