"""What every reader of `synth.normalisation.normalise` is made of: readings, number words, and rules that find them by pattern."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import regex

from prosody_tagger.segment import Word

MAX_DIGITS = 12
MAX_GROUPED_DIGITS = 18
"""A longer number is read digit by digit; nobody could follow it otherwise. More are clear where they stand in groups of three."""

GAP = r"(?:[^\S\n]{1,3}\n?[^\S\n]{0,3}|\n[^\S\n]{0,3})"
"""Pattern of the white space between two words that are read together: bounded, and never a blank line."""

COVERED = "\ufffc"
"""Stands for every character that an alias covers in the text that a reader sees. No pattern of a rule may match it."""


class Reading(NamedTuple):
    """``[start, end)`` of the text is said as ``spoken``."""

    start: int
    end: int
    spoken: str


class Reader(Protocol):
    """Knows what one language does not say as it writes it."""

    def readings(self, text: str, words: Sequence[Word]) -> Iterator[Reading]:
        """What is said otherwise than written, in order and without overlap. Decimal digits of ``text`` are ASCII."""


_DIGITS = "zero one two three four five six seven eight nine".split()
_SEPARATORS = str.maketrans("", "", ",\u00a0\u202f\u2009")


def spell(digits: str) -> str:
    """Every digit by itself; what is no digit is left out."""
    return " ".join(_DIGITS[int(digit)] for digit in digits if digit.isdecimal())


def plural(words: str) -> str:
    """ "nineteen nineties" of "nineteen ninety"."""
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith("x") else "s")


@lru_cache(4096)
def _in_words(number: int, form: str) -> str:
    from num2words import num2words

    return str(num2words(number, lang="en", to=form)).replace(",", "")


@dataclass(frozen=True, slots=True)
class Numbers:
    """English numbers, in American form ("one hundred one") or with the "and" that is said elsewhere."""

    american: bool

    def cardinal(self, digits: str) -> str:
        """A whole number; digit by digit where it starts with 0 or is too long."""
        bare = digits.translate(_SEPARATORS)
        if len(bare) > (MAX_DIGITS if bare == digits else MAX_GROUPED_DIGITS) or (bare[0] == "0" and len(bare) > 1):
            return spell(bare)
        return self._joined(_in_words(int(bare), "cardinal"))

    def ordinal(self, digits: str) -> str:
        """ "twenty-first" of "21", for a bounded number of digits."""
        return self._joined(_in_words(int(digits.translate(_SEPARATORS)), "ordinal"))

    def decimal(self, number: str) -> str:
        """A number with or without a decimal point: "three point one four", "point five"."""
        whole, point, fraction = number.partition(".")
        said = self.cardinal(whole) if whole else ""
        return f"{said} point {spell(fraction)}".lstrip() if point else said

    def year(self, digits: str) -> str:
        """A year of four digits from 1000 on: "nineteen oh five", "two thousand five", "twenty twenty-six"."""
        century, rest = digits[:2], digits[2:]
        if digits[1:3] == "00":
            return self.cardinal(digits)
        if rest == "00":
            return f"{self.cardinal(century)} hundred"
        return f"{self.cardinal(century)} {'oh ' if rest[0] == '0' else ''}{self.cardinal(rest.lstrip('0'))}"

    def _joined(self, words: str) -> str:
        return words.replace(" and ", " ") if self.american else words


Match = regex.Match[str]
Said = str | dict[str, str] | list[Reading] | None
"""What a match is said as: as a whole, group by group (each within one word), or reading by reading; None if it is not read so."""

Say = Callable[[Match, Numbers], Said]


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern and what its matches are said as.

    Attributes:
        unit: a unit may follow ("5 kg").
        range: a dash to another number may follow ("5-10"), or what it is counted by ("$5/mo").
        joined: only for a number that more than a space or a stop joins to what follows; others are spared the attempt.
        stop: the match is an abbreviation: a full stop behind it belongs to it, unless the sentence ends there too.
    """

    pattern: regex.Pattern[str]
    say: Say
    unit: bool = False
    range: bool = False
    joined: bool = False
    stop: bool = False

    def readings(self, text: str, position: int, numbers: Numbers) -> list[Reading]:
        """What is said of the match at ``position``: nothing if there is none."""
        match = self.pattern.match(text, position)
        said = self.say(match, numbers) if match else None
        if match is None or said is None:
            return []
        if isinstance(said, str):
            found = [Reading(match.start(), match.end(), said)]
        elif isinstance(said, dict):
            found = [Reading(*match.span(group), words) for group, words in said.items()]
        else:
            found = said
        if self.stop:
            found[-1] = found[-1]._replace(end=behind_stop(text, found[-1].end))
        return found


def rule(pattern: str, say: Say, kind: str = "") -> Rule:
    """A `Rule` of a pattern's source; ``kind`` names those of its flags that hold, as in "unit range"."""
    return Rule(regex.compile(pattern), say, **dict.fromkeys(kind.split(), True))


def one_of(words: Iterable[str]) -> str:
    """Pattern of any of ``words``, the longest that fits."""
    return "(?:" + "|".join(regex.escape(word) for word in sorted(words, key=len, reverse=True)) + ")"


_SENTENCE_END = regex.compile(
    r"\.[\p{Pe}\p{Pf}\"']{0,4}(?:\s{1,4}[\p{Ps}\p{Pi}\"']{0,2}\p{Lu}|[^\S\n]{0,4}\n[^\S\n]{0,4}\n|\s{0,4}\Z)"
)


def behind_stop(text: str, end: int) -> int:
    """Where an abbreviation that ends at ``end`` is over: behind its full stop, unless the sentence ends with that too."""
    return end + 1 if text.startswith(".", end) and not _SENTENCE_END.match(text, end) else end
