"""Words, slots, sentences and pauses of a text. Offsets count code points.

A **word** is a run of characters without white space, also split after a dash; its **core** is the run without outer punctuation,
and a run without a core is not a word. In scripts without spaces (Chinese, Japanese, Thai, Khmer ...) words are the segments of
Unicode's word breaking rules (UAX 29). A **slot** is the start of a word's run, or the end of the text.
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
        """Return the word's core, as a slice of its text."""
        """The word without its outer punctuation; ``text`` is what the offsets count in."""
        return text[self.core_start : self.core_end]

    def moved(self, by: int) -> "Word":
        """The same word ``by`` code points further on."""
        return Word(self.start + by, self.end + by, self.core_start + by, self.core_end + by)


_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Javanese}\p{Tai_Le}\p{Tai_Tham}"
# Letters, combining marks, numbers and symbols are spoken, and so is punctuation that is read as a word ("30%", "#1", "@", "&").
_SPOKEN = r"\p{L}\p{M}\p{N}\p{S}%‰&@#§¶"

_RUN = regex.compile(r"\S+")
_CORE = regex.compile(rf"[{_SPOKEN}](?:.*[{_SPOKEN}])?", regex.DOTALL)
_HAS_SPOKEN = regex.compile(rf"[{_SPOKEN}]")
# A CJK full stop ends a sentence without white space after it, so it also ends a word, together with its closing punctuation.
_CJK_STOP_CLASS = r"[。！？｡]"
_CJK_END = rf"{_CJK_STOP_CLASS}++[\p{{Pe}}\p{{Pf}}\"']{{0,8}}+"
_NEEDS_SPLIT = regex.compile(rf"[\u2012-\u2015{_SPACELESS}]|--|{_CJK_STOP_CLASS}")
_SPLITS = regex.compile(
    rf"{_CJK_END}|(?<=[\u2012-\u2015]|--)(?![\u2012-\u2015-])|(?<=[{_SPACELESS}]\p{{M}}{{0,3}})\b|\b(?=[{_SPACELESS}])",
    regex.WORD | regex.V1,
)
_OPENING = regex.compile(r"[\p{Ps}\p{Pi}]")
_CJK_STOP = regex.compile(_CJK_STOP_CLASS)


def segment_words(text: str) -> list[Word]:
    """Return the words of ``text`` in order."""
    found: list[Word] = []
    for run in _RUN.finditer(text):
        if _NEEDS_SPLIT.search(text, run.start(), run.end()):
            found.extend(_split_run(text, run.start(), run.end()))
        elif core := _CORE.search(text, run.start(), run.end()):
            found.append(Word(run.start(), run.end(), core.start(), core.end()))
    return found


def _split_run(text: str, start: int, end: int) -> list[Word]:
    """Split a run that contains a dash, a CJK full stop or a script without spaces into words.

    Opening punctuation belongs to the word after it, all other punctuation to the word before it.
    """
    bounds = [*(start + cut.end() for cut in _SPLITS.finditer(text[start:end]) if cut.end()), end]
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
        elif _CJK_STOP.search(text, position, bound):
            opened = bound  # a full stop without words before it belongs to no word
        position = bound
    return found


def has_word(text: str) -> bool:
    """Whether `segment_words` finds a word in ``text``, without the cost of finding all."""
    return _HAS_SPOKEN.search(text) is not None


def word_after(runs: Sequence[Word], offset: int) -> int | None:
    """Return the index of the word that a mark at ``offset`` applies to; None if no word follows.

    It is the first word whose core ends after ``offset``: "<emph>'only'", "'<emph>only'" and "on<emph>ly" all mark the same word.
    """
    index = bisect_right(runs, offset, key=lambda word: word.core_end)
    return index if index < len(runs) else None


def slot_of(runs: Sequence[Word], offset: int, end: int) -> int:
    """Return the slot of ``offset``, in a text of length ``end``: the start of the word that a mark applies to, or ``end``."""
    index = word_after(runs, offset)
    return end if index is None else runs[index].start


_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr vs etc e.g i.e no nos fig figs vol pp ed eds inc ltd co corp dept gen col lt capt sgt rev hon gov "
    "sen rep pres messrs mme mlle approx cf al viz jan feb mar apr jun jul aug sep sept oct nov dec mt ft u.s u.k a.m p.m".split()
)
# All quantifiers are possessive or bounded, and each run of stops is tried once, so hostile text takes linear time.
_SENTENCE_END = regex.compile(
    r"(?P<blank>\n[^\S\n]*+\n\s*+)"
    rf"|(?P<cjk>{_CJK_END}\s*+)"
    r"|(?<![.!?…؟۔।])(?P<stop>[.!?…؟۔।]++)(?P<closers>[\p{Pe}\p{Pf}\"']{0,8}+)(?P<gap>\s++)"
    r"(?P<next>[\p{Ps}\p{Pi}\"'¿¡]{0,8}.)",
    regex.DOTALL,
)
_WORD_BEFORE = regex.compile(r"[\p{L}\p{M}.]{0,12}$")


def segment_sentences(text: str) -> list[tuple[int, int]]:
    """Return the spans ``[start, end)`` of the sentences. They cover the whole text; white space belongs to the sentence before it.

    A sentence ends at a blank line, or at final punctuation that is not followed by a lower-case letter and, if it is a full stop,
    not preceded by an abbreviation or an initial.
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
    """Whether final punctuation followed by white space ends the sentence."""
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


_STOP = regex.compile(r"[。！？｡؟۔।॥։።፧។៕។།]")
_CLAUSE = regex.compile(r"[,;:،؛、､，；：︐︓︔﹐﹑﹔﹕՝၊፣፤፥፦·᠂᠈꓾!?…\p{Pd}]|\.\.")


def pause_after(text: str, runs: Sequence[Word], index: int, *, ends_sentence: bool) -> str | None:
    """Return the kind of pause that punctuation implies after a word; None if it implies none.

    A pause is long at the end of a sentence or after an unambiguous stop of any script, short after a clause. A full stop within
    a sentence follows an abbreviation and implies no pause.

    Args:
        text: the text.
        runs: its words.
        index: the word before the pause.
        ends_sentence: whether that word is the last of a sentence.
    """
    if ends_sentence:
        return "pause_long"
    following = runs[index + 1].core_start if index + 1 < len(runs) else len(text)
    between = runs[index].core_end, following
    if _STOP.search(text, *between):
        return "pause_long"
    return "pause_short" if _CLAUSE.search(text, *between) else None
