"""Pieces of speech put together, with the silence between them that was asked for.

Silence that a piece brings along at its edges counts towards what is asked, so a pause comes out as long as it should be, to the
sample, whatever the voice left there.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from synth.audio.signal import FADE_SECONDS, concatenate, quiet_edges, silence_level
from synth.base import Audio, Speech, WordTime

END_SECONDS = 0.1
"""Most silence that is left after the last word where no pause asks for more."""

HELD_SECONDS = 0.5
"""What is held back of a sentence that is passed on as it comes: longer than the silence that voices leave at its end."""


def join(
    pieces: Sequence[Speech], gaps: Sequence[int | None], rate: int, *, before: Audio | None = None, last: bool = True
) -> tuple[Speech, Audio]:
    """Join the pieces of one sentence.

    Args:
        pieces: n pieces in order, all at ``rate``.
        gaps: n + 1 lengths in milliseconds: before the first piece, between them, and after the last. None leaves what the voice
            left there.
        rate: Hz.
        before: the silence that the sentence before left over, or None at the start of the text. Between sentences a pause is
            never shorter than what the voice left there.
        last: whether the text ends here; if not, ``gaps[-1]`` must be None.

    Returns:
        The sentence, and the silence at its end that the next one is to begin with. The sentence's words are those of all pieces,
        in seconds from its start, and so are its unrealised marks and warnings.
    """
    level = silence_level(concatenate([piece.audio for piece in pieces], rate))
    nothing = np.zeros(0, dtype=np.float32)
    left = nothing if before is None else before.samples
    exact = before is None
    sound: list[NDArray[np.float32]] = []
    words: list[WordTime] = []
    length = 0
    for piece, gap in zip(pieces, gaps, strict=False):
        lead, tail = quiet_edges(piece.audio, level)
        samples = piece.audio.samples
        kept = _fit(left, samples[:lead], gap, rate, exact=exact)
        body = samples[lead : len(samples) - tail]
        at = (length + len(kept) - lead) / rate
        words.extend(_within(word, lead / rate, (len(samples) - tail) / rate, at) for word in piece.words or ())
        sound += [kept, body]
        length += len(kept) + len(body)
        left, exact = samples[len(samples) - tail :], True
    if not last:
        return _whole(pieces, Audio(np.concatenate([nothing, *sound]), rate), words), Audio(left, rate)
    end = gaps[-1]
    kept = left[: int(END_SECONDS * rate)] if end is None else _fit(left, nothing, end, rate, exact=exact)
    return _whole(pieces, Audio(np.concatenate([nothing, *sound, kept]), rate), words), Audio(nothing, rate)


def _whole(pieces: Sequence[Speech], audio: Audio, words: Sequence[WordTime]) -> Speech:
    unrealised = tuple(mark for piece in pieces for mark in piece.unrealised)
    warnings = tuple(warning for piece in pieces for warning in piece.warnings)
    return Speech(audio, tuple(words), unrealised, pieces[-1].context if pieces else None, warnings)


class SentenceStream:
    """A sentence that is passed on as it comes, all but its end, of which only the last chunk shows how much is silence."""

    def __init__(self, rate: int) -> None:
        """``rate`` is that of the sound, Hz."""
        self._rate = rate
        self.nothing = Audio(np.zeros(0, dtype=np.float32), rate)
        self._held = np.zeros(0, dtype=np.float32)
        self._sounds: list[Audio] = []

    def add(self, audio: Audio) -> Audio:
        """What may be passed on once ``audio`` has come."""
        self._sounds.append(audio)
        held = np.concatenate([self._held, audio.samples])
        keep = min(len(held), round(HELD_SECONDS * self._rate))
        passed, self._held = held[: len(held) - keep], held[len(held) - keep :]
        return Audio(passed, self._rate)

    def end(self, *, last: bool) -> tuple[Audio, Audio]:
        """The end of the sentence and the silence left over, as `join` makes them; ``last`` says whether the text ends here."""
        level = silence_level(concatenate(self._sounds, self._rate))
        _, tail = quiet_edges(Audio(self._held, self._rate), level)
        sound, silence = self._held[: len(self._held) - tail], self._held[len(self._held) - tail :]
        if last:
            sound = np.concatenate([sound, silence[: int(END_SECONDS * self._rate)]])
            silence = silence[:0]
        return Audio(sound, self._rate), Audio(silence, self._rate)


def _within(word: WordTime, first: float, last: float, at: float) -> WordTime:
    """A word's times kept to where its piece sounds, from ``first`` to ``last``, then moved by ``at``; all in seconds."""
    return replace(word, start=min(max(word.start, first), last) + at, end=min(max(word.end, first), last) + at)


def _fit(
    tail: NDArray[np.float32], lead: NDArray[np.float32], wanted_ms: int | None, rate: int, *, exact: bool
) -> NDArray[np.float32]:
    """The silence between two sounds: the end of one and the start of the next, with zeros between or the middle left out."""
    natural = len(tail) + len(lead)
    if wanted_ms is None:
        return np.concatenate([tail, lead])
    wanted = round(wanted_ms / 1000 * rate)
    if natural <= wanted:
        return np.concatenate([tail, np.zeros(wanted - natural, dtype=np.float32), lead])
    if not exact:
        return np.concatenate([tail, lead])
    keep = min(len(tail), max(wanted // 2, wanted - len(lead)))
    tail, lead = tail[:keep].copy(), lead[len(lead) - (wanted - keep) :].copy()
    for part in (tail[::-1], lead):
        fade = min(int(FADE_SECONDS * rate), len(part))
        part[:fade] *= np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
    return np.concatenate([tail, lead])
