"""English rules that apply at the start of a word: abbreviations, Roman numerals, e-mail and web addresses."""

from collections.abc import Mapping

import regex

from synth.normalisation import english_lexicon as lexicon
from synth.normalisation.rules import (
    ALIAS_PLACEHOLDER,
    GAP,
    EnglishNumbers,
    Match,
    Verbalisation,
    VerbaliseMatch,
    one_of,
    rule,
    spell_digits,
)


def _lookup(table: Mapping[str, str]) -> VerbaliseMatch:
    return lambda match, _: table[match["word"].lower()]


def _capitalised(words: Mapping[str, str] | tuple[str, ...]) -> str:
    return one_of(form for word in words for form in (word.capitalize(), word.upper()))


_ROMAN = r"(?P<roman>(?=[IVXLCDM])M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))(?!\w)"
_MORE_THAN_A_LETTER = r"(?![ICDLM](?!\w))"  # not "vitamin C", nor the pronoun "I"
_NO_SUBJECT = rf"(?=['’]s|[.,:;!?)\"”—–]|{GAP}(?:of|and|to|or|in|was|ruled|reigned)\b|\s{{0,4}}\Z)"
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_NAME = r"\p{Lu}\p{L}{1,20}"
_RULER = rf"\b(?:{one_of(lexicon.REGNAL_TITLES)}{GAP}{_NAME}(?:{GAP}{_NAME})?|{one_of(lexicon.REGNAL_NAMES)}){GAP}"
_THING = rf"\b(?:{one_of(form for name in lexicon.NUMBERED_THINGS for form in (name, name.upper()))})\.?{GAP}"


def _value(numeral: str) -> str:
    values = [_ROMAN_VALUES[letter] for letter in numeral]
    return str(sum(-value if value < following else value for value, following in zip(values, [*values[1:], 0], strict=True)))


def _ruler(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return f"the {numbers.ordinal(_value(match['roman']))}"


def _numbered_thing(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return numbers.cardinal(_value(match["roman"]))


_SIGNS = regex.escape("".join(lexicon.ADDRESS_SIGNS))
_ADDRESS_TOKEN = regex.compile(rf"\d++|[{_SIGNS}]|[^\d{_SIGNS}]++")


def _address(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    """Verbalise an address sign by sign, without the scheme of a web address."""
    said = []
    for token in _ADDRESS_TOKEN.findall(match["address"]):
        if token.isdecimal():
            said.append(numbers.cardinal(token) if len(token) < 3 else spell_digits(token))
        else:
            said.append(lexicon.ADDRESS_SIGNS.get(token, token))
    return " ".join(said)


def _by(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return "by"


def _square(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return lexicon.UNITS[match["unit"]][1]


_SQUARED = r"(?:ft|m|mi|km|in|yd)(?!\w)"
_LABEL = r"[\p{L}\p{N}_-]{1,63}+"
_TAIL = rf"[^\s<>\"“”{ALIAS_PLACEHOLDER}]{{0,2000}}[\p{{L}}\p{{N}}]"

ADDRESS_RULES = (
    rule(rf"(?P<address>[\p{{L}}\p{{N}}_.+-]{{1,64}}+@(?:{_LABEL}\.){{1,8}}\p{{L}}{{2,24}})(?!\w)", _address),
    rule(rf"(?i:https?|ftp)://(?P<address>{_TAIL})", _address),
    rule(rf"(?P<address>(?i:www\.){_TAIL})", _address),
    rule(
        rf"(?P<address>(?:{_LABEL}\.){{1,8}}(?i:{one_of(lexicon.SUFFIXES)})(?![\w@])(?::\d{{1,5}})?(?:[/?#]{_TAIL})?)(?!\.\w)",
        _address,
    ),
)
WORD_RULES = (
    rule(
        rf"(?<=(?:\b{_NAME}(?:['’]s)?|\d(?:st|nd|rd|th)){GAP})(?P<word>{_capitalised(lexicon.STREETS)})(?!\w)(?!\.?{GAP}\p{{Lu}}\p{{Ll}})",
        _lookup(lexicon.STREETS),
        "stop",
    ),
    rule(rf"(?P<word>{_capitalised(('mr', 'mrs', 'ms'))})\.", _lookup(lexicon.TITLES)),
    rule(rf"(?P<word>{_capitalised(lexicon.TITLES)})\.(?={GAP}?\p{{Lu}})", _lookup(lexicon.TITLES)),
    rule(rf"(?P<word>{_capitalised(lexicon.TITLES_WITHOUT_STOP)})(?={GAP}\p{{Lu}}\p{{Ll}})", _lookup(lexicon.TITLES)),
    rule(rf"(?P<word>{_capitalised(('ave', 'blvd', 'rd', 'hwy'))})(?=\.)", _lookup(lexicon.STREETS), "stop"),
    rule(rf"(?P<word>(?i:{one_of(lexicon.NUMBERED)}))\.(?={GAP}?(?:\d|[IVX]{{1,6}}\b))", _lookup(lexicon.NUMBERED)),
    rule(rf"(?P<word>(?i:{one_of(lexicon.INNER)}))\.", _lookup(lexicon.INNER)),
    rule(rf"(?P<word>sq)(?={GAP}{_SQUARED})", _lookup(lexicon.INNER)),
    rule(r"(?P<word>(?i:e\.g|i\.e|a\.k\.a|vs))(?!\w)", _lookup(lexicon.INNER)),
    rule(rf"(?P<word>{_capitalised(lexicon.CAPITALISED)})(?=\.)", _lookup(lexicon.FINAL), "stop"),
    rule(rf"(?P<word>(?i:{one_of(set(lexicon.FINAL) - set(lexicon.CAPITALISED))}))(?=\.)", _lookup(lexicon.FINAL), "stop"),
    rule(r"(?P<word>etc|Jr|Sr)(?!\w)", _lookup(lexicon.FINAL)),
    rule(rf"(?<={_RULER}){_MORE_THAN_A_LETTER}{_ROMAN}", _ruler),
    rule(rf"(?<={_RULER})(?=I\b){_ROMAN}{_NO_SUBJECT}", _ruler),
    rule(rf"(?<=(?i:{_THING})){_MORE_THAN_A_LETTER}{_ROMAN}", _numbered_thing),
    rule(rf"(?<={_THING})(?=I\b){_ROMAN}(?:{_NO_SUBJECT}|(?<=World{GAP}War{GAP}I))", _numbered_thing),
    rule(rf"(?<=\d{GAP})x(?={GAP}\d)", _by),
    rule(rf"(?<=\bsq\.?{GAP})(?P<unit>{_SQUARED})", _square, "stop"),
)
