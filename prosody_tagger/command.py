"""Run a command: one line on stderr for an error, and its exit code.

Imports almost nothing, so that Ctrl-C is handled from the start.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from prosody_tagger.errors import ProsodyError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130


def run_command(app: Callable[..., Any], args: Sequence[str] | None = None) -> NoReturn:
    """Run a typer application and end the process by `command_exit`."""
    with command_exit():
        sys.exit(app(args=args, standalone_mode=False))


def exit_code(app: Callable[..., Any], args: Sequence[str] | None) -> int:
    """Run a typer application and return the exit code that `run_command` would end the process with."""
    try:
        run_command(app, args)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0


@contextmanager
def command_exit() -> Iterator[None]:
    """End the process with the exit code for what the block raises, and print one line on stderr for an error.

    The block ends with ``sys.exit(app(standalone_mode=False))``; a code that is not a number counts as 0. If ``PROSODY_DEBUG`` is
    set, an unexpected error is raised with its traceback.
    """
    import logging

    import typer

    # The result contains the warnings; without a handler, the log warnings of every library would reach the terminal as well.
    logging.getLogger().addHandler(logging.NullHandler())
    code: object = 0
    try:
        yield
    except SystemExit as end:
        code = end.code
    except ProsodyError as error:
        code = error.exit_code
        _print_error(str(error))
    except typer.TyperException as error:
        code = error.exit_code
        _print_error(f"{error.format_message()} --help lists the options")
    except KeyboardInterrupt:
        _print_error("interrupted")
        _exit_interrupted()
    except typer.Abort:
        code = INTERRUPTED
    except BrokenPipeError:
        code = _close_stdout()
    except Exception as error:
        if os.environ.get("PROSODY_DEBUG"):
            raise
        code = 1
        _print_error(f"unexpected {type(error).__name__}: {error}; set PROSODY_DEBUG=1 for the traceback")
    if code == INTERRUPTED:
        _print_error("interrupted")
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _close_stdout()
    sys.exit(code if isinstance(code, int) else 0)


def _exit_interrupted() -> NoReturn:
    """Exit with 130: after ``sys.exit``, CPython can still end by the signal itself, if the interrupt passed through ``exec``."""
    import atexit

    atexit._run_exitfuncs()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(INTERRUPTED)


def _close_stdout() -> int:
    """The reader closed the pipe: avoid a second flush at exit, which would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def people() -> "Console":
    """Return a console on stderr, for messages to people while stdout carries data."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def _print_error(message: str) -> None:
    from rich.text import Text

    people().print(Text.assemble(("error: ", "bold red"), visible(message)))


def visible(text: str) -> str:
    """Return ``text`` with its control characters replaced, so that none reaches a terminal."""
    return "".join("\ufffd" if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 else c for c in text)
