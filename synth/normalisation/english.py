"""What is not said as it is written in English.

Rules are tried in order: some where a word begins, the others at each digit or symbol. What may stand behind a number (its unit, a
stroke, a dash to the next number) is looked for behind every one of them. Every repetition in the rules is bounded or possessive,
so that hostile text stays linear.
"""

from collections.abc import Iterator, Sequence

import regex

from prosody_tagger.segment import Word
from synth.normalisation import english_lexicon as known
from synth.normalisation.english_dates import DATE_RULES, NAME_RULES
from synth.normalisation.english_names import ADDRESS_RULES, WORD_RULES
from synth.normalisation.english_numbers import CURRENCY, MONEY_BY_COUNTRY_RULE, NUMBER_RULES, SIGN_RULES, VERSION_RULE, VULGAR
from synth.normalisation.rules import GAP, Match, Numbers, Reading, Rule, Said, Say, behind_stop, one_of, rule

_AMERICAN = ("en", "en-us")
"""Tags of those who write 3/14 for the fourteenth of March and say "one hundred one". "en" alone is read as "en-us"."""


def _symbol(match: Match, numbers: Numbers) -> Said:
    return known.SYMBOLS[match[0][0]]


def _degrees(match: Match, numbers: Numbers) -> Said:
    return known.UNITS[match[0]][1]


def _always(words: str) -> Say:
    return lambda match, numbers: words


_AT_SIGN = (
    *SIGN_RULES,
    rule(r"([=~+#*&@%/])\1{3,}+", _symbol),  # a line drawn with signs, which nobody counts out
    rule("<=", _always("less than or equal to")),
    rule(">=", _always("greater than or equal to")),
    rule(rf"~(?={CURRENCY}?\.?\d)", _always("about")),
    rule(r"#(?=\d)", _always("number")),
    rule(r"#(?=\p{L})(?<!\p{L}#)", _always("hashtag")),
    rule(r"(?<=\b[A-G])#(?!\w)", _always("sharp")),
    rule(r"°[CF](?!\w)", _degrees),
    rule(rf"[-–](?={CURRENCY}?\.?\d)", _always("minus")),
    rule(f"[{regex.escape(''.join(known.SYMBOLS))}]", _symbol),
)

_AT_WORD = (*ADDRESS_RULES, *WORD_RULES, *NAME_RULES, VERSION_RULE, MONEY_BY_COUNTRY_RULE)
_AT_NUMBER = (*DATE_RULES, *NUMBER_RULES)
_AT_NUMBER_ALONE = tuple(candidate for candidate in _AT_NUMBER if not candidate.joined)

_NUMBER = regex.compile(r"[\d.]")
_NUMBER_ALONE = regex.compile(r"\d{1,12}+(?=[.,;:!?]?+(?:\s|\Z))")
_SPOT = regex.compile(
    rf"\p{{N}}|[\^{regex.escape(''.join(known.SYMBOLS))}]|(?<!\w)\.(?=\d)|(?<![\w)\]%°.{''.join(known.CURRENCIES)}-])[-–](?={CURRENCY}?\.?\d)"
)
_HINT = regex.compile(r"[^\p{L}\p{M}'’,;:!?\"()“”…—–-]")
_NAMES = frozenset(
    name.lower()
    for table in (known.TITLES, known.STREETS, known.NUMBERED, known.INNER, known.FINAL, known.DAYS, known.MONTH_ABBREVIATIONS)
    for name in table
) | {"x", "ft", "m", "mi", "km", "in", "yd", "wwi", "wwii"}
_LONGEST_IDIOM = max(map(len, known.IDIOMS))
_ROMAN_LETTERS = frozenset("IVXLCDM")
_LETTERS = regex.compile(r"\p{L}++")

# What stands behind a number, unless it is part of a name ("H2O", "ISO-8859-1").
_IN_NAME = regex.compile(r"(?<=\p{L}|(?<![\d\p{L}])\p{L}{1,20}-)")
_UNIT = regex.compile(
    rf"(?P<scale>{GAP}{one_of(known.SCALE_WORDS)})?"
    rf"(?:(?P<hyphen>-)?(?P<unit>{one_of(known.UNITS)})|{GAP}(?P<unit>{one_of(set(known.UNITS) - known.ATTACHED_UNITS)}))"
    r"(?![\w²³]|(?<=-in)-)"
)
_PER = regex.compile(rf"/(?P<per>{one_of(known.PER)})(?!\w)")
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


class English:
    """Reads English as it is said in the country of ``language``, a tag in small letters with hyphens."""

    def __init__(self, language: str) -> None:
        self._numbers = Numbers(american=language in _AMERICAN)

    def readings(self, text: str, words: Sequence[Word]) -> Iterator[Reading]:
        done = 0
        for word in words:
            if done < word.end and _has_something_to_do(text, word):
                for reading in self._of_word(text, word, done):
                    done = reading.end
                    yield reading

    def _of_word(self, text: str, word: Word, done: int) -> Iterator[Reading]:
        """The readings that begin in ``word`` at ``done`` or later; the last may end in another word."""
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

    def _first(self, rules: Sequence[Rule], text: str, position: int) -> list[Reading]:
        """What the first rule that fits says at ``position``, with all that belongs to a number behind it."""
        for candidate in rules:
            if found := candidate.readings(text, position, self._numbers):
                is_name = candidate.unit and _IN_NAME.match(text, position)
                if candidate.unit and not is_name:
                    found += _unit_behind(text, found[-1])
                if candidate.range and not is_name:
                    found += _per_behind(text, found[-1].end)
                    found += _dash_behind(text, found)
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


def _idiom(text: str, word: Word) -> list[Reading]:
    for start, end in ((word.core_start, word.core_end), (word.start, word.end)):
        written = text[start : min(end, start + _LONGEST_IDIOM + 1)]
        said = known.IDIOMS.get(written) or known.IDIOMS.get(written.lower())
        if said:
            return [Reading(start, end, said)]
    return []


def _unit_behind(text: str, number: Reading) -> list[Reading]:
    match = _UNIT.match(text, number.end)
    if not match:
        return []
    one, many = known.UNITS[match["unit"]]
    is_part = _PART.search(text, number.start, number.end) is not None and " and " not in f" {number.spoken}"
    is_one = not match["scale"] and (number.spoken == "one" or is_part)
    start, end = match.span("unit")
    return [Reading(start, behind_stop(text, end), one if is_one or match["hyphen"] else many)]


def _per_behind(text: str, end: int) -> list[Reading]:
    match = _PER.match(text, end)
    return [Reading(end, match.end(), f"per {known.PER[match['per']]}")] if match else []


def _dash_behind(text: str, found: list[Reading]) -> list[Reading]:
    """What is said for the sign between two numbers. One that stands by itself is in no word, so the last reading says it."""
    last = found[-1]
    for pattern, said in _BETWEEN:
        if match := pattern.match(text, last.end):
            return [Reading(last.end, match.end(), said)]
    for pattern, said in _BETWEEN_SPACES:
        if pattern.match(text, last.end):
            found[-1] = last._replace(spoken=f"{last.spoken} {said}")
    return []
