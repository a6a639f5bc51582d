"""Plot a recording and its marks: waveform, pitch, energy and the prominence of each word."""

import io
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from prosody_tagger.extras import install_command
from synth.acoustics.contours import measure_contours
from synth.acoustics.report import MarkReport, Report
from synth.base import Audio
from synth.errors import BackendUnavailable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AUDIBLE, _MISSED, _PLAIN, _FALSE = "#1b7f4d", "#c8322b", "#8fa3b8", "#d98a00"
_WAVE, _PITCH, _ENERGY, _GRID = "#4c5f73", "#2a5fb0", "#7a4fa3", "#e3e8ee"
_LABELS = {
    "emph": "emph",
    "pitch_high": "high",
    "pitch_low": "low",
    "pitch_rising": "rising",
    "pitch_falling": "falling",
    "pause_short": "pause",
    "pause_long": "pause",
}
_INCHES_A_SECOND, _NARROWEST, _WIDEST = 2.4, 8.0, 60.0
_POINTS = 4000  # of the waveform's outline
_LETTER_INCHES = 0.075  # average width of a letter


def check_plotting() -> None:
    """Check that a plot can be drawn, so that a command fails before its work.

    Raises:
        BackendUnavailable: matplotlib is not installed; the message names the extra.
    """
    if find_spec("matplotlib") is None:
        raise BackendUnavailable(f"a plot needs matplotlib: {install_command('plot')}")


def draw(audio: Audio, report: Report) -> bytes:
    """Draw a recording with its report and return the PNG.

    Marked words are green if their mark is audible and red if not; words that stand out without a mark are orange.

    Raises:
        BackendUnavailable: matplotlib is not installed.
        BadInput: audio that cannot be measured.
    """
    check_plotting()
    from matplotlib.figure import Figure

    width = min(_WIDEST, max(_NARROWEST, _INCHES_A_SECOND * report.seconds))
    figure = Figure(figsize=(width, 7.2), layout="constrained")
    wave, pitch, energy, prominence = figure.subplots(4, 1, sharex=True, height_ratios=(1.5, 1.2, 0.9, 1.2))
    contours = measure_contours(audio)
    times = np.arange(len(contours.energy)) * contours.step
    _draw_waveform(wave, audio)
    pitch.plot(times, 2 ** (contours.semitones / 12), color=_PITCH, linewidth=1.8)
    energy.fill_between(times, contours.energy, -40, where=contours.energy > -40, color=_ENERGY, alpha=0.25, linewidth=0)
    energy.plot(times, np.maximum(contours.energy, -40), color=_ENERGY, linewidth=1.2)
    _draw_prominences(prominence, report)
    for axes, name in ((wave, "waveform"), (pitch, "pitch, Hz"), (energy, "energy, dB"), (prominence, "prominence")):
        axes.set_ylabel(name)
        axes.margins(x=0)
        axes.spines[["top", "right"]].set_visible(False)
    letters_per_second = width / max(report.seconds, 1e-9) / _LETTER_INCHES
    _draw_words((wave, pitch, energy, prominence), report, letters_per_second)
    _draw_pauses((wave, pitch, energy), report)
    wave.set_title(_title(report), loc="left", fontsize=11)
    prominence.set_xlim(0, max(report.seconds, 1e-3))
    prominence.set_xlabel("seconds")
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # scripts that the font lacks are drawn as boxes
        figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _draw_waveform(axes: "Axes", audio: Audio) -> None:
    """Draw the waveform as the minimum and maximum of some thousand stretches."""
    step = max(1, len(audio.samples) // _POINTS)
    usable = audio.samples[: len(audio.samples) // step * step].reshape(-1, step)
    times = (np.arange(len(usable)) + 0.5) * step / audio.rate
    axes.fill_between(times, usable.min(axis=1), usable.max(axis=1), color=_WAVE, linewidth=0.4, edgecolor=_WAVE)
    axes.set_yticks([])


def _draw_prominences(axes: "Axes", report: Report) -> None:
    """Draw a bar for each word, as wide as its duration."""
    colours = _colours(report)
    for word in report.words:
        if word.end > word.start:
            axes.bar(
                (word.start + word.end) / 2,
                word.prominence,
                width=0.92 * (word.end - word.start),
                color=colours.get(word.offset, _PLAIN),
            )
    axes.set_ylim(0, 1.15 * max([word.prominence for word in report.words], default=1.0) or 1.0)


def _colours(report: Report) -> dict[int, str]:
    """Return the colour of each word that is marked or stands out without a mark, by its offset."""
    colours = {item.offset: _FALSE for item in report.false if item.kind == "emph"}
    for mark in report.marks:
        if mark.figures is not None:
            colours[mark.figures.offset] = _AUDIBLE if mark.realised else _MISSED
    return colours


def _draw_words(panels: "tuple[Axes, ...]", report: Report, letters_per_second: float) -> None:
    """Draw the words below the waveform, their boundaries through all panels, and the marks above them.

    A word with more letters than ``letters_per_second`` leaves room for is drawn smaller.
    """
    colours = _colours(report)
    wave = panels[0]
    # Extend the waveform panel for the words below the wave and the marks above it.
    low, high = wave.get_ylim()
    span = (high - low) or 1.0
    wave.set_ylim(low - 0.30 * span, high + 0.22 * span)
    for word in report.words:
        if word.end <= word.start:
            continue
        colour = colours.get(word.offset)
        for axes in panels:
            axes.axvline(word.start, color=_GRID, linewidth=0.8, zorder=0)
            axes.axvline(word.end, color=_GRID, linewidth=0.8, zorder=0)
            if colour:
                axes.axvspan(word.start, word.end, color=colour, alpha=0.10, linewidth=0, zorder=0)
        room = max(1, int((word.end - word.start) * letters_per_second))
        label = word.word.replace("$", r"\$")
        wave.text(
            (word.start + word.end) / 2,
            low - 0.06 * span,
            label,
            ha="center",
            va="top",
            fontsize=9 if len(word.word) <= room else max(5.5, 9 * room / len(word.word)),
            color=colour or "#222222",
            fontweight="bold" if colour else "normal",
        )
    for mark in report.marks:
        if mark.figures is not None:
            at = (mark.figures.start + mark.figures.end) / 2
            _draw_label(wave, mark, at, high + 0.05 * span, _LABELS[mark.kind])


def _draw_pauses(panels: "tuple[Axes, ...]", report: Report) -> None:
    """Draw a band at each pause mark, with the measured and the requested length."""
    wave = panels[0]
    level = wave.get_ylim()[1]
    audible = [word for word in report.words if word.end > word.start]
    drawn: set[int] = set()
    for mark in report.marks:
        if mark.silence_ms is None or mark.offset in drawn or not audible:
            continue
        drawn.add(mark.offset)
        after = next((word for word in audible if word.offset >= mark.offset), None)
        before = next((word for word in reversed(audible) if word.offset < mark.offset), None)
        middle = ((before.end if before else 0.0) + (after.start if after else report.seconds)) / 2
        half = mark.silence_ms / 2000
        colour = _AUDIBLE if mark.realised else _MISSED
        for axes in panels:
            axes.axvspan(middle - half, middle + half, color=colour, alpha=0.13, linewidth=0, zorder=0)
        _draw_label(wave, mark, middle, level, f"{mark.silence_ms:.0f} of {mark.asked_ms} ms")


def _draw_label(axes: "Axes", mark: MarkReport, at: float, height: float, text: str) -> None:
    """Draw the label of a mark, in the colour of a mark that is audible or of one that is not."""
    alignment: dict[str, Any] = {"va": "top"} if mark.figures is None else {"va": "bottom"}
    axes.text(at, height, text, ha="center", fontsize=8.5, color=_AUDIBLE if mark.realised else _MISSED, **alignment)


def _title(report: Report) -> str:
    summary = f"{report.realised} of {report.asked} marks audible" if report.asked else "no marks"
    return f"{summary}, {len(report.false)} unmarked" if report.false else summary
