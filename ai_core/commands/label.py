"""Command `prosody label`: label transcripts with the marks found in their recordings."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_core.commands.measure import Language
from ai_core.commands.options import AsJson

if TYPE_CHECKING:
    from ai_core.runtime import Runtime
    from synth.acoustics.label import Label
    from synth.acoustics.labels_file import LabelsFile
    from synth.acoustics.recordings import SkippedRecording, TranscribedRecording
    from synth.base import Audio

    Source = Callable[[], Iterator[TranscribedRecording | SkippedRecording]]

_MAX_REPORTED = 1000
"""Maximum number of failures that are listed with their reasons."""


def label(
    audio: Annotated[
        Path | None,
        typer.Option(
            "--audio",
            help="A recording, or a folder of recordings, each with its transcript in NAME.txt or NAME.lab.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Transcript of a single recording.", show_default=False)] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", help="JSON rows, or lines of path and text separated by a tab or |.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The labels, one JSON object per line.")] = Path(
        "output/labels.jsonl"
    ),
    chatml: Annotated[
        Path | None, typer.Option("--chatml", help="Also write a ChatML manifest for train-higgs.", show_default=False)
    ] = None,
    language: Language = None,
    emphases_per_word: Annotated[
        float | None,
        typer.Option(
            "--emphases-per-word",
            min=0.0,
            max=1.0,
            help="Share of each recording's words to mark as stressed; by default, all words above a threshold.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Label transcripts with the marks found in their recordings.

    Skips recordings that are already labelled: run it again to continue, or to retry those that failed.
    """
    from ai_core.commands import console as out
    from prosody_tagger.errors import BadInput
    from synth.acoustics.labels_file import LabelsFile, write_chatml

    source = _source(audio, text, manifest)
    for path in (output, chatml):
        if path is not None:
            out.check_output(path)
    with LabelsFile(output) as labels:
        labeller = _Labeller(labels, language, emphases_per_word)
        asyncio.run(labeller.run(source))
        if not labels:
            raise BadInput(labeller.failure())
    rows = None if chatml is None else write_chatml(output, chatml)
    if as_json:
        failed = [{"place": place, "reason": reason} for place, reason in labeller.failed]
        counts = {
            "labelled": labeller.labelled,
            "done_before": labeller.done_before,
            "failed_count": labeller.failures,
            "failed": failed,
        }
        out.print_json({"labels": str(output), "chatml": None if chatml is None else str(chatml), **counts})
    else:
        if text is not None and labeller.last is not None:
            out.print_marked(labeller.last)
        said = f"{labeller.labelled} labelled, {labeller.done_before} done before, {labeller.failures} failed"
        lines = [("labels", f"{output} ({said})")]
        out.print_rows(*lines, *([] if chatml is None else [("manifest", f"{chatml} ({rows} rows)")]), to_people=True)
    if not labeller.labelled and not labeller.done_before:
        raise typer.Exit(2)


class _Labeller:
    """Labels recordings one by one and counts the outcomes.

    Attributes:
        labelled, done_before, failures: numbers of recordings.
        failed: place and reason of the first `_MAX_REPORTED` failures.
        last: the last text labelled, with its marks.
    """

    def __init__(self, labels: "LabelsFile", language: str | None, emphases_per_word: float | None) -> None:
        self._labels, self._language, self._emphases = labels, language, emphases_per_word
        self.labelled = self.done_before = self.failures = 0
        self.failed: list[tuple[str, str]] = []
        self.last: str | None = None

    def failure(self) -> str:
        """Why there are no labels, in one line."""
        if not self.failed:
            return "there is no recording to label; give a folder of sound files with --audio, or a manifest with rows"
        place, reason = self.failed[0]
        return f"none of {self.failures} recordings could be labelled; the first is {place}: {reason}"

    async def run(self, source: "Source") -> None:
        """Label every recording of ``source`` that has no labels yet; show progress on stderr."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from ai_core.alignment import ALIGNMENT_BACKEND
        from ai_core.runtime import Runtime
        from prosody_tagger.command import people, visible
        from prosody_tagger.errors import BadInput, ProsodyError
        from synth.acoustics.recordings import SkippedRecording
        from synth.errors import BackendUnavailable

        runtime = Runtime()
        runtime.backend(ALIGNMENT_BACKEND)
        await runtime.aligner()  # fail here if either is missing: every recording would fail
        total = sum(1 for _ in source())
        columns = (TextColumn("labelling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        try:
            with Progress(*columns, console=people(), transient=True) as progress:
                for item in progress.track(source(), total=total):
                    try:
                        if isinstance(item, SkippedRecording):
                            raise BadInput(item.reason)
                        await self._label(item, runtime)
                    except BackendUnavailable:
                        raise
                    except (ProsodyError, OSError) as error:
                        place = item.source if isinstance(item, SkippedRecording) else str(item.path)
                        self.failures += 1
                        self.failed = [*self.failed, (place, str(error))][:_MAX_REPORTED]
                        progress.console.print(visible(f"skipped {place}: {error}"), markup=False)
        finally:
            await runtime.close()

    async def _label(self, recording: "TranscribedRecording", runtime: "Runtime") -> None:
        from ai_core.commands.measure import read_sound
        from prosody_tagger.markup import render

        if self._labels.has(recording):
            self.done_before += 1
            return
        sound = read_sound(str(recording.path))
        found = await self._measure(sound, recording.text, runtime)
        self._labels.add(recording, found, sound.seconds)
        self.labelled += 1
        self.last = render(found.marked)

    async def _measure(self, sound: "Audio", text: str, runtime: "Runtime") -> "Label":
        """Label a recording of ``text``.

        Raises:
            BadInput: the recording cannot be measured, or does not match ``text``.
            BackendError: the alignment backend failed.
        """
        from ai_core.alignment import ALIGNMENT_BACKEND, align_words
        from prosody_tagger.errors import BadInput
        from synth.acoustics.label import label
        from synth.acoustics.reference_reading import read_plainly

        found = await align_words(sound, text, runtime, self._language)
        if not found.trusted:
            raise BadInput(
                f"the recording does not match the transcript (confidence {found.confidence:.2f}); correct one of the two"
            )
        plain = await read_plainly(text, runtime.backend(ALIGNMENT_BACKEND), self._language)
        return label(sound, text, found.words, plain=plain, emphases_per_word=self._emphases)


def _source(audio: Path | None, text: str | None, manifest: Path | None) -> "Source":
    """Return a function that iterates over the recordings; each call starts from the first.

    Raises:
        BadInput: the options name no recordings, or exclude each other.
    """
    from prosody_tagger.errors import BadInput
    from synth.acoustics.recordings import TranscribedRecording, beside, in_folder, in_manifest

    if manifest is not None:
        if text is not None:
            raise BadInput("--text and --manifest exclude each other; give one of them")
        if audio is not None and not audio.is_dir():
            raise BadInput(f"{audio} is not a folder; with --manifest, --audio is the folder that its paths are relative to")
        if not manifest.is_file():
            raise BadInput(f"there is no manifest {str(manifest)!r}; give another with --manifest")
        return lambda: in_manifest(manifest, audio)
    if audio is None:
        raise BadInput("nothing to label: give a recording or a folder with --audio, or give --manifest")
    if audio.is_dir():
        if text is not None:
            raise BadInput(f"--text is for one recording, and {audio} is a folder; put transcripts beside the sound files")
        return lambda: in_folder(audio)
    if not audio.is_file():
        raise BadInput(f"there is no file or folder {str(audio)!r}; give another with --audio")
    if text is not None:
        return lambda: iter((TranscribedRecording(audio, text),))
    return lambda: iter((beside(audio, audio.parent),))
