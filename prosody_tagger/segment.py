"""Words, slots and sentences of a text, all by offset in code points.

A **word** is a run between white space, also cut after a dash; its core is the run without outer punctuation, and a run without
a core is no word. Where a script writes no spaces (Chinese, Japanese, Thai, Khmer ...), a word is a segment of Unicode's word
breaker (UAX 29). A **slot** is the start of a word's run, or the end of the text.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import regex


@dataclass(frozen=True, slots=True)
class Word:
    """A word's run ``[start, end)`` and its core ``[core_start, core_end)``, as offsets into the text."""

    start: int
    end: int
    core_start: int
    core_end: int

    def core(self, text: str) -> str:
        """The word without its outer punctuation; ``text`` is what the offsets count in."""
        return text[self.core_start : self.core_end]

    def moved(self, by: int) -> "Word":
        """The same word ``by`` code points further on."""
        return Word(self.start + by, self.end + by, self.core_start + by, self.core_end + by)


_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Javanese}\p{Tai_Le}\p{Tai_Tham}"
# Letters, marks, numbers and symbols are spoken, and so is the punctuation that stands for a word ("30%", "#1", "@", "&").
_SPOKEN = r"\p{L}\p{M}\p{N}\p{S}%‰&@#§¶"

_RUN = regex.compile(r"\S+")
_CORE = regex.compile(rf"[{_SPOKEN}](?:.*[{_SPOKEN}])?", regex.DOTALL)
_HAS_SPOKEN = regex.compile(rf"[{_SPOKEN}]")
# A wide stop ends a sentence without white space after it, so it ends a word as well, with its closing punctuation.
_WIDE = r"[。！？｡]"
_WIDE_END = rf"{_WIDE}++[\p{{Pe}}\p{{Pf}}\"']{{0,8}}+"
_NEEDS_CUT = regex.compile(rf"[\u2012-\u2015{_SPACELESS}]|--|{_WIDE}")
_CUTS = regex.compile(
    rf"{_WIDE_END}|(?<=[\u2012-\u2015]|--)(?![\u2012-\u2015-])|(?<=[{_SPACELESS}]\p{{M}}{{0,3}})\b|\b(?=[{_SPACELESS}])",
    regex.WORD | regex.V1,
)
_OPENING = regex.compile(r"[\p{Ps}\p{Pi}]")
_WIDE_STOP = regex.compile(_WIDE)


def segment_words(text: str) -> list[Word]:
    """The words of ``text`` in order."""
    found: list[Word] = []
    for run in _RUN.finditer(text):
        if _NEEDS_CUT.search(text, run.start(), run.end()):
            found.extend(_cut_run(text, run.start(), run.end()))
        elif core := _CORE.search(text, run.start(), run.end()):
            found.append(Word(run.start(), run.end(), core.start(), core.end()))
    return found


def _cut_run(text: str, start: int, end: int) -> list[Word]:
    """The words of one run that holds a dash, a wide stop or a script without spaces.

    Punctuation stays with the word that it belongs to.
    """
    bounds = [*(start + cut.end() for cut in _CUTS.finditer(text[start:end]) if cut.end()), end]
    found: list[Word] = []
    opened = start
    position = start
    for bound in bounds:
        core = _CORE.search(text, position, bound)
        if core:
            found.append(Word(opened, bound, core.start(), core.end()))
            opened = bound
        elif found and not _OPENING.match(text, bound - 1):
            before = found[-1]
            found[-1] = Word(before.start, bound, before.core_start, before.core_end)
            opened = bound
        elif _WIDE_STOP.search(text, position, bound):
            opened = bound  # the end of a sentence without words, and no part of the next one's first word
        position = bound
    return found


def has_word(text: str) -> bool:
    """Whether `segment_words` finds a word in ``text``, without the cost of finding all."""
    return _HAS_SPOKEN.search(text) is not None


def word_after(runs: Sequence[Word], offset: int) -> int | None:
    """Index of the word that a mark at ``offset`` binds to, or None if none follows.

    That is the first word whose core ends after it: "<emph>'only'", "'<emph>only'" and "on<emph>ly" all mean the same word.
    """
    index = bisect_right(runs, offset, key=lambda word: word.core_end)
    return index if index < len(runs) else None


def slot_of(runs: Sequence[Word], offset: int, end: int) -> int:
    """The slot that ``offset`` belongs to in a text of length ``end``: the start of the word after it, else the end."""
    index = word_after(runs, offset)
    return end if index is None else runs[index].start


_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr vs etc e.g i.e no nos fig figs vol pp ed eds inc ltd co corp dept gen col lt capt sgt rev hon gov "
    "sen rep pres messrs mme mlle approx cf al viz jan feb mar apr jun jul aug sep sept oct nov dec mt ft u.s u.k a.m p.m".split()
)
# Possessive throughout, and a stop is tried once a run: hostile text stays linear.
_SENTENCE_END = regex.compile(
    r"(?P<blank>\n[^\S\n]*+\n\s*+)"
    rf"|(?P<wide>{_WIDE_END}\s*+)"
    r"|(?<![.!?…؟۔।])(?P<stop>[.!?…؟۔।]++)(?P<closers>[\p{Pe}\p{Pf}\"']{0,8}+)(?P<gap>\s++)"
    r"(?P<next>[\p{Ps}\p{Pi}\"'¿¡]{0,8}.)",
    regex.DOTALL,
)
_WORD_BEFORE = regex.compile(r"[\p{L}\p{M}.]{0,12}$")


def segment_sentences(text: str) -> list[tuple[int, int]]:
    """Spans ``[start, end)`` of the sentences; together they cover the text, each with the white space after it.

    A sentence ends at its final punctuation, save after an abbreviation or an initial and before a small letter, or at a blank
    line.
    """
    bounds = [0]
    position = 0
    while match := _SENTENCE_END.search(text, position):
        bound = match.end()
        position = bound
        if match["stop"]:
            bound = match.start("next")
            position = bound
            if not _ends_here(text, match):
                continue
        if text[bounds[-1] : bound].strip():
            bounds.append(bound)
    if len(bounds) > 1 and not text[bounds[-1] :].strip():
        bounds.pop()
    return [(start, end) for start, end in zip(bounds, [*bounds[1:], len(text)], strict=True) if end > start]


def _ends_here(text: str, match: "regex.Match[str]") -> bool:
    """Whether a stop followed by white space ends the sentence."""
    if match["gap"].count("\n") > 1:
        return True  # a blank line
    follower = match["next"][-1]
    if follower.islower():
        return False
    if match["stop"] != "." or match["closers"]:
        return True
    before = _WORD_BEFORE.search(text, max(0, match.start() - 12), match.start())
    word = before[0].lower() if before else ""
    if word == "no":
        return not follower.isdigit()  # "No. 5", but "She said no. He left."
    is_initial = len(word) == 1 and word != "i" and word.isalpha()
    return not (is_initial or word in _ABBREVIATIONS)
