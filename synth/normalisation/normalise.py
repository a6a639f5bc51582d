"""What is said aloud for each word of a text: "$299" is one word of the user's, "two hundred ninety-nine dollars" to the voice.

Marks and word times stay on the user's text; only what the voice is given changes. A reader of the language tells which pieces of
the text are not said as they are written, an alias (SSML's ``sub``) replaces what it covers, and here each word gets its share.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import regex

from prosody_tagger.markup import MarkedText
from prosody_tagger.segment import Word, segment_words
from synth.normalisation.rules import COVERED, Reader, Reading


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of the user's text and what is said for it.

    ``spoken`` keeps the outer punctuation of the word's run, which shapes the intonation. It is empty only where an alias or a
    form of several words gave the sound of this one to a neighbour.
    """

    word: Word
    spoken: str


def spoken_words(marked: MarkedText, language: str = "en-us") -> tuple[SpokenWord, ...]:
    """What is said for each of ``segment_words(marked.text)``, in order.

    ``language`` is a BCP 47 tag. English numbers, dates, abbreviations and symbols become words; of some other languages plain
    numbers do; what is certain in neither is left as it is written, for the voice to read. Control characters have no sound and
    are left out. A "<" or ">" never stays, lest it look like markup.
    """
    runs = segment_words(marked.text)
    if not runs:
        return ()
    text = _ascii_digits(marked.text)
    reader = _reader(language.lower().replace("_", "-"))
    aliases = _aliases(marked, text, reader)
    readings = sorted([*aliases, *reader.readings(_without(text, aliases), runs)], key=lambda reading: reading.start)
    spoken = _shares(text, runs, readings)
    return tuple(SpokenWord(word, said) for word, said in zip(runs, spoken, strict=True))


@lru_cache(32)
def _reader(language: str) -> Reader:
    """The reader of a language. It compiles about a hundred patterns, so it is made when it is first needed."""
    if language.partition("-")[0] == "en":
        from synth.normalisation.english import English

        return English(language)
    from synth.normalisation.other_languages import Other

    return Other(language)


_OTHER_DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.V1)


def _ascii_digits(text: str) -> str:
    """``text`` with the decimal digits of every script as 0 to 9, at the same offsets."""
    return _OTHER_DIGIT.sub(lambda digit: _digit_value(digit[0]), text)


@lru_cache(1024)
def _digit_value(digit: str) -> str:
    value = unicodedata.decimal(digit, None)
    if value is None:  # a script that is newer than Python's tables
        value = next(value for value in range(10) if regex.match(rf"\p{{Numeric_Value={value}}}", digit))
    return str(value)


def _without(text: str, aliases: Sequence[Reading]) -> str:
    """``text`` with what an alias covers made unreadable, so that no rule sees it."""
    pieces = []
    position = 0
    for alias in aliases:
        pieces += [text[position : alias.start], COVERED * (alias.end - alias.start)]
        position = alias.end
    return "".join([*pieces, text[position:]])


def _aliases(marked: MarkedText, text: str, reader: Reader) -> list[Reading]:
    """The aliases as readings, in order, the first of those that overlap; what they say is itself read out."""
    found: list[Reading] = []
    for alias in sorted(marked.aliases, key=lambda alias: (alias.start, alias.end)):
        start, end = max(alias.start, found[-1].end if found else 0), min(alias.end, len(text))
        if start == alias.start and start <= end:
            said = _ascii_digits(alias.spoken)
            readings = list(reader.readings(said, segment_words(said)))
            found.append(Reading(start, end, _replaced(said, 0, len(said), readings).strip()))
    return found


def _shares(text: str, runs: Sequence[Word], readings: Sequence[Reading]) -> list[str]:
    """What is said for each word.

    A reading over several words is said by the first, with the punctuation behind the last of them. One between two words is said
    by the first as well, or by the second where there is no other.
    """
    shares: list[str] = []
    speaker = 0  # the word that says what others have no share in
    done = 0  # where the last reading ended
    index = 0
    for word in runs:
        first = index
        while index < len(readings) and readings[index].start < word.end:
            index += 1
        mine = [reading for reading in readings[first:index] if reading.end > word.start or reading.start == word.start]
        between = [reading.spoken for reading in readings[first : index - len(mine)]]
        if between and shares:
            shares[speaker] = " ".join([shares[speaker], *between])
            between = []
        if word.start < done and word.core_end <= done and not mine:
            shares[speaker] += _audible(text[done : word.end])
            shares.append("")
            continue
        speaker = len(shares)
        shares.append(" ".join([*between, _replaced(text, max(done, word.start), word.end, mine)]))
        done = mine[-1].end if mine else done
    shares[speaker] = " ".join([shares[speaker], *(reading.spoken for reading in readings[index:])])
    return shares


def _replaced(text: str, start: int, end: int, readings: Sequence[Reading]) -> str:
    """``text[start:end]`` with its readings in place, apart from the letters and digits around them."""
    said: list[str] = []
    for piece in _pieces(text, start, end, readings):
        audible = _audible(piece)
        if said and audible and _is_word_sign(audible[0]) and (_is_word_sign(said[-1][-1]) or said[-1][-1] in ",;:"):
            said.append(" ")
        if audible:
            said.append(audible)
    return "".join(said)


def _is_word_sign(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNS"


def _pieces(text: str, start: int, end: int, readings: Sequence[Reading]) -> Iterator[str]:
    position = start
    for reading in readings:
        yield text[position : reading.start]
        yield reading.spoken
        position = max(position, reading.end)
    yield text[position:end]


# Control characters, and the format characters that only guide the layout.
_SILENT = regex.compile("[\\p{Cc}\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]+")


def _audible(piece: str) -> str:
    return _SILENT.sub("", piece)
