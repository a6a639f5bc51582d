"""The main job: what they said and the points to make go in, speech with the right stress comes out.

python ai_core/main.py -i "How much?" -p "30% savings"
"""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ai_core.commands.options import AsJson, Backend, Intensity, Seed, Voice
from prosody_tagger.command import run_command

if TYPE_CHECKING:
    from ai_core.pipeline import Job, Result
    from ai_core.reply.template import Reply

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    said: Annotated[str, typer.Option("-i", "--input", help="What they said.", show_default=False)],
    points: Annotated[
        list[str] | None, typer.Option("-p", "--point", help="A point to make; may be given several times.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The WAV to write.")] = Path("output/response.wav"),
    backend: Backend = None,
    voice: Voice = None,
    intensity: Intensity = None,
    seed: Seed = None,
    writer: Annotated[
        Literal["template", "chat"] | None, typer.Option("--reply", help="Who writes the reply.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    from ai_core.commands import console as out
    from ai_core.pipeline import Job
    from synth.audio.encoding import encode

    out.check_output(output)
    job = Job("", intensity=intensity, backend=backend, voice=voice, seed=seed)
    reply, result = asyncio.run(_answer(said, points or [], writer, job))
    out.write_file(output, encode(result.audio))
    if as_json:
        out.print_json({"input": said, "points": points or [], "reply_by": reply.by, **out.result_json(result, str(output))})
    else:
        out.print_rows(
            ("question", out.shown(said)),
            ("reply", out.shown(reply.text)),
            ("marked", out.coloured(result.marked)),
            *out.audio_rows(result, str(output)),
        )


async def _answer(said: str, points: list[str], writer: str | None, job: "Job") -> tuple["Reply", "Result"]:
    """The reply, and the reply spoken."""
    from ai_core.pipeline import collect
    from ai_core.reply.job import reply_job
    from ai_core.runtime import Parts
    from ai_core.settings import load_settings

    began = time.perf_counter()
    parts = Parts(load_settings(fallback="embedded"))
    reply, spoken = await reply_job(said, points, job, parts.settings, writer)
    timings = {"reply": time.perf_counter() - began}
    try:
        result = await collect(spoken, parts)
    finally:
        await parts.close()
    timings |= result.timings | {"total": time.perf_counter() - began}
    return reply, replace(result, warnings=(*reply.warnings, *result.warnings), timings=timings)


if __name__ == "__main__":
    run_command(app)
