"""Speech at another rate, for voices that have one rate only: longer or shorter, at the same pitch."""

from dataclasses import replace

import numpy as np

from synth.audio.psola import Edit, modify
from synth.base import Speech, WordTime
from synth.errors import RefusedRequest

SLOWEST, FASTEST = 0.25, 4.0


def check_speed(speed: float) -> None:
    """Refuse a speed that no voice can be brought to.

    Raises:
        RefusedRequest: it is not from 0.25 to 4, or not a number.
    """
    if not SLOWEST <= speed <= FASTEST:
        raise RefusedRequest(f"speed {speed:g} is out of range; give {SLOWEST:g} to {FASTEST:g}")


def time_stretch(speech: Speech, speed: float) -> Speech:
    """``speech`` at ``speed`` times its rate of speech, by pitch-synchronous overlap-add.

    Raises:
        RefusedRequest: as `check_speed` does.
    """
    check_speed(speed)
    samples, rate = speech.audio.samples, speech.audio.rate
    if speed == 1.0 or not len(samples):
        return speech
    changed, before, after = modify(samples, rate, [Edit(0, len(samples), 1.0 / speed, 0.0, ((0.0, 0.0),))])

    def moved(word: WordTime) -> WordTime:
        start, end = (float(np.interp(at * rate, before, after)) / rate for at in (word.start, word.end))
        return replace(word, start=start, end=end)

    words = None if speech.words is None else tuple(moved(word) for word in speech.words)
    return replace(speech, audio=replace(speech.audio, samples=changed), words=words)
