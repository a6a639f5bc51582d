"""Numbers in languages other than English, where it is certain what is said.

What is not certain is left as it is written, for the voice reads its own language. Uncertain are one and what else bends with its
noun, the full stop of an ordinal, years that are said by hundreds, and separators that mean thousands in one country and a
fraction in another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import regex

from prosody_tagger.segment import Word
from synth.normalisation.rules import GAP, Reading


@dataclass(frozen=True, slots=True)
class _Language:
    """How numbers are written and said in a language.

    Attributes:
        name: what num2words calls it.
        percent, less, greater: what "%", "<" and ">" are called.
        unsure: pattern of the whole numbers that are left alone.
        thousands: the stop between groups of three digits, or "" where it may mean something else.
        places: how many digits behind a decimal comma are read one by one beyond doubt.
        ordinal_stop: a full stop behind a number makes it an ordinal.
        money: whether num2words knows what money is called.
    """

    name: str
    percent: str
    less: str
    greater: str
    unsure: str = r"\d*1"
    thousands: str = r"\."
    places: int = 1
    ordinal_stop: bool = False
    money: bool = True


_BY_HUNDREDS = r"\d*1|1[1-9]\d\d"
_BENT_HUNDREDS = r"\d*1|\d*[2-9]\d\d(?:\d{3})?"
_FRENCH = _Language("fr", "pour cent", "inférieur à", "supérieur à", thousands="")
_PORTUGUESE = _Language("pt", "por cento", "menor que", "maior que", rf"\d*2|{_BENT_HUNDREDS}")
_LANGUAGES = {
    "de": _Language("de", "Prozent", "kleiner als", "größer als", _BY_HUNDREDS, places=9, ordinal_stop=True),
    "nl": _Language("nl", "procent", "kleiner dan", "groter dan", _BY_HUNDREDS),
    "it": _Language("it", "per cento", "minore di", "maggiore di", places=0),
    "es": _Language("es", "por ciento", "menor que", "mayor que", _BENT_HUNDREDS, thousands="", places=0),
    "fr": _FRENCH,
    "fr-be": replace(_FRENCH, name="fr_BE"),
    "fr-ch": replace(_FRENCH, name="fr_CH"),
    "pt": _PORTUGUESE,
    "pt-br": replace(_PORTUGUESE, name="pt_BR", money=False),
}
_CURRENCIES = {"€": "EUR", "$": "USD"}
_ANGLES = {"<": "‹", ">": "›"}
"""Quotation marks that stand for "<" and ">" where it is not known what these are called; a voice passes over them."""


class Other:
    """Reads the numbers of ``language``, a tag in small letters with hyphens, if it is one of those that are known here."""

    def __init__(self, language: str) -> None:
        self._language = _LANGUAGES.get(language) or _LANGUAGES.get(language.partition("-")[0])
        self._amount = _pattern(self._language) if self._language else None
        self._angles = {"<": self._language.less, ">": self._language.greater} if self._language else _ANGLES

    def readings(self, text: str, words: Sequence[Word]) -> Iterator[Reading]:
        done = 0
        for word in words:
            if done <= word.core_start and text[word.core_start] in _STARTS:
                for reading in self._amount_at(text, word.core_start):
                    done = reading.end
                    yield reading
            for angle in _ANGLE.finditer(text, max(done, word.start), max(done, word.end)):
                yield Reading(angle.start(), angle.end(), self._angles[angle[0]])

    def _amount_at(self, text: str, position: int) -> list[Reading]:
        match = self._amount.match(text, position) if self._amount else None
        if match is None or self._language is None:
            return []
        whole, fraction = regex.sub(r"\D", "", match["whole"]), match["fraction"] or ""
        symbol = match["before"] or match["unit"] or ""
        if symbol in _CURRENCIES:
            said = _money(self._language, whole, fraction, _CURRENCIES[symbol])
        else:
            said = _number(self._language, whole, fraction)
        if not said:
            return []
        if not match["unit"]:
            return [Reading(match.start(), match.end(), said)]
        number, unit = (said, self._language.percent) if match["unit"] == "%" else _split_money(said)
        return [Reading(*match.span("number"), number), Reading(*match.span("unit"), unit)]


_STARTS = frozenset("0123456789€$")
_ANGLE = regex.compile("[<>]")


def _pattern(language: _Language) -> regex.Pattern[str]:
    """Pattern of an amount that stands by itself: nothing is tied to it, and no other number is beside it."""
    grouped = rf"[1-9]\d{{0,2}}{language.thousands}\d{{3}}|" if language.thousands else ""
    ordinal = r"(?!(?<=\d)\.(?!\s{0,4}\Z))" if language.ordinal_stop else ""
    return regex.compile(
        r"(?<![^\s\p{Ps}\p{Pi}\"'¿¡])(?<!\d\s)"
        rf"(?P<before>[€$])?(?P<number>(?P<whole>{grouped}0|[1-9]\d{{0,5}})(?:,(?P<fraction>\d{{1,9}}))?)"
        rf"(?:{GAP}?(?P<unit>%|(?(before)(?!)|[€$])))?"
        rf"(?![^\s.,;:!?…\p{{Pe}}\p{{Pf}}\"'])(?![.,:]\d)(?!\s\d){ordinal}"
    )


def _number(language: _Language, whole: str, fraction: str) -> str:
    """The number in words, or "" if that is not certain."""
    from num2words import num2words

    if len(fraction) > language.places or fraction.endswith("0") or (not fraction and regex.fullmatch(language.unsure, whole)):
        return ""
    number = Decimal(f"{whole}.{fraction}") if fraction else int(whole)
    return str(num2words(number, lang=language.name)).replace(",", "")


def _money(language: _Language, whole: str, fraction: str, currency: str) -> str:
    """The amount in words, or "" if that is not certain."""
    from num2words import num2words

    if not language.money or whole == "0" or len(fraction) not in (0, 2):
        return ""
    if fraction.strip("0"):
        said = num2words(Decimal(f"{whole}.{fraction}"), lang=language.name, to="currency", currency=currency)
    else:  # what is behind the separator would say that there are no cents
        said, _, _ = num2words(Decimal(whole), lang=language.name, to="currency", currency=currency, separator="|").partition("|")
    return str(said).replace(",", "")


def _split_money(said: str) -> tuple[str, str]:
    number, _, unit = said.rpartition(" ")
    return number, unit
