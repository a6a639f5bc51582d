"""Verbalisation of numbers in languages other than English, where the spoken form is unambiguous.

Ambiguous numbers stay as written, and the voice reads them by its own rules: "one" and other numbers that are inflected to agree
with their noun, ordinals marked by a full stop, years spoken in hundreds, and separators that mark thousands in one country and
decimals in another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import regex

from prosody_tagger.segment import Word
from synth.normalisation.rules import GAP, Replacement


@dataclass(frozen=True, slots=True)
class _Language:
    """How numbers are written and spoken in a language.

    Attributes:
        name: language code of num2words.
        percent, less, greater: spoken forms of "%", "<" and ">".
        ambiguous: pattern of whole numbers that are not verbalised.
        thousands: pattern of the thousands separator, or "" where it may mean something else.
        decimal_places: the most digits after a decimal comma whose spoken form is unambiguous.
        ordinal_stop: whether a full stop after a number makes it an ordinal.
        money: whether num2words has the currency names.
    """

    name: str
    percent: str
    less: str
    greater: str
    ambiguous: str = r"\d*1"
    thousands: str = r"\."
    decimal_places: int = 1
    ordinal_stop: bool = False
    money: bool = True


_BY_HUNDREDS = r"\d*1|1[1-9]\d\d"
_INFLECTED_HUNDREDS = r"\d*1|\d*[2-9]\d\d(?:\d{3})?"
_FRENCH = _Language("fr", "pour cent", "inférieur à", "supérieur à", thousands="")
_PORTUGUESE = _Language("pt", "por cento", "menor que", "maior que", rf"\d*2|{_INFLECTED_HUNDREDS}")
_LANGUAGES = {
    "de": _Language("de", "Prozent", "kleiner als", "größer als", _BY_HUNDREDS, decimal_places=9, ordinal_stop=True),
    "nl": _Language("nl", "procent", "kleiner dan", "groter dan", _BY_HUNDREDS),
    "it": _Language("it", "per cento", "minore di", "maggiore di", decimal_places=0),
    "es": _Language("es", "por ciento", "menor que", "mayor que", _INFLECTED_HUNDREDS, thousands="", decimal_places=0),
    "fr": _FRENCH,
    "fr-be": replace(_FRENCH, name="fr_BE"),
    "fr-ch": replace(_FRENCH, name="fr_CH"),
    "pt": _PORTUGUESE,
    "pt-br": replace(_PORTUGUESE, name="pt_BR", money=False),
}
_CURRENCIES = {"€": "EUR", "$": "USD"}
_ANGLES = {"<": "‹", ">": "›"}
"""Replacements for "<" and ">" in languages without a spoken form here; a voice does not read these quotation marks aloud."""


class NumberVerbaliser:
    """Verbalises the numbers of a language in `_LANGUAGES`, and for any other language only replaces "<" and ">".

    Args:
        language: BCP 47 tag in lower case with hyphens.
    """

    def __init__(self, language: str) -> None:
        self._language = _LANGUAGES.get(language) or _LANGUAGES.get(language.partition("-")[0])
        self._amount = _pattern(self._language) if self._language else None
        self._angles = {"<": self._language.less, ">": self._language.greater} if self._language else _ANGLES

    def replacements(self, text: str, words: Sequence[Word]) -> Iterator[Replacement]:
        """Yield the replacements in ``text``, in order and without overlap (see `Verbaliser`)."""
        done = 0
        for word in words:
            if done <= word.core_start and text[word.core_start] in _STARTS:
                for replacement in self._amount_at(text, word.core_start):
                    done = replacement.end
                    yield replacement
            for angle in _ANGLE.finditer(text, max(done, word.start), max(done, word.end)):
                yield Replacement(angle.start(), angle.end(), self._angles[angle[0]])

    def _amount_at(self, text: str, position: int) -> list[Replacement]:
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
            return [Replacement(match.start(), match.end(), said)]
        number, unit = (said, self._language.percent) if match["unit"] == "%" else _split_money(said)
        return [Replacement(*match.span("number"), number), Replacement(*match.span("unit"), unit)]


_STARTS = frozenset("0123456789€$")
_ANGLE = regex.compile("[<>]")


def _pattern(language: _Language) -> regex.Pattern[str]:
    """Return the pattern of an isolated amount: not joined to other characters and not next to another number."""
    grouped = rf"[1-9]\d{{0,2}}{language.thousands}\d{{3}}|" if language.thousands else ""
    ordinal = r"(?!(?<=\d)\.(?!\s{0,4}\Z))" if language.ordinal_stop else ""
    return regex.compile(
        r"(?<![^\s\p{Ps}\p{Pi}\"'¿¡])(?<!\d\s)"
        rf"(?P<before>[€$])?(?P<number>(?P<whole>{grouped}0|[1-9]\d{{0,5}})(?:,(?P<fraction>\d{{1,9}}))?)"
        rf"(?:{GAP}?(?P<unit>%|(?(before)(?!)|[€$])))?"
        rf"(?![^\s.,;:!?…\p{{Pe}}\p{{Pf}}\"'])(?![.,:]\d)(?!\s\d){ordinal}"
    )


def _number(language: _Language, whole: str, fraction: str) -> str:
    """Return the number in words, or "" if the spoken form is ambiguous."""
    from num2words import num2words

    if (
        len(fraction) > language.decimal_places
        or fraction.endswith("0")
        or (not fraction and regex.fullmatch(language.ambiguous, whole))
    ):
        return ""
    number = Decimal(f"{whole}.{fraction}") if fraction else int(whole)
    return str(num2words(number, lang=language.name)).replace(",", "")


def _money(language: _Language, whole: str, fraction: str, currency: str) -> str:
    """Return the amount in words, or "" if the spoken form is ambiguous."""
    from num2words import num2words

    if not language.money or whole == "0" or len(fraction) not in (0, 2):
        return ""
    if fraction.strip("0"):
        said = num2words(Decimal(f"{whole}.{fraction}"), lang=language.name, to="currency", currency=currency)
    else:  # num2words puts "zero cents" after the separator
        said, _, _ = num2words(Decimal(whole), lang=language.name, to="currency", currency=currency, separator="|").partition("|")
    return str(said).replace(",", "")


def _split_money(said: str) -> tuple[str, str]:
    number, _, unit = said.rpartition(" ")
    return number, unit
