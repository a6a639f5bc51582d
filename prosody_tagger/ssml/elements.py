"""Meaning of SSML's elements, attributes and values."""

import re
from collections.abc import Mapping
from itertools import pairwise

from prosody_tagger.markup import PAUSE_MS, PAUSES

NAMESPACE = "http://www.w3.org/2001/10/synthesis"
_PREFIXES: Mapping[str, str] = {
    NAMESPACE: "",
    "http://www.w3.org/XML/1998/namespace": "xml:",
    "http://www.w3.org/2001/XMLSchema-instance": "xsi:",
}
"""Namespace to the prefix under which this package knows its names; SSML's own names have none."""

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "speak": ("version", "xml:lang", "xml:space", "xsi:schemaLocation"),
    "p": ("xml:lang",),
    "s": ("xml:lang",),
    "break": ("time", "strength"),
    "emphasis": ("level",),
    "prosody": ("pitch", "contour"),
    "sub": ("alias",),
    "say-as": ("interpret-as", "format", "detail"),
}
"""Supported elements and their attributes."""

NOT_INSIDE: Mapping[str, tuple[str, ...]] = {
    "speak": ("speak",),
    "p": ("p", "s", "sub"),
    "s": ("s", "sub"),
    "sub": ("sub",),
}
"""Element to the elements that must not contain it."""

BREAK_STRENGTHS: Mapping[str, str | None] = {
    "none": None,
    "x-weak": None,
    "weak": "pause_short",
    "medium": "pause_short",
    "strong": "pause_long",
    "x-strong": "pause_long",
}
EMPHASIS_LEVELS: Mapping[str, bool] = {"strong": True, "moderate": True, "reduced": False, "none": False}
PITCH_LABELS: Mapping[str, int] = {"x-low": -2, "low": -1, "medium": 0, "default": 0, "high": 1, "x-high": 2}

PROSODY_ADVICE: Mapping[str, str] = {
    "rate": "set the speed for the whole text instead",
    "duration": "set the speed for the whole text instead",
    "volume": "leave it out, or make words stand out with <emphasis>",
    "range": "leave it out, or move words with pitch",
}
"""What to do instead of using an unsupported attribute of <prosody>."""

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9}"
_TIME = re.compile(rf"\+?(?P<number>{_NUMBER})(?P<unit>ms|s)")
_PITCH = re.compile(rf"(?P<sign>[+-]?)(?P<number>{_NUMBER})(?P<unit>%|st|Hz)")
_POINT = re.compile(rf"\s*\(\s*(?P<time>{_NUMBER})%\s*,\s*(?P<pitch>[^\s()]{{1,32}})\s*\)\s*")


def prefixed_name(expanded: str) -> str:
    """Return the name of an element or attribute from expat's "namespace name prefix", with the prefix of `_PREFIXES`."""
    if " " not in expanded:
        return expanded
    namespace, name, *prefix = expanded.split(" ")
    known = _PREFIXES.get(namespace)
    if known is None:
        known = f"{prefix[0]}:" if prefix else f"{{{namespace}}}"
    return known + name


def parse_milliseconds(time: str) -> int | None:
    """Return a length such as "500ms" or "1.5s" in whole milliseconds; None if it cannot be read."""
    length = _TIME.fullmatch(time)
    return round(float(length["number"]) * (1000 if length["unit"] == "s" else 1)) if length else None


def parse_pitch(value: str) -> tuple[str, float] | None:
    """Return a pitch as (unit, height); None if it cannot be read.

    The unit is "label", or "change" or "absolute" followed by the unit of the number, as in "change st".
    """
    if value in PITCH_LABELS:
        return "label", PITCH_LABELS[value]
    pitch = _PITCH.fullmatch(value)
    if pitch is None:
        return None
    return f"{'change' if pitch['sign'] else 'absolute'} {pitch['unit']}", float(pitch["sign"] + pitch["number"])


def contour_mark(contour: str) -> str | None:
    """Return the mark for a contour that never falls (pitch_rising) or never rises (pitch_falling); None for any other."""
    points: list[tuple[float, float]] = []
    units: set[str] = set()
    position = 0
    while position < len(contour):
        point = _POINT.match(contour, position)
        pitch = parse_pitch(point["pitch"]) if point else None
        if point is None or pitch is None:
            return None
        units.add(pitch[0])
        points.append((float(point["time"]), pitch[1]))
        position = point.end()
    steps = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(points)]
    if len(units) != 1 or any(time <= 0 for time, _ in steps):
        return None
    rises, falls = any(step > 0 for _, step in steps), any(step < 0 for _, step in steps)
    if rises == falls:
        return None
    return "pitch_rising" if rises else "pitch_falling"


def nearest_pause(ms: int) -> str:
    """Return the kind of pause whose default length is nearest to ``ms`` milliseconds."""
    return min(PAUSES, key=lambda kind: abs(PAUSE_MS[kind] - ms))
