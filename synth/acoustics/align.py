"""Align a text with a recording of it by any speaker: word times, and whether the recording contains the text at all.

A backend that reports word times reads the text, and the recording is warped onto this reference (`synth.acoustics.dtw`). Silence
is not compared: between any two words there is a silent state in which the path may stay while the recording is quiet, and the
reference's own pauses are left out.

Two things indicate a wrong text, a missing sentence or noise, overall or in one stretch: frames of the reference chosen at random
are as similar to the recording as those on the path, and the path stays and skips instead of advancing frame by frame.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import MarkedText, plain
from prosody_tagger.segment import Word
from synth.acoustics.dtw import WarpingPath, warp
from synth.acoustics.mel_cepstra import HOP_SECONDS, Features, Values, band_energies, features, highest_hz, noise_level
from synth.acoustics.reference_reading import ReferenceReading, read_for_alignment, voice_for
from synth.base import Audio, Synthesizer, WordTime

TRUSTED = 0.7
"""The lowest `Alignment.confidence` at which a recording is accepted as containing the text."""

LONGEST_SECONDS = 7200.0
"""Longer recordings are refused. An hour takes about 80 seconds and less than a gigabyte."""

LOWEST_RATE = 4000
"""The lowest sample rate, Hz, at which speech sounds can be distinguished."""

_HOLD = _LEAP = np.float32(0.5)  # cost of staying or skipping; the distance of two frames of the same sound is about 1.3
_SILENCE_DB = -40.0
_STEADY_DB = 4.0  # quiet frames that vary by less are steady noise, and silence begins just above its level
_OVER_NOISE_DB = 2.0
_HIGHEST_SILENCE_DB, _HIGHEST_NOISE_DB = -25.0, -6.0
_COST_PER_DB, _LOUDEST_COST = 2.0, 8.0  # cost of a frame assigned to silence, by its level above silence
_TEMPO = 0.4, 2.5  # range by which the reference may be compressed or stretched to the recording's tempo
_FEWEST_FRAMES = 10  # of sound, in the recording and in the reference
_WORD_FRAMES = 2  # the least for a word with sound; with fewer, a single skip would pass over it
_COMPARED = 500  # frames of the reference that each frame of the path is compared with
_STRETCH = 160  # frames of speech, 0.8 s: about three words

# Logistic regressions fitted on neural speech against formant-synthesis references. Positive examples: the right text, also with
# noise 10 dB below the speech, at 8 kHz, with pauses inserted, cut to phrases, and joined to long texts. Negative examples: another
# text, a sentence too many or too few, halves swapped, and babble, noise, tones and reversed speech. First the constant, then
# the weights of the share of more similar frames and of the share of steps other than 1. benchmarks/alignment.py checks them.
_WHOLE = 26.1, np.array([-38.9, -9.2, -28.5, -15.9])  # on average, and in the worst stretch
_LOCAL = 6.9, np.array([-31.9, -4.6])  # in the stretch around a word


@dataclass(frozen=True, slots=True)
class Alignment:
    """The words of a text in a recording.

    Attributes:
        words: one for each of ``segment_words(text)``, in order, without overlaps, in seconds from the recording's start. The
            confidence of each is computed from the audio around it. A word without sound has no length and confidence 0.
        confidence: 0 to 1, that the recording contains this text, all of it and nothing else.
    """

    words: tuple[WordTime, ...]
    confidence: float

    @property
    def trusted(self) -> bool:
        """Whether the recording is accepted as containing this text. If not, do not rely on the times."""
        return self.confidence >= TRUSTED


async def align(audio: Audio, text: str | MarkedText, backend: Synthesizer, *, language: str | None = None) -> Alignment:
    """Find the words of ``text`` in ``audio``.

    Args:
        audio: speech by any speaker, at `LOWEST_RATE` or more.
        text: its transcript. Marks make no difference.
        backend: speaks the reference; it must report word times.
        language: the name of one of the backend's voices, or a BCP 47 tag; None is its default.

    Raises:
        BadInput: no samples, more than `LONGEST_SECONDS`, several channels, NaN or infinity; no words; no such language.
        BackendError: the backend failed.
    """
    check_recording(audio)
    marked = plain(text) if isinstance(text, str) else text
    words = marked.words
    if not words:
        raise BadInput(f"there are no words in {marked.text[:40]!r}; give the transcript of the recording")
    top_hz = highest_hz(audio.rate)
    voice = await voice_for(backend, language)
    bands, reference = await asyncio.gather(
        asyncio.to_thread(_normalised_energies, audio, top_hz), read_for_alignment(marked, backend, voice, top_hz)
    )
    return await asyncio.to_thread(_align_to, reference, bands, marked.text, words, audio.seconds)


def check_recording(audio: Audio) -> None:
    """Refuse audio that cannot be aligned.

    Raises:
        BadInput: no samples, more than `LONGEST_SECONDS`, several channels, a rate below `LOWEST_RATE`, NaN or infinity.
    """
    if audio.samples.ndim != 1:
        raise BadInput(f"the recording has shape {audio.samples.shape}; give one channel, of shape [samples]")
    if not len(audio.samples):
        raise BadInput("the recording has 0 samples; give one that holds speech")
    if audio.rate < LOWEST_RATE:
        raise BadInput(f"a sample rate of {audio.rate} Hz is too low to tell words apart; give {LOWEST_RATE} Hz or more")
    if audio.seconds > LONGEST_SECONDS:
        raise BadInput(
            f"the recording is {audio.seconds / 3600:.1f} hours long; give at most {LONGEST_SECONDS / 3600:.0f} at a time"
        )
    if not np.isfinite(audio.samples).all():
        raise BadInput("the recording has samples that are NaN or infinite; it is broken, record or decode it again")


def unaligned(text: str, words: Sequence[Word], seconds: float) -> Alignment:
    """Return an alignment of confidence 0 in which the words share the recording evenly."""
    cuts = np.linspace(0.0, seconds, len(words) + 1).tolist()
    times = (WordTime(word.core(text), word.core_start, cuts[index], cuts[index + 1], 0.0) for index, word in enumerate(words))
    return Alignment(tuple(times), 0.0)


def _normalised_energies(audio: Audio, top_hz: float) -> Values:
    """Return the band energies of the audio scaled to a peak of 1, so that loudness makes no difference."""
    peak = np.float32(np.abs(audio.samples).max()) or np.float32(1.0)
    return band_energies(Audio(audio.samples / peak, audio.rate), top_hz)


class _Lattice(NamedTuple):
    """The states of the search: the frames of every word, with a silent state before, between and after the words.

    Attributes:
        values: float32 of shape [states, features]; zeros for silence.
        word: int64 of shape [states], the index of the word, or -1 for silence.
    """

    values: Values
    word: NDArray[np.int64]


def _align_to(reference: ReferenceReading, bands: Values, text: str, words: Sequence[Word], seconds: float) -> Alignment:
    recording = features(bands)
    silence_db = _silence_threshold(recording.level)
    sounding = int(np.count_nonzero(recording.level > silence_db))
    spoken = float(np.diff(reference.spans).sum())
    if sounding < _FEWEST_FRAMES or spoken < _FEWEST_FRAMES:
        return unaligned(text, words, seconds)
    expected = features(reference.bands, noise_level(bands))
    lattice = _lattice(expected.values, reference.spans, float(np.clip(spoken / sounding, *_TEMPO)))
    if len(lattice.word) > 2 * len(recording.level):
        return unaligned(text, words, seconds)  # the recording is too short for any path
    silence_costs = np.clip((recording.level - silence_db) * _COST_PER_DB, 0.0, _LOUDEST_COST).astype(np.float32)
    path = _best_path(recording.values, lattice, silence_costs)
    bounds = np.clip(_word_bounds(lattice.word[path.states], len(words)), 0.0, seconds)
    whole, local = _confidences(recording, lattice, path, len(words))
    times = (
        WordTime(word.core(text), word.core_start, float(start), float(end), float(confidence))
        for word, (start, end), confidence in zip(words, bounds, local, strict=True)
    )
    return Alignment(tuple(times), whole)


def _silence_threshold(level: Values) -> float:
    """Return the level, in dB, up to which a frame may be silence; it lies just above steady noise where there is some."""
    lowest, low = np.percentile(level[level > -70.0], [2, 10]) if (level > -70.0).any() else (-70.0, -70.0)
    highest_silence = _HIGHEST_NOISE_DB if low - lowest < _STEADY_DB else _HIGHEST_SILENCE_DB
    return float(min(max(_SILENCE_DB, low + _OVER_NOISE_DB), highest_silence))


def _lattice(values: Values, spans: NDArray[np.float64], tempo: float) -> _Lattice:
    """Return the states of the search, with ``tempo`` frames of the reference for one frame of the recording."""
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
    return _Lattice(taken, owners)


def _best_path(values: Values, lattice: _Lattice, silence_costs: Values) -> WarpingPath:
    """Return the recording's path through the lattice; ``silence_costs`` are those of assigning each frame to silence."""
    silent = lattice.word < 0
    hold = np.where(silent, np.float32(0.0), _HOLD)
    leap = np.full(len(silent), _LEAP, np.float32)
    leap[1:][silent[:-1]] = 0.0  # from one word to the next without a silence between them

    def distance(rows: slice, columns: slice) -> Values:
        costs = _distances(values[rows], lattice.values[columns])
        costs[:, silent[columns]] = silence_costs[rows, None]
        return costs

    return warp(distance, len(values), hold, leap)


def _distances(values: Values, others: Values) -> Values:
    """Return the Euclidean distance of each row of one to each row of the other."""
    squares = (values**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * values @ others.T
    distances: Values = np.sqrt(np.maximum(squares, 0.0, out=squares), out=squares)
    return distances


def _word_bounds(owners: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return the start and end of each word in seconds, shape [count, 2], from the word of every frame.

    A word without frames starts and ends where the word before it ended.
    """
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


def _confidences(recording: Features, lattice: _Lattice, path: WarpingPath, count: int) -> tuple[float, NDArray[np.float64]]:
    """Return the confidence that the recording contains the text, and that of each of ``count`` words, shape [count]."""
    owners = lattice.word[path.states]
    speech = np.flatnonzero(owners >= 0)
    if not len(speech):
        return 0.0, np.zeros(count)
    owner = owners[speech]
    steps = np.diff(path.states, prepend=path.states[0] - 1)
    closer = _share_of_closer_frames(recording.values[speech], lattice, path.costs[speech])
    against = np.stack([closer, steps[speech] != 1])
    nearby = _moving_mean(against, _STRETCH)
    whole = _logistic(_WHOLE[0] + _WHOLE[1] @ np.concatenate([against.mean(axis=1), nearby.max(axis=1)]))
    frames = np.bincount(owner, minlength=count)
    of_words = np.stack([np.bincount(owner, row, count) for row in nearby]) / np.maximum(frames, 1)
    local = np.where(frames > 0, _logistic(_LOCAL[0] + _LOCAL[1] @ of_words), 0.0)
    return float(whole), local


def _share_of_closer_frames(values: Values, lattice: _Lattice, costs: Values) -> NDArray[np.float64]:
    """Return for each frame the share of the reference's frames that are closer to it than the one on the path."""
    speech = lattice.values[lattice.word >= 0]
    compared = speech[:: max(1, len(speech) // _COMPARED)]
    shares = [
        np.mean(_distances(values[first : first + 2000], compared) < costs[first : first + 2000, None], axis=1)
        for first in range(0, len(values), 2000)
    ]
    return np.concatenate(shares)


def _moving_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return for each value of each row the mean of the ``width`` values around it, of fewer at the edges."""
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    index = np.arange(values.shape[1])
    reach = min(width, len(index)) // 2
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(index))
    mean: NDArray[np.float64] = (sums[:, high] - sums[:, low]) / (high - low)
    return mean


def _logistic(value: NDArray[np.float64]) -> NDArray[np.float64]:
    probability: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-value))
    return probability
