"""Convert English words to the phonemes that Kokoro was trained on, with espeak-ng, keeping track of each phoneme's word."""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import espeakng_loader

_UTF8 = 1
_IPA_TIED = 0x02 | 0x80 | ord("^") << 8
_SILENT_RETRIEVAL = 0x02

# From espeak-ng's IPA (tied by ^) to Kokoro's symbols, longest first; Kokoro has one symbol for an affricate or diphthong.
_COMMON = {
    "ʔˌn\u0329": "tᵊn",
    "a^ɪ": "I",
    "a^ʊ": "W",
    "d^ʒ": "ʤ",
    "t^ʃ": "ʧ",
    "e^ɪ": "A",
    "ɔ^ɪ": "Y",
    "ə^l": "ᵊl",
    "n\u0329": "ᵊn",
    "l\u0329": "ᵊl",
    "ʔ": "t",
    "ɚɹ": "əɹ",
    "ɚ": "əɹ",
    "ɐ": "ə",
    "r": "ɹ",
    "x": "k",
    "ɬ": "l",
    "ʲ": "",
    "g": "ɡ",
}
_AMERICAN = {"ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪə": "iə", "o^ʊ": "O", "oː": "ɔ", "o": "ɔ", "ɾ": "T", "ː": ""}
# espeak-ng pronounces these in their strong form alone, but weakly within a clause.
_WEAK = {"a": "ə", "an": "ən", "the": "ðə"}
_VOWELS = "aeiouæɑɒɔəɚɛɜɪʊʌᵻᵊAIOQWY"
_BRITISH = {"e^ə": "ɛː", "iə": "ɪə", "ə^ʊ": "Q", "o^ʊ": "Q"}


class Phonemiser:
    """Converts the words of a clause to phonemes, in a British or an American accent."""

    def __init__(self, british: bool) -> None:
        self._library = ctypes.cdll.LoadLibrary(espeakng_loader.get_library_path())
        self._library.espeak_Initialize(_SILENT_RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), 0)
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._voice = b"en" if british else b"en-us"
        table = _COMMON | (_BRITISH if british else _AMERICAN)
        self._table = sorted(table.items(), key=lambda item: -len(item[0]))
        self._alone = lru_cache(maxsize=None)(self._phonemes)

    def clause(self, cores: Sequence[str]) -> list[str]:
        """Return the phonemes of each word as pronounced in this clause.

        espeak-ng joins some words ("of the"); their phonemes are separated by comparison with each word pronounced alone.
        """
        spoken = self._phonemes(" ".join(cores))
        parts = spoken.split(" ")
        if len(parts) != len(cores):
            parts = self._apart(cores, spoken)
        # Kokoro pronounces the pronoun I almost inaudibly without a stress mark.
        return ["ˌI" if core == "I" else part for core, part in zip(cores, parts, strict=True)]

    def _apart(self, cores: Sequence[str], spoken: str) -> list[str]:
        """Return the phonemes of each word in ``spoken``, in which espeak-ng joined some words."""
        starts = _starts([_WEAK.get(core) or self._alone(core) for core in cores], spoken)
        parts = [spoken[start:end].replace(" ", "") for start, end in pairwise([*starts, len(spoken)])]
        for index, part in enumerate(parts[:-1]):
            stress = part[len(part.rstrip("ˈˌ")) :]  # it belongs to the next word
            parts[index], parts[index + 1] = part.removesuffix(stress), stress + parts[index + 1]
        if not all(part.strip("ˈˌ") for part in parts):
            raise ValueError(f"cannot separate the words {' '.join(cores)!r} in {spoken!r}")
        return parts

    def _phonemes(self, text: str) -> str:
        if self._library.espeak_SetVoiceByName(self._voice):
            raise RuntimeError(f"espeak-ng has no voice {self._voice.decode()!r}")
        rest = ctypes.c_char_p(text.encode())
        pointer = ctypes.pointer(rest)
        pieces: list[str] = []
        while rest.value is not None:
            piece = self._library.espeak_TextToPhonemes(pointer, _UTF8, _IPA_TIED)
            pieces.append((piece or b"").decode())
        return self._mapped(" ".join(" ".join(pieces).split()))

    def _mapped(self, symbols: str) -> str:
        for old, new in self._table:
            symbols = symbols.replace(old, new)
        return symbols.replace("^", "").replace("-", "").replace("_", "")


def _starts(alone: Sequence[str], spoken: str) -> list[int]:
    """Return where each word starts in ``spoken``, by the cheapest edit of the words pronounced alone into it."""
    source = " ".join(alone)
    firsts = [0, *(index + 1 for index, symbol in enumerate(source) if symbol == " ")]
    costs = [[float(column) for column in range(len(spoken) + 1)]]
    for symbol in source:
        above = costs[-1]
        row = [above[0] + 1.0]
        for column, other in enumerate(spoken):
            row.append(min(above[column] + _change(symbol, other), above[column + 1] + 1.0, row[column] + 1.0))
        costs.append(row)
    at = {len(source): len(spoken)}
    row_index, column = len(source), len(spoken)
    while row_index:
        cost = costs[row_index][column]
        if column and cost == costs[row_index - 1][column - 1] + _change(source[row_index - 1], spoken[column - 1]):
            row_index, column = row_index - 1, column - 1
        elif cost == costs[row_index - 1][column] + 1.0:
            row_index -= 1
        else:
            column -= 1
        at[row_index] = column
    return [0, *(at[first] for first in firsts[1:])]


def _change(symbol: str, other: str) -> float:
    if symbol == other:
        return 0.0
    if " " in (symbol, other):
        return 4.0
    return 0.7 if symbol in _VOWELS and other in _VOWELS else 1.5
