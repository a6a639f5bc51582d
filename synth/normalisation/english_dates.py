"""English rules for dates, years and times of day."""

import regex

from synth.normalisation import english_lexicon as lexicon
from synth.normalisation.rules import GAP, EnglishNumbers, Match, Replacement, Verbalisation, one_of, plural, rule

_SUFFIX = "(?:st|nd|rd|th|ST|ND|RD|TH)"
_DASH = "[-–]"
_DAY = r"(?:[12]\d|3[01]|0?[1-9])"
_YEAR = r"(?:1[1-9]|20)\d\d"
_MODERN = r"(?:1[89]\d\d|20[0-4]\d)"
_FULL = one_of(form for name in lexicon.MONTHS for form in (name, name.upper()))
_SHORT = one_of(form for name in lexicon.MONTH_ABBREVIATIONS for form in (name, name.upper()))
_WEEKDAY = one_of(form for name in lexicon.DAYS for form in (name, name.upper()))
_IN_MONTH = rf"\b(?:{_FULL}|{_SHORT}\.?){GAP}"
_OF_MONTH = rf"{GAP}(?:of{GAP})?(?:{_FULL}|{_SHORT})\b"
_COUNTED = rf"{GAP}(?:{one_of(lexicon.SCALE_WORDS)}|{one_of(lexicon.UNITS)})(?!\w)"
_HALF = r"(?P<half>[aApP]\.?[mM])\b"
_TIME = r"(?<![\d:.])(?P<time>(?P<hour>[01]?\d|2[0-4]){}(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?h?)"


def calendar_day(first: int, second: int, *, american: bool) -> tuple[int, int] | None:
    """Return (month, day) for two numbers in the country's order, else in the other order; None if neither is a valid date."""
    for month, day in ((first, second), (second, first)) if american else ((second, first), (first, second)):
        if 1 <= month <= 12 and 1 <= day <= 31:
            return month, day
    return None


def say_day(match: Match, numbers: EnglishNumbers, month: int, day: int) -> str:
    """Return "May fifth" in American English, "the fifth of May" elsewhere."""
    name, ordinal = lexicon.MONTHS[month - 1], numbers.ordinal(str(day))
    return f"{name} {ordinal}" if numbers.american else f"{_the(match)}{ordinal} of {name}"


_THE_BEFORE = regex.compile(r"(?<=\b[Tt]he\s|[-–])")


def _the(match: Match) -> str:
    return "" if _THE_BEFORE.match(match.string, match.start()) else "the "


def _date(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    american = numbers.american and match["sign"] != "."
    day = calendar_day(int(match["first"]), int(match["second"]), american=american)
    year = match["year"] if len(match["year"]) == 4 else f"20{match['year']}"
    return f"{say_day(match, numbers, *day)} {numbers.year(year)}" if day else None


def _iso_date(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return f"{say_day(match, numbers, int(match['month']), int(match['day']))} {numbers.year(match['year'])}"


def _named_date(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    name = match["month"].capitalize()
    month = lexicon.MONTHS.index(lexicon.MONTH_ABBREVIATIONS.get(name, name)) + 1
    return f"{say_day(match, numbers, month, int(match['day']))} {numbers.year(match['year'])}"


def _day_of_month(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return numbers.ordinal(match["day"])


def _day_before_month(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    ordinal = numbers.ordinal(match["day"])
    return ordinal if match["of"] else f"{_the(match)}{ordinal}{'' if match['dash'] else ' of'}"


def _year(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return numbers.year(match["year"])


def _decade(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    year, start = match["year"], match.start()
    if len(year) == 4:
        return plural(numbers.year(year))
    left_out = match.string[start - 1] in "'’"  # the apostrophe replaces the century and is not spoken
    return [Replacement(start - left_out, match.end(), plural(numbers.cardinal(year)))]


def _season(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    """Verbalise a pair of consecutive years: "2024/25"."""
    if int(match["next"]) != (int(match["year"]) + 1) % 100:
        return None
    return {
        "year": numbers.year(match["year"]),
        "sign": "" if match["sign"] == "/" else "to",
        "next": numbers.cardinal(match["next"]),
    }


def _clock(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    hour, minute, second = match["hour"].lstrip("0") or "0", match["minute"], match["second"]
    said = numbers.cardinal(hour)
    if minute != "00":
        said += f" {'oh ' if minute[0] == '0' else ''}{numbers.cardinal(minute.lstrip('0'))}"
    elif hour == "0":
        said = "midnight"
    elif not match["half"] and match["oclock"] is None:
        said += " o'clock" if int(hour) <= 12 else " hundred"
    if second and second != "00":
        said += f" and {numbers.cardinal(second.lstrip('0'))} second{'' if second == '01' else 's'}"
    return {"time": said, "half": _half(match)} if match["half"] else {"time": said}


def _hour(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    return {"time": numbers.cardinal(match["time"].lstrip("0")), "half": _half(match)}


def _half(match: Match) -> str:
    """Return "a-m" or "p m". The hyphen makes a voice say the letter "a" instead of the article."""
    return "a-m" if match["half"][0] in "aA" else "p m"


def _name(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    short = match["name"].capitalize()
    return lexicon.DAYS.get(short) or lexicon.MONTH_ABBREVIATIONS[short]


def _name_range(match: Match, numbers: EnglishNumbers) -> Verbalisation:
    names = lexicon.DAYS | lexicon.MONTH_ABBREVIATIONS
    return {"first": names[match["from"].capitalize()], "dash": "to", "second": names[match["to"].capitalize()]}


# A number of four digits is a year if its context shows that. Each entry: (pattern before, pattern of the year, pattern after).
_COUNTABLE = rf"{GAP}(?:people|men|women|children|\p{{Ll}}{{2,20}}(?<!\b(?:was|has|this|is))s)\b|{_COUNTED}"
_YEAR_CONTEXTS = (
    (rf"(?<={_IN_MONTH}(?:{_DAY}{_SUFFIX}?(?:{_DASH}{_DAY}{_SUFFIX}?)?,?{GAP})?)", r"[12]\d{3}", ""),
    (rf"(?<=\b(?:{_FULL}|{_SHORT}\.?),{GAP}|©{GAP}?)", _YEAR, ""),
    (rf"(?<=\b(?i:in|since|until|till|circa|year|during|season|Q[1-4],?){GAP})", _MODERN, rf"(?!{_COUNTED})"),
    (rf"(?<=\b(?i:in|since|until|till|circa|ca?\.|year|before|after|from|between){GAP})", _YEAR, rf"(?!{_COUNTABLE})"),
    (rf"(?<=\b\p{{Lu}}\p{{Ll}}{{1,20}}{GAP})", r"(?:19[5-9]\d|20[0-3]\d)", rf"(?!{_COUNTABLE})"),
    (rf"(?<=\b(?i:it was|it is|it['’]s|of|by|to|around|and){GAP})", _MODERN, rf"(?!{_COUNTABLE})"),
    (
        rf"(?<=\b(?i:the|this|last|our|its|their|your|early|late|mid|summer|winter|spring|autumn|fall|FY)(?:{GAP}|-))",
        _MODERN,
        rf"(?!{_COUNTABLE})",
    ),
    (r"(?<=\bFY)", _YEAR, ""),
    (r"(?<=(?:\A|[.!?][\"'”’)]{0,2}\s)[\"'“‘(]{0,2})", _MODERN, rf"(?={GAP}(?:was|is|will|saw|marked|brought|has|had|looks)\b)"),
    (r"(?<=\()", _YEAR, r"(?=\))"),
    ("", _YEAR, rf"(?={GAP}?{_DASH}{GAP}?{_YEAR}(?![\w%]|[.,:]\d))"),
    (rf"(?<=(?<![\d.,]){_YEAR}{GAP}?{_DASH}{GAP}?)", _YEAR, ""),
    ("", r"[1-9]\d{3}", rf"(?={GAP}(?:AD|BC|BCE|CE)\b)"),
)

DATE_RULES = (
    rule(
        r"(?P<year>1\d{3}|20\d\d)(?P<sign>[-/.])(?P<month>0?[1-9]|1[0-2])(?P=sign)(?P<day>[12]\d|3[01]|0?[1-9])(?!\d|[-/.]\d)",
        _iso_date,
        "joined",
    ),
    rule(r"(?P<first>\d\d?)(?P<sign>/)(?P<second>\d\d?)/(?P<year>[12]\d{3}|\d\d)(?!\w|[-/.]\d)", _date, "joined"),
    rule(r"(?P<first>\d\d?)(?P<sign>[-.])(?P<second>\d\d?)(?P=sign)(?P<year>[12]\d{3})(?!\w|[-/.]\d)", _date, "joined"),
    rule(rf"(?P<day>{_DAY})-(?P<month>{_FULL}|{_SHORT})-(?P<year>[12]\d{{3}})(?!\w)", _named_date, "joined"),
    rule(_TIME.format("[:.]") + f"{GAP}?{_HALF}(?P<oclock>)", _clock, "stop range joined"),
    rule(_TIME.format(":") + rf"(?![\d:A-Ya-y])(?P<half>)(?P<oclock>(?={GAP}o['’]clock))?", _clock, "range joined"),
    rule(rf"(?<![\d:.,])(?P<time>1[0-2]|0?[1-9]){GAP}?{_HALF}", _hour, "stop range"),
    rule(
        r"(?P<year>1[1-9]\d0|20\d0|(?<=['’]|\b(?:the|her|his|their|my|early|late|mid|low|high|upper)[\s-])[2-9]0)['’]?s(?!\w)",
        _decade,
        "range joined",
    ),
    rule(r"(?P<year>(?:1[89]|20)\d\d)(?P<sign>[-–/])(?P<next>\d\d)(?!\w|[-–/.,:]\d)", _season, "joined"),
    rule(
        rf"(?<={_IN_MONTH}(?:{_DAY}{_SUFFIX}?{_DASH})?)(?P<day>{_DAY}){_SUFFIX}?(?!\w|[%‰°:/]|[.,]\d|{_COUNTED})",
        _day_of_month,
        "range",
    ),
    rule(
        rf"(?<![\d.,:/])(?P<day>{_DAY}){_SUFFIX}?(?!\w)"
        rf"(?:(?={GAP}(?P<of>of{GAP})?(?:{_FULL}|{_SHORT})\b)|(?=(?P<dash>{_DASH}){_DAY}{_SUFFIX}?{_OF_MONTH}))",
        _day_before_month,
        "range",
    ),
    *(
        rule(rf"(?<![\d.,:/]){before}(?P<year>{year})(?!\w|[.,:/]\d|[%‰°]){behind}", _year, "range")
        for before, year, behind in _YEAR_CONTEXTS
    ),
)
"""Tried where a number begins."""

NAME_RULES = (
    rule(
        rf"(?P<first>(?P<from>{_WEEKDAY}|{_SHORT})\.?)(?P<dash>{_DASH})(?P<second>(?P<to>{_WEEKDAY}|{_SHORT}))(?!\w)",
        _name_range,
        "stop",
    ),
    rule(rf"(?P<name>{_WEEKDAY})\.?(?=,?{GAP}(?:(?:{_FULL}|{_SHORT})\b|{_DAY}{_SUFFIX}?{_OF_MONTH}|\d\d?/\d))", _name),
    rule(rf"(?P<name>{_SHORT})\.?(?=,?{GAP}\d)", _name),
    rule(rf"(?<=\b\d\d?{_SUFFIX}?{GAP}(?:of{GAP})?)(?P<name>{_SHORT})(?!\w)", _name, "stop"),
    rule(rf"(?P<name>{_SHORT})(?=\.,?\s\p{{Ll}})", _name, "stop"),
)
"""Tried where a word begins."""
