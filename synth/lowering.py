"""Marks and capabilities: what goes to the engine, and what is left to do or cannot be done.

This is the only way from marked text to a backend, so that no mark reaches an engine that would not obey it.
"""

from dataclasses import dataclass

from prosody_tagger.markup import Mark, MarkedText
from synth.base import Capabilities


@dataclass(frozen=True, slots=True)
class Lowered:
    """A marked text, sorted by what becomes of its marks.

    Attributes:
        request: the text with the marks that the engine obeys itself.
        realised: marks to be made in the audio afterwards.
        dropped: marks that nothing can do on this backend.
    """

    request: MarkedText
    realised: tuple[Mark, ...]
    dropped: tuple[Mark, ...]


def lower(marked: MarkedText, capabilities: Capabilities) -> Lowered:
    """Sort the marks of ``marked`` by what the backend says of each kind."""

    def those(*support: str) -> tuple[Mark, ...]:
        return tuple(mark for mark in marked.marks if capabilities.marks[mark.kind] in support)

    request = MarkedText(marked.text, those("native", "rendered"), marked.aliases)
    return Lowered(request, those("realised"), those("dropped"))
