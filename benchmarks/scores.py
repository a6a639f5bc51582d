"""Scores of marks in the sound, on word times that do not come from our aligner."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from neural.times import Span, silence_level, silences
from numpy.typing import NDArray

from prosody_tagger.markup import Mark, MarkedText
from prosody_tagger.segment import segment_words, word_after
from synth.acoustics.contours import measure_contours
from synth.acoustics.prominence import prominence
from synth.base import Audio, WordTime

PAUSE_WITHIN = 0.020
FALSE_PAUSE = 0.150
FALSE_SECONDS, FALSE_DB, FALSE_SEMITONES = 1.15, 3.0, 2.0
PITCH_SEMITONES = 2.0
_TAIL_WORDS = 3
_LEAST_SILENCE = 0.080

Times = Sequence[WordTime]

FUNCTION_WORDS = frozenset(
    "a an the this that these those i you he she it we they me him her us them my your his its our their mine yours hers ours "
    "theirs who whom whose which what and or but nor so yet if as than because although though while when whenever until "
    "unless since whether before after to of in on at by for from with without into onto over under up out off about through "
    "between around beside near be am is are was were been being do does did have has had will would can could shall should "
    "may might must not there here very just one".split()
)


def word_of(marked: MarkedText, mark: Mark) -> int:
    """The index of the word that a mark binds to."""
    index = word_after(segment_words(marked.text), mark.offset)
    if index is None:
        raise ValueError(f"no word follows <{mark.kind}> in {marked.text!r}")
    return index


def stressed(marked: MarkedText) -> int:
    """The index of the word that carries the sentence's emph."""
    return word_of(marked, next(mark for mark in marked.marks if mark.kind == "emph"))


def content_words(marked: MarkedText) -> list[int]:
    """The indices of the words that are no function words."""
    return [index for index, run in enumerate(segment_words(marked.text)) if run.core(marked.text).lower() not in FUNCTION_WORDS]


def most_prominent(audio: Audio, times: Times) -> int:
    """The word that stands out most, by the wavelet transform."""
    return int(np.argmax(prominence(audio, times)))


def carried(known: Times, given: Times, made: Times, before: Audio, after: Audio) -> tuple[WordTime, ...]:
    """The ``known`` times in the sound that was made, where ``given`` times became ``made``.

    Between the edges of words time runs evenly. A word does not take in the silence that was put beside it.
    """
    inputs, outputs = [-1e-3], [0.0]
    for old, new in zip(given, made, strict=True):
        for here, there in ((old.start, new.start), (old.end, new.end)):
            if here > inputs[-1]:
                inputs.append(here)
                outputs.append(there)
            else:  # two words meet: the second one's place stands just behind
                inputs.append(np.nextafter(inputs[-1], np.inf))
                outputs.append(max(there, outputs[-1]))
    inputs.append(max(before.seconds, inputs[-1] + 1e-3))
    outputs.append(after.seconds)
    quiet = [span for span in silences(after.samples, after.rate) if span.seconds >= _LEAST_SILENCE]
    # A start at the edge of two words belongs behind what was put between them.
    starts = np.interp([word.start + 1e-9 for word in known], inputs, outputs)
    ends = np.interp([word.end for word in known], inputs, outputs)
    moved = [replace(word, start=float(start), end=float(end)) for word, start, end in zip(known, starts, ends, strict=True)]
    return tuple(_without_silence(word, quiet) for word in moved)


def _without_silence(word: WordTime, quiet: Sequence[Span]) -> WordTime:
    """The word without a silence that it reaches into; of one that lies in it, it keeps the longer side."""
    start, end = word.start, word.end
    for span in quiet:
        if span.end <= start or end <= span.start:
            continue
        if end - span.end > max(0.0, span.start - start):
            start = span.end
        elif span.start > start:
            end = span.start
    return replace(word, start=start, end=end)


NO_SILENCE = Span(0.0, 0.0)


def slot_silences(audio: Audio, times: Times, level: float) -> list[Span]:
    """The longest silence between the middles of the words on either side, for each slot."""
    middles = [0.0, *((word.start + word.end) / 2 for word in times), audio.seconds]
    longest = [NO_SILENCE] * (len(times) + 1)
    for span in silences(audio.samples, audio.rate, level):
        slot = int(np.searchsorted(middles, (span.start + span.end) / 2)) - 1
        longest[slot] = max(longest[slot], span, key=lambda span: span.seconds)
    return longest


def slots(marked: MarkedText) -> dict[int, list[Mark]]:
    """The pauses of each slot, by the index of the word that follows."""
    runs = segment_words(marked.text)
    found: dict[int, list[Mark]] = {}
    for mark in marked.marks:
        if mark.is_pause:
            index = word_after(runs, mark.offset)
            found.setdefault(len(runs) if index is None else index, []).append(mark)
    return found


def at_punctuation(marked: MarkedText, slot: int) -> bool:
    runs = segment_words(marked.text)
    return bool(re.search(r"[,.;:!?]", marked.text[runs[slot - 1].core_end : runs[slot].core_start]))


def pause_errors(before: Audio, known: Times, after: Audio, times: Times, marked: MarkedText) -> dict[int, tuple[float, float]]:
    """For each slot that has pauses, the seconds by which its silence differs from what it should be, and by which it is misplaced.

    It should be as long as was asked, or as the voice's own where that is longer. Both are measured at one level: a pause put in
    elsewhere moves the clip's percentile a little, and a faint sound within a silence must not count in one of them alone. A pause
    that was cut into the sound is misplaced by its distance from the edge of the two words; that is nan
    where there is none. ``marked`` has pauses alone.
    """
    level = silence_level(after.samples, after.rate)
    own, now = slot_silences(before, known, level), slot_silences(after, times, level)
    found: dict[int, tuple[float, float]] = {}
    grown = 0.0
    for slot, marks in sorted(slots(marked).items()):
        asked = sum(mark.silence_ms for mark in marks) / 1000
        begun = now[slot].start - grown
        ended = begun + own[slot].seconds
        ends = known[slot - 1].end if slot else 0.0
        starts = known[slot].start if slot < len(known) else before.seconds
        misplaced = max(0.0, ended - starts, ends - ended) if now[slot].seconds else float("nan")
        found[slot] = now[slot].seconds - max(asked, own[slot].seconds), misplaced
        grown += now[slot].seconds - own[slot].seconds
    return found


def pitch_of(before: Audio, known: Times, after: Audio, times: Times, index: int, kind: str) -> float:
    """Semitones in a pitch mark's direction, 2 of which make it true.

    High and low: by how much the word moved against the sentence's other words. Rising and falling: by how much it rises or falls,
    for one that did so before may stay as it is; near the end of the sentence the contour may lie on its tail.
    """
    sign = 1.0 if kind in ("pitch_high", "pitch_rising") else -1.0
    was, now = PitchTrack(before, known), PitchTrack(after, times)
    if kind in ("pitch_high", "pitch_low"):
        moved = [now.median(other, other) - was.median(other, other) for other in range(len(known))]
        return sign * (moved[index] - float(np.nanmedian(moved[:index] + moved[index + 1 :])))
    ends = [index] if index < len(known) - _TAIL_WORDS else [index, len(known) - 1]
    return max(sign * now.bend(index, end) for end in ends)


class PitchTrack:
    def __init__(self, audio: Audio, times: Times) -> None:
        self._sound, self._times = measure_contours(audio), times

    def _voiced(self, first: int, last: int) -> NDArray[np.float64]:
        begin, end = self._times[first].start, self._times[last].end
        track = self._sound.semitones[round(begin / self._sound.step) : round(end / self._sound.step) + 1]
        return track[~np.isnan(track)]

    def median(self, first: int, last: int) -> float:
        """The middle of the pitch."""
        track = self._voiced(first, last)
        return float(np.median(track)) if len(track) else float("nan")

    def bend(self, first: int, last: int) -> float:
        """The pitch of the last quarter of what is voiced, less that of the first."""
        track = self._voiced(first, last)
        quarter = max(1, len(track) // 4)
        return float(np.median(track[-quarter:]) - np.median(track[:quarter])) if len(track) > 1 else float("nan")


def false_words(before: Audio, known: Times, after: Audio, times: Times, marked: MarkedText) -> tuple[int, int]:
    """How many unmarked words sound as if they were stressed, which they did not before, and of how many.

    Longer by 15 %, louder by 3 dB and higher by 2 semitones: two of the three.
    """
    runs = segment_words(marked.text)
    own = {word_after(runs, mark.offset) for mark in marked.marks if not mark.is_pause}
    if any(mark.kind in ("pitch_rising", "pitch_falling") for mark in marked.marks):
        own |= set(range(len(runs) - _TAIL_WORDS, len(runs)))  # the contour may lie on the tail
    was, now = measure_contours(before), measure_contours(after)
    count = hits = 0
    for index, (old, new) in enumerate(zip(known, times, strict=True)):
        if index in own:
            continue
        count += 1
        signs = (
            new.end - new.start > FALSE_SECONDS * (old.end - old.start),
            level_db(after, new) - level_db(before, old) > FALSE_DB,
            _top(now.semitones, now.step, new) - _top(was.semitones, was.step, old) > FALSE_SEMITONES,
        )
        hits += sum(signs) >= 2
    return hits, count


def false_pauses(before: Audio, known: Times, after: Audio, times: Times, marked: MarkedText) -> tuple[int, int]:
    """At how many slots without a pause the silence grew by 150 ms or more, and of how many."""
    asked = slots(marked)
    free = [slot for slot in range(1, len(known)) if slot not in asked]
    level = silence_level(after.samples, after.rate)
    own, now = slot_silences(before, known, level), slot_silences(after, times, level)
    return sum(now[slot].seconds - own[slot].seconds >= FALSE_PAUSE for slot in free), len(free)


def level_db(audio: Audio, word: WordTime) -> float:
    part = audio.samples[round(word.start * audio.rate) : round(word.end * audio.rate)]
    return 10 * float(np.log10(max(float(np.mean(np.square(part, dtype=np.float64))), 1e-12))) if len(part) else -120.0


def _top(semitones: NDArray[np.float64], step: float, word: WordTime) -> float:
    part = semitones[round(word.start / step) : round(word.end / step) + 1]
    part = part[~np.isnan(part)]
    return float(np.percentile(part, 90)) if len(part) else float("nan")


def word_errors(reference: str, heard: str) -> tuple[int, int]:
    """Words inserted, left out or exchanged, and the words of the reference."""
    said, got = _spoken(reference), _spoken(heard)
    row = list(range(len(got) + 1))
    for index, word in enumerate(said, 1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(got, 1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (word != other))
    return row[-1], len(said)


def _spoken(text: str) -> list[str]:
    """Small letters, and numbers in words, as recognisers like to write digits."""
    from num2words import num2words

    written = re.sub(r"\$(\d+)", r"\1 dollars", text.lower())
    written = re.sub(r"\d+", lambda number: f" {num2words(int(number[0]))} ", written)
    return re.sub(r"[^a-z' ]", " ", written).split()
