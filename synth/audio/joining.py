"""Joins pieces of speech with pauses of exact length.

Silence at the edges of a piece counts towards the pause, so a pause has the requested length to the sample, however much silence
the voice left.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from synth.audio.signal import FADE_SECONDS, NO_SAMPLES, Samples, concatenate, quiet_edges, silence_level
from synth.base import Audio, Speech, WordTime

END_SECONDS = 0.1
"""Longest silence after the last word of a text without a final pause."""

HELD_SECONDS = 0.5
"""How much of a streamed sentence is held back; longer than the silence that voices leave at the end of a sentence."""


def join(
    pieces: Sequence[Speech], gaps: Sequence[int | None], rate: int, *, before: Audio | None = None, last: bool = True
) -> tuple[Speech, Audio]:
    """Join the pieces of one sentence.

    Args:
        pieces: n pieces in order, all at ``rate``.
        gaps: n + 1 pauses in milliseconds: before the first piece, between the pieces, and after the last. None keeps the voice's
            own silence.
        rate: sample rate, Hz.
        before: the remaining silence of the previous sentence, or None at the start of the text. A pause between sentences is never
            shorter than the voice's own silence.
        last: whether the text ends here; if not, ``gaps[-1]`` must be None.

    Returns:
        The sentence with the words (in seconds from its start), unrealised marks and warnings of all pieces; and the silence at its
        end that belongs to the start of the next sentence.
    """
    level = silence_level(concatenate([piece.audio for piece in pieces], rate))
    trailing = NO_SAMPLES if before is None else before.samples
    exact = before is None
    sound: list[Samples] = []
    words: list[WordTime] = []
    length = 0
    for piece, gap in zip(pieces, gaps, strict=False):
        lead, tail = quiet_edges(piece.audio, level)
        samples = piece.audio.samples
        kept = _fit(trailing, samples[:lead], gap, rate, exact=exact)
        body = samples[lead : len(samples) - tail]
        at = (length + len(kept) - lead) / rate
        words.extend(_within(word, lead / rate, (len(samples) - tail) / rate, at) for word in piece.words or ())
        sound += [kept, body]
        length += len(kept) + len(body)
        trailing, exact = samples[len(samples) - tail :], True
    if not last:
        return _whole(pieces, Audio(np.concatenate([NO_SAMPLES, *sound]), rate), words), Audio(trailing, rate)
    end = gaps[-1]
    kept = trailing[: int(END_SECONDS * rate)] if end is None else _fit(trailing, NO_SAMPLES, end, rate, exact=exact)
    return _whole(pieces, Audio(np.concatenate([NO_SAMPLES, *sound, kept]), rate), words), Audio(NO_SAMPLES, rate)


def _whole(pieces: Sequence[Speech], audio: Audio, words: Sequence[WordTime]) -> Speech:
    unrealised = tuple(mark for piece in pieces for mark in piece.unrealised)
    warnings = tuple(warning for piece in pieces for warning in piece.warnings)
    return Speech(audio, tuple(words), unrealised, pieces[-1].context if pieces else None, warnings)


class SentenceStream:
    """Passes on the audio of a streamed sentence, except its end, whose silence can be measured only after the last chunk."""

    def __init__(self, rate: int) -> None:
        """Start a sentence at the sample rate ``rate``, Hz."""
        self._rate = rate
        self.nothing = Audio(np.zeros(0, dtype=np.float32), rate)
        self._held = np.zeros(0, dtype=np.float32)
        self._sounds: list[Audio] = []

    def add(self, audio: Audio) -> Audio:
        """Add a chunk and return the audio that can be passed on."""
        self._sounds.append(audio)
        held = np.concatenate([self._held, audio.samples])
        keep = min(len(held), round(HELD_SECONDS * self._rate))
        passed, self._held = held[: len(held) - keep], held[len(held) - keep :]
        return Audio(passed, self._rate)

    def end(self, *, last: bool) -> tuple[Audio, Audio]:
        """Return the end of the sentence and the remaining silence, as `join` does; ``last``: whether the text ends here."""
        level = silence_level(concatenate(self._sounds, self._rate))
        _, tail = quiet_edges(Audio(self._held, self._rate), level)
        sound, silence = self._held[: len(self._held) - tail], self._held[len(self._held) - tail :]
        if last:
            sound = np.concatenate([sound, silence[: int(END_SECONDS * self._rate)]])
            silence = silence[:0]
        return Audio(sound, self._rate), Audio(silence, self._rate)


def _within(word: WordTime, first: float, last: float, at: float) -> WordTime:
    """Return the word with its times clipped to ``[first, last]``, then shifted by ``at``; all in seconds."""
    return replace(word, start=min(max(word.start, first), last) + at, end=min(max(word.end, first), last) + at)


def _fit(tail: Samples, lead: Samples, wanted_ms: int | None, rate: int, *, exact: bool) -> Samples:
    """Return the silence between two sounds: ``tail`` and ``lead``, with zeros inserted between them or their middle removed."""
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
