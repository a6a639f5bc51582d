"""The reply and its writers: what goes in, what comes out, and what is refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import regex

from prosody_tagger.errors import BadInput, MarkupError
from prosody_tagger.markup import plain

MAX_CHARS = 20_000
"""Longest input in code points, what they said and the points together."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A text to speak.

    Attributes:
        text: plain text without marks; a "<emph>" in it is ordinary text.
        by: the writer, "template" or "chat".
        warnings: what the user should know, such as why another writer answered.
    """

    text: str
    by: str
    warnings: tuple[str, ...] = ()


class ReplyWriter(Protocol):
    """Writes a reply that holds every point word for word."""

    async def write(self, said: str, points: Sequence[str]) -> Reply:
        """Answer ``said`` with ``points``.

        Raises:
            BadInput: see `checked`.
        """
        ...


def checked(said: str, points: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Check the input of a writer, strip outer white space and drop repeated points.

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
