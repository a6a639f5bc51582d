"""Time-scale modification: changes the rate of speech at the same pitch, for backends with a fixed rate."""

from dataclasses import replace

import numpy as np

from synth.audio.psola import Edit, modify
from synth.base import Speech, WordTime
from synth.errors import RefusedRequest

SLOWEST, FASTEST = 0.25, 4.0


def check_speed(speed: float) -> None:
    """Check that a speed is supported.

    Raises:
        RefusedRequest: the speed is outside 0.25 to 4, or NaN.
    """
    if not SLOWEST <= speed <= FASTEST:
        raise RefusedRequest(f"speed {speed:g} is out of range; give {SLOWEST:g} to {FASTEST:g}")


def time_stretch(speech: Speech, speed: float) -> Speech:
    """Return ``speech`` at ``speed`` times its rate of speech, by pitch-synchronous overlap-add (see `psola`).

    Raises:
        RefusedRequest: the speed is outside 0.25 to 4, or NaN.
    """
    check_speed(speed)
    samples, rate = speech.audio.samples, speech.audio.rate
    if speed == 1.0 or not len(samples):
        return speech
    stretched, before, after = modify(samples, rate, [Edit(0, len(samples), 1.0 / speed, 0.0, ((0.0, 0.0),))])

    def moved(word: WordTime) -> WordTime:
        start, end = (float(np.interp(at * rate, before, after)) / rate for at in (word.start, word.end))
        return replace(word, start=start, end=end)

    words = None if speech.words is None else tuple(moved(word) for word in speech.words)
    return replace(speech, audio=replace(speech.audio, samples=stretched), words=words)
