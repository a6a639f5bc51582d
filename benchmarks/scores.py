"""Scores of marks in audio, computed with word times that do not come from our aligner."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from neural.times import Span, silence_level, silences
from numpy.typing import NDArray

from prosody_tagger.markup import Mark, MarkedText
from prosody_tagger.segment import word_after
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
    """Return the index of the word that a mark binds to."""
    index = word_after(marked.words, mark.offset)
    if index is None:
        raise ValueError(f"no word follows <{mark.kind}> in {marked.text!r}")
    return index


def stressed(marked: MarkedText) -> int:
    """Return the index of the word with the sentence's emph."""
    return word_of(marked, next(mark for mark in marked.marks if mark.kind == "emph"))


def content_words(marked: MarkedText) -> list[int]:
    """Return the indices of the words that are not function words."""
    return [index for index, word in enumerate(marked.words) if word.core(marked.text).lower() not in FUNCTION_WORDS]


def most_prominent(audio: Audio, times: Times) -> int:
    """Return the index of the most prominent word by the wavelet measure."""
    return int(np.argmax(prominence(audio, times)))


def carried(known: Times, given: Times, made: Times, before: Audio, after: Audio) -> tuple[WordTime, ...]:
    """Map the ``known`` word times to the audio ``after``, in which ``given`` word times became ``made``.

    Times between the edges of words are interpolated. Silence inserted beside a word is not part of it.
    """
    inputs, outputs = [-1e-3], [0.0]
    for old, new in zip(given, made, strict=True):
        for time_before, time_after in ((old.start, new.start), (old.end, new.end)):
            if time_before > inputs[-1]:
                inputs.append(time_before)
                outputs.append(time_after)
            else:  # two words meet: the start of the second lies just after the end of the first
                inputs.append(np.nextafter(inputs[-1], np.inf))
                outputs.append(max(time_after, outputs[-1]))
    inputs.append(max(before.seconds, inputs[-1] + 1e-3))
    outputs.append(after.seconds)
    quiet = [span for span in silences(after.samples, after.rate) if span.seconds >= _LEAST_SILENCE]
    # A start at the edge of two words belongs after what was inserted between them.
    starts = np.interp([word.start + 1e-9 for word in known], inputs, outputs)
    ends = np.interp([word.end for word in known], inputs, outputs)
    moved = [replace(word, start=float(start), end=float(end)) for word, start, end in zip(known, starts, ends, strict=True)]
    return tuple(_without_silence(word, quiet) for word in moved)


def _without_silence(word: WordTime, quiet: Sequence[Span]) -> WordTime:
    """Return the word without silences that overlap it; of a silence within it, keep the longer side."""
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
    """Return for each slot the longest silence between the middles of the words on either side."""
    middles = [0.0, *((word.start + word.end) / 2 for word in times), audio.seconds]
    longest = [NO_SILENCE] * (len(times) + 1)
    for span in silences(audio.samples, audio.rate, level):
        slot = int(np.searchsorted(middles, (span.start + span.end) / 2)) - 1
        longest[slot] = max(longest[slot], span, key=lambda span: span.seconds)
    return longest


def slots(marked: MarkedText) -> dict[int, list[Mark]]:
    """Return the pauses of each slot, by the index of the word that follows."""
    words = marked.words
    found: dict[int, list[Mark]] = {}
    for mark in marked.marks:
        if mark.is_pause:
            index = word_after(words, mark.offset)
            found.setdefault(len(words) if index is None else index, []).append(mark)
    return found


def at_punctuation(marked: MarkedText, slot: int) -> bool:
    """Return whether there is punctuation before the word of index ``slot``."""
    words = marked.words
    return bool(re.search(r"[,.;:!?]", marked.text[words[slot - 1].core_end : words[slot].core_start]))


def pause_errors(before: Audio, known: Times, after: Audio, times: Times, marked: MarkedText) -> dict[int, tuple[float, float]]:
    """Return for each slot with pauses the errors, in seconds, of the length and of the position of its silence.

    The right length is the requested one, or the voice's own where that is longer. Both recordings are measured with one level of
    silence, as an inserted pause changes the percentile that defines it. The position error is the distance from the boundary of
    the two words, or nan if there is no silence. ``marked`` has pauses only.
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
    """Return the semitones in a pitch mark's direction; it counts as realised from 2.

    For high and low: by how much the word moved relative to the sentence's other words. For rising and falling: by how much it
    rises or falls now, as a word that did so before may stay unchanged; near the end of the sentence up to its end.
    """
    sign = 1.0 if kind in ("pitch_high", "pitch_rising") else -1.0
    was, now = PitchTrack(before, known), PitchTrack(after, times)
    if kind in ("pitch_high", "pitch_low"):
        moved = [now.median(other, other) - was.median(other, other) for other in range(len(known))]
        return sign * (moved[index] - float(np.nanmedian(moved[:index] + moved[index + 1 :])))
    ends = [index] if index < len(known) - _TAIL_WORDS else [index, len(known) - 1]
    return max(sign * now.bend(index, end) for end in ends)


class PitchTrack:
    """The pitch of a recording by words."""

    def __init__(self, audio: Audio, times: Times) -> None:
        self._sound, self._times = measure_contours(audio), times

    def _voiced(self, first: int, last: int) -> NDArray[np.float64]:
        begin, end = self._times[first].start, self._times[last].end
        track = self._sound.semitones[round(begin / self._sound.step) : round(end / self._sound.step) + 1]
        return track[~np.isnan(track)]

    def median(self, first: int, last: int) -> float:
        """Return the median pitch from one word to another, in semitones."""
        track = self._voiced(first, last)
        return float(np.median(track)) if len(track) else float("nan")

    def bend(self, first: int, last: int) -> float:
        """Return the pitch of the last quarter of the voiced frames minus that of the first, in semitones."""
        track = self._voiced(first, last)
        quarter = max(1, len(track) // 4)
        return float(np.median(track[-quarter:]) - np.median(track[:quarter])) if len(track) > 1 else float("nan")


def false_words(before: Audio, known: Times, after: Audio, times: Times, marked: MarkedText) -> tuple[int, int]:
    """Return how many unmarked words came to sound emphasised, and the number of unmarked words.

    Two of three must hold: longer by 15 %, louder by 3 dB, higher by 2 semitones.
    """
    words = marked.words
    own = {word_after(words, mark.offset) for mark in marked.marks if not mark.is_pause}
    if any(mark.kind in ("pitch_rising", "pitch_falling") for mark in marked.marks):
        own |= set(range(len(words) - _TAIL_WORDS, len(words)))  # the contour may lie on the tail
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
    """Return at how many slots without a pause the silence grew by 150 ms or more, and the number of such slots."""
    asked = slots(marked)
    free = [slot for slot in range(1, len(known)) if slot not in asked]
    level = silence_level(after.samples, after.rate)
    own, now = slot_silences(before, known, level), slot_silences(after, times, level)
    return sum(now[slot].seconds - own[slot].seconds >= FALSE_PAUSE for slot in free), len(free)


def level_db(audio: Audio, word: WordTime) -> float:
    """Return the RMS level of a word in dB."""
    part = audio.samples[round(word.start * audio.rate) : round(word.end * audio.rate)]
    return 10 * float(np.log10(max(float(np.mean(np.square(part, dtype=np.float64))), 1e-12))) if len(part) else -120.0


def _top(semitones: NDArray[np.float64], step: float, word: WordTime) -> float:
    part = semitones[round(word.start / step) : round(word.end / step) + 1]
    part = part[~np.isnan(part)]
    return float(np.percentile(part, 90)) if len(part) else float("nan")


def word_errors(reference: str, heard: str) -> tuple[int, int]:
    """Return the number of word errors (insertions, deletions, substitutions) and of words in the reference."""
    said, got = _spoken(reference), _spoken(heard)
    row = list(range(len(got) + 1))
    for index, word in enumerate(said, 1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(got, 1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (word != other))
    return row[-1], len(said)


def _spoken(text: str) -> list[str]:
    """Return the words in lower case, with digits spelled out, as recognisers often write digits."""
    from num2words import num2words

    written = re.sub(r"\$(\d+)", r"\1 dollars", text.lower())
    written = re.sub(r"\d+", lambda number: f" {num2words(int(number[0]))} ", written)
    return re.sub(r"[^a-z' ]", " ", written).split()
