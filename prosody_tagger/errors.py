"""Exceptions of the tagger, and short messages for errors of the system.

    ProsodyError            base class of this project's exceptions
    └── BadInput            invalid input (exit code 2)
        ├── MarkupError     marked text or SSML that cannot be parsed
        ├── DataError       a training or evaluation file with invalid lines
        └── ModelError      a tagger folder that is missing, broken or made for another base model

A message states the problem, the value that caused it, and what to do next. ``exit_code`` is the exit code of a command.
"""


class ProsodyError(Exception):
    """Base class of this project's exceptions."""

    exit_code = 1


class BadInput(ProsodyError):
    """The input is invalid."""

    exit_code = 2


class MarkupError(BadInput):
    """Marked text or SSML cannot be parsed; the message gives line and column."""


class DataError(BadInput):
    """A data file has invalid lines; the message lists them."""


class ModelError(BadInput):
    """A tagger cannot be loaded from the given folder or name."""


def first_line(error: BaseException, limit: int = 200) -> str:
    """Return the first line of an error's message, at most ``limit`` characters; its class name if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:limit]


def os_reason(error: BaseException) -> str:
    """Return the reason of an `OSError` in lower case, as in "no such file or directory"; else the first line of the message."""
    return str(getattr(error, "strerror", None) or first_line(error)).lower()
