"""Speech-like sounds with known word times: a buzz of harmonics for each word."""

from dataclasses import dataclass

import numpy as np

from synth.base import Audio, WordTime

RATE = 16_000


@dataclass(frozen=True)
class Said:
    """A word and its prosody; ``gap`` is the silence before it, in seconds, ``rise`` the rise over the word, in semitones."""

    word: str
    seconds: float = 0.25
    hertz: float = 120.0
    gain_db: float = 0.0
    gap: float = 0.0
    rise: float = 0.0


def speak(*said: Said, lead: float = 0.1, tail: float = 0.1, rate: int = RATE) -> tuple[Audio, str, list[WordTime]]:
    """Return the audio, the text, and the time of each word."""
    pieces = [np.zeros(round(lead * rate))]
    words: list[WordTime] = []
    text = ""
    position = len(pieces[0])
    for item in said:
        pieces.append(np.zeros(round(item.gap * rate)))
        position += len(pieces[-1])
        pieces.append(buzz(item, rate))
        text += " " if text else ""
        core = item.word.rstrip(",.?!")
        words.append(WordTime(core, len(text), position / rate, (position + len(pieces[-1])) / rate))
        position += len(pieces[-1])
        text += item.word
    pieces.append(np.zeros(round(tail * rate)))
    return Audio(np.concatenate(pieces).astype(np.float32), rate), text, words


def buzz(item: Said, rate: int) -> np.ndarray:
    count = round(item.seconds * rate)
    place = np.arange(count) / count
    phase = 2 * np.pi * np.cumsum(item.hertz * 2 ** (item.rise * (place - 0.5) / 12)) / rate
    harmonics = range(1, int(rate / 2.2 / (item.hertz * 1.5)))
    sound = sum(np.sin(number * phase) / number for number in harmonics)
    envelope = 0.15 + 0.85 * np.sin(np.pi * place)  # a syllable
    return 0.1 * 10 ** (item.gain_db / 20) * sound * envelope
