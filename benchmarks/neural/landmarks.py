"""Measure the errors of the network's own times and of the calibrated ones at landmarks that are visible in the audio.

    python benchmarks/neural/landmarks.py DIR [DIR ...]

Next to a vowel, a fricative (s, z, ʃ) begins and ends where the high frequencies cross the middle of their range, and a stop (p, t,
k, b, d, ɡ) begins at its closure. The table gives for each voice, within words and between them, the network's time minus the
landmark's (median, median absolute deviation, 10th and 90th percentile), and the error after calibration (`times.py`: median and
90th percentile), in milliseconds. Times between words are those of the space.
"""

import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from times import INSIDE

VOWELS = frozenset("aeiouæɑɒɔəɛɜɪʊʌᵻAIOQWY")
FRICATIVES = frozenset("szʃ")
STOPS = frozenset("ptkbdɡ")
DEEP_DB = 12.0


def band(samples: NDArray[np.float32], rate: int, low: float, high: float) -> NDArray[np.float64]:
    """Return the power between two frequencies in dB, every millisecond, in windows of 6 ms."""
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / rate)
    wave = np.fft.irfft(np.where((hertz >= low) & (hertz < high), spectrum, 0), len(samples))
    width = round(0.006 * rate)
    energy = np.concatenate([[0.0], np.cumsum(np.pad(wave, width // 2) ** 2)])
    starts = np.arange(0, len(samples), rate // 1000)
    return 10 * np.log10((energy[starts + width] - energy[starts]) / width + 1e-10)


def crossing(curve: NDArray[np.float64]) -> int | None:
    """Return where a curve rises through the middle of its range, or None unless it does so exactly once."""
    if len(curve) < 20:
        return None
    middle = (np.percentile(curve, 10) + np.percentile(curve, 90)) / 2
    found = np.flatnonzero((curve[:-1] < middle) & (curve[1:] >= middle))
    return int(found[0]) if len(found) == 1 else None


def landmarks(recording: dict[str, Any], samples: NDArray[np.float32], rate: int) -> list[tuple[str, float, float]]:
    """Return for each landmark its kind, and the network's and the calibrated time minus its own, in seconds."""
    hissing = band(samples, rate, 4500, rate / 2) - band(samples, rate, 100, 1500)
    closing = -band(samples, rate, 100, 3500)
    phones = recording["phones"]
    spoken = [index for index, phone in enumerate(phones) if phone["phone"] not in " ˈˌ"]
    found = []
    for first, second in pairwise(spoken):
        left, right = phones[first]["phone"], phones[second]["phone"]
        if left in VOWELS and right in FRICATIVES:
            curve, stop = hissing, False
        elif left in FRICATIVES and right in VOWELS:
            curve, stop = -hissing, False
        elif left in VOWELS and right in STOPS:
            curve, stop = closing, True
        else:
            continue
        begin = _middle(phones, first)
        end = phones[second + 1]["nominal"] if stop else _middle(phones, second)
        part = curve[round(1000 * begin) : round(1000 * end)]
        if stop:
            part = part[: int(np.argmax(part)) + 1] if len(part) else part
            if not len(part) or np.ptp(part) < DEEP_DB:
                continue
        position = crossing(part)
        if position is not None:
            landmark = round(1000 * begin) / 1000 + position / 1000
            own = phones[first + 1]["nominal"] - landmark  # of the space, the stress mark or the second symbol
            name = "within words" if phones[first]["word"] == phones[second]["word"] else "between words"
            found.append((name, own, phones[second]["start"] - landmark))
    return found


def _middle(phones: Sequence[dict[str, Any]], index: int) -> float:
    """Return the approximate middle of a symbol in the audio."""
    return (phones[index]["nominal"] + phones[index + 1]["nominal"]) / 2 - INSIDE


def main() -> None:
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for folder in sys.argv[1:]:
        for path in sorted(Path(folder).glob("*.json")):
            recording = json.loads(path.read_text(encoding="utf-8"))
            samples, rate = soundfile.read(path.with_suffix(".wav"), dtype="float32")
            for kind, own, calibrated in landmarks(recording, samples, rate):
                for voice in (recording["voice"], "all voices"):
                    rows.setdefault((kind, voice), []).append((1000 * own, 1000 * calibrated))
    sys.stdout.write(f"{'':28s}  number   median  MAD   10th  90th   calibrated: median  90th\n")
    for (kind, voice), values in sorted(rows.items()):
        own, calibrated = np.array(values).T
        middle = np.median(own)
        low, high = np.percentile(own, [10, 90])
        after = np.percentile(np.abs(calibrated), [50, 90])
        sys.stdout.write(
            f"{kind:16s}{voice:12s}  {len(own):6d}  {middle:7.0f}{np.median(np.abs(own - middle)):5.0f}{low:7.0f}{high:6.0f}"
            f"  {after[0]:19.0f}{after[1]:6.0f}\n"
        )


if __name__ == "__main__":
    main()
