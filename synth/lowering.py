"""Marks and capabilities: what goes to the engine, and what is left to do or cannot be done.

This is the only way from marked text to a backend, so that no mark reaches an engine that would not obey it.
"""

from dataclasses import dataclass

from prosody_tagger.markup import Mark, MarkedText
from synth.base import Capabilities, Support


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
    """Sort the marks of ``marked`` by what the backend says of each kind.

    A pause with a length of its own is made in the audio, unless the model was trained on such: a control of an engine has one
    length only.
    """

    def support(mark: Mark) -> Support:
        kind = capabilities.marks[mark.kind]
        return "realised" if kind == "rendered" and mark.ms is not None else kind

    def those(*wanted: Support) -> tuple[Mark, ...]:
        return tuple(mark for mark in marked.marks if support(mark) in wanted)

    request = MarkedText(marked.text, those("native", "rendered"), marked.aliases)
    return Lowered(request, those("realised"), those("dropped"))
