"""The reply, the protocol of its writers, and validation of their input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import regex

from prosody_tagger.errors import BadInput, MarkupError
from prosody_tagger.markup import plain

MAX_CHARS = 20_000
"""Maximum length of the input, message and points together, in code points."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A text to speak.

    Attributes:
        text: plain text without marks; a "<emph>" in it is ordinary text.
        by: the writer, "template" or "chat".
        warnings: messages for the user, such as why another writer was used.
    """

    text: str
    by: str
    warnings: tuple[str, ...] = ()


class ReplyWriter(Protocol):
    """Writes a reply that contains every point verbatim."""

    async def write(self, said: str, points: Sequence[str]) -> Reply:
        """Reply to the message ``said`` and make the ``points``.

        Raises:
            BadInput: the input is invalid; see `checked`.
        """
        ...


def checked(said: str, points: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Check the input of a writer, strip outer white space and drop repeated points.

    Raises:
        BadInput: there is neither a message nor a point; a point is blank; a lone surrogate; more than `MAX_CHARS` in total.
    """
    length = len(said) + sum(map(len, points))
    if length > MAX_CHARS:
        raise BadInput(f"message and points have {length:,} characters; at most {MAX_CHARS:,} are allowed, so shorten them")
    _refuse_surrogates("message", said)
    for number, point in enumerate(points, 1):
        _refuse_surrogates(f"point {number}", point)
        if not _VISIBLE.search(point):
            raise BadInput(f"point {number} is blank ({point!r}); give it words, or leave it out")
    if not points and not _VISIBLE.search(said):
        raise BadInput("no text: give a message to reply to, a point to make, or both")
    return said.strip(), tuple(dict.fromkeys(point.strip() for point in points))


_VISIBLE = regex.compile(r"[^\s\p{Z}\p{Cc}\p{Cf}]")


def _refuse_surrogates(name: str, text: str) -> None:
    try:
        plain(text)
    except MarkupError as error:
        raise BadInput(f"{name}: {error}") from None
