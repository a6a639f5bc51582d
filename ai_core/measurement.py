"""Measure which marks are audible, in a result of the pipeline or in a recording."""

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ai_core.alignment import ALIGNMENT_BACKEND, align_words
from ai_core.job import Result
from ai_core.runtime import Runtime
from prosody_tagger.markup import MarkedText
from synth.base import Audio

if TYPE_CHECKING:
    from synth.acoustics.align import Alignment
    from synth.acoustics.report import Report


async def with_report(result: Result, runtime: Runtime, language: str | None = None) -> Result:
    """Add a report on each mark of a result, if its word times are known."""
    from synth.acoustics.measure import measure
    from synth.acoustics.reference_reading import read_plainly

    if not result.words:
        return replace(result, warnings=(*result.warnings, "no mark was measured: the word times are not known"))
    began = time.perf_counter()
    reading = await read_plainly(result.marked.text, runtime.backend(ALIGNMENT_BACKEND), language)
    report = await asyncio.to_thread(measure, result.audio, result.marked, result.words, reading=reading)
    spent = time.perf_counter() - began
    return replace(result, report=report, timings={**result.timings, "measure": spent, "total": result.timings["total"] + spent})


async def measure_recording(
    audio: Audio, marked: MarkedText, plain: Audio | None, language: str | None, runtime: Runtime
) -> "tuple[Report, Alignment, list[str]]":
    """Measure the marks of a text in a recording.

    Args:
        audio: the recording.
        marked: its transcript, with marks.
        plain: a recording of the same text and voice without marks, or None.
        language: BCP 47 tag of the text.
        runtime: provides the aligner and the alignment backend.

    Returns:
        The report, the alignment, and warnings.

    Raises:
        BadInput: the recording and the text cannot be aligned.
        BackendError: the alignment backend failed.
    """
    from synth.acoustics.measure import measure
    from synth.acoustics.reference_reading import read_plainly

    warnings: list[str] = []
    reference = None
    found = await align_words(audio, marked.text, runtime, language)
    if not found.trusted:
        warnings.append(
            f"the recording does not seem to match the text (confidence {found.confidence:.2f}); the measurements are unreliable"
        )
    reading = await read_plainly(marked.text, runtime.backend(ALIGNMENT_BACKEND), language)
    if plain is not None:
        other = await align_words(plain, marked.text, runtime, language)
        reference = (plain, other.words)
        if not other.trusted:
            warnings.append(f"the reference does not seem to match the text (confidence {other.confidence:.2f})")
    report = await asyncio.to_thread(measure, audio, marked, found.words, reference=reference, reading=reading)
    return report, found, warnings
