"""From the words of a request to the network's phoneme symbols, and which word each symbol belongs to.

The spoken form of each word comes from `synth.normalisation`, its phonemes from the package. The package takes phonemes from
brackets in the text, ``[word](/phonemes/)``; brackets are replaced before, so a user's text cannot do that.
"""

import json
import unicodedata
from functools import lru_cache
from typing import Any, NamedTuple

import regex

from prosody_tagger.segment import Word
from synth.base import SpeechRequest
from synth.errors import BackendError
from synth.lowering import add_comma
from synth.natural.dictionaries import grapheme_to_phoneme
from synth.natural.package import assets
from synth.normalisation import SpokenWord, spoken_words

VOWELS = frozenset("aiouæɑɒɔəɛɜɪʊʌᵻAIOQWYɐᵊɚ")
PRIMARY_STRESS, SECONDARY_STRESS = "ˈ", "ˌ"
PUNCTUATION = frozenset(';:,.!?—…"“”()')
LANGUAGE = "en-us"


class Symbol(NamedTuple):
    """A symbol of the network's alphabet, and the index of the word that it belongs to: None for what stands between words."""

    character: str
    word: int | None


class Pronunciation(NamedTuple):
    """The symbols of a text.

    Attributes:
        words: the words of the written text.
        symbols: the network's input, without the pads at its ends.
        unspoken: indices of the words that have no sound, though they hold letters, digits or symbols.
    """

    words: tuple[Word, ...]
    symbols: tuple[Symbol, ...]
    unspoken: tuple[int, ...]


def pronounce(request: SpeechRequest) -> Pronunciation:
    """Return the pronunciation of a request's text. It has a comma before each break, and at the end of an unfinished text.

    Raises:
        BackendUnavailable: the package is missing or damaged.
        BackendError: the text holds letters of other scripts than Latin.
    """
    _check_script(request.text.text)
    words = spoken_words(request.text, LANGUAGE)
    text, owners = _engine_text(request, words)
    symbols = _without_outer_spaces(_symbols(text, owners))
    heard = {symbol.word for symbol in symbols}
    unspoken = tuple(index for index, item in enumerate(words) if item.spoken and index not in heard)
    return Pronunciation(tuple(item.word for item in words), symbols, unspoken)


def with_stress(symbols: tuple[Symbol, ...], words: set[int]) -> tuple[Symbol, ...]:
    """Return ``symbols`` with a primary stress in each of ``words`` that has none, as "the" or "of" has none in a dictionary."""
    stressed = {symbol.word for symbol in symbols if symbol.character == PRIMARY_STRESS}
    secondary = {symbol.word for symbol in symbols if symbol.character == SECONDARY_STRESS}
    waiting = words - stressed
    found: list[Symbol] = []
    for symbol in symbols:
        if symbol.word in waiting:
            if symbol.character == SECONDARY_STRESS:
                symbol = Symbol(PRIMARY_STRESS, symbol.word)
                waiting = waiting - {symbol.word}
            elif symbol.character in VOWELS and symbol.word not in secondary:
                found.append(Symbol(PRIMARY_STRESS, symbol.word))
                waiting = waiting - {symbol.word}
        found.append(symbol)
    return tuple(found)


def symbol_ids(symbols: tuple[Symbol, ...]) -> list[int]:
    """Return the network's numbers of the symbols, with a pad at either end."""
    numbers = _vocabulary()
    return [0, *(numbers[symbol.character] for symbol in symbols), 0]


@lru_cache(maxsize=1)
def _vocabulary() -> dict[str, int]:
    found: dict[str, int] = json.loads((assets() / "vocab.json").read_text(encoding="utf-8"))
    return found


_OTHER_SCRIPT = regex.compile(r"[\p{L}--\p{Latin}--\p{Lm}--µ]", regex.V1)


def _check_script(text: str) -> None:
    found = _OTHER_SCRIPT.search(text)
    if found:
        raise BackendError(f"the natural voice reads English alone, and the text holds {found[0]!r}; use the embedded voice for it")


_BRACKETS = str.maketrans("[]{}’‘`´«»„", "()()''''“”“")
_DASHES = regex.compile(r"[\u2012-\u2015]|--+")
_SILENT_SIGNS = regex.compile(r"[*_~^|\\\u00bf\u00a1\p{Cf}\uFE0E\uFE0F]")
_SYMBOL = regex.compile(r"[\p{S}--[%&+=<>$£€~^|`´]]", regex.V1)
_FOLDED = regex.compile(r"[\u0180-\u036f\u1e00-\u1eff]")
_LONG_RUN = regex.compile(r"\S{48}(?=\S)")  # the package's time grows with the square of a run's length
_MOST_PUNCTUATION = 8  # signs between two words
_BETWEEN = regex.compile(r"[^;:,.!?—…\"“”()]+")


def _spoken_text(spoken: str) -> str:
    """Return a spoken form in the characters that the package reads: symbols by their name, rare letters without their marks."""
    text = unicodedata.normalize("NFKC", spoken).translate(_BRACKETS)
    text = _SYMBOL.sub(lambda symbol: f" {_symbol_name(symbol[0])} ", _DASHES.sub("—", text))
    text = _FOLDED.sub(lambda letter: _without_marks(letter[0]), _SILENT_SIGNS.sub(" ", text))
    return _LONG_RUN.sub(r"\g<0> ", " ".join(text.split()))


def _symbol_name(symbol: str) -> str:
    return "" if unicodedata.category(symbol) == "Sk" else unicodedata.name(symbol, "").lower().replace("-", " ")


def _without_marks(letter: str) -> str:
    return "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))


def _engine_text(request: SpeechRequest, words: tuple[SpokenWord, ...]) -> tuple[str, list[int | None]]:
    """Return the text for the package, and for each of its characters the index of the written word that it belongs to."""
    source = request.text.text
    pieces: list[tuple[str, int | None]] = []
    position = 0
    for index, item in enumerate(words):
        pieces.append((_punctuation(source[position : item.word.start]), None))
        if item.word.start in request.breaks:
            pieces.append((_comma_after(pieces), None))
        pieces += [(" ", None), (_spoken_text(item.spoken), index)]
        position = item.word.end
    pieces.append((_punctuation(source[position:]), None))
    if request.unfinished:
        pieces.append((_comma_after(pieces), None))
    text, owners = "", list[int | None]()
    for piece, owner in pieces:
        if piece and not (piece == " " and text[-1:] in ("", " ")):
            text += piece
            owners += [owner] * len(piece)
    return text, owners


def _punctuation(between: str) -> str:
    """Return the punctuation between two words that shapes the intonation."""
    kept = _BETWEEN.sub("", _DASHES.sub("—", between.translate(_BRACKETS).replace(" - ", " — ")))
    return f" {kept[:_MOST_PUNCTUATION]}" if kept else ""


def _comma_after(pieces: list[tuple[str, int | None]]) -> str:
    """Return a comma if one fits after the pieces, else nothing."""
    before = next((piece for piece, _ in reversed(pieces) if piece.strip()), "")
    return "," if add_comma(before) != before else ""


def _symbols(text: str, owners: list[int | None]) -> list[Symbol]:
    """Return the symbols of a text; ``owners`` holds the word of each character."""
    reader = grapheme_to_phoneme()
    known = _vocabulary()
    found: list[Symbol] = []
    position = 0
    tokens: list[Any] = reader.phonemize_tokens(reader.tokenize(text)) if text.strip() else []
    for token in tokens:
        position = text.find(token.text, position)
        if position < 0:
            raise BackendError(f"the natural voice lost its place in {text[:60]!r}; change the text, or use another voice")
        word = owners[position]
        position += len(token.text)
        for character in token.phonemes or "":
            if character in known:
                found.append(Symbol(character, None if character in PUNCTUATION else word))
        if token.whitespace:
            found.append(Symbol(" ", None))
    return _with_inner_spaces(found)


def _with_inner_spaces(symbols: list[Symbol]) -> list[Symbol]:
    """Give the spaces inside a written word, as in "two hundred", to that word, and drop repeated spaces."""
    following: list[int | None] = [None] * len(symbols)
    after: int | None = None
    for index in range(len(symbols) - 1, -1, -1):
        following[index] = after
        after = symbols[index].word if symbols[index].word is not None else after
    found: list[Symbol] = []
    before: int | None = None
    for symbol, next_word in zip(symbols, following, strict=True):
        if symbol.character == " ":
            if found and found[-1].character == " ":
                continue
            symbol = Symbol(" ", before if before == next_word else None)
        elif symbol.word is not None:
            before = symbol.word
        found.append(symbol)
    return found


def _without_outer_spaces(symbols: list[Symbol]) -> tuple[Symbol, ...]:
    start, end = 0, len(symbols)
    while start < end and symbols[start].character == " ":
        start += 1
    while end > start and symbols[end - 1].character == " ":
        end -= 1
    return tuple(symbols[start:end])
