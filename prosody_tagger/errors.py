"""What can be wrong with a text, a data file or a model.

    ProsodyError            everything that this project raises on purpose
    └── BadInput            the caller's to put right (exit code 2)
        ├── MarkupError     marked text or SSML that does not parse
        ├── DataError       a training or evaluation file with bad lines
        └── ModelError      a tagger folder that is missing, broken or of another base

A message says what was wrong, with which value, and what to do next. ``exit_code`` is what a command ends with.
"""


class ProsodyError(Exception):
    """Base of every error that this project raises on purpose."""

    exit_code = 1


class BadInput(ProsodyError):
    """The caller gave something that cannot be used."""

    exit_code = 2


class MarkupError(BadInput):
    """Marked text or SSML that cannot be read; the message gives line and column."""


class DataError(BadInput):
    """A data file with lines that cannot be used; the message lists them."""


class ModelError(BadInput):
    """A tagger that cannot be loaded from the folder or name given."""


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an error's message, at most ``limit`` characters; its class name if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:limit]


def os_reason(error: BaseException) -> str:
    """Why the system refused, as in "no such file or directory"; the message itself for errors without an error number."""
    return str(getattr(error, "strerror", None) or first_line(error)).lower()
