"""Logging of the service: one line per request, and errors. Texts are logged at debug level only, and cut to their beginning."""

import logging
import sys
from typing import Any

import structlog

LOGGED_CHARS = 60
"""How much of a text the debug log shows."""


def configure(level: str, log_format: str) -> None:
    """Log this project and uvicorn to stderr, as ``json`` or as ``text`` for people."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.format_exc_info,
        _drop_color_message,
    ]
    as_json = log_format == "json"
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("api", "ai_core", "synth", "prosody_tagger", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = name != "uvicorn.access"  # the request middleware logs requests


def _drop_color_message(_: Any, __: str, event: Any) -> Any:
    """Remove uvicorn's coloured copy of its message."""
    event.pop("color_message", None)
    return event
