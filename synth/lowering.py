"""From a marked text to a request: marks that the backend supports, commas that shape the phrasing, and the longest plausible
audio.

All marked text passes `partition_marks` on its way to a backend, so no mark reaches a backend that does not support it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import regex

from prosody_tagger.markup import Mark, MarkedText
from prosody_tagger.segment import segment_words
from synth.base import Capabilities, Support


@dataclass(frozen=True, slots=True)
class PartitionedMarks:
    """The marks of a text, grouped by how a backend supports them.

    Attributes:
        request: the text with the marks that the backend supports itself.
        realised: marks to realise in the audio afterwards.
        dropped: marks without any support.
    """

    request: MarkedText
    realised: tuple[Mark, ...]
    dropped: tuple[Mark, ...]


def partition_marks(marked: MarkedText, capabilities: Capabilities) -> PartitionedMarks:
    """Group the marks of ``marked`` by what the backend declares for each kind.

    A pause with an explicit length is inserted into the audio, unless the model was trained on such pauses ("native"): an engine's
    own pauses have one fixed length.
    """

    def support(mark: Mark) -> Support:
        declared = capabilities.marks[mark.kind]
        return "realised" if declared == "rendered" and mark.ms is not None else declared

    def supported_as(*levels: Support) -> tuple[Mark, ...]:
        return tuple(mark for mark in marked.marks if support(mark) in levels)

    request = marked.with_marks(supported_as("native", "rendered"))
    return PartitionedMarks(request, supported_as("realised"), supported_as("dropped"))


# A comma fits after a letter, a digit or a symbol, also where quotation marks or brackets close behind it. Any other punctuation
# already shapes the phrase.
_COMMA_FITS = regex.compile(r"(?<=[\p{L}\p{M}\p{N}\p{S}%][\p{Pe}\p{Pf}'\"]{0,4})")


def add_comma(text: str) -> str:
    """Return ``text`` with a comma at its end, unless it is empty or ends in punctuation or white space.

    A comma makes a voice keep its pitch up, for a sentence that continues or a pause that will be inserted.
    """
    return f"{text}," if _COMMA_FITS.match(text, len(text)) else text


def comma_offsets(text: str, breaks: Collection[int]) -> list[int]:
    """Return the offsets in ``text`` at which a comma leads up to a pause that will be inserted later.

    Args:
        text: a piece of text.
        breaks: starts of the words before which a pause will be inserted.

    Returns:
        The end of the word before each break, where there is no punctuation yet. Nothing precedes the first word, so a break there
        has no comma.
    """
    if not breaks:
        return []
    return [
        before.end
        for before, after in pairwise(segment_words(text))
        if after.start in breaks and _COMMA_FITS.match(text, before.end)
    ]


_START_SECONDS = 5.0  # added to every text: the silence at its start and end, and the minimum for texts of one word
_CHARACTER_WEIGHTS = (
    (3, regex.compile(r"[\p{Lu}\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")),  # a letter that may be spelled out, a syllable
    (5, regex.compile(r"[\p{N}\p{S}%‰&@#§]")),  # read as whole words
)


def max_duration(text: str, seconds_per_char: float, speed: float = 1.0) -> float:
    """Return an upper bound, in seconds, of the time that ``text`` takes to say; longer audio contains something else.

    Args:
        text: the text to be spoken.
        seconds_per_char: upper bound for a small letter; digits, symbols, capitals and CJK characters count for several.
        speed: rate of speech; values above 1 do not lower the bound.
    """
    weight = len(text) + sum((factor - 1) * len(pattern.findall(text)) for factor, pattern in _CHARACTER_WEIGHTS)
    return _START_SECONDS + weight * seconds_per_char / min(speed, 1.0)
