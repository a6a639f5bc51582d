"""The command `prosody measure`: is each mark of a text heard in a recording?"""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_core.commands.options import AsJson

if TYPE_CHECKING:
    from ai_core.runtime import Parts
    from prosody_tagger.markup import MarkedText
    from synth.acoustics.align import Alignment
    from synth.acoustics.report import Report
    from synth.base import Audio

Language = Annotated[
    str | None,
    typer.Option(
        "--language",
        "--voice",
        help="What is spoken: a voice of the embedded backend, such as en-gb or de, to find the words with.",
        show_default=False,
    ),
]


def measure(
    audio: Annotated[str, typer.Option("--audio", help="The recording: wav, flac, mp3 or opus; - is stdin.")],
    text: Annotated[str, typer.Option("--text", help="What is said in it, with its marks: It's <emph>only $299")],
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
    """Tell whether each mark of a text is heard in a recording, with the figures behind it."""
    from ai_core.commands import console as out
    from ai_core.commands.report import print_report
    from prosody_tagger.command import people
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
        out.write_file(plot, draw(sound, report))
    if as_json:
        aligned = {"trusted": found.trusted, "confidence": round(found.confidence, 4)}
        about = {"text": marked.text, "marked": render(marked), "audio": audio, **aligned, "warnings": warnings}
        out.print_json({**about, **report.as_dict(), "plot": None if plot is None else str(plot)})
        return
    print_report(report)
    if plot is not None:
        out.print_rows(("plot", str(plot)))
    for warning in warnings:
        people().print(f"[yellow]warning:[/yellow] {warning}")


def read_sound(name: str) -> "Audio":
    """A sound file, or stdin for "-".

    Raises:
        BadInput: it cannot be read or decoded.
    """
    from prosody_tagger.errors import BadInput
    from synth.audio.decoding import decode

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"cannot read {name!r}: {reason.lower()}") from None
    return decode(data)


def _named(name: str) -> "Audio":
    """As `read_sound`, with the name of the file in every message."""
    from prosody_tagger.errors import BadInput

    try:
        return read_sound(name)
    except BadInput as error:
        raise (error if str(error).startswith("cannot read") else BadInput(f"{name}: {error}")) from None


async def _measure(
    sound: "Audio", marked: "MarkedText", plain: "Audio | None", language: str | None
) -> "tuple[Report, Alignment, list[str]]":
    from ai_core.runtime import Parts

    parts = Parts()
    try:
        return await measured(sound, marked, plain, language, parts)
    finally:
        await parts.close()


async def measured(
    sound: "Audio", marked: "MarkedText", plain: "Audio | None", language: str | None, parts: "Parts"
) -> "tuple[Report, Alignment, list[str]]":
    """The report on a recording, how its words were found, and what to know of that.

    Args:
        sound: the recording.
        marked: what is said in it, with its marks.
        plain: the same text in the same voice without marks, or None.
        language: BCP 47 tag of what is spoken.
        parts: what the words are found with.

    Raises:
        BadInput: a recording or a text that cannot be aligned.
        BackendError: the voice failed that the words are found with.
    """
    from ai_core.alignment import GUIDE, find_words
    from synth.acoustics.measure import measure as measure_marks
    from synth.acoustics.plain_reading import read_plainly

    warnings: list[str] = []
    reference = None
    found = await find_words(sound, marked.text, parts, language)
    if not found.trusted:
        warnings.append(
            f"the recording does not seem to say this text (confidence {found.confidence:.2f}): do not trust the figures"
        )
    reading = await read_plainly(marked.text, parts.voice(GUIDE), language)
    if plain is not None:
        other = await find_words(plain, marked.text, parts, language)
        reference = (plain, other.words)
        if not other.trusted:
            warnings.append(f"the reference does not seem to say this text (confidence {other.confidence:.2f})")
    report = await asyncio.to_thread(measure_marks, sound, marked, found.words, reference=reference, reading=reading)
    return report, found, warnings
