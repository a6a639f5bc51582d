"""When each word of a text is heard in a recording, whoever speaks it, and whether the recording says that text at all.

The text is spoken by a voice that tells its word times, and the recording is warped onto that (`synth.acoustics.dtw`). Silence is
no part of the comparison: between any two words there is a place where the path may wait as long as the recording is quiet, and
the rendering's own pauses are left out.

What betrays a wrong text, a missing sentence or noise: parts of the rendering picked at random are as much like the sound as those
that the path chose, on the whole or in one stretch, and the path holds and leaps where it should walk.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import MarkedText, plain
from prosody_tagger.segment import Word, segment_words
from synth.acoustics.dtw import Path, warp
from synth.acoustics.guide import speaker_of
from synth.acoustics.mel_cepstra import HOP_SECONDS, Features, Values, energies, features, highest, noise
from synth.acoustics.reference_reading import Rendering, render
from synth.base import Audio, Synthesizer, WordTime

TRUSTED = 0.7
"""The least `Alignment.confidence` of a recording that is taken to say the text."""

LONGEST_SECONDS = 7200.0
"""Longer recordings are refused. An hour takes about 80 seconds and less than a gigabyte."""

SLOWEST_RATE = 4000
"""The lowest sample rate, Hz, at which words can be told apart."""

_HOLD = _LEAP = np.float32(0.5)  # what it costs not to walk, beside distances of 1.3 where the texts are the same
_SILENCE_DB = -40.0
_STEADY_DB = 4.0  # noise whose quiet frames vary by less than this is a floor, and silence begins just above it
_OVER_NOISE_DB = 2.0
_HIGHEST_SILENCE_DB, _HIGHEST_NOISE_DB = -25.0, -6.0
_COST_PER_DB, _LOUDEST_COST = 2.0, 8.0
_TEMPO = 0.4, 2.5  # how much faster or slower than the recording the rendering may be for it to be stretched onto it
_FEWEST_FRAMES = 10  # of sound
_WORD_FRAMES = 2  # a word that is heard has as many, or a leap would pass it over
_COMPARED = 500  # frames of the rendering that those of the path are compared with
_STRETCH = 160  # frames of speech, 0.8 s: about three words

# Logistic regressions on neural speech and renderings: with the right text, also in noise of 10 dB, at 8 kHz, with pauses put in,
# cut to phrases, joined to long texts; with another text, a sentence too many or too few, its halves swapped; and on babble,
# noise, tones and speech played backwards. First the constant, then what counts against the text: unlikeness and unevenness.
_WHOLE = 26.1, np.array([-38.9, -9.2, -28.5, -15.9])  # on the whole, and in the worst stretch
_LOCAL = 6.9, np.array([-31.9, -4.6])  # in the stretch around a word


@dataclass(frozen=True, slots=True)
class Alignment:
    """The words of a text in a recording.

    Attributes:
        words: one for each of ``segment_words(text)``, in order, never overlapping, in seconds from the recording's start. Each
            one's confidence is about the sound around it. A word that makes no sound has no length and confidence 0.
        confidence: 0 to 1, whether the recording says this text, all of it and nothing else.
    """

    words: tuple[WordTime, ...]
    confidence: float

    @property
    def trusted(self) -> bool:
        """Whether the recording is taken to say this text. If not, do not rely on the times."""
        return self.confidence >= TRUSTED


async def align(audio: Audio, text: str | MarkedText, voice: Synthesizer, *, language: str | None = None) -> Alignment:
    """Find the words of ``text`` in ``audio``.

    Args:
        audio: anyone's speech, at `SLOWEST_RATE` or more.
        text: what is said in it. Marks make no difference.
        voice: one that tells its word times, to compare with.
        language: the name of one of its voices, or a BCP 47 tag; None is its default.

    Raises:
        BadInput: no samples, more than `LONGEST_SECONDS`, several channels, NaN or infinity; no words; no such language.
        BackendError: the voice failed.
    """
    _check(audio)
    marked = plain(text) if isinstance(text, str) else text
    runs = segment_words(marked.text)
    if not runs:
        raise BadInput(f"there are no words in {marked.text[:40]!r}; give the text that is said in the recording")
    top = highest(audio.rate)
    bands, rendering = await asyncio.gather(
        asyncio.to_thread(_energies, audio, top), render(marked, runs, voice, await speaker_of(voice, language), top)
    )
    return await asyncio.to_thread(_aligned, marked.text, runs, bands, rendering, audio.seconds)


def _check(audio: Audio) -> None:
    if audio.samples.ndim != 1:
        raise BadInput(f"the recording has shape {audio.samples.shape}; give one channel, of shape [samples]")
    if not len(audio.samples):
        raise BadInput("the recording has 0 samples; give one that holds speech")
    if audio.rate < SLOWEST_RATE:
        raise BadInput(f"a sample rate of {audio.rate} Hz is too low to tell words apart; give {SLOWEST_RATE} Hz or more")
    if audio.seconds > LONGEST_SECONDS:
        raise BadInput(
            f"the recording is {audio.seconds / 3600:.1f} hours long; give at most {LONGEST_SECONDS / 3600:.0f} at a time"
        )
    if not np.isfinite(audio.samples).all():
        raise BadInput("the recording has samples that are NaN or infinite; it is broken, record or decode it again")


def _energies(audio: Audio, top: float) -> Values:
    """At full scale, so that loudness makes no difference at all."""
    peak = np.float32(np.abs(audio.samples).max()) or np.float32(1.0)
    return energies(Audio(audio.samples / peak, audio.rate), top)


class _Places(NamedTuple):
    """The rendering as the path walks it: every word's frames, with a place of silence before, between and after the words.

    Attributes:
        values: float32 of shape [places, features]; zeros for silence.
        word: int64 of shape [places], the index of the word, or -1 for silence.
    """

    values: Values
    word: NDArray[np.int64]


def _aligned(text: str, runs: Sequence[Word], bands: Values, rendering: Rendering, seconds: float) -> Alignment:
    heard = features(bands)
    loudest_silence = _loudest_silence(heard.level)
    sounding = int(np.count_nonzero(heard.level > loudest_silence))
    spoken = float(np.diff(rendering.spans).sum())
    if sounding < _FEWEST_FRAMES or spoken < _FEWEST_FRAMES:
        return _unheard(text, runs, seconds)
    expected = features(rendering.bands, noise(bands))
    places = _places(expected.values, rendering.spans, float(np.clip(spoken / sounding, *_TEMPO)))
    if len(places.word) > 2 * len(heard.level):
        return _unheard(text, runs, seconds)  # no path is that fast
    quiet = np.clip((heard.level - loudest_silence) * _COST_PER_DB, 0.0, _LOUDEST_COST).astype(np.float32)
    path = _warped(heard.values, places, quiet)
    bounds = np.clip(_bounds(places.word[path.places], len(runs)), 0.0, seconds)
    whole, local = _confidence(heard, places, path, len(runs))
    times = (
        WordTime(run.core(text), run.core_start, float(start), float(end), float(sure))
        for run, (start, end), sure in zip(runs, bounds, local, strict=True)
    )
    return Alignment(tuple(times), whole)


def _unheard(text: str, runs: Sequence[Word], seconds: float) -> Alignment:
    """Where no word can be told, they share the recording evenly, and nothing is claimed of them."""
    cuts = np.linspace(0.0, seconds, len(runs) + 1).tolist()
    times = (WordTime(run.core(text), run.core_start, cuts[index], cuts[index + 1], 0.0) for index, run in enumerate(runs))
    return Alignment(tuple(times), 0.0)


def _loudest_silence(level: Values) -> float:
    """Up to which level, in dB, a frame may be silence: where there is steady noise, that is what silence sounds like."""
    lowest, low = np.percentile(level[level > -70.0], [2, 10]) if (level > -70.0).any() else (-70.0, -70.0)
    highest_silence = _HIGHEST_NOISE_DB if low - lowest < _STEADY_DB else _HIGHEST_SILENCE_DB
    return float(min(max(_SILENCE_DB, low + _OVER_NOISE_DB), highest_silence))


def _places(values: Values, spans: NDArray[np.float64], tempo: float) -> _Places:
    """The frames of each word, ``tempo`` of the rendering's to one of the recording's."""
    at: list[NDArray[np.float64]] = [np.zeros(1)]
    word = [np.array([-1])]
    for index, (start, end) in enumerate(spans):
        if end > start:
            count = max(_WORD_FRAMES, round((end - start) / tempo))
            at += [start + (np.arange(count) + 0.5) * ((end - start) / count), np.zeros(1)]
            word += [np.full(count, index), np.array([-1])]
    positions, owners = np.concatenate(at), np.concatenate(word)
    before = np.clip(positions.astype(np.int64), 0, len(values) - 1)
    after = np.minimum(before + 1, len(values) - 1)
    share = (positions - before).astype(np.float32)[:, None]
    taken = values[before] * (1 - share) + values[after] * share
    taken[owners < 0] = 0.0
    return _Places(taken, owners)


def _warped(values: Values, places: _Places, quiet: Values) -> Path:
    """The path of the sound through the places; ``quiet`` is what each frame costs as silence."""
    silent = places.word < 0
    hold = np.where(silent, np.float32(0.0), _HOLD)
    leap = np.full(len(silent), _LEAP, np.float32)
    leap[1:][silent[:-1]] = 0.0  # from a word to the next without a silence between them

    def distance(rows: slice, columns: slice) -> Values:
        costs = _distances(values[rows], places.values[columns])
        costs[:, silent[columns]] = quiet[rows, None]
        return costs

    return warp(distance, len(values), hold, leap)


def _distances(values: Values, others: Values) -> Values:
    """How unlike each row of one is to each of the other."""
    squares = (values**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * values @ others.T
    distances: Values = np.sqrt(np.maximum(squares, 0.0, out=squares), out=squares)
    return distances


def _bounds(owners: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """When each word starts and ends, in seconds, from the word of every frame. A word without frames is where the last ended."""
    frames = np.flatnonzero(owners >= 0)
    owner = owners[frames]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    last = np.flatnonzero(np.diff(owner, append=count))
    bounds = np.full((count, 2), -1.0)
    bounds[owner[first], 0] = frames[first]
    bounds[owner[last], 1] = frames[last] + 1
    ends = np.maximum.accumulate(np.maximum(bounds[:, 1], 0.0))
    silent = bounds[:, 0] < 0
    bounds[silent] = ends[silent, None]
    seconds: NDArray[np.float64] = (bounds - 0.5) * HOP_SECONDS  # between the centres of two frames
    return seconds


def _confidence(heard: Features, places: _Places, path: Path, count: int) -> tuple[float, NDArray[np.float64]]:
    """Whether the sound says the text, and for each of ``count`` words whether the sound around it says it."""
    owners = places.word[path.places]
    speech = np.flatnonzero(owners >= 0)
    if not len(speech):
        return 0.0, np.zeros(count)
    owner = owners[speech]
    steps = np.diff(path.places, prepend=path.places[0] - 1)
    unlike = _unlikeness(heard.values[speech], places, path.costs[speech])
    against = np.stack([unlike, steps[speech] != 1])
    nearby = _around(against, _STRETCH)
    whole = _logistic(_WHOLE[0] + _WHOLE[1] @ np.concatenate([against.mean(axis=1), nearby.max(axis=1)]))
    frames = np.bincount(owner, minlength=count)
    of_words = np.stack([np.bincount(owner, row, count) for row in nearby]) / np.maximum(frames, 1)
    local = np.where(frames > 0, _logistic(_LOCAL[0] + _LOCAL[1] @ of_words), 0.0)
    return float(whole), local


def _unlikeness(values: Values, places: _Places, costs: Values) -> NDArray[np.float64]:
    """For each frame, the share of the rendering's frames that are more like it than where the path has it."""
    speech = places.values[places.word >= 0]
    compared = speech[:: max(1, len(speech) // _COMPARED)]
    shares = [
        np.mean(_distances(values[first : first + 2000], compared) < costs[first : first + 2000, None], axis=1)
        for first in range(0, len(values), 2000)
    ]
    return np.concatenate(shares)


def _around(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """For each value of each row, the mean of the ``width`` around it, of those there are."""
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    index = np.arange(values.shape[1])
    reach = min(width, len(index)) // 2
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(index))
    mean: NDArray[np.float64] = (sums[:, high] - sums[:, low]) / (high - low)
    return mean


def _logistic(value: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-value))
    return found
