"""Write a reply from templates: an opening for the kind of message, and the points verbatim.

It needs no model and no network. The message selects the opening and is never repeated. No frame contains a number or a fact, so
the reply claims only what the points claim.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import regex

from ai_core.reply.base import Reply, checked
from ai_core.reply.point_shape import ENDED, shape_of
from ai_core.reply.question import Kind, kind_of


class TemplateWriter:
    """Writes replies in English from templates. Equal input gives an equal reply."""

    async def write(self, said: str, points: Sequence[str]) -> Reply:
        said, points = checked(said, points)
        opening = _OPENINGS[kind_of(said)]
        if not points:
            text = _sentence(opening.lead, "I am sorry, but I have nothing to tell you right now.")
        else:
            text = " ".join(_body(opening, points))
        warnings = (_NOT_ENGLISH,) if _is_other_script(said) else ()
        return Reply(text, "template", warnings)


_NOT_ENGLISH = (
    "the message is not in the Latin script, and the template replies in English; the chat writer supports other languages"
)


def _is_other_script(text: str) -> bool:
    letters = len(_LETTER.findall(text))
    return 2 * len(_LATIN.findall(text)) < letters


_LETTER = regex.compile(r"\p{L}")
_LATIN = regex.compile(r"\p{Latin}")


@dataclass(frozen=True, slots=True)
class _Opening:
    """The start of a reply: its topic, and the words that introduce a noun phrase after it."""

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
    """The sentences of the reply: adjacent points of one shape share a sentence, and the first one gets the opening."""
    lead, frames = opening.lead, {"noun": opening.noun, "verb": "the idea is to", "other": "I can tell you this:"}
    for shape, run in itertools.groupby(points, shape_of):
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
    """Join phrases of any shape with semicolons, or as sentences if one ends like a sentence."""
    return _stated(phrases if any(map(ENDED.search, phrases)) else ["; ".join(phrases)])


def _stated(texts: Sequence[str]) -> str:
    """Join texts, each with final punctuation."""
    return " ".join(text if ENDED.search(text) else f"{text}." for text in texts)
