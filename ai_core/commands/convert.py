"""Command `prosody higgs`: convert files of boson_multimodal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ai_core.commands.options import AsJson

higgs = typer.Typer(help="Checkpoints and adapters of Higgs Audio.", no_args_is_help=True)


@higgs.callback()
def _higgs() -> None:
    """Keep `convert` a subcommand: typer turns a single command into the whole application."""


@higgs.command()
def convert(
    old: Annotated[Path, typer.Argument(help="Folder of a checkpoint or codec of boson_multimodal, or of an adapter.")],
    new: Annotated[Path, typer.Argument(help="The folder to create.")],
    adapter: Annotated[bool, typer.Option("--adapter", help="OLD is a PEFT adapter, not a checkpoint.")] = False,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Converted base checkpoint of the adapter, by folder or hub name.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint, codec or adapter of boson_multimodal to the format of transformers.

    Weights stay the same, bit for bit. NEW is created only when it is complete.
    """
    from ai_core.commands import console as out
    from prosody_tagger.errors import BadInput
    from synth.higgs_local.boson_format.convert import convert_adapter, convert_checkpoint, convert_codec, is_codec

    if base is not None and not adapter:
        raise BadInput("--base applies to adapters only; give --adapter with it")
    with _progress() as progress:
        if adapter:
            done = convert_adapter(old, new, base, progress)
        elif is_codec(old):
            done = convert_codec(old, new)
        else:
            done = convert_checkpoint(old, new, progress)
    if as_json:
        out.print_json({"path": str(done.path), "tensors": done.tensors, "bytes": done.size, "notes": list(done.notes)})
        return
    out.print_rows(
        ("written", out.plain_text(f"{done.path} ({done.tensors} tensors, {done.size / 1e9:.2f} GB)")),
        *(("note", out.plain_text(note)) for note in done.notes),
    )


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Progress bar on stderr; the callback takes the bytes done and the total."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from prosody_tagger.command import people

    columns = (TextColumn("converting"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=people(), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
