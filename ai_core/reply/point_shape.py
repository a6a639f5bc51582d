"""Classify the grammatical shape of a point, to choose a frame for it."""

import itertools
from collections.abc import Sequence
from typing import Literal

import regex

Shape = Literal["noun", "verb", "sentence", "other"]
"""A noun phrase ("30% savings"), a bare imperative ("save 30% today"), a sentence that stands alone, or uncertain."""


def shape_of(point: str) -> Shape:
    """The shape of a point. "noun" and "verb" need evidence; the frame for "other" fits any point."""
    words = point.split()
    first = words[0][:1].lower() + words[0][1:]  # "It" opens a clause, "IT" does not
    if ENDED.search(point):
        return "other" if _is_noun_phrase(point.rstrip(".!…").split()) else "sentence"
    if _is_clause(first, words) or (first != words[0] and _is_imperative(first, words)):
        return "sentence"
    if _is_imperative(first, words):
        return "verb"
    return "noun" if _is_noun_phrase(words) else "other"


ENDED = regex.compile(r"[.!?…。！？｡؟۔।][\p{Pe}\p{Pf}\"']*$")
# A word within a phrase: no comma, colon, quote or tag, which would break a list.
_CLEAN = regex.compile(r"[$€£¥₹#+]?[\p{Latin}\p{N}](?:[\p{Latin}\p{M}\p{N}%$€£¥₹+/&'’@#°-]|[.,](?=\p{N}))*+")

_PRONOUNS = frozenset("i you we they he she it there this that these those who which what me us them".split())
_FINITE = frozenset(
    "is are was were am will would can could should must has have had does did do isn't aren't can't won't don't".split()
)
_OPENS_CLAUSE = regex.compile(r"(?:i|you|we|they|he|she|it)(?:['’](?:m|s|re|ve|ll|d))?|(?:there|that|this|here)['’]s")
_SUBORDINATORS = frozenset(
    "if because when while since so as although unless until once that which who what how why where whether".split()
)
_PREPOSITIONS = frozenset(
    "of on in at for with from to by over under above below within without before after per about across around between "
    "through into off up out since until via than plus and or".split()
)
_DETERMINERS = frozenset("a an the our my your their his her its all every each some any no both more less most".split())
_ADVERBS = frozenset("today now here always never back again".split())
_ENDS_ADJECTIVE = regex.compile(
    r"(?:free|safe|secure|easy|fast|quick|cheap|open|ready|live|new|online|only|good|great|best|low|high)$"
    r"|(?:er|est|ed|able|ible|ful|ive|ous|ly)$"
)
# Nouns that need no article: the first group as listed, the second in the plural.
_MASS_NOUNS = frozenset(
    "delivery shipping support service help access money value experience training pricing parking billing insurance".split()
)
_COUNT_NOUNS = frozenset(
    "saving discount price refund return guarantee team trial plan deal offer gift review rating day week month year hour "
    "minute result cost fee payment option feature product version sample demo store location office expert".split()
)
_NOUN_ENDING = regex.compile(r"(?:(?:tion|sion|ment|ship|ance|ence)s|(?:ness|ity))$")
# Bare verbs that are unambiguous at the start of a phrase, and those that need a following word as evidence.
_VERBS = frozenset(
    "save get try buy ask choose see take keep make find learn enjoy receive send go come bring give let tell join compare "
    "avoid reach add pick become".split()
)
_VERBS_OR_NOUNS = frozenset(
    "order call book return email contact check start use pay open sign download upgrade request claim visit review switch "
    "cancel click talk read subscribe register apply install look".split()
)
_SHOWS_VERB = _DETERMINERS | _PREPOSITIONS | _ADVERBS | frozenset("us me it them online this that".split())
# Verb forms that make a phrase a clause: "our team answers in minutes".
_VERB_FORMS = frozenset(
    "answers opens closes arrives leaves ships delivers saves gets makes keeps takes lets gives pays works means helps "
    "comes goes costs starts includes covers offers needs love work save get got made gave took went came won sold paid "
    "built ran grew fell rose".split()
)


def _is_clause(first: str, words: Sequence[str]) -> bool:
    """Whether function words show a subject and a finite verb; not so in "quality you can trust"."""
    if len(words) < 2 or first in _SUBORDINATORS or first in _FINITE:
        return False
    if _OPENS_CLAUSE.fullmatch(first):
        return True
    if any(word in _SUBORDINATORS for word in words):
        return False
    return any(word in _FINITE and before not in _PRONOUNS for before, word in itertools.pairwise(words))


def _is_imperative(first: str, words: Sequence[str]) -> bool:
    if not all(map(_CLEAN.fullmatch, words)) or any(word.lower() in ("we", "i", "they") for word in words):
        return False
    if first in _VERBS:
        return len(words) > 1
    return first in _VERBS_OR_NOUNS and len(words) > 1 and (words[1].lower() in _SHOWS_VERB or words[1][0].isdigit())


def _is_noun_phrase(words: Sequence[str]) -> bool:
    """Whether the words start and end as a noun phrase does and nothing between them looks like a verb."""
    if not 0 < len(words) <= 8 or not all(map(_CLEAN.fullmatch, words)):
        return False
    low = [word.casefold().replace("’", "'") for word in words]
    if any(word in _PRONOUNS or word in _FINITE or word in _SUBORDINATORS or "n't" in word for word in low):
        return False
    if low[-1] in _PREPOSITIONS or low[-1] in _VERB_FORMS or _ENDS_ADJECTIVE.search(low[-1]):
        return False
    if any(_looks_like_verb(low, index) for index in range(1, len(low) - 1)):
        return False
    if words[0][0].isupper() and low[0] in _DETERMINERS:
        return False  # "Most orders arrive today" is a sentence, even without a full stop
    return _counts(low[0]) or (low[0] in _DETERMINERS and len(low) > 1) or _has_noun_head(low)


def _counts(word: str) -> bool:
    return any(char.isdigit() for char in word[:2])


def _looks_like_verb(words: Sequence[str], index: int) -> bool:
    word, before = words[index], words[index - 1]
    if before in _PREPOSITIONS or before in _DETERMINERS or _counts(before):
        return word in _VERB_FORMS
    if word.endswith("s") and not word.endswith(("ss", "'s")) and word not in _PREPOSITIONS:
        return not _is_head(word) or words[0] in _DETERMINERS
    return word in _VERB_FORMS or word in _VERBS or word.endswith("ed")


def _has_noun_head(words: Sequence[str]) -> bool:
    """Whether the word before the first preposition is certainly a noun, and the phrase does not start like another kind."""
    first = words[0]
    if first in _PREPOSITIONS or first in _VERBS or first in _VERBS_OR_NOUNS or first.endswith(("ly", "ed")):
        return False
    head = list(itertools.takewhile(lambda word: word not in _PREPOSITIONS, words))[-1]
    return _is_head(head)


def _is_head(word: str) -> bool:
    return word in _MASS_NOUNS or (word[-1] == "s" and word[:-1] in _COUNT_NOUNS) or bool(_NOUN_ENDING.search(word))
