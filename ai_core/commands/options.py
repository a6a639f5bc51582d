"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

INTENSITIES = ("low", "medium", "high")


def _intensity(given: str) -> str | float:
    """One of the names, or a number of emphases a word."""
    if given in INTENSITIES:
        return given
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise typer.BadParameter(f"{given!r} is neither low, medium or high nor a number of emphases a word from 0 to 1.")
    return number


Backend = Annotated[str | None, typer.Option("--backend", help="Who speaks; `prosody doctor` lists them.", show_default=False)]
Voice = Annotated[str | None, typer.Option("--voice", help="The voice; `prosody voices` lists them.", show_default=False)]
Intensity = Annotated[
    Any,
    typer.Option(
        "--intensity",
        parser=_intensity,
        metavar="low|medium|high|NUMBER",
        help="How often and how strongly words are stressed; a number is emphases a word, such as 0.12.",
        show_default=False,
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Makes a voice that samples repeatable.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Tagger = Annotated[
    str | None, typer.Option("--tagger", help="Folder of a trained tagger; without it the one that ships.", show_default=False)
]
RefAudio = Annotated[
    Path | None,
    typer.Option("--ref-audio", help="A recording of the voice to speak in, for backends that can.", show_default=False),
]
RefText = Annotated[str | None, typer.Option("--ref-text", help="What is said in that recording.", show_default=False)]
Language = Annotated[
    str | None,
    typer.Option(
        "--language",
        help="What is spoken, such as de or en-gb; words are looked for in that language.",
        show_default="that of the text's script",
    ),
]
