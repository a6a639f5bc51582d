"""Speech from marked text.

base, errors, registry     the interface of a backend, error classes, the list of backends
lowering, normalisation/   requests from marked text; the spoken form of each word
embedded/, higgs_http/, higgs_local/            the backends
audio/, acoustics/         samples; aligning, realising and measuring marks in audio
higgs_finetune/, reference training of Higgs; reference recordings of voices
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synth.audio.encoding import encode as encode
    from synth.audio.encoding import write_audio as write_audio
    from synth.base import Audio as Audio
    from synth.base import Reference as Reference
    from synth.base import Speech as Speech
    from synth.base import SpeechRequest as SpeechRequest
    from synth.base import Synthesizer as Synthesizer
    from synth.base import WordTime as WordTime

__all__ = ["Audio", "Reference", "Speech", "SpeechRequest", "Synthesizer", "WordTime", "encode", "write_audio"]

_MODULES = {
    "Audio": "synth.base",
    "Reference": "synth.base",
    "Speech": "synth.base",
    "SpeechRequest": "synth.base",
    "Synthesizer": "synth.base",
    "WordTime": "synth.base",
    "encode": "synth.audio.encoding",
    "write_audio": "synth.audio.encoding",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
