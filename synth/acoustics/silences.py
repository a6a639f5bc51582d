"""How long it is silent between the words of a recording."""

from collections.abc import Sequence

from synth.acoustics.pauses import silent_runs
from synth.audio.signal import silence_level
from synth.base import Audio, WordTime

_COST_PER_DISTANCE = 0.7  # seconds of silence that a second between it and its slot weighs up
_LONGEST_WORD_SECONDS = 0.5  # of a word beside a slot that its pause may be looked for in: times err, by less than this


def silences(audio: Audio, words: Sequence[WordTime]) -> list[float]:
    """Milliseconds of silence before each word, and after the last: ``len(words) + 1`` values.

    Silence is what lies in 10 ms windows whose RMS is more than 40 dB below the recording's 95th percentile. Between two words the
    longest stretch of it counts, the nearer to where they meet the better, as far as the middle of either; at the edges, what
    touches the edge. A word without length has none beside it: the silence belongs to the words that are heard.
    """
    level, rate, length = silence_level(audio), audio.rate, len(audio.samples)
    heard = [index for index, word in enumerate(words) if word.end > word.start]
    found = [0.0] * (len(words) + 1)
    for before, after in zip([None, *heard], [*heard, None], strict=True):
        if before is None or after is None:
            first = 0 if before is None else round(_inner(words[before], at_end=True) * rate)
            last = length if after is None else round(_inner(words[after], at_end=False) * rate)
            runs = silent_runs(audio, level, max(0, first), min(length, last)) if first < last else []
            edge = [end - start for start, end in runs if (start == 0 and before is None) or (end == length and after is None)]
            lengths = max(edge, default=0)
        else:
            lengths = _between(audio, level, words[before], words[after])
        found[len(words) if after is None else after] = 1000 * lengths / rate
    return found


def silence_within(audio: Audio, word: WordTime) -> float:
    """Milliseconds of the longest silence inside a word."""
    rate = audio.rate
    first, last = max(0, round(word.start * rate)), min(len(audio.samples), round(word.end * rate))
    runs = silent_runs(audio, silence_level(audio), first, last) if first < last else []
    return 1000 * max((end - start for start, end in runs), default=0) / rate


def _between(audio: Audio, level: float, before: WordTime, after: WordTime) -> int:
    rate = audio.rate
    first = max(0, round(_inner(before, at_end=True) * rate))
    last = min(len(audio.samples), round(_inner(after, at_end=False) * rate))
    if first >= last:
        return 0
    start, end = sorted((before.end * rate, after.start * rate))

    def worth(run: tuple[int, int]) -> float:
        return run[1] - run[0] - _COST_PER_DISTANCE * max(0.0, run[0] - end, start - run[1])

    best = max(silent_runs(audio, level, first, last), key=worth, default=(0, 0))
    return best[1] - best[0]


def _inner(word: WordTime, *, at_end: bool) -> float:
    """How far into a word its edge may lie in truth, in seconds."""
    reach = min((word.end - word.start) / 2, _LONGEST_WORD_SECONDS)
    return word.end - reach if at_end else word.start + reach
