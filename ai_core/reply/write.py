"""Write a reply and return the job that speaks it, with the points as its focus."""

from collections.abc import Sequence
from dataclasses import replace

from ai_core.job import Job
from ai_core.reply.base import Reply, ReplyWriter
from ai_core.reply.template import TemplateWriter
from ai_core.settings import Settings
from prosody_tagger.errors import BadInput


async def reply_job(said: str, points: Sequence[str], job: Job, settings: Settings, writer: str | None = None) -> tuple[Reply, Job]:
    """Write a reply; return it, and ``job`` with its text and with the points as focus.

    Args:
        said: the message to reply to.
        points: phrases that the reply contains verbatim.
        job: options of the speech.
        settings: determines the writer if ``writer`` is None.
        writer: "template" or "chat".

    Raises:
        BadInput: the input is invalid, or the writer is "chat" and no chat model is set.
    """
    reply = await _writer(writer or settings.reply, settings).write(said, points)
    return reply, replace(job, text=reply.text, focus=_spans(reply.text, points))


def _spans(text: str, points: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Find the points in the reply."""
    found = [(text.find(point.strip()), len(point.strip())) for point in points]
    return tuple((start, start + length) for start, length in found if start >= 0)


def _writer(name: str, settings: Settings) -> ReplyWriter:
    if name == "template":
        return TemplateWriter()
    from ai_core.reply.chat import ChatWriter

    if settings.chat is None:
        raise BadInput("--reply chat needs a server: set PROSODY_CHAT__URL and PROSODY_CHAT__MODEL")
    return ChatWriter(settings.chat, TemplateWriter())
