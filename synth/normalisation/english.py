"""Verbalisation of English text: numbers, dates, money, abbreviations, addresses and symbols become words.

Rules are tried in order: one set at the start of each word, the others at each digit or symbol. After every number, a unit, "per"
and a range are looked for as well ("5 kg", "$5/mo", "5-10"). Every repetition in the rules is bounded or possessive, so hostile
text takes linear time.
"""

from collections.abc import Iterator, Sequence

import regex

from prosody_tagger.segment import Word
from synth.normalisation import english_lexicon as lexicon
from synth.normalisation.english_dates import DATE_RULES, NAME_RULES
from synth.normalisation.english_names import ADDRESS_RULES, WORD_RULES
from synth.normalisation.english_numbers import CURRENCY, MONEY_BY_COUNTRY_RULE, NUMBER_RULES, SIGN_RULES, VERSION_RULE, VULGAR
from synth.normalisation.rules import (
    GAP,
    EnglishNumbers,
    Match,
    Replacement,
    Rule,
    Verbalisation,
    VerbaliseMatch,
    end_with_stop,
    one_of,
    rule,
)

_AMERICAN = ("en", "en-us")
"""Language tags with American conventions: 3/14 is the fourteenth of March, 101 is "one hundred one". Plain "en" is one of them."""


def _symbol(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return lexicon.SYMBOLS[match[0][0]]


def _degrees(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return lexicon.UNITS[match[0]][1]


def _always(words: str) -> VerbaliseMatch:
    return lambda match, numbers: words


_AT_SIGN = (
    *SIGN_RULES,
    rule(r"([=~+#*&@%/])\1{3,}+", _symbol),  # a ruled line: named once, not sign by sign
    rule("<=", _always("less than or equal to")),
    rule(">=", _always("greater than or equal to")),
    rule(rf"~(?={CURRENCY}?\.?\d)", _always("about")),
    rule(r"#(?=\d)", _always("number")),
    rule(r"#(?=\p{L})(?<!\p{L}#)", _always("hashtag")),
    rule(r"(?<=\b[A-G])#(?!\w)", _always("sharp")),
    rule(r"°[CF](?!\w)", _degrees),
    rule(rf"[-–](?={CURRENCY}?\.?\d)", _always("minus")),
    rule(f"[{regex.escape(''.join(lexicon.SYMBOLS))}]", _symbol),
)

_AT_WORD = (*ADDRESS_RULES, *WORD_RULES, *NAME_RULES, VERSION_RULE, MONEY_BY_COUNTRY_RULE)
_AT_NUMBER = (*DATE_RULES, *NUMBER_RULES)
_AT_NUMBER_ALONE = tuple(candidate for candidate in _AT_NUMBER if not candidate.joined)

_NUMBER = regex.compile(r"[\d.]")
_NUMBER_ALONE = regex.compile(r"\d{1,12}+(?=[.,;:!?]?+(?:\s|\Z))")
_SPOT = regex.compile(
    rf"\p{{N}}|[\^{regex.escape(''.join(lexicon.SYMBOLS))}]|(?<!\w)\.(?=\d)|(?<![\w)\]%°.{''.join(lexicon.CURRENCIES)}-])[-–](?={CURRENCY}?\.?\d)"
)
_HINT = regex.compile(r"[^\p{L}\p{M}'’,;:!?\"()“”…—–-]")
_NAMES = frozenset(
    name.lower()
    for table in (
        lexicon.TITLES,
        lexicon.STREETS,
        lexicon.NUMBERED,
        lexicon.INNER,
        lexicon.FINAL,
        lexicon.DAYS,
        lexicon.MONTH_ABBREVIATIONS,
    )
    for name in table
) | {"x", "ft", "m", "mi", "km", "in", "yd", "wwi", "wwii"}
_LONGEST_IDIOM = max(map(len, lexicon.IDIOMS))
_ROMAN_LETTERS = frozenset("IVXLCDM")
_LETTERS = regex.compile(r"\p{L}++")

# What may follow a number, unless the number is part of a name ("H2O", "ISO-8859-1").
_IN_NAME = regex.compile(r"(?<=\p{L}|(?<![\d\p{L}])\p{L}{1,20}-)")
_UNIT = regex.compile(
    rf"(?P<scale>{GAP}{one_of(lexicon.SCALE_WORDS)})?"
    rf"(?:(?P<hyphen>-)?(?P<unit>{one_of(lexicon.UNITS)})|{GAP}(?P<unit>{one_of(set(lexicon.UNITS) - lexicon.ATTACHED_UNITS)}))"
    r"(?![\w²³]|(?<=-in)-)"
)
_PER = regex.compile(rf"/(?P<per>{one_of(lexicon.PER)})(?!\w)")
_PART = regex.compile(rf"[/\u2044{VULGAR}]")
_BETWEEN = (
    (regex.compile(r"(?<!\b0)x(?=\d)"), "by"),
    (regex.compile(r"\*(?=\d)"), "times"),
    (regex.compile(r"-(?=\d{1,9}\s?=)"), "minus"),
    (regex.compile(rf"[-–](?={CURRENCY}?\.?\d)"), "to"),
)
_TYPED = rf"{CURRENCY}\d[\d.,]{{0,12}}|\d[\d.,]{{0,12}}%|\d\d?:\d\d|\d\d?\s?[aApP]\.?[mM]\.?|(?<!\d)(?:1[1-9]|20)\d\d(?!\d)"
_BETWEEN_SPACES = (
    (regex.compile(rf"{GAP}-(?={GAP}\d[\d.,]{{0,12}}{GAP}?=)"), "minus"),
    (regex.compile(rf"(?<={_TYPED}){GAP}[-–](?={GAP}(?:{_TYPED}))"), "to"),
)


class EnglishVerbaliser:
    """Verbalises English.

    Args:
        language: BCP 47 tag in lower case with hyphens; it selects American or British conventions.
    """

    def __init__(self, language: str) -> None:
        self._numbers = EnglishNumbers(american=language in _AMERICAN)

    def replacements(self, text: str, words: Sequence[Word]) -> Iterator[Replacement]:
        """Yield the replacements in ``text``, in order and without overlap (see `Verbaliser`)."""
        done = 0
        for word in words:
            if done < word.end and _has_something_to_do(text, word):
                for replacement in self._in_word(text, word, done):
                    done = replacement.end
                    yield replacement

    def _in_word(self, text: str, word: Word, done: int) -> Iterator[Replacement]:
        """Yield the replacements that begin in ``word`` at ``done`` or later; the last may end in another word."""
        position = max(done, word.start)
        if position <= word.core_start:
            rules = _AT_WORD if text[word.core_start].isalpha() else ADDRESS_RULES
            found = _idiom(text, word) or self._first(rules, text, word.core_start)
            yield from found
            position = found[-1].end if found else position
        while spot := _SPOT.search(text, position, word.end) if position < word.end else None:
            found = self._first(_rules_at(text, spot.start()), text, spot.start())
            yield from found
            position = found[-1].end if found else spot.end()

    def _first(self, rules: Sequence[Rule], text: str, position: int) -> list[Replacement]:
        """Return the replacements of the first rule that matches at ``position``, with the unit and range after a number."""
        for candidate in rules:
            if found := candidate.replacements(text, position, self._numbers):
                is_name = candidate.unit and _IN_NAME.match(text, position)
                if candidate.unit and not is_name:
                    found += _unit_after(text, found[-1])
                if candidate.range and not is_name:
                    found += _per_after(text, found[-1].end)
                    found += _dash_after(text, found)
                return found
        return []


def _rules_at(text: str, position: int) -> Sequence[Rule]:
    if _NUMBER_ALONE.match(text, position):
        return _AT_NUMBER_ALONE
    return _AT_NUMBER if _NUMBER.match(text, position) else _AT_SIGN


def _has_something_to_do(text: str, word: Word) -> bool:
    if _HINT.search(text, word.start, word.end):
        return True
    match = _LETTERS.match(text, word.core_start, word.core_end)
    return match is not None and (match[0].lower() in _NAMES or _ROMAN_LETTERS.issuperset(match[0]))


def _idiom(text: str, word: Word) -> list[Replacement]:
    for start, end in ((word.core_start, word.core_end), (word.start, word.end)):
        written = text[start : min(end, start + _LONGEST_IDIOM + 1)]
        said = lexicon.IDIOMS.get(written) or lexicon.IDIOMS.get(written.lower())
        if said:
            return [Replacement(start, end, said)]
    return []


def _unit_after(text: str, number: Replacement) -> list[Replacement]:
    match = _UNIT.match(text, number.end)
    if not match:
        return []
    one, many = lexicon.UNITS[match["unit"]]
    is_part = _PART.search(text, number.start, number.end) is not None and " and " not in f" {number.spoken}"
    is_one = not match["scale"] and (number.spoken == "one" or is_part)
    start, end = match.span("unit")
    return [Replacement(start, end_with_stop(text, end), one if is_one or match["hyphen"] else many)]


def _per_after(text: str, end: int) -> list[Replacement]:
    match = _PER.match(text, end)
    return [Replacement(end, match.end(), f"per {lexicon.PER[match['per']]}")] if match else []


def _dash_after(text: str, found: list[Replacement]) -> list[Replacement]:
    """Return the replacement for the sign between two numbers.

    A sign between spaces belongs to no word, so its words are appended to the last replacement in ``found``.
    """
    last = found[-1]
    for pattern, said in _BETWEEN:
        if match := pattern.match(text, last.end):
            return [Replacement(last.end, match.end(), said)]
    for pattern, said in _BETWEEN_SPACES:
        if pattern.match(text, last.end):
            found[-1] = last._replace(spoken=f"{last.spoken} {said}")
    return []
