"""Command `prosody measure`: measure whether each mark of a text is audible in a recording."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_core.commands.options import AsJson

if TYPE_CHECKING:
    from prosody_tagger.markup import MarkedText
    from synth.acoustics.align import Alignment
    from synth.acoustics.report import Report
    from synth.base import Audio

Language = Annotated[
    str | None,
    typer.Option(
        "--language",
        "--voice",
        help="Language of the recording, such as de, or a voice of the embedded backend, such as en-gb, to align the words with.",
        show_default=False,
    ),
]


def measure(
    audio: Annotated[str, typer.Option("--audio", help="The recording: wav, flac, mp3 or opus; - is stdin.")],
    text: Annotated[str, typer.Option("--text", help="Its transcript with marks: It's <emph>only $299")],
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="The same text, spoken by the same voice without marks.", show_default=False),
    ] = None,
    language: Language = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw waveform, pitch, energy and marks into this PNG.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure whether each mark of a text is audible in a recording."""
    from ai_core.commands import console as out
    from ai_core.commands.report import print_report
    from prosody_tagger.markup import parse, render
    from synth.acoustics.plot import check_plotting, draw

    if plot is not None:
        check_plotting()
        out.check_output(plot)
    marked = parse(text)
    sound = _named(audio)
    plain = None if reference is None else _named(str(reference))
    report, found, warnings = asyncio.run(_measure(sound, marked, plain, language))
    if plot is not None:
        out.write_output(plot, draw(sound, report))
    if as_json:
        aligned = {"trusted": found.trusted, "confidence": round(found.confidence, 4)}
        about = {"text": marked.text, "marked": render(marked), "audio": audio, **aligned, "warnings": warnings}
        out.print_json({**about, **report.as_dict(), "plot": None if plot is None else str(plot)})
        return
    print_report(report)
    if plot is not None:
        out.print_rows(("plot", str(plot)))
    for warning in warnings:
        out.print_rows(("warning", warning), to_people=True)


def read_sound(name: str) -> "Audio":
    """Read a sound file, or stdin for "-".

    Raises:
        BadInput: it cannot be read or decoded.
    """
    from prosody_tagger.errors import BadInput, os_reason
    from synth.audio.decoding import decode

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadInput(f"cannot read {name!r}: {os_reason(error)}") from None
    return decode(data)


def _named(name: str) -> "Audio":
    """Call `read_sound`, with the file's name in every error message."""
    from prosody_tagger.errors import BadInput

    try:
        return read_sound(name)
    except BadInput as error:
        raise (error if str(error).startswith("cannot read") else BadInput(f"{name}: {error}")) from None


async def _measure(
    sound: "Audio", marked: "MarkedText", plain: "Audio | None", language: str | None
) -> "tuple[Report, Alignment, list[str]]":
    from ai_core.measurement import measure_recording
    from ai_core.runtime import Runtime

    async with Runtime() as runtime:
        return await measure_recording(sound, marked, plain, language, runtime)
