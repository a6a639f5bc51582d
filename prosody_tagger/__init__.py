"""Marked text, and the tagger that predicts the marks.

segment, markup, ssml/     words and sentences; marks and their notation; SSML
model, passages, density, language, tagger      the tagger at run time
corpus/, training/, evaluation/                 its data, `train-tagger`, `evaluate-tagger`
errors, files, command, extras                  modules that commands share
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prosody_tagger.markup import Mark as Mark
    from prosody_tagger.markup import MarkedText as MarkedText
    from prosody_tagger.markup import normalise as normalise
    from prosody_tagger.markup import parse as parse
    from prosody_tagger.markup import plain as plain
    from prosody_tagger.markup import render as render
    from prosody_tagger.tagger import ProsodyTagger as ProsodyTagger

__all__ = ["Mark", "MarkedText", "ProsodyTagger", "normalise", "parse", "plain", "render"]

_MODULES = {
    "Mark": "prosody_tagger.markup",
    "MarkedText": "prosody_tagger.markup",
    "normalise": "prosody_tagger.markup",
    "parse": "prosody_tagger.markup",
    "plain": "prosody_tagger.markup",
    "render": "prosody_tagger.markup",
    "ProsodyTagger": "prosody_tagger.tagger",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
