"""Options shared by several commands."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

LEVELS = ("low", "medium", "high")


def _level_or_number(given: str) -> str | float:
    """Parse a named level or a number of emphases per word."""
    if given in LEVELS:
        return given
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise typer.BadParameter(f"{given!r} is neither low, medium or high nor a number of emphases per word from 0 to 1.")
    return number


Backend = Annotated[str | None, typer.Option("--backend", help="The backend; `prosody doctor` lists them.", show_default=False)]
Voice = Annotated[str | None, typer.Option("--voice", help="The voice; `prosody voices` lists them.", show_default=False)]
Intensity = Annotated[
    Any,
    typer.Option(
        "--intensity",
        parser=_level_or_number,
        metavar="low|medium|high|NUMBER",
        help="Sets --density and --strength together; a number is emphases per word, such as 0.12.",
        show_default=False,
    ),
]
Density = Annotated[
    Any,
    typer.Option(
        "--density",
        parser=_level_or_number,
        metavar="low|medium|high|NUMBER",
        help="How many words the tagger stresses; a number is emphases per word, from 0 to 1.",
        show_default=False,
    ),
]
Strength = Annotated[
    Literal["low", "medium", "high"] | None,
    typer.Option("--strength", help="How strongly the voice stresses a word.", show_default=False),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Random seed, for voices that use sampling.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Tagger = Annotated[
    str | None, typer.Option("--tagger", help="Folder of a trained tagger; by default the shipped one.", show_default=False)
]
RefAudio = Annotated[
    Path | None,
    typer.Option("--ref-audio", help="A reference recording of the voice, for backends that support one.", show_default=False),
]
RefText = Annotated[str | None, typer.Option("--ref-text", help="Transcript of the reference recording.", show_default=False)]
Language = Annotated[
    str | None,
    typer.Option(
        "--language",
        help="Language of the text, such as de or en-gb, for the alignment of its words.",
        show_default="guessed from the script",
    ),
]
