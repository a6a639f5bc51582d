"""Print the measurement of marks as a table."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ai_core.commands.console import plain_text, print_rows
from prosody_tagger.command import people
from synth.acoustics.report import MarkReport, Report


def print_report(report: Report, *, to_people: bool = False) -> None:
    """Print each mark with its figures, and false marks: on stdout, or with ``to_people`` on stderr, where stdout carries data."""
    if report.marks:
        table = Table("mark", "word", "audible", "score", "figures", box=box.SIMPLE_HEAD)
        for mark in report.marks:
            table.add_row(*(plain_text(cell) for cell in _row(mark)))
        (people() if to_people else Console(highlight=False)).print(table)
    print_rows(("audible", f"{report.realised} of {report.asked} marks"), *_false(report), to_people=to_people)


def _false(report: Report) -> list[tuple[str, str]]:
    lines = []
    for item in report.false:
        what = f"{item.silence_ms:.0f} ms of silence before" if item.silence_ms is not None else "emphasis on"
        lines.append(("unmarked", f"{what} {item.word!r}"))
    return lines


def _row(mark: MarkReport) -> tuple[str, str, str, str, str]:
    return f"<{mark.kind}>", mark.word or "", "yes" if mark.realised else "no", f"{mark.score:.2f}", mark.note or _figures(mark)


def _figures(mark: MarkReport) -> str:
    """The figures of a mark in one line."""
    if mark.silence_ms is not None:
        own = "" if mark.reference_ms is None else f", {mark.reference_ms:.0f} in the reference"
        return f"{mark.silence_ms:.0f} ms of {mark.asked_ms}{own}"
    figures = mark.figures
    assert figures is not None
    parts: list[tuple[str, Any]] = [
        ("x{:.2f} as long", figures.duration_ratio),
        ("{:+.1f} dB", figures.energy_db),
        ("{:+.1f} st", figures.pitch_semitones),
    ]
    if mark.kind == "emph":
        parts.append((f"prominence {{:.2f}}, rank {figures.rank}", figures.prominence))
    else:
        parts = [("level {:+.1f} st", mark.level_semitones), ("rise {:+.1f} st", figures.rise_semitones)]
    line = ", ".join(form.format(value) for form, value in parts if value is not None)
    change = mark.change
    if change is None:
        return line
    return (
        f"{line}; against the reference x{change.duration_ratio:.2f}, {change.energy_db:+.1f} dB, "
        f"{change.pitch_semitones:+.1f} st, departure {change.departure:.1f}"
    )
