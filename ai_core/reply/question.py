"""Classify a message: which kind of question it asks, or a greeting or a statement."""

from typing import Literal

import regex

from prosody_tagger.segment import segment_sentences

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
"""Vagueness of each kind; kinds that are not listed are specific and take precedence."""


def kind_of(said: str) -> Kind:
    """The most specific kind among the questions of ``said``, or among its statements if it has no question; the first one if
    tied."""
    if not said:
        return "nothing"
    parts = [_folded(said[start:end]) for start, end in segment_sentences(said)]
    questions = [clause for part in parts if part.endswith("?") for clause in _CLAUSE_END.split(part)]
    return min((_kind_of_clause(part) for part in questions or parts), key=lambda kind: _RANK.get(kind, 0))


def _folded(text: str) -> str:
    """``text`` case-folded, with ASCII apostrophes and question marks and single spaces."""
    return " ".join(text.casefold().translate(_PLAIN_MARKS).split()).rstrip("\"')”»")


_PLAIN_MARKS = str.maketrans("’‘ʼ＇？؟", "''''??")
_CLAUSE_END = regex.compile(r"(?<![,;:?!.…–—])[,;:?!.…–—]++ |(?<= )(?=(?:but|and|so) )")


def _kind_of_clause(clause: str) -> Kind:
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
# Tried in order, on one clause after its preamble.
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
