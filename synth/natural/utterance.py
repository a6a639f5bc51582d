"""A sentence as the network would say it, open to change: the length of each symbol, and pitch and energy of each frame.

Symbols are heard a little earlier than the sum of their durations says, and pitch and energy with them, so every curve that belongs
to a symbol lies `LEAD_FRAMES` before the symbol's own frames.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from synth.audio.signal import Samples
from synth.natural.network import (
    FRAME_SECONDS,
    FRAMES_PER_STEP,
    VOICED_HZ,
    Counts,
    SpeechNetwork,
    natural_steps,
)
from synth.natural.pronunciation import PRIMARY_STRESS, SECONDARY_STRESS, VOWELS, Symbol, symbol_ids

Curve = NDArray[np.float64]
"""A value for every frame or every symbol."""

LEAD_FRAMES = 4
"""Frames by which sound and curves lead the durations: 50 ms, as `benchmarks/neural/landmarks.py` measured (49 ms within words)."""


class Utterance:
    """The prosody of one sentence.

    Attributes:
        symbols: the network's input, without the pads.
        frames: length of each symbol, pads included, shape [len(symbols) + 2].
        pitch: Hz of each frame; below `VOICED_HZ` where there is no voice.
        energy: of each frame, in the network's unit, about 2.7 dB.
    """

    def __init__(self, net: SpeechNetwork, symbols: Sequence[Symbol]) -> None:
        self.symbols = tuple(symbols)
        self._net = net
        self._encoded = net.encode(symbol_ids(self.symbols))
        steps = natural_steps(self._encoded.durations)
        self.pitch, self.energy = net.melody(self._encoded, steps)
        self.frames: Counts = FRAMES_PER_STEP * steps
        self._spans = _word_spans(self.symbols)

    def copy(self) -> "Utterance":
        """Return an utterance that can be changed apart from this one."""
        other = Utterance.__new__(Utterance)
        other.__dict__.update(self.__dict__)  # arrays are replaced, never changed in place
        return other

    @property
    def words(self) -> tuple[int, ...]:
        """The indices of the words that have a sound."""
        return tuple(self._spans)

    def span(self, word: int) -> tuple[int, int]:
        """Return the symbols ``[first, end)`` of a word, counted with the pad at the start."""
        return self._spans[word]

    def edges(self) -> Counts:
        """Return the frame at which each symbol starts, pads included, and the end of the last."""
        return np.concatenate([[0], np.cumsum(self.frames)])

    def voiced(self) -> NDArray[np.bool_]:
        """Whether each frame has a voice."""
        return self.pitch > VOICED_HZ

    def semitones(self) -> Curve:
        """Return the pitch in semitones above 1 Hz; NaN where there is no voice."""
        return np.where(self.voiced(), 12.0 * np.log2(np.maximum(self.pitch, VOICED_HZ)), np.nan)

    def heard(self, first: int, end: int) -> tuple[int, int]:
        """Return the frames in which the symbols ``[first, end)``, counted with the pad, are heard; at least one."""
        edges = self.edges()
        start = min(max(0, int(edges[first]) - LEAD_FRAMES), len(self.pitch) - 1)
        return start, max(start + 1, int(edges[end]) - LEAD_FRAMES)

    def nuclei(self, word: int) -> list[int]:
        """Return the stressed vowels of a word: those with primary stress, else secondary, else its first vowel, else its start."""
        first, end = self.span(word)
        characters = [symbol.character for symbol in self.symbols]
        for sign in (PRIMARY_STRESS, SECONDARY_STRESS):
            signs = [index for index in range(first - 1, end - 1) if characters[index] == sign]
            vowels = [_next_vowel(characters, index, end - 1) for index in signs]
            found = [vowel + 1 for vowel in dict.fromkeys(vowels) if vowel is not None]
            if found:
                return found
        vowel = _next_vowel(characters, first - 1, end - 1)
        return [first if vowel is None else vowel + 1]

    def stretch(self, factors: Curve) -> None:
        """Multiply the length of each symbol, pads included; pitch and energy are stretched along.

        Lengths are rounded so that their sum is right, and each is one frame at least.
        """
        if np.all(factors == 1):
            return
        ends = np.floor(np.cumsum(self.frames * factors) + 0.5).astype(np.int64)
        lengths = np.maximum(1, np.diff(ends, prepend=0))
        before, after = self.edges(), np.concatenate([[0], np.cumsum(lengths)])
        outputs = [0.0, *np.maximum(0, after[1:-1] - LEAD_FRAMES), float(after[-1])]
        inputs = [0.0, *np.maximum(0, before[1:-1] - LEAD_FRAMES), float(before[-1])]
        position = np.clip(np.interp(np.arange(after[-1]) + 0.5, outputs, inputs) - 0.5, 0, len(self.pitch) - 1)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, len(self.pitch) - 1)
        share = position - low
        both = (self.pitch[low] > VOICED_HZ) & (self.pitch[high] > VOICED_HZ)
        mixed = self.pitch[low] * (1 - share) + self.pitch[high] * share
        nearest = self.pitch[np.where(share < 0.5, low, high)]
        self.pitch = np.where(both, mixed, nearest).astype(np.float32)
        self.energy = (self.energy[low] * (1 - share) + self.energy[high] * share).astype(np.float32)
        self.frames = lengths

    def bend(self, semitones: Curve) -> None:
        """Shift the pitch of each frame."""
        self.pitch = np.where(self.voiced(), self.pitch * 2 ** (semitones / 12), self.pitch).astype(np.float32)

    def strengthen(self, energy: Curve) -> None:
        """Add to the energy of each frame."""
        self.energy = (self.energy + energy).astype(np.float32)

    def shorten(self, symbol: int, count: int) -> None:
        """Remove up to ``count`` frames of a symbol, counted with the pad at the start; one frame of it stays."""
        count = min(count, int(self.frames[symbol]) - 1)
        if count <= 0:
            return
        start, _ = self.heard(symbol, symbol + 1)
        keep = np.r_[0:start, start + count : len(self.pitch)]
        self.pitch, self.energy = self.pitch[keep], self.energy[keep]
        self.frames = self.frames - count * (np.arange(len(self.frames)) == symbol)

    def render(self, seed: int) -> Samples:
        """Return the samples, at `network.RATE`."""
        spectra = self._net.spectra(self._encoded, self.frames, self.pitch, self.energy)
        return self._net.waveform(spectra, self.pitch, seed)

    def symbol_times(self) -> Curve:
        """Return the second at which each symbol starts by the durations, pads left out, and the end of the last."""
        return np.asarray(self.edges()[1:-1] * FRAME_SECONDS, dtype=np.float64)


def eased_curve(length: int, points: Sequence[tuple[float, float]]) -> Curve:
    """Return a curve of ``length`` frames through points (frame, value), with half cosines between them and level outside."""
    frames = np.maximum.accumulate(np.array([frame for frame, _ in points], dtype=np.float64))
    values = np.array([value for _, value in points], dtype=np.float64)
    position = np.interp(np.arange(length), frames, np.arange(len(frames)))
    low = np.minimum(position.astype(np.int64), len(values) - 2)
    share = 0.5 - 0.5 * np.cos(np.pi * (position - low))
    curve: Curve = values[low] * (1 - share) + values[low + 1] * share
    return curve


def _word_spans(symbols: Sequence[Symbol]) -> dict[int, tuple[int, int]]:
    spans: dict[int, tuple[int, int]] = {}
    for index, symbol in enumerate(symbols, 1):
        if symbol.word is not None:
            spans[symbol.word] = spans.get(symbol.word, (index, index))[0], index + 1
    return spans


def _next_vowel(characters: Sequence[str], start: int, end: int) -> int | None:
    return next((index for index in range(start, end) if characters[index] in VOWELS), None)
