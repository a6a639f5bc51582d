"""From what they said and the points to make, the text that is said aloud.

A `ReplyWriter` writes it. `TemplateWriter` needs no model and no network: it tells what kind of thing was said, opens the reply to
fit, and weaves the points in word for word. What they said chooses the opening and is never repeated. No frame holds a number or a
fact; whatever the reply claims, a point claimed.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import regex

from prosody_tagger.errors import BadInput, MarkupError
from prosody_tagger.markup import plain
from prosody_tagger.segment import segment_sentences

MAX_CHARS = 20_000
"""Most code points of what they said and the points together."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What is to be said aloud.

    Attributes:
        text: plain text without marks; a "<emph>" in it is a piece of text.
        by: the writer, "template" or "chat".
        warnings: what the user should know, such as why another writer answered.
    """

    text: str
    by: str
    warnings: tuple[str, ...] = ()


class ReplyWriter(Protocol):
    """Makes a reply that holds every point word for word."""

    async def write(self, said: str, points: Sequence[str]) -> Reply:
        """Answer ``said`` with ``points``.

        Raises:
            BadInput: see `checked`.
        """
        ...


def checked(said: str, points: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """What every writer is given: both without outer white space, and no point twice.

    Raises:
        BadInput: nothing was said and there is no point; a point is blank; a lone surrogate; more than `MAX_CHARS` in all.
    """
    length = len(said) + sum(map(len, points))
    if length > MAX_CHARS:
        raise BadInput(f"what they said and the points are {length:,} characters; at most {MAX_CHARS:,} are taken, so shorten them")
    _refuse_surrogates("what they said", said)
    for number, point in enumerate(points, 1):
        _refuse_surrogates(f"point {number}", point)
        if not _VISIBLE.search(point):
            raise BadInput(f"point {number} is blank ({point!r}); give it words, or leave it out")
    if not points and not _VISIBLE.search(said):
        raise BadInput("no text: give what they said, a point to make, or both")
    return said.strip(), tuple(dict.fromkeys(point.strip() for point in points))


_VISIBLE = regex.compile(r"[^\s\p{Z}\p{Cc}\p{Cf}]")


def _refuse_surrogates(name: str, text: str) -> None:
    try:
        plain(text)
    except MarkupError as error:
        raise BadInput(f"{name}: {error}") from None


class TemplateWriter:
    """Writes the reply from frames, in English. The same input gives the same reply."""

    async def write(self, said: str, points: Sequence[str]) -> Reply:
        said, points = checked(said, points)
        opening = _OPENINGS[_kind(said)]
        if not points:
            text = _sentence(opening.lead, "I am sorry, but I have nothing to tell you right now.")
        else:
            text = " ".join(_body(opening, points))
        warnings = (_NOT_ENGLISH,) if _is_other_script(said) else ()
        return Reply(text, "template", warnings)


_NOT_ENGLISH = (
    "what they said is not in the Latin script, and the template answers in English; the chat writer takes other languages"
)


def _is_other_script(text: str) -> bool:
    letters = len(_LETTER.findall(text))
    return 2 * len(_LATIN.findall(text)) < letters


_LETTER = regex.compile(r"\p{L}")
_LATIN = regex.compile(r"\p{Latin}")


# --- What kind of thing was said -----------------------------------------------------------------------------------------------

Kind = Literal[
    "price",
    "time",
    "quantity",
    "trust",
    "why",
    "who",
    "where",
    "which",
    "how",
    "what",
    "yes_no",
    "greeting",
    "statement",
    "nothing",
]

_RANK: dict[Kind, int] = {"yes_no": 1, "greeting": 2, "statement": 3}
"""The vaguer the kind, the higher; what is not here asks for something definite, and wins."""


def _kind(said: str) -> Kind:
    """The most definite kind among the questions of ``said``, or among its statements if it asks nothing; the first of equals."""
    if not said:
        return "nothing"
    parts = [_folded(said[start:end]) for start, end in segment_sentences(said)]
    questions = [clause for part in parts if part.endswith("?") for clause in _CLAUSE_END.split(part)]
    return min((_kind_of(part) for part in questions or parts), key=lambda kind: _RANK.get(kind, 0))


def _folded(text: str) -> str:
    """``text`` in small letters, with plain apostrophes and question marks and single spaces."""
    return " ".join(text.casefold().translate(_PLAIN_MARKS).split()).rstrip("\"')”»")


_PLAIN_MARKS = str.maketrans("’‘ʼ＇？؟", "''''??")
_CLAUSE_END = regex.compile(r"(?<![,;:?!.…–—])[,;:?!.…–—]++ |(?<= )(?=(?:but|and|so) )")


def _kind_of(clause: str) -> Kind:
    if _GREETING.fullmatch(clause):
        return "greeting"
    body = _PREAMBLE.sub("", clause, count=1)
    for kind, pattern in _KINDS:
        if pattern.search(body):
            return kind
    return "yes_no" if clause.endswith("?") else "statement"


_GREETING = regex.compile(
    r"(?:(?:hi|hello|hey|hiya|howdy|greetings|welcome|good (?:morning|afternoon|evening|day)|nice to meet you|how are you"
    r"|how(?:'s| is) it going|how do you do|what'?s up)\b(?: (?:there|all|everyone|everybody|doing|today))*[\s,.!?]*)++"
)
# Politeness and embedding before the question itself: "Hi, could you tell me please how long it takes".
_PREAMBLE = regex.compile(
    r"^(?:(?:(?:hi|hello|hey)(?: there)?|good (?:morning|afternoon|evening|day)|okay|ok|so|well|um|uh|er|and|but|or|also|please"
    r"|sorry|excuse me|thank you|thanks|wait|yeah|yes|no|oh|ah|honestly|do you know|any idea|explain|me|us|(?:may|can|could) i ask"
    r"|(?:can|could|would|will) you (?:please )?(?:tell|show|explain)|(?:tell|show|remind) (?=me|us)"
    r"|i(?:'d| would)? (?:like|want|need|love) to know|i(?:'m| am| was) (?:just )?(?:wondering|curious|asking))\b[\s,.!:;…–—-]*)*+"
)

_SUBJECT = r"(?:i|you|we|they|he|she|it|this|that|these|those|there|the|your|my|our|their|his|her|a|an|any|some|all)\b"
_BEFORE = r"^(?:(?:to|for|from|with|by|at|in|on|of|about|until|till|since) )?"
# Tried from the top, on one clause after its preamble.
_PATTERNS: tuple[tuple[Kind, str], ...] = (
    (
        "time",
        r"\bhow (?:long|soon|quick|quickly|fast|often|late|early)\b|\bhow (?:much|many) (?:more )?(?:time|longer|seconds|minutes"
        r"|hours|days|weeks|months|years)\b|\b(?:what|which) (?:time|day|date|week|month|year)\b|\btoo (?:long|slow)\b"
        r"|\btakes? (?:forever|ages)\b|\b(?:delivery|waiting|shipping) times?\b|\b(?:opening|business) hours\b|\bdeadline\b|\beta\b"
        rf"|{_BEFORE}when(?:'s|s)?\b(?! {_SUBJECT}[^?]*$)",
    ),
    ("quantity", r"\bhow much \w+ (?:\w+ ){1,4}(?:weigh|hold|fit|store|carry)\b"),
    (
        "price",
        r"\bhow much(?:'s|s)?(?: (?:is|are|was|were|does|do|did|will|would|should|can|could|must|has|have|for|per|to|it|this|that"
        r"|these|those|the|a|an|you|i|we|they|money|more|less|off|cheaper|roughly|exactly|about|please|extra)\b|\W*$)"
        r"|\bhow (?:expensive|cheap|costly|pricey|affordable)\b|\bwhat price\b|\btoo much\W*$",
    ),
    (
        "trust",
        r"\b(?:trust|trusted|trusting|trustworthy|legit|legitimate|scam|scams|scammers?|fraud|fraudulent|fake|reliable|safe|secure"
        r"|honest|genuine|authentic|reputable|credible|phishing|rip-?off|for real|too good to be true|the catch)\b"
        r"|\bbelieve (?:you|your|them|any)\b|\b(?:is|are) (?:it|this|that|you|they|these|those) (?:really )?real\b"
        r"|\bhow (?:do|can|could|would) i (?:know|be sure)\b|\b(?:do|can|will|could) you (?:really )?guarantee\b",
    ),
    ("why", r"\bwhy\W*$|\bhow come\b|^for what reason\b|^what for\b|^why(?:'s|s|'d)?\b"),
    ("who", rf"{_BEFORE}(?:who|whom|whose|who's|who'd|who'll)\b"),
    ("where", rf"{_BEFORE}(?:where|where's|wheres|what (?:country|city|town|place|address))\b"),
    ("which", rf"{_BEFORE}which\b"),
    ("quantity", r"\bhow (?:much|many|big|large|small|far|tall|high|deep|wide|heavy|old|strong)\b"),
    ("how", rf"{_BEFORE}how(?:'s|s|'d)?\b(?! (?:nice|great|lovely|cool|kind|sweet|funny|sad|awful|wonderful|rude)\b)"),
    (
        "price",
        r"\b(?:price|prices|priced|pricing|pricey|cost|costs|costly|costing|expensive|overpriced|cheap|cheaper|cheapest|afford"
        r"|affordable|fee|fees|discounts?|discounted|budget|quote|free of charge|for free|worth (?:it|the money)"
        r"|you charge)\b"
        r"|\b(?:is|are|it's|that's|really|totally|completely) (?:\w+ ){0,3}free\W*$|[$€£¥₹] ?\d|\d ?[$€£¥₹]",
    ),
    ("what", rf"{_BEFORE}what(?:'s|s|'re|'ll|'d)?\b(?! an? [^?]*$)"),
    (
        "yes_no",
        r"^(?:is|are|am|was|were|does|did|can|could|will|would|shall|should|may|might|must|has|isn't|aren't|wasn't|weren't|doesn't"
        rf"|didn't|can't|couldn't|won't|wouldn't|shouldn't|hasn't|haven't) {_SUBJECT}|^(?:do|don't|have|had) (?:i|you|we|they)\b",
    ),
)
_KINDS = tuple((kind, regex.compile(pattern)) for kind, pattern in _PATTERNS)


# --- What shape a point has ----------------------------------------------------------------------------------------------------

Shape = Literal["noun", "verb", "sentence", "other"]
"""A noun phrase ("30% savings"), a bare imperative ("save 30% today"), a sentence that stands alone, or none of them for sure."""


def _shape(point: str) -> Shape:
    """The shape of a point. "noun" and "verb" are said only on evidence: the frame for "other" suits anything."""
    words = point.split()
    first = words[0][:1].lower() + words[0][1:]  # "It" opens a clause, "IT" does not
    if _ENDED.search(point):
        return "other" if _is_noun_phrase(point.rstrip(".!…").split()) else "sentence"
    if _is_clause(first, words) or (first != words[0] and _is_imperative(first, words)):
        return "sentence"
    if _is_imperative(first, words):
        return "verb"
    return "noun" if _is_noun_phrase(words) else "other"


_ENDED = regex.compile(r"[.!?…。！？｡؟۔।][\p{Pe}\p{Pf}\"']*$")
# A word as it stands in a phrase: no comma, colon, quote or tag, which would break a list.
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
# Nouns that need no article: these as they stand, the others in the plural.
_MASS_NOUNS = frozenset(
    "delivery shipping support service help access money value experience training pricing parking billing insurance".split()
)
_COUNT_NOUNS = frozenset(
    "saving discount price refund return guarantee team trial plan deal offer gift review rating day week month year hour "
    "minute result cost fee payment option feature product version sample demo store location office expert".split()
)
_NOUN_ENDING = regex.compile(r"(?:(?:tion|sion|ment|ship|ance|ence)s|(?:ness|ity))$")
# Bare verbs that start a phrase as hardly anything but a verb, and those that need a word after them that shows it.
_VERBS = frozenset(
    "save get try buy ask choose see take keep make find learn enjoy receive send go come bring give let tell join compare "
    "avoid reach add pick become".split()
)
_VERBS_OR_NOUNS = frozenset(
    "order call book return email contact check start use pay open sign download upgrade request claim visit review switch "
    "cancel click talk read subscribe register apply install look".split()
)
_SHOWS_VERB = _DETERMINERS | _PREPOSITIONS | _ADVERBS | frozenset("us me it them online this that".split())
# Forms inside a phrase that make it a clause after all: "our team answers in minutes".
_VERB_FORMS = frozenset(
    "answers opens closes arrives leaves ships delivers saves gets makes keeps takes lets gives pays works means helps "
    "comes goes costs starts includes covers offers needs love work save get got made gave took went came won sold paid "
    "built ran grew fell rose".split()
)


def _is_clause(first: str, words: Sequence[str]) -> bool:
    """Whether the words have a subject and a finite verb, as far as small words show it; not so "quality you can trust"."""
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
        return False  # whoever writes "Most orders arrive today" with a capital and no stop still meant a sentence
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
    """Whether the word before the first preposition is a noun for sure, and the phrase does not start as another kind does."""
    first = words[0]
    if first in _PREPOSITIONS or first in _VERBS or first in _VERBS_OR_NOUNS or first.endswith(("ly", "ed")):
        return False
    head = list(itertools.takewhile(lambda word: word not in _PREPOSITIONS, words))[-1]
    return _is_head(head)


def _is_head(word: str) -> bool:
    return word in _MASS_NOUNS or (word[-1] == "s" and word[:-1] in _COUNT_NOUNS) or bool(_NOUN_ENDING.search(word))


# --- Weaving ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Opening:
    """How a reply starts: what it is on, and how a noun phrase follows from that."""

    lead: str
    noun: str = "it comes down to"


_OPENINGS: dict[Kind, _Opening] = {
    "price": _Opening("On price,"),
    "time": _Opening("On timing,"),
    "quantity": _Opening("As for the amount,", "the answer is"),
    "trust": _Opening("On trust,"),
    "why": _Opening("As for why,"),
    "who": _Opening("As for who,", "the answer is"),
    "where": _Opening("As for where,", "the answer is"),
    "which": _Opening("As for which,", "the answer is"),
    "how": _Opening("As for how,"),
    "what": _Opening("In short,"),
    "yes_no": _Opening("On that question,"),
    "greeting": _Opening("Hello,", "let me mention"),
    "statement": _Opening("In reply,", "let me mention"),
    "nothing": _Opening("", "let me mention"),
}


_LATER = {"noun": "I can also mention", "verb": "the idea is also to", "other": "I can also tell you this:"}


def _body(opening: _Opening, points: Sequence[str]) -> Iterator[str]:
    """The sentences of the reply: neighbours of one shape share one, and the first takes the opening."""
    lead, frames = opening.lead, {"noun": opening.noun, "verb": "the idea is to", "other": "I can tell you this:"}
    for shape, run in itertools.groupby(points, _shape):
        same = list(run)
        if shape in ("noun", "verb"):
            yield _sentence(lead, f"{frames[shape]} {_listed(same)}.")
        elif shape == "sentence" and frames is _LATER:
            yield _stated(same)
        else:
            yield _sentence(lead, f"{frames['other']} {_stated(same) if shape == 'sentence' else _set_apart(same)}")
        lead, frames = "", _LATER


def _sentence(lead: str, rest: str) -> str:
    return f"{lead} {rest}" if lead else rest[0].upper() + rest[1:]


def _listed(phrases: Sequence[str]) -> str:
    """ "A", "A and B", "A, B and C"."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def _set_apart(phrases: Sequence[str]) -> str:
    """Phrases of any shape, one after the other."""
    return _stated(phrases if any(map(_ENDED.search, phrases)) else ["; ".join(phrases)])


def _stated(texts: Sequence[str]) -> str:
    """Each with a stop at its end."""
    return " ".join(text if _ENDED.search(text) else f"{text}." for text in texts)
