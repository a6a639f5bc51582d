"""Runs a command: errors become one line on stderr and an exit code.

The module imports almost nothing, so Ctrl-C is handled from the start.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from prosody_tagger.errors import ProsodyError

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130


def run_command(app: Callable[..., Any], args: Sequence[str] | None = None) -> NoReturn:
    """Run a typer application and end the process. An error prints one line on stderr and sets the exit code."""
    sys.exit(exit_code(app, args))


def exit_code(app: Callable[..., Any], args: Sequence[str] | None) -> int:
    """Run a typer application and return its exit code, printing an error as one line on stderr.

    An unexpected exception is printed with its type and returns 1; with PROSODY_DEBUG set it is raised instead.
    """
    import logging

    import typer

    # Without a handler, logging prints warnings of libraries on the terminal; those that matter are part of the result.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        code = app(args=args, standalone_mode=False)
        sys.stdout.flush()
    except ProsodyError as error:
        _say_error(str(error))
        return error.exit_code
    except typer.TyperException as error:
        _say_error(f"{error.format_message()} --help tells what can be given")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader closed the pipe. Redirect stdout, because Python flushes it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("PROSODY_DEBUG"):
            raise
        _say_error(f"unexpected {type(error).__name__}: {error}; PROSODY_DEBUG=1 shows where")
        return 1
    if code == INTERRUPTED:
        _say_error("interrupted")
    return code if isinstance(code, int) else 0


def people() -> "Console":
    """Return a console on stderr, for messages to people while stdout carries data."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def _say_error(message: str) -> None:
    from rich.text import Text

    people().print(Text.assemble(("error: ", "bold red"), visible(message)))


def visible(text: str) -> str:
    """Return ``text`` with its control characters replaced, so that none reaches a terminal."""
    return "".join("\ufffd" if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 else c for c in text)
