"""Detects which words of a text are in a language that a tagger supports.

The script decides most cases. Between languages in the Latin script an offline identifier (py3langid) decides, if it is confident
over min_words words; names, headings, numbers and exclamations count as a supported language. Plain English is recognised by its
function words, without the identifier.
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

MIN_WORDS = 5
"""Fewest words for which the identifier is asked."""
MIN_WORDS_IN_CONTEXT = 8
"""Fewest words for which it is asked about a single sentence, or about sentences next to supported ones."""
MIN_FOREIGN_PROBABILITY = 0.9
"""Probability of unsupported languages from which a sentence counts as foreign."""
FOREIGN_CANDIDATES = 3
"""Number of most probable unsupported languages that must reach it together. Close relatives are hard to tell apart, so one
language alone rarely does; names spread over many languages, so all together always might."""

ENGLISH_SHARE = 0.12
"""Share of function words from which a sentence in ASCII letters is English."""
ENGLISH_SHARE_ACCENTED = 0.3
"""The same for a sentence with other letters, which English borrows."""

# Words that occur almost only in English, and words that are common in English and other languages; the latter count only beside
# one of the former.
_DISTINCTIVE = frozenset(
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
"""The languages of each script except Latin, in which any language may be written."""
_ENGLISH_TAGS = frozenset({"en", "pcm", "zxx"})
"""Labels of the identifier that count as English: English, Nigerian Pidgin, and text without a language, such as code."""

_LETTER = regex.compile(r"\p{L}")
_TOKEN = regex.compile(r"\p{L}[\p{L}\p{M}]*+(?:['’]\p{L}++)?+")
_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*")
_BLANK = regex.compile(r"\n[^\S\n]*+\n")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Languages of the n words of a text, or of a part of one.

    Attributes:
        known: whether each word is in a sentence of a supported language, shape [n].
        writable: whether each word is in a script of the supported languages, shape [n].
        found: language tags and script names of the unsupported sentences, in order.
        ends_known: whether the last sentence whose language was decided is supported; None if none was decided.
    """

    known: NDArray[np.bool_]
    writable: NDArray[np.bool_]
    found: tuple[str, ...]
    ends_known: bool | None


@dataclass(slots=True)
class _SentenceLanguage:
    """The language of a sentence.

    Attributes:
        first, last: its words ``[first, last)``; a sentence without words is left out.
        start, end: its span ``[start, end)`` in the text.
        paragraph: number of its paragraph.
        known: whether its language is supported; None while undecided.
        found: language tag or script name if it is not supported.
    """

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
    """Decide for each word of ``text`` whether it is in a supported language.

    Args:
        text: the text, or a part of one.
        runs: its words.
        spans: its sentences, as spans ``[start, end)``.
        languages: supported languages as tags such as "en"; None supports every language.
        before: the verdict on the part before this one.
    """
    count = len(runs)
    if languages is None:
        return Verdict(np.ones(count, bool), np.ones(count, bool), (), None)
    tags = frozenset(languages)
    sentences = list(_sentence_languages(text, runs, spans))
    for sentence in sentences:
        _decide(sentence, text[sentence.start : sentence.end], tags, MIN_WORDS_IN_CONTEXT)
    earlier = None if before is None else before.ends_known
    _decide_in_context(sentences, text, tags, earlier)
    known = np.ones(count, bool)
    for sentence in sentences:
        known[sentence.first : sentence.last] = sentence.known is not False
    writable = np.ones(count, bool)
    if not text.isascii():
        foreign = _foreign_letter(tags)
        writable[:] = [not _is_foreign(word.core(text), foreign) for word in runs]
    found = tuple(dict.fromkeys(sentence.found for sentence in sentences if sentence.found))
    ends = next((sentence.known for sentence in reversed(sentences) if sentence.known is not None), earlier)
    return Verdict(known, writable, found or (() if before is None else before.found), ends)


def primary_language(tag: str) -> str:
    """Return the language of a BCP 47 tag in lower case: "en" for "en-GB".

    Raises:
        ValueError: ``tag`` is not a language tag.
    """
    if not _TAG.fullmatch(tag):
        raise ValueError(f"{tag!r} is not a language tag such as en or de")
    return re.split("[-_]", tag)[0].lower()


def _sentence_languages(text: str, runs: Sequence[Word], spans: Sequence[tuple[int, int]]) -> Iterator[_SentenceLanguage]:
    ends = [int(end) for end in np.searchsorted([word.start for word in runs], [end for _, end in spans], side="left")]
    paragraph = 0
    for (start, end), (first, last) in zip(spans, pairwise([0, *ends]), strict=True):
        if last > first:
            yield _SentenceLanguage(first, last, start, end, paragraph)
        paragraph += _BLANK.search(text, start, end) is not None


def _decide(sentence: _SentenceLanguage, text: str, tags: frozenset[str], min_words: int) -> None:
    """Decide whether a sentence, or several adjacent ones, are in a supported language; leave ``known`` None if uncertain.

    Args:
        sentence: the result is written to its ``known`` and ``found``.
        text: the text of the sentence.
        tags: the supported languages.
        min_words: the identifier is not asked about fewer words.
    """
    foreign = None if text.isascii() else _foreign_letter(tags)
    if foreign is not None and _is_foreign(text, foreign):
        sentence.known, sentence.found = False, _script_name(text, tags)
        return
    if "en" in tags and _is_plain_english(text):
        sentence.known = True
        return
    if sentence.last - sentence.first < min_words:
        return
    shares = _identifier.shares(text)
    if not tags <= shares.keys():
        sentence.known = True  # the identifier does not cover one of the supported languages
        return
    supported = tags | _ENGLISH_TAGS if "en" in tags else tags
    others = sorted(((share, tag) for tag, share in shares.items() if tag not in supported), reverse=True)[:FOREIGN_CANDIDATES]
    if sum(share for share, _ in others) >= MIN_FOREIGN_PROBABILITY:
        sentence.known, sentence.found = False, others[0][1]
    elif sum(shares.get(tag, 0.0) for tag in supported) > 0.5:
        sentence.known = True


def _decide_in_context(sentences: Sequence[_SentenceLanguage], text: str, tags: frozenset[str], before: bool | None) -> None:
    """Decide adjacent undecided sentences of a paragraph together, then those that are still undecided by their neighbours."""
    for (known, _), together in groupby(enumerate(sentences), lambda item: (item[1].known, item[1].paragraph)):
        if known is not None:
            continue
        group = [index for index, _ in together]
        first, last = sentences[group[0]], sentences[group[-1]]
        adjacent = sentences[max(0, group[0] - 1) : group[-1] + 2]
        supported_adjacent = any(sentence.known and sentence.paragraph == first.paragraph for sentence in adjacent)
        whole = _SentenceLanguage(first.first, last.last, first.start, last.end, first.paragraph)
        _decide(whole, text[whole.start : whole.end], tags, MIN_WORDS_IN_CONTEXT if supported_adjacent else MIN_WORDS)
        for index in group:
            sentences[index].known, sentences[index].found = whole.known, whole.found
    _follow_neighbours(sentences, before)


def _follow_neighbours(sentences: Sequence[_SentenceLanguage], before: bool | None) -> None:
    """Mark undecided sentences as foreign if all their decided neighbours are, with those in the same paragraph first."""
    earlier = _nearest(sentences)
    later = reversed(_nearest(sentences[::-1]))
    for sentence, around in list(zip(sentences, zip(earlier, later, strict=True), strict=True)):
        if sentence.known is not None:
            continue
        decided = [other for other in around if other is not None]
        same_paragraph = [other.known for other in decided if other.paragraph == sentence.paragraph]
        neighbours = same_paragraph or [other.known for other in decided] + (
            [before] if around[0] is None and before is not None else []
        )
        if neighbours and not any(neighbours):
            sentence.known = False


def _nearest(sentences: Sequence[_SentenceLanguage]) -> "list[_SentenceLanguage | None]":
    """Return for each sentence a copy of the last decided one before it, or None."""
    found: list[_SentenceLanguage | None] = []
    last: _SentenceLanguage | None = None
    for sentence in sentences:
        found.append(last)
        if sentence.known is not None:
            last = replace(sentence)
    return found


def _is_plain_english(text: str) -> bool:
    tokens = [token.replace("’", "'") for token in _TOKEN.findall(text.lower())]
    if _DISTINCTIVE.isdisjoint(tokens):
        return False
    share = sum(token in _DISTINCTIVE or token in _COMMON for token in tokens) / len(tokens)
    return share >= (ENGLISH_SHARE if text.isascii() else ENGLISH_SHARE_ACCENTED)


@lru_cache(maxsize=64)
def _foreign_letter(tags: frozenset[str]) -> "regex.Pattern[str]":
    """Return the pattern of a letter in a script that none of the languages uses."""
    used = [script for script, written in _SCRIPTS.items() if not tags.isdisjoint(written.split())]
    scripts = "".join(rf"\p{{{name}}}" for name in ("Latin", "Common", "Inherited", *used))
    return regex.compile(rf"[\p{{L}}--[{scripts}]]", regex.V1)


def _is_foreign(text: str, foreign: "regex.Pattern[str]") -> bool:
    """Whether more than half of the letters of a text are foreign."""
    return 2 * len(foreign.findall(text)) > len(_LETTER.findall(text))


def _script_name(text: str, tags: frozenset[str]) -> str:
    """Return the name of the script that most of the foreign letters belong to."""
    counts = Counter(_foreign_letter(tags).findall(text))
    names = Counter[str]()
    for letter, count in counts.items():
        names[next((name for name in _SCRIPTS if regex.match(rf"\p{{{name}}}", letter)), "other")] += count
    return f"{names.most_common(1)[0][0]} script"


class _LanguageIdentifier:
    """py3langid, loaded at first use. Threads may share it, because its tables are only read."""

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._loaded: Any = None

    def shares(self, text: str) -> dict[str, float]:
        """Return the probability of each language of the identifier."""
        with self._loading:
            if self._loaded is None:
                from py3langid.langid import MODEL_FILE, LanguageIdentifier

                self._loaded = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        return dict(self._loaded.rank(text))


_identifier = _LanguageIdentifier()
