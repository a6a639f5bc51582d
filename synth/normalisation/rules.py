"""Building blocks of the verbalisers: replacements, English number words, and rules that match text by pattern."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import regex

from prosody_tagger.segment import Word

MAX_DIGITS = 12
MAX_GROUPED_DIGITS = 18
"""Longer numbers are read digit by digit, because listeners cannot follow them. Grouped by threes, more digits stay clear."""

GAP = r"(?:[^\S\n]{1,3}\n?[^\S\n]{0,3}|\n[^\S\n]{0,3})"
"""Pattern of the white space between two words that are verbalised together: bounded, and never a blank line."""

ALIAS_PLACEHOLDER = "\ufffc"
"""Replaces every character that an alias covers in a verbaliser's input. No rule's pattern may match it."""


class Replacement(NamedTuple):
    """``[start, end)`` of the text is spoken as ``spoken``."""

    start: int
    end: int
    spoken: str


class Verbaliser(Protocol):
    """Turns what a language does not speak as written into words."""

    def replacements(self, text: str, words: Sequence[Word]) -> Iterator[Replacement]:
        """Yield what is spoken differently than written, in order and without overlap. Decimal digits of ``text`` are ASCII."""


_DIGITS = "zero one two three four five six seven eight nine".split()
_SEPARATORS = str.maketrans("", "", ",\u00a0\u202f\u2009")


def spell_digits(digits: str) -> str:
    """Return the digits of a string as separate words; other characters are ignored."""
    return " ".join(_DIGITS[int(digit)] for digit in digits if digit.isdecimal())


def plural(words: str) -> str:
    """Return the plural of a number in words: "nineteen nineties" for "nineteen ninety"."""
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith("x") else "s")


@lru_cache(4096)
def _in_words(number: int, form: str) -> str:
    from num2words import num2words

    return str(num2words(number, lang="en", to=form)).replace(",", "")


@dataclass(frozen=True, slots=True)
class EnglishNumbers:
    """English number words, American ("one hundred one") or British ("one hundred and one")."""

    american: bool

    def cardinal(self, digits: str) -> str:
        """Return a whole number in words; digit by digit if it starts with 0 or is too long."""
        bare = digits.translate(_SEPARATORS)
        if len(bare) > (MAX_DIGITS if bare == digits else MAX_GROUPED_DIGITS) or (bare[0] == "0" and len(bare) > 1):
            return spell_digits(bare)
        return self._joined(_in_words(int(bare), "cardinal"))

    def ordinal(self, digits: str) -> str:
        """Return an ordinal in words: "twenty-first" for "21". The caller bounds the number of digits."""
        return self._joined(_in_words(int(digits.translate(_SEPARATORS)), "ordinal"))

    def decimal(self, number: str) -> str:
        """Return a number with or without a decimal point in words: "three point one four", "point five"."""
        whole, point, fraction = number.partition(".")
        said = self.cardinal(whole) if whole else ""
        return f"{said} point {spell_digits(fraction)}".lstrip() if point else said

    def year(self, digits: str) -> str:
        """Return a year of four digits, 1000 or later, in words: "nineteen oh five", "two thousand five", "twenty twenty-six"."""
        century, rest = digits[:2], digits[2:]
        if digits[1:3] == "00":
            return self.cardinal(digits)
        if rest == "00":
            return f"{self.cardinal(century)} hundred"
        return f"{self.cardinal(century)} {'oh ' if rest[0] == '0' else ''}{self.cardinal(rest.lstrip('0'))}"

    def _joined(self, words: str) -> str:
        return words.replace(" and ", " ") if self.american else words


Match = regex.Match[str]
Verbalisation = str | dict[str, str] | list[Replacement] | None
"""The spoken form of a match: one string for all of it, a string for each named group (each within one word), or a list of
replacements; None if the rule does not apply after all."""

VerbaliseMatch = Callable[[Match, EnglishNumbers], Verbalisation]


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern and the function that verbalises its matches.

    Attributes:
        unit: a unit may follow ("5 kg").
        range: a dash and another number may follow ("5-10"), or a denominator ("$5/mo").
        joined: tried only if something other than a space or a full stop follows the number, which saves time on plain numbers.
        stop: the match is an abbreviation, so a full stop after it belongs to it, unless the sentence ends there too.
    """

    pattern: regex.Pattern[str]
    verbalise: VerbaliseMatch
    unit: bool = False
    range: bool = False
    joined: bool = False
    stop: bool = False

    def replacements(self, text: str, position: int, numbers: EnglishNumbers) -> list[Replacement]:
        """Return the replacements of the match at ``position``; empty if there is none."""
        match = self.pattern.match(text, position)
        said = self.verbalise(match, numbers) if match else None
        if match is None or said is None:
            return []
        if isinstance(said, str):
            found = [Replacement(match.start(), match.end(), said)]
        elif isinstance(said, dict):
            found = [Replacement(*match.span(group), words) for group, words in said.items()]
        else:
            found = said
        if self.stop:
            found[-1] = found[-1]._replace(end=end_with_stop(text, found[-1].end))
        return found


def rule(pattern: str, verbalise: VerbaliseMatch, kind: str = "") -> Rule:
    """Return a `Rule` with a compiled pattern; ``kind`` lists the flags that are set, as in "unit range"."""
    return Rule(regex.compile(pattern), verbalise, **dict.fromkeys(kind.split(), True))


def one_of(words: Iterable[str]) -> str:
    """Return a pattern that matches any of ``words``, preferring the longest."""
    return "(?:" + "|".join(regex.escape(word) for word in sorted(words, key=len, reverse=True)) + ")"


_SENTENCE_END = regex.compile(
    r"\.[\p{Pe}\p{Pf}\"']{0,4}(?:\s{1,4}[\p{Ps}\p{Pi}\"']{0,2}\p{Lu}|[^\S\n]{0,4}\n[^\S\n]{0,4}\n|\s{0,4}\Z)"
)


def end_with_stop(text: str, end: int) -> int:
    """Return the end of an abbreviation with its full stop included, unless that full stop also ends the sentence."""
    return end + 1 if text.startswith(".", end) and not _SENTENCE_END.match(text, end) else end
