"""The pipeline from text to audio, the commands, and the reply.

job, pipeline       jobs and results; the pipeline (`collect`, `stream`)
live, chunking      streaming of the first sentence; splitting of a sentence into chunks
alignment           the time of each word          measurement   which marks are audible
runtime, settings   resources shared by all jobs   results       results as JSON
reply/              replies to messages            commands/     the command line
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai_core.job import Job as Job
    from ai_core.job import Result as Result
    from ai_core.pipeline import collect as collect
    from ai_core.pipeline import stream as stream
    from ai_core.runtime import Runtime as Runtime

__all__ = ["Job", "Result", "Runtime", "collect", "stream"]

_MODULES = {
    "Job": "ai_core.job",
    "Result": "ai_core.job",
    "collect": "ai_core.pipeline",
    "stream": "ai_core.pipeline",
    "Runtime": "ai_core.runtime",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
