"""Which parts of a text are in a language that a tagger knows.

The script tells most of it. Between the languages of the Latin script an offline identifier (py3langid) decides, and it has to be
sure, over enough words: names, headings, numbers and exclamations are taken for a language that is known. Plain English is
recognised by its function words, without the identifier.
"""

import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from prosody_tagger.segment import Word

LEAST_WORDS = 5
"""Fewer words never show that a text is in another language of the same script ..."""
ENOUGH_WORDS = 8
"""... and so many do beside sentences that are known."""
SURE = 0.9
"""Probability, of all unknown languages together, from which the identifier is believed."""
ALIKE = 3
"""It has to be concentrated in so many languages: near relatives are hard to tell apart, and names belong to all."""

ENGLISH_SHARE = 0.12
"""Share of function words from which a sentence in plain letters is English ..."""
ENGLISH_SHARE_ACCENTED = 0.3
"""... and from which one is with letters that English borrows."""

# Words that are English alone, or nearly so; and words that are common in English but not only there, which count where one of the
# first kind stands beside them.
_CLEAR = frozenset(
    "the and that this these those with from you your yours they them their she he's it's i'm you're we're they're it it'll him "
    "our us which what who whose when where why how there been were are aren't isn't wasn't don't didn't can't won't would could "
    "should shall might nothing into upon through about without because although while until than then only much more many any "
    "every each both other another my just know says said always never after before between again does did".split()
)
_COMMON = frozenset(
    "a an i we he me be is was has have had not no or of to in on at as by for if so do his her its but all up out off very most "
    "such some will can must may make take give go one please like here now over under too yes".split()
)
_SCRIPTS = {
    "Cyrillic": "ru uk be bg mk sr kk ky mn tg tt ba uz az",
    "Arabic": "ar fa ur ps ug ary arz sdh ckb sd ku",
    "Greek": "el grc",
    "Hebrew": "he hbo yi",
    "Devanagari": "hi mr ne sa gom",
    "Bengali": "bn as",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Oriya": "or",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Thai": "th",
    "Lao": "lo",
    "Khmer": "km",
    "Myanmar": "my",
    "Georgian": "ka",
    "Armenian": "hy",
    "Ethiopic": "am ti",
    "Tibetan": "bo dz",
    "Hangul": "ko",
    "Hiragana": "ja",
    "Katakana": "ja",
    "Han": "zh ja yue wuu",
}
"""Languages that are written in other scripts than the Latin one, which every language may be written in."""
_ENGLISH_KIN = frozenset({"en", "pcm", "zxx"})
"""What the identifier calls English: with it a creole of its words, and text that is no language, such as code."""

_LETTER = regex.compile(r"\p{L}")
_TOKEN = regex.compile(r"\p{L}[\p{L}\p{M}]*+(?:['’]\p{L}++)?+")
_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*")
_BLANK = regex.compile(r"\n[^\S\n]*+\n")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which of the n words of a part of a text may be stressed, and what else was found.

    Attributes:
        known: [n] whether the word stands in a sentence of a known language.
        writable: [n] whether the tagger's languages are written in the word's letters.
        found: tags of the languages and names of the scripts of the sentences that are not known, in order.
        ends_known: whether the last sentence that shows its language is known; None where none ever did.
    """

    known: NDArray[np.bool_]
    writable: NDArray[np.bool_]
    found: tuple[str, ...]
    ends_known: bool | None


@dataclass(slots=True)
class _Sentence:
    """A sentence with words: the first of them, the one after the last, its place in the text, and what it was found to be."""

    first: int
    last: int
    start: int
    end: int
    paragraph: int
    known: bool | None = None
    found: str = ""


def known_words(
    text: str,
    runs: Sequence[Word],
    spans: Sequence[tuple[int, int]],
    languages: Sequence[str] | None,
    before: Verdict | None = None,
) -> Verdict:
    """Tell the words of a known language from others.

    Args:
        text: the text, or a stretch of it.
        runs: its words. spans: its sentences.
        languages: tags such as "en"; None knows every language.
        before: what was said of the stretch before.
    """
    count = len(runs)
    if languages is None:
        return Verdict(np.ones(count, bool), np.ones(count, bool), (), None)
    tags = frozenset(languages)
    sentences = list(_sentences(text, runs, spans))
    for sentence in sentences:
        _judge(sentence, text[sentence.start : sentence.end], tags, ENOUGH_WORDS)
    earlier = None if before is None else before.ends_known
    _settle(sentences, text, tags, earlier)
    known = np.ones(count, bool)
    for sentence in sentences:
        known[sentence.first : sentence.last] = sentence.known is not False
    writable = np.ones(count, bool)
    if not text.isascii():
        foreign = _foreign_letters(tags)
        writable[:] = [not _is_foreign(word.core(text), foreign) for word in runs]
    found = tuple(dict.fromkeys(sentence.found for sentence in sentences if sentence.found))
    ends = next((sentence.known for sentence in reversed(sentences) if sentence.known is not None), earlier)
    return Verdict(known, writable, found or (() if before is None else before.found), ends)


def primary(tag: str) -> str:
    """The language of a BCP 47 tag: "en" of "en-GB".

    Raises:
        ValueError: it is no tag.
    """
    if not _TAG.fullmatch(tag):
        raise ValueError(f"{tag!r} is no language tag such as en or de")
    return re.split("[-_]", tag)[0].lower()


def _sentences(text: str, runs: Sequence[Word], spans: Sequence[tuple[int, int]]) -> Iterator[_Sentence]:
    ends = [int(end) for end in np.searchsorted([word.start for word in runs], [end for _, end in spans], side="left")]
    paragraph = 0
    for (start, end), (first, last) in zip(spans, pairwise([0, *ends]), strict=True):
        if last > first:
            yield _Sentence(first, last, start, end, paragraph)
        paragraph += _BLANK.search(text, start, end) is not None


def _judge(sentence: _Sentence, text: str, tags: frozenset[str], enough: int) -> None:
    """Say of a sentence, or of several together, whether they are in a known language, where that can be told."""
    foreign = None if text.isascii() else _foreign_letters(tags)
    if foreign is not None and _is_foreign(text, foreign):
        sentence.known, sentence.found = False, _script(text, tags)
        return
    if "en" in tags and _is_plain_english(text):
        sentence.known = True
        return
    if sentence.last - sentence.first < enough:
        return
    shares = _identifier.shares(text)
    if not tags <= shares.keys():
        sentence.known = True  # the identifier has never heard of one of them
        return
    kin = tags | _ENGLISH_KIN if "en" in tags else tags
    others = sorted(((share, tag) for tag, share in shares.items() if tag not in kin), reverse=True)[:ALIKE]
    if sum(share for share, _ in others) >= SURE:
        sentence.known, sentence.found = False, others[0][1]
    elif sum(shares.get(tag, 0.0) for tag in kin) > 0.5:
        sentence.known = True


def _settle(sentences: Sequence[_Sentence], text: str, tags: frozenset[str], before: bool | None) -> None:
    """Decide on the sentences that are too short by themselves: on those of a paragraph that follow each other together."""
    for (known, _), together in groupby(enumerate(sentences), lambda item: (item[1].known, item[1].paragraph)):
        if known is not None:
            continue
        group = [index for index, _ in together]
        first, last = sentences[group[0]], sentences[group[-1]]
        beside = sentences[max(0, group[0] - 1) : group[-1] + 2]
        english_beside = any(sentence.known and sentence.paragraph == first.paragraph for sentence in beside)
        whole = _Sentence(first.first, last.last, first.start, last.end, first.paragraph)
        _judge(whole, text[whole.start : whole.end], tags, ENOUGH_WORDS if english_beside else LEAST_WORDS)
        for index in group:
            sentences[index].known, sentences[index].found = whole.known, whole.found
    _follow(sentences, before)


def _follow(sentences: Sequence[_Sentence], before: bool | None) -> None:
    """Sentences that show no language follow their neighbours, first those of their paragraph, where all of these are foreign."""
    earlier = _nearest(sentences)
    later = reversed(_nearest(sentences[::-1]))
    for sentence, around in list(zip(sentences, zip(earlier, later, strict=True), strict=True)):
        if sentence.known is not None:
            continue
        there = [other for other in around if other is not None]
        own = [other.known for other in there if other.paragraph == sentence.paragraph]
        told = own or [other.known for other in there] + ([before] if around[0] is None and before is not None else [])
        if told and not any(told):
            sentence.known = False


def _nearest(sentences: Sequence[_Sentence]) -> "list[_Sentence | None]":
    """For each sentence a copy of the last one before it that shows its language."""
    found: list[_Sentence | None] = []
    last: _Sentence | None = None
    for sentence in sentences:
        found.append(last)
        if sentence.known is not None:
            last = replace(sentence)
    return found


def _is_plain_english(text: str) -> bool:
    tokens = [token.replace("’", "'") for token in _TOKEN.findall(text.lower())]
    if _CLEAR.isdisjoint(tokens):
        return False
    share = sum(token in _CLEAR or token in _COMMON for token in tokens) / len(tokens)
    return share >= (ENGLISH_SHARE if text.isascii() else ENGLISH_SHARE_ACCENTED)


@lru_cache(maxsize=64)
def _foreign_letters(tags: frozenset[str]) -> "regex.Pattern[str]":
    """Letters of scripts that none of the languages is written in."""
    own = [script for script, written in _SCRIPTS.items() if not tags.isdisjoint(written.split())]
    scripts = "".join(rf"\p{{{name}}}" for name in ("Latin", "Common", "Inherited", *own))
    return regex.compile(rf"[\p{{L}}--[{scripts}]]", regex.V1)


def _is_foreign(text: str, foreign: "regex.Pattern[str]") -> bool:
    """Whether most letters of a text are of a foreign script."""
    return 2 * len(foreign.findall(text)) > len(_LETTER.findall(text))


def _script(text: str, tags: frozenset[str]) -> str:
    """The script of most of the foreign letters."""
    counts = Counter(_foreign_letters(tags).findall(text))
    names = Counter[str]()
    for letter, count in counts.items():
        names[next((name for name in _SCRIPTS if regex.match(rf"\p{{{name}}}", letter)), "other")] += count
    return f"{names.most_common(1)[0][0]} script"


class _Identifier:
    """The identifier, loaded when first asked. Its tables are only read, so threads may share it."""

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._loaded: Any = None

    def shares(self, text: str) -> dict[str, float]:
        """Probability of each language."""
        with self._loading:
            if self._loaded is None:
                from py3langid.langid import MODEL_FILE, LanguageIdentifier

                self._loaded = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        return dict(self._loaded.rank(text))


_identifier = _Identifier()
