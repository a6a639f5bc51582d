"""Lengths of the silences between the words of a recording."""

from collections.abc import Sequence

from synth.acoustics.pauses import silent_runs
from synth.audio.signal import silence_level
from synth.base import Audio, WordTime

_COST_PER_DISTANCE = 0.7  # seconds by which a run must be longer for each second that it is further from the slot
_LONGEST_REACH_SECONDS = 0.5  # how far into a word beside the slot a silence is searched, as word times may be wrong


def silences_ms(audio: Audio, words: Sequence[WordTime]) -> list[float]:
    """Return the milliseconds of silence before each word and after the last: ``len(words) + 1`` values.

    Silence consists of 10 ms windows whose RMS is more than 40 dB below the recording's 95th percentile. Between two words the
    longest run counts, with a preference for runs near their boundary, as far as the middle of either word; at the edges of the
    recording, the run that touches the edge. A word without length has no silence beside it: it belongs to the audible words.
    """
    level, rate, length = silence_level(audio), audio.rate, len(audio.samples)
    audible = [index for index, word in enumerate(words) if word.end > word.start]
    milliseconds = [0.0] * (len(words) + 1)
    for before, after in zip([None, *audible], [*audible, None], strict=True):
        if before is None or after is None:
            first = 0 if before is None else round(_innermost_edge(words[before], at_end=True) * rate)
            last = length if after is None else round(_innermost_edge(words[after], at_end=False) * rate)
            runs = silent_runs(audio, level, max(0, first), min(length, last)) if first < last else []
            edge = [end - start for start, end in runs if (start == 0 and before is None) or (end == length and after is None)]
            samples = max(edge, default=0)
        else:
            samples = _silence_between(audio, level, words[before], words[after])
        milliseconds[len(words) if after is None else after] = 1000 * samples / rate
    return milliseconds


def silence_within_ms(audio: Audio, word: WordTime) -> float:
    """Return the milliseconds of the longest silence inside a word."""
    rate = audio.rate
    first, last = max(0, round(word.start * rate)), min(len(audio.samples), round(word.end * rate))
    runs = silent_runs(audio, silence_level(audio), first, last) if first < last else []
    return 1000 * max((end - start for start, end in runs), default=0) / rate


def _silence_between(audio: Audio, level: float, before: WordTime, after: WordTime) -> int:
    """Return the samples of silence between two words."""
    rate = audio.rate
    first = max(0, round(_innermost_edge(before, at_end=True) * rate))
    last = min(len(audio.samples), round(_innermost_edge(after, at_end=False) * rate))
    if first >= last:
        return 0
    start, end = sorted((before.end * rate, after.start * rate))

    def worth(run: tuple[int, int]) -> float:
        return run[1] - run[0] - _COST_PER_DISTANCE * max(0.0, run[0] - end, start - run[1])

    best = max(silent_runs(audio, level, first, last), key=worth, default=(0, 0))
    return best[1] - best[0]


def _innermost_edge(word: WordTime, *, at_end: bool) -> float:
    """Return the innermost time, in seconds, at which the true edge of a word may lie."""
    reach = min((word.end - word.start) / 2, _LONGEST_REACH_SECONDS)
    return word.end - reach if at_end else word.start + reach
