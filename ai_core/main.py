"""Reply to a message, make the given points, and speak the reply with emphasis on them.

python ai_core/main.py -i "How much?" -p "30% savings"
"""

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ai_core.commands.options import AsJson, Backend, Density, Intensity, Seed, Strength, Voice
from prosody_tagger.command import command_exit

if TYPE_CHECKING:
    from ai_core.pipeline import Job, Result
    from ai_core.runtime import Runtime

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    said: Annotated[str, typer.Option("-i", "--input", help="The message to reply to.", show_default=False)],
    points: Annotated[
        list[str] | None, typer.Option("-p", "--point", help="A point that the reply makes; repeatable.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The WAV file to write.")] = Path("output/response.wav"),
    backend: Backend = None,
    voice: Voice = None,
    intensity: Intensity = None,
    density: Density = None,
    strength: Strength = None,
    seed: Seed = None,
    writer: Annotated[
        Literal["template", "chat"] | None, typer.Option("--reply", help="The writer of the reply.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    from ai_core.commands import console
    from ai_core.pipeline import Job
    from ai_core.reply.write import reply_job
    from ai_core.results import result_json
    from ai_core.runtime import Runtime
    from ai_core.settings import load_settings
    from synth.audio.encoding import write_audio

    console.check_output(output)
    began = time.perf_counter()
    runtime = Runtime(load_settings(fallback="embedded"))
    job = Job("", intensity, backend, voice, seed=seed, density=density, strength=strength)
    reply, job = asyncio.run(reply_job(said, points or [], job, runtime.settings, writer))
    timings = {"reply": time.perf_counter() - began}
    result = asyncio.run(_speak(job, runtime))
    timings |= result.timings | {"total": time.perf_counter() - began}
    result = replace(result, warnings=(*reply.warnings, *result.warnings), timings=timings)
    write_audio(output, result.audio)
    if as_json:
        asked = {"input": said, "points": points or [], "reply_by": reply.by}
        console.print_json({**asked, **result_json(result, str(output))})
    else:
        console.print_rows(
            ("question", console.plain_text(said)),
            ("reply", console.plain_text(reply.text)),
            ("marked", console.coloured(result.marked)),
            *console.audio_rows(result, str(output)),
        )


async def _speak(job: "Job", runtime: "Runtime") -> "Result":
    from ai_core.pipeline import collect

    async with runtime:
        return await collect(job, runtime)


if __name__ == "__main__":
    with command_exit():
        sys.exit(app(standalone_mode=False))
