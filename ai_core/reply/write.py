"""Make the job of speaking a reply: have it written, and mark the points as its focus."""

from collections.abc import Sequence
from dataclasses import replace

from ai_core.job import Job
from ai_core.reply.base import Reply, ReplyWriter
from ai_core.reply.template import TemplateWriter
from ai_core.settings import Settings
from prosody_tagger.errors import BadInput


async def reply_job(said: str, points: Sequence[str], job: Job, settings: Settings, writer: str | None = None) -> tuple[Reply, Job]:
    """Write the reply, and return it with ``job`` for its text, whose focus are the points.

    Args:
        said: what they said.
        points: what the reply holds, word for word.
        job: how the reply is spoken.
        settings: names the writer if ``writer`` is None.
        writer: "template" or "chat".

    Raises:
        BadInput: nothing to answer, or a chat model was asked for and none is set.
    """
    reply = await _writer(writer or settings.reply, settings).write(said, points)
    return reply, replace(job, text=reply.text, focus=_spans(reply.text, points))


def _spans(text: str, points: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The spans of the points in the reply."""
    found = [(text.find(point.strip()), len(point.strip())) for point in points]
    return tuple((start, start + length) for start, length in found if start >= 0)


def _writer(name: str, settings: Settings) -> ReplyWriter:
    if name == "template":
        return TemplateWriter()
    from ai_core.reply.chat import ChatWriter

    if settings.chat is None:
        raise BadInput("--reply chat needs a server: set PROSODY_CHAT__URL and PROSODY_CHAT__MODEL")
    return ChatWriter(settings.chat, TemplateWriter())
