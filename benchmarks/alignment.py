"""Measure alignment: the errors of word times, the processor time, and whether wrong texts are distinguished from right ones.

python benchmarks/alignment.py --speech DIR [--language en-us] [--json]

DIR contains recordings, each a WAV with a JSON file of the same name that gives the text and the times of its words in seconds:
{"text": "Good morning.", "words": [{"start": 0.31, "end": 0.52}, {"start": 0.52, "end": 1.04}]}. Wrong texts come from the other
recordings of the folder: another text of about the same length, a sentence too many, and one too few. White noise replaces the
audio in a further case.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from prosody_tagger.segment import segment_words
from synth.acoustics.align import TRUSTED, Alignment, align
from synth.base import Audio
from synth.embedded.backend import EmbeddedVoice


@dataclass(frozen=True)
class TimedRecording:
    """A recording with its text and the true start and end of each word, shape [words], in seconds."""

    name: str
    audio: Audio
    text: str
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]


def read(folder: Path) -> list[TimedRecording]:
    """Return the recordings of a folder."""
    clips = []
    for path in sorted(folder.glob("*.wav")):
        samples, rate = soundfile.read(path, dtype="float32")
        known = json.loads(path.with_suffix(".json").read_text("utf-8"))
        times = np.array([(word["start"], word["end"]) for word in known["words"]])
        if len(segment_words(known["text"])) != len(times):
            raise SystemExit(f"{path.name}: {len(times)} times for {len(segment_words(known['text']))} words")
        clips.append(TimedRecording(path.stem, Audio(samples, rate), known["text"], times[:, 0], times[:, 1]))
    if len(clips) < 3:
        raise SystemExit(f"{folder} contains {len(clips)} recordings; wrong texts need at least three")
    return clips


class Aligner:
    """Aligns with one backend and language."""

    def __init__(self, language: str | None) -> None:
        self._backend, self._language = EmbeddedVoice(), language

    def __call__(self, audio: Audio, text: str) -> Alignment:
        return asyncio.run(align(audio, text, self._backend, language=self._language))


def summary(errors: NDArray[np.float64]) -> dict[str, float]:
    """Return statistics, in milliseconds, of errors in seconds."""
    ms = 1000 * errors
    size = np.abs(ms)
    return {
        "median_ms": float(np.median(size)),
        "p90_ms": float(np.percentile(size, 90)),
        "bias_ms": float(np.median(ms)),
        "within_50_ms": float(np.mean(size <= 50)),
    }


def accuracy(clips: Sequence[TimedRecording], found: Sequence[Alignment]) -> dict[str, dict[str, float]]:
    """Return the statistics of the errors of word starts and ends."""
    pairs = list(zip(clips, found, strict=True))
    starts = np.concatenate([[word.start for word in each.words] - clip.starts for clip, each in pairs])
    ends = np.concatenate([[word.end for word in each.words] - clip.ends for clip, each in pairs])
    return {"start": summary(starts), "end": summary(ends)}


def joined(clips: Sequence[TimedRecording]) -> Audio:
    """Return the audio of several recordings with 300 ms of silence after each."""
    rate = clips[0].audio.rate
    gap = np.zeros(round(0.3 * rate), np.float32)
    return Audio(np.concatenate([part for clip in clips for part in (clip.audio.samples, gap)]), rate)


def confidences_of_wrong_texts(clips: Sequence[TimedRecording], aligner: Aligner) -> dict[str, list[float]]:
    """Return the confidences in wrong texts by the kind of error, and for comparison those in two right sentences."""
    rng = np.random.default_rng(0)
    cases = ("two sentences", "other text", "one missing", "one too many", "noise")
    found: dict[str, list[float]] = {name: [] for name in cases}
    for index, clip in enumerate(clips):
        others = [other for other in clips if other.text != clip.text and other.audio.rate == clip.audio.rate]
        order = sorted(others, key=lambda other: abs(len(other.text) - len(clip.text)))
        other = order[int(rng.integers(min(5, len(order))))]
        same_voice = [each for each in others if each.name.partition("_")[2] == clip.name.partition("_")[2]] or others
        follower = same_voice[int(rng.integers(len(same_voice)))]
        noise = Audio(rng.standard_normal(len(clip.audio.samples)).astype(np.float32) / 10, clip.audio.rate)
        found["other text"].append(aligner(clip.audio, other.text).confidence)
        if index % 2 == 0:
            both = f"{clip.text} {follower.text}"
            found["two sentences"].append(aligner(joined([clip, follower]), both).confidence)
            found["one missing"].append(aligner(clip.audio, both).confidence)
            found["one too many"].append(aligner(joined([clip, follower]), clip.text).confidence)
            found["noise"].append(aligner(noise, clip.text).confidence)
    return found


def separation(right: NDArray[np.float64], found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return for each kind how often a right text has a higher confidence than a wrong one (AUC), and the share trusted."""
    rows = {"right text": {"auc": float("nan"), "trusted": float(np.mean(right >= TRUSTED))}}
    for name, values in found.items():
        wrong = np.array(values)
        above = np.mean([np.mean(wrong < value) + np.mean(wrong == value) / 2 for value in right])
        rows[name] = {"auc": float(above), "trusted": float(np.mean(wrong >= TRUSTED))}
    rows["two sentences"]["auc"] = float("nan")  # this text is right
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True, metavar="DIR")
    parser.add_argument("--language", help="of the embedded voice; its default is en-us")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    clips = read(options.speech)
    aligner = Aligner(options.language)
    aligner(clips[0].audio, clips[0].text)  # starts the voice
    began, work = time.perf_counter(), time.process_time()
    found = [aligner(clip.audio, clip.text) for clip in clips]
    seconds = sum(clip.audio.seconds for clip in clips)
    cost = {"wall": (time.perf_counter() - began) / seconds, "processor": (time.process_time() - work) / seconds}
    errors = accuracy(clips, found)
    trust = separation(np.array([each.confidence for each in found]), confidences_of_wrong_texts(clips, aligner))
    if options.json:
        print(json.dumps({"clips": len(clips), "seconds": seconds, "errors": errors, "trust": trust, "seconds_per_second": cost}))
        return
    print(f"{len(clips)} recordings, {seconds:.0f} s, {sum(len(clip.starts) for clip in clips)} words")
    print("error     median      p90     bias   <= 50 ms")
    for name, row in errors.items():
        print(f"{name:6}{row['median_ms']:7.1f} ms{row['p90_ms']:6.1f} ms{row['bias_ms']:6.1f} ms{row['within_50_ms']:9.1%}")
    print("required for starts: <= 40 ms and 120 ms; aim: <= 20 ms and 60 ms")
    print(f"time per second of audio: {cost['wall']:.4f} s, {cost['processor']:.4f} s of this process  (required: <= 0.03)")
    print("is it trusted?    AUC    trusted")
    for name, row in trust.items():
        print(f"{name:14}{row['auc']:7.3f}{row['trusted']:11.1%}")


if __name__ == "__main__":
    main()
