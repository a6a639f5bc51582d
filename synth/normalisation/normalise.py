"""Assigns a spoken form to each word of a text: the written word "$299" is spoken "two hundred ninety-nine dollars".

Marks and word times refer to the written text; only the voice's input changes. The language's verbaliser returns replacements for
pieces of the text, an alias (SSML's ``sub``) replaces the text that it covers, and `spoken_words` distributes both over the words.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import regex

from prosody_tagger.markup import MarkedText
from prosody_tagger.segment import Word, segment_words
from synth.normalisation.rules import ALIAS_PLACEHOLDER, Replacement, Verbaliser


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of the written text and its spoken form.

    ``spoken`` keeps the outer punctuation of the word's run, because it shapes the intonation. It is empty only if a replacement
    over several words, or an alias, is spoken by a neighbouring word.
    """

    word: Word
    spoken: str


def spoken_words(marked: MarkedText, language: str = "en-us") -> tuple[SpokenWord, ...]:
    """Return the spoken form of each of ``segment_words(marked.text)``, in order.

    In English, numbers, dates, abbreviations and symbols become words; in some other languages, plain numbers do. Anything
    ambiguous stays as written, for the voice to read. Control characters are removed, and "<" and ">" are always replaced so that
    they cannot look like markup.

    Args:
        marked: the text; its aliases are used, its marks are not.
        language: a BCP 47 tag.
    """
    runs = list(marked.words)
    if not runs:
        return ()
    text = _ascii_digits(marked.text)
    verbaliser = _verbaliser(language.lower().replace("_", "-"))
    aliases = _aliases(marked, text, verbaliser)
    replacements = sorted(
        [*aliases, *verbaliser.replacements(_masked(text, aliases), runs)], key=lambda replacement: replacement.start
    )
    spoken = _spoken_forms(text, runs, replacements)
    return tuple(SpokenWord(word, said) for word, said in zip(runs, spoken, strict=True))


@lru_cache(32)
def _verbaliser(language: str) -> Verbaliser:
    """Return the verbaliser of a language. Its import compiles about a hundred patterns, so it is deferred until first use."""
    if language.partition("-")[0] == "en":
        from synth.normalisation.english import EnglishVerbaliser

        return EnglishVerbaliser(language)
    from synth.normalisation.other_languages import NumberVerbaliser

    return NumberVerbaliser(language)


_OTHER_DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.V1)


def _ascii_digits(text: str) -> str:
    """Return ``text`` with the decimal digits of every script as 0 to 9, at the same offsets."""
    return _OTHER_DIGIT.sub(lambda digit: _digit_value(digit[0]), text)


@lru_cache(1024)
def _digit_value(digit: str) -> str:
    value = unicodedata.decimal(digit, None)
    if value is None:  # the script is newer than Python's Unicode tables
        value = next(value for value in range(10) if regex.match(rf"\p{{Numeric_Value={value}}}", digit))
    return str(value)


def _masked(text: str, aliases: Sequence[Replacement]) -> str:
    """Return ``text`` with the characters under an alias masked, so that no rule matches them."""
    pieces = []
    position = 0
    for alias in aliases:
        pieces += [text[position : alias.start], ALIAS_PLACEHOLDER * (alias.end - alias.start)]
        position = alias.end
    return "".join([*pieces, text[position:]])


def _aliases(marked: MarkedText, text: str, verbaliser: Verbaliser) -> list[Replacement]:
    """Return the aliases as replacements, in order, the first of those that overlap. Their text is verbalised too."""
    found: list[Replacement] = []
    for alias in sorted(marked.aliases, key=lambda alias: (alias.start, alias.end)):
        start, end = max(alias.start, found[-1].end if found else 0), min(alias.end, len(text))
        if start == alias.start and start <= end:
            said = _ascii_digits(alias.spoken)
            replacements = list(verbaliser.replacements(said, segment_words(said)))
            found.append(Replacement(start, end, _replaced(said, 0, len(said), replacements).strip()))
    return found


def _spoken_forms(text: str, runs: Sequence[Word], replacements: Sequence[Replacement]) -> list[str]:
    """Return the spoken form of each word.

    A replacement over several words goes to the first of them, with the punctuation after the last. A replacement between two words
    goes to the word before it, or to the word after it if there is none before.
    """
    spoken: list[str] = []
    receiver = 0  # index of the word that receives what belongs to no other
    done = 0  # end of the last replacement
    index = 0
    for word in runs:
        first = index
        while index < len(replacements) and replacements[index].start < word.end:
            index += 1
        own = [
            replacement
            for replacement in replacements[first:index]
            if replacement.end > word.start or replacement.start == word.start
        ]
        between = [replacement.spoken for replacement in replacements[first : index - len(own)]]
        if between and spoken:
            spoken[receiver] = " ".join([spoken[receiver], *between])
            between = []
        if word.start < done and word.core_end <= done and not own:
            spoken[receiver] += _audible(text[done : word.end])
            spoken.append("")
            continue
        receiver = len(spoken)
        spoken.append(" ".join([*between, _replaced(text, max(done, word.start), word.end, own)]))
        done = own[-1].end if own else done
    spoken[receiver] = " ".join([spoken[receiver], *(replacement.spoken for replacement in replacements[index:])])
    return spoken


def _replaced(text: str, start: int, end: int, replacements: Sequence[Replacement]) -> str:
    """Return ``text[start:end]`` with its replacements inserted, each separated by a space from adjacent letters and digits."""
    said: list[str] = []
    for piece in _pieces(text, start, end, replacements):
        audible = _audible(piece)
        if said and audible and _is_word_sign(audible[0]) and (_is_word_sign(said[-1][-1]) or said[-1][-1] in ",;:"):
            said.append(" ")
        if audible:
            said.append(audible)
    return "".join(said)


def _is_word_sign(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNS"


def _pieces(text: str, start: int, end: int, replacements: Sequence[Replacement]) -> Iterator[str]:
    position = start
    for replacement in replacements:
        yield text[position : replacement.start]
        yield replacement.spoken
        position = max(position, replacement.end)
    yield text[position:end]


# Control characters, and format characters that only affect the layout.
_SILENT = regex.compile("[\\p{Cc}\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]+")


def _audible(piece: str) -> str:
    return _SILENT.sub("", piece)
