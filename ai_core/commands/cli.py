"""The command `prosody`: speak a text, mark it, list voices, and check what is ready."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ai_core.commands.adapter import app as adapters
from ai_core.commands.convert import higgs
from ai_core.commands.label import label
from ai_core.commands.measure import measure
from ai_core.commands.options import (
    AsJson,
    Backend,
    Density,
    Intensity,
    Language,
    RefAudio,
    RefText,
    Seed,
    Strength,
    Tagger,
    Voice,
)
from ai_core.commands.serve import serve
from prosody_tagger.command import run_command

if TYPE_CHECKING:
    from ai_core.pipeline import Job, Result
    from ai_core.settings import Settings
    from prosody_tagger.markup import MarkedText, TaggedText
    from synth import base

app = typer.Typer(
    help="Speech that stresses the right words and pauses in the right places.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TextArgument = Annotated[
    str | None, typer.Argument(metavar="[TEXT|-]", help="The text; - or none reads stdin.", show_default=False)
]
Marked = Annotated[bool, typer.Option("--marked", help="The text contains marks, as in: It's <emph>only $299 <pause_short>today")]
Ssml = Annotated[bool, typer.Option("--ssml", help="The text is SSML.")]


@app.command()
def say(
    text: TextArgument = None,
    marked: Marked = False,
    ssml: Ssml = False,
    backend: Backend = None,
    voice: Voice = None,
    intensity: Intensity = None,
    density: Density = None,
    strength: Strength = None,
    speed: Annotated[float, typer.Option("--speed", help="Rate of speech: 1 is the voice's own, 2 twice as fast.")] = 1.0,
    seed: Seed = None,
    ref_audio: RefAudio = None,
    ref_text: RefText = None,
    language: Language = None,
    realise: Annotated[
        bool | None,
        typer.Option(
            "--realise/--no-realise",
            help="Realise the marks that the voice does not support in its audio.",
            show_default="--realise",
        ),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Measure every mark in the audio.")] = False,
    audio_format: Annotated[
        Literal["wav", "flac", "mp3", "opus", "aac", "pcm"], typer.Option("--format", help="Audio format of the file.")
    ] = "wav",
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="The file to write; - writes to stdout.", show_default="output/speech.FORMAT"),
    ] = None,
    tagger: Tagger = None,
    as_json: AsJson = False,
) -> None:
    """Speak a text. Without --marked or --ssml the tagger marks it first."""
    from ai_core.commands import console as out
    from ai_core.pipeline import Job
    from ai_core.results import result_json
    from prosody_tagger.errors import BadInput
    from synth.audio.encoding import encode, write_audio

    target = output or f"output/speech.{audio_format}"
    if target == "-" and as_json:
        raise BadInput("--json and -o - both write to stdout; give -o a file, or leave --json out")
    if target != "-":
        out.check_output(Path(target))
    source = _source(text)
    job = Job(
        _read(source, marked, ssml),
        intensity=intensity,
        density=density,
        strength=strength,
        backend=backend,
        voice=voice,
        speed=speed,
        seed=seed,
        reference=_reference(ref_audio, ref_text),
        language=language,
        realise=realise,
        report=report,
    )
    result = asyncio.run(_collect(job, _settings(tagger)))
    if target == "-":
        sys.stdout.buffer.write(encode(result.audio, audio_format))
        sys.stdout.buffer.flush()
    else:
        write_audio(Path(target), result.audio, audio_format)
    if as_json:
        measured = {} if result.report is None else {"report": result.report.as_dict()}
        out.print_json({"input": source, "points": [], **result_json(result, target), **measured})
        return
    out.print_rows(("marked", out.coloured(result.marked)), *out.audio_rows(result, target), to_people=target == "-")
    if result.report is not None:
        from ai_core.commands.report import print_report

        print_report(result.report, to_people=target == "-")


@app.command()
def mark(
    text: TextArgument = None,
    ssml: Annotated[bool, typer.Option("--ssml", help="The text is SSML: print its marks instead of the tagger's.")] = False,
    to_ssml: Annotated[bool, typer.Option("--to-ssml", help="Print SSML instead of marked text.")] = False,
    intensity: Intensity = None,
    density: Density = None,
    tagger: Tagger = None,
    as_json: AsJson = False,
) -> None:
    """Print a text with its marks."""
    from ai_core.commands import console as out
    from ai_core.pipeline import Job
    from ai_core.results import marks_json
    from prosody_tagger.markup import render
    from prosody_tagger.ssml import to_ssml as write_ssml

    source = _read(_source(text), False, ssml)
    tagged = asyncio.run(_mark(Job(source, intensity=intensity, density=density), _settings(tagger)))
    marked = tagged.marked
    written = write_ssml(marked) if to_ssml else render(marked)
    if as_json:
        marks = marks_json(marked, tagged.scores)
        warnings = {"warnings": list(tagged.warnings)} if tagged.warnings else {}
        out.print_json({"text": marked.text, "marked": written, "marks": marks, **warnings})
    else:
        out.print_marked(written)
        for warning in tagged.warnings:
            out.print_rows(("warning", warning), to_people=True)


@app.command()
def voices(backend: Backend = None, as_json: AsJson = False) -> None:
    """List the voices of a backend, its default first."""
    from ai_core.commands import console as out
    from ai_core.settings import load_settings

    settings = load_settings()
    name = backend or settings.backend
    found = asyncio.run(_voices(name, settings))
    if as_json:
        out.print_json(
            {"backend": name, "voices": [{"name": v.name, "language": v.language, "description": v.description} for v in found]}
        )
    else:
        out.print_table(("voice", "language", "description"), [(v.name, v.language, v.description) for v in found])


app.command()(measure)
app.command()(label)
app.command()(serve)
app.add_typer(adapters, name="adapter")
app.add_typer(higgs, name="higgs")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check which backends, models and extras are ready, and how to make the others so.

    Exit code 3 if the default backend is not ready.
    """
    from ai_core.commands import console as out
    from ai_core.commands.doctor import examine

    settings = _settings(None)
    findings = examine(settings)
    if as_json:
        out.print_json({"ready": all(f.ready for f in findings if f.needed), "findings": [f.as_dict() for f in findings]})
    else:
        rows = [("ready" if f.ready else "NOT READY" if f.needed else "off", f.what, f.name, f.detail) for f in findings]
        out.print_table(("", "what", "name", "detail"), rows)
    if not all(f.ready for f in findings if f.needed):
        raise typer.Exit(3)


async def _collect(job: "Job", settings: "Settings") -> "Result":
    from ai_core.pipeline import collect
    from ai_core.runtime import Runtime

    async with Runtime(settings) as runtime:
        return await collect(job, runtime)


async def _voices(name: str, settings: "Settings") -> "tuple[base.Voice, ...]":
    from ai_core.runtime import Runtime

    async with Runtime(settings) as runtime:
        return await runtime.backend(name).voices()


async def _mark(job: "Job", settings: "Settings") -> "TaggedText":
    from ai_core.job import check_length
    from ai_core.pipeline import tag_whole
    from ai_core.runtime import Runtime

    check_length(job.marked.text, settings)
    async with Runtime(settings) as runtime:
        return await tag_whole(job, runtime)


def _settings(tagger: str | None) -> "Settings":
    """The settings of the environment; the tagger of the command line takes precedence."""
    from ai_core.settings import load_settings

    settings = load_settings(fallback="embedded")
    if tagger is not None:
        settings.tagger = settings.tagger.model_copy(update={"adapter": Path(tagger)})
    return settings


def _reference(audio: Path | None, text: str | None) -> "base.Reference | None":
    """The reference recording of the command line, if any."""
    from prosody_tagger.errors import BadInput

    if audio is None and text is None:
        return None
    if audio is None or text is None:
        raise BadInput("--ref-audio and --ref-text go together; give the recording and its transcript")
    from synth.reference import read_reference

    return read_reference(audio, text)


def _source(text: str | None) -> str:
    """The text of the argument, or of stdin."""
    from prosody_tagger.errors import BadInput

    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        raise BadInput("no text: give it as an argument, or - to read stdin")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"stdin is not UTF-8 at byte {error.start}; convert the text first") from None


def _read(source: str, marked: bool, ssml: bool) -> "str | MarkedText":
    """Parse the source according to the flags: plain text, marked text or SSML."""
    from prosody_tagger.errors import BadInput

    if marked and ssml:
        raise BadInput("--marked and --ssml exclude each other; give the one that matches the text")
    if ssml:
        from prosody_tagger.ssml import from_ssml

        return from_ssml(source)
    if marked:
        from prosody_tagger.markup import parse

        return parse(source)
    return source


def main() -> None:
    """Entry point of the command."""
    run_command(app)


if __name__ == "__main__":
    main()
