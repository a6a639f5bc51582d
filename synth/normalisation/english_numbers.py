"""English rules for numbers: cardinals, ordinals, money, fractions, versions, telephone numbers, and symbols such as "²" or "Ⅳ"."""

import unicodedata

import regex

from synth.normalisation import english_lexicon as lexicon
from synth.normalisation.english_dates import calendar_day, say_day
from synth.normalisation.rules import (
    GAP,
    MAX_DIGITS,
    EnglishNumbers,
    Match,
    Replacement,
    Verbalisation,
    one_of,
    plural,
    rule,
    spell_digits,
)

CURRENCY = f"[{''.join(lexicon.CURRENCIES)}]"
_WHOLE = (
    r"(?:[1-9]\d{0,2}(?:,\d{3}){1,5}|[1-9]\d{0,2}(?:[\u00a0\u202f\u2009]\d{3}){1,5}|[1-9]\d?(?:,\d{2}){1,4},\d{3}"
    rf"|[1-9]\d{{0,{MAX_DIGITS - 1}}}|0)(?!,?\d)"
)
_NUMBER = rf"(?:{_WHOLE}(?:\.\d{{1,40}}+)?|\.\d{{1,40}}+)(?![.,]?\d)"
_SCALE = rf"(?:{one_of(lexicon.SCALES)})(?!\w)"


def _amount(numbers: EnglishNumbers, symbol: str, number: str, scale: str = "", country: str = "") -> str:
    """Return an amount in words: "five dollars and fifty cents", "one point five million dollars"."""
    one, many, cent, cents = lexicon.CURRENCIES[symbol]
    owner = f"{lexicon.DOLLARS[country]} " if country else ""
    whole, _, fraction = number.partition(".")
    if scale:
        return f"{numbers.decimal(number)} {scale} {owner}{many}"
    if len(fraction) != 2 or not cent:
        return f"{numbers.decimal(number)} {owner}{one if number == '1' else many}"
    said = []
    if whole not in ("", "0") or fraction == "00":
        said.append(f"{numbers.cardinal(whole or '0')} {owner}{one if whole == '1' else many}")
    if fraction != "00":
        said.append(f"{numbers.cardinal(fraction.lstrip('0'))} {cent if fraction == '01' else cents}")
    return " and ".join(said)


_ARTICLE_BEFORE = regex.compile(r"(?<=\b[Aa]n?\s)")
_TIED_AFTER = regex.compile(r"-\p{L}")
_NOUN_AFTER = regex.compile(rf"{GAP}(?!(?:or|and|to|for|in|on|at|per|a|if|is|was|each|more|less)\b)\p{{Ll}}")


def _money(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    """Verbalise an amount after its symbol: "$5", "$2M", with its scale in the next word ("$5 million"), or a range ("$5-10")."""
    symbol, country, big = match["symbol"], match["country"] or "", match["big"] or ""
    one, many, *_ = lexicon.CURRENCIES[symbol]
    said: dict[str, str] = {}
    last, number, scale = "left", match["first"], match["scale"]
    if match["dash"]:
        said |= {"left": _lower_end(match, numbers), "dash": "to"}
        last, number, scale = "right", match["second"], match["scale2"]
    if big:
        owner = f"{lexicon.DOLLARS[country]} " if country else ""
        said |= {last: numbers.decimal(number), "big": f"{lexicon.SCALES.get(big, big)} {owner}{many}"}
        last = "big"
    else:
        said[last] = _amount(numbers, symbol, number, lexicon.SCALES[scale] if scale else "", country)
    if _is_adjective(match) and said[last].endswith(many):
        said[last] = said[last].removesuffix(many) + one
    return said


def _is_adjective(match: Match) -> bool:
    """Whether the amount modifies the noun after it and so takes the singular: "a $5 bill", "$5-a-day"."""
    if match["tied"] or _TIED_AFTER.match(match.string, match.end()):
        return True
    return bool(_ARTICLE_BEFORE.match(match.string, match.start()) and _NOUN_AFTER.match(match.string, match.end()))


def _lower_end(match: Match, numbers: EnglishNumbers) -> str:
    """Return the first number of a range of money in words; the currency is named only if the number has cents."""
    if match["scale"]:
        return f"{numbers.decimal(match['first'])} {lexicon.SCALES[match['scale']]}"
    if "." in match["first"] and not match["big"] and not match["scale2"]:
        return _amount(numbers, match["symbol"], match["first"])
    return numbers.decimal(match["first"])


def _money_before_symbol(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return _amount(numbers, match["symbol"], match["number"])


def _number(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    said = numbers.decimal(match["number"])
    return f"{said} {lexicon.SCALES[match['scale']]}" if match["scale"] else said


def _digits(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return numbers.cardinal(match[0])


def _spelled(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return spell_digits(match[0])


def _retirement(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return "four oh one k"


def _ordinal(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return numbers.ordinal(match["number"])


def _plural(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return plural(numbers.cardinal(match["number"]))


def _scientific(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    sign = "minus " if match["sign"] in ("-", "−") else ""
    return f"{numbers.decimal(match['number'])} times ten to the power of {sign}{numbers.cardinal(match['power'])}"


def _ratio(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return f"{numbers.cardinal(match['first'])} to {numbers.cardinal(match['second'])}"


def _height(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return f"{numbers.cardinal(match['feet'])} foot {numbers.cardinal(match['inches'])}"


# Fractions

_PARTS = {2: ("half", "halves"), 4: ("quarter", "quarters")}
_COMMON_PARTS = frozenset((*range(2, 11), 12, 16, 20, 32, 64, 100, 1000))
_WHOLE_BEFORE = regex.compile(r"(?<=(?<![\d.,/:])\d{1,3}[ \u00a0-])")
_DAY_BEFORE = regex.compile(r"(?<=\b(?i:on|by|until|since|before|after|dated|date)\s)")
_OF_AFTER = regex.compile(rf"{GAP}of\b")
VULGAR = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"


def _parts(top: int, bottom: int, match: Match, numbers: EnglishNumbers, whole: str = "") -> str:
    """Return a fraction in words: "three quarters", and after a whole number "and a half"."""
    ordinal = numbers.ordinal(str(bottom))
    one, many = _PARTS.get(bottom, (ordinal, plural(ordinal)))
    if whole or (top < bottom and _WHOLE_BEFORE.match(match.string, match.start())):
        count = ("an" if one.startswith("e") else "a") if top == 1 else numbers.cardinal(str(top))
        return f"{whole} and {count} {one if top == 1 else many}".lstrip()
    return f"{numbers.cardinal(str(top))} {one if top == 1 else many}"


def _fraction(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    """Verbalise "top/bottom": as a date where it can be one, as parts for common denominators, else "twenty-two over seven"."""
    top, bottom = int(match["top"]), int(match["bottom"])
    day = calendar_day(top, bottom, american=numbers.american)
    if day and (bottom not in _COMMON_PARTS or _DAY_BEFORE.match(match.string, match.start())):
        return say_day(match, numbers, *day)
    if top == bottom or (bottom == 10 and 1 < top < 10 and not _OF_AFTER.match(match.string, match.end())):
        return f"{numbers.cardinal(str(top))} out of {numbers.cardinal(str(bottom))}"
    if bottom in _COMMON_PARTS and (top < bottom or (bottom == 2 and top % 2)):
        return _parts(top, bottom, match, numbers)
    return f"{numbers.cardinal(str(top))} over {numbers.cardinal(str(bottom))}"


def _vulgar_fraction(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    top, _, bottom = unicodedata.normalize("NFKC", match["sign"]).partition("\u2044")
    return _parts(int(top), int(bottom), match, numbers, numbers.cardinal(match["whole"]) if match["whole"] else "")


# Numbers that identify something


def _version(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return "version " + " point ".join(numbers.cardinal(part) for part in match["parts"].split("."))


def _dotted(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    """Verbalise a version number or an IPv4 address."""
    parts = match["parts"].split(".")
    is_address = len(parts) == 4 and all(len(part) < 4 and int(part) < 256 for part in parts)
    return (" dot " if is_address else " point ").join(numbers.cardinal(part) for part in parts)


def _chain(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    """Verbalise numbers joined by hyphens: digit by digit, unless all are short ("4-4-2")."""
    parts = match[0].split("-")
    if any(len(part) > 2 or part.startswith("0") for part in parts):
        return spell_digits(match[0])
    return " ".join(numbers.cardinal(part) for part in parts)


_PHONE_PART = regex.compile(r"\+?\d(?:[-./()]{0,2}\d)*+–?")


def _phone(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return [
        Replacement(
            match.start() + part.start(), match.start() + part.end(), "plus " * part[0].startswith("+") + spell_digits(part[0])
        )
        for part in _PHONE_PART.finditer(match[0])
    ]


def _local_phone(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    """Verbalise "555-1234" digit by digit; "200-1000" is a range and not matched."""
    return None if match["first"][-1] == "0" == match["second"][-1] else _phone(match, numbers)


def _numeric(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    """Verbalise a character that is a whole number ("②", "Ⅳ")."""
    value = unicodedata.numeric(match[0], -1.0)
    return numbers.cardinal(str(int(value))) if value >= 0 and value == int(value) else None


def _subscript(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return numbers.cardinal(unicodedata.normalize("NFKC", match[0]))


def _power(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return f"to the power of {numbers.cardinal(unicodedata.normalize('NFKC', match['power']))}"


_SEPARATE = r"[-. \u00a0]"
_AMOUNT = rf"(?:(?P<country>{one_of(lexicon.DOLLARS)})(?=\$))?(?P<symbol>{CURRENCY})(?P<first>{_NUMBER})(?P<scale>{_SCALE})?"
_MONEY = (
    rf"(?P<left>{_AMOUNT})(?:(?P<dash>[-–])(?P<right>(?:(?P=symbol))?(?P<second>{_NUMBER})(?P<scale2>{_SCALE})?))?"
    rf"(?:(?:{GAP}|(?P<tied>-))(?P<big>{one_of((*lexicon.SCALE_WORDS, *lexicon.SCALES))})(?!\w))?"
)
MONEY_BY_COUNTRY_RULE = rule(rf"(?=\p{{L}}){_MONEY}", _money, "range")
VERSION_RULE = rule(
    r"(?<!\w)(?:v\.?(?P<parts>\d{1,6}(?:\.\d{1,6}){0,6})|V(?P<parts>\d{1,6}(?:\.\d{1,6}){1,6}))(?!\w|\.\d)", _version
)

NUMBER_RULES = (
    rule(
        rf"(?<![\w.-])(?:1{_SEPARATE}\(?)?\d{{3}}(?:\){_SEPARATE}?|{_SEPARATE}|–)\d{{3}}(?:{_SEPARATE}|–)\d{{4}}(?!\w|[-.]\d)",
        _phone,
    ),
    rule(r"(?<![\w.,-])(?P<first>\d{3})[-–](?P<second>\d{4})(?!\w|[-–.,]\d)", _local_phone, "joined"),
    rule(r"(?<![\w.,-])0\d{2,4}(?:[- ]\d{3,4}){1,3}(?!\w|[-.,]\d)", _phone),
    rule(r"(?<![\w.,-])\d{4}(?:[- ]\d{4}){3}(?!\w|[-.,]\d)", _phone),
    rule(r"(?<=\b(?i:code|PIN|zip|dial|extension|ext\.?)(?: is)? )\d{3,10}(?!\w|[-.,]\d)", _spelled),
    rule(r"(?<=\b[Cc]all )(?:911|999|112|988)(?!\w|[-.,]\d)", _spelled),
    rule(r"1-8\d\d(?=-\p{L})", _spelled, "joined"),
    rule(r"401\(k\)", _retirement, "joined"),
    rule(r"(?P<parts>\d{1,6}+(?:\.\d{1,6}+){2,8})(?!\.?\d)", _dotted, "joined"),
    rule(r"(?<=\b(?:[Vv]ersion|[Rr]elease|Python|iOS|Android|Ubuntu) )(?P<parts>\d{1,4}\.\d{1,4})(?!\w|\.\d)", _dotted, "joined"),
    rule(r"(?<![\w.,])\d{1,5}(?:-\d{1,5}){2,6}(?!\w|[-.,]\d)", _chain, "joined"),
    rule(r"(?<![\d:.])(?P<first>\d{1,4}):(?P<second>\d{1,4})(?![\d:]|\.\d)", _ratio, "joined"),
    rule(r"(?<![\d/])(?P<top>[1-9]\d{0,3})[/\u2044](?P<bottom>[1-9]\d{0,3})(?![\d/\u2044]|\.\d)", _fraction, "unit range joined"),
    rule(rf"(?P<whole>0|[1-9]\d{{0,5}})(?P<sign>[{VULGAR}])", _vulgar_fraction, "unit range joined"),
    rule(r"(?<![\d'′])(?P<feet>[1-9])['′](?P<inches>1[01]|\d)(?!\w)(?:[\"″”]|'')?", _height, "joined"),
    rule(rf"(?P<number>{_WHOLE})(?:st|nd|rd|th|ST|ND|RD|TH)(?!\w)", _ordinal, "range joined"),
    rule(r"(?<=\p{L}-?)(?P<number>[1-9]\d{0,3})s(?!\w)", _plural, "joined"),
    rule(rf"(?P<number>{_NUMBER})(?P<symbol>{CURRENCY})(?<=\.\d\d.)(?![\w.])", _money_before_symbol, "range joined"),
    rule(rf"(?P<number>{_NUMBER})[eE](?P<sign>[-−+]?)(?P<power>[1-9]\d{{0,2}})(?!\w)", _scientific, "joined"),
    rule(
        rf"(?P<number>{_NUMBER})(?P<scale>(?<!\p{{L}}[\d.,]{{1,9}}|\d{{4}}){one_of(lexicon.NUMBER_SCALES)}(?!\w))?",
        _number,
        "unit range",
    ),
    rule(r"\d++", _digits),
)
"""Tried where a number begins, after the rules for dates."""

SIGN_RULES = (
    rule(_MONEY, _money, "range"),
    rule(rf"\+\d{{1,3}}{_SEPARATE}?(?:\(\d{{1,4}}\)|\d{{1,5}})(?:{_SEPARATE}\d{{2,5}}){{1,4}}(?!\w|[-.]\d)", _phone),
    rule(r"\+\d{8,15}(?!\w)", _phone),
    rule(rf"(?P<whole>)(?P<sign>[{VULGAR}])", _vulgar_fraction, "unit range"),
    rule(r"(?<=\d|\b\p{L})(?P<power>[⁰¹⁴-⁹]{1,9})", _power),
    rule(r"(?<=[\d\p{L})])\^(?P<power>[1-9]\d{0,5})(?!\w)", _power),
    rule(r"[₀-₉]{1,9}", _subscript),
    rule(r"(?![⁰-⁹¹²³])[\p{No}\p{Nl}]", _numeric),
)
"""Tried at a symbol that may begin a number."""
