"""How near do word times come that are found by aligning, what does it cost, and are wrong texts told from right ones?

python benchmarks/alignment.py --speech DIR [--language en-us] [--json]

DIR holds recordings, each a WAV with a JSON file of the same name that gives the text and the times of its words in seconds:
{"text": "Good morning.", "words": [{"start": 0.31, "end": 0.52}, {"start": 0.52, "end": 1.04}]}. Wrong texts are made from the
other recordings of the folder: another text of about the same length, a sentence more than is said, one less; and white noise in
place of the sound.
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
class Clip:
    name: str
    audio: Audio
    text: str
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]


def read(folder: Path) -> list[Clip]:
    clips = []
    for path in sorted(folder.glob("*.wav")):
        samples, rate = soundfile.read(path, dtype="float32")
        told = json.loads(path.with_suffix(".json").read_text("utf-8"))
        times = np.array([(word["start"], word["end"]) for word in told["words"]])
        if len(segment_words(told["text"])) != len(times):
            raise SystemExit(f"{path.name}: {len(times)} times for {len(segment_words(told['text']))} words")
        clips.append(Clip(path.stem, Audio(samples, rate), told["text"], times[:, 0], times[:, 1]))
    if len(clips) < 3:
        raise SystemExit(f"{folder} holds {len(clips)} recordings; three are the least, to make wrong texts from")
    return clips


class Aligner:
    def __init__(self, language: str | None) -> None:
        self._voice, self._language = EmbeddedVoice(), language

    def __call__(self, audio: Audio, text: str) -> Alignment:
        return asyncio.run(align(audio, text, self._voice, language=self._language))


def summary(errors: NDArray[np.float64]) -> dict[str, float]:
    """Of errors in seconds."""
    ms = 1000 * errors
    size = np.abs(ms)
    return {
        "median_ms": float(np.median(size)),
        "p90_ms": float(np.percentile(size, 90)),
        "bias_ms": float(np.median(ms)),
        "within_50_ms": float(np.mean(size <= 50)),
    }


def accuracy(clips: Sequence[Clip], found: Sequence[Alignment]) -> dict[str, dict[str, float]]:
    pairs = list(zip(clips, found, strict=True))
    starts = np.concatenate([[word.start for word in each.words] - clip.starts for clip, each in pairs])
    ends = np.concatenate([[word.end for word in each.words] - clip.ends for clip, each in pairs])
    return {"start": summary(starts), "end": summary(ends)}


def together(clips: Sequence[Clip]) -> Audio:
    rate = clips[0].audio.rate
    gap = np.zeros(round(0.3 * rate), np.float32)
    return Audio(np.concatenate([part for clip in clips for part in (clip.audio.samples, gap)]), rate)


def wrong(clips: Sequence[Clip], aligner: Aligner) -> dict[str, list[float]]:
    """The confidence in each wrong text, by what is wrong with it; and in two right sentences, to compare with."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in ("two sentences", "other text", "one missing", "one too many", "noise")}
    for index, clip in enumerate(clips):
        others = [other for other in clips if other.text != clip.text and other.audio.rate == clip.audio.rate]
        order = sorted(others, key=lambda other: abs(len(other.text) - len(clip.text)))
        other = order[int(rng.integers(min(5, len(order))))]
        same_voice = [each for each in others if each.name.partition("_")[2] == clip.name.partition("_")[2]] or others
        follower = same_voice[int(rng.integers(len(same_voice)))]
        sound = Audio(rng.standard_normal(len(clip.audio.samples)).astype(np.float32) / 10, clip.audio.rate)
        found["other text"].append(aligner(clip.audio, other.text).confidence)
        if index % 2 == 0:
            both = f"{clip.text} {follower.text}"
            found["two sentences"].append(aligner(together([clip, follower]), both).confidence)
            found["one missing"].append(aligner(clip.audio, both).confidence)
            found["one too many"].append(aligner(together([clip, follower]), clip.text).confidence)
            found["noise"].append(aligner(sound, clip.text).confidence)
    return found


def separation(right: NDArray[np.float64], found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """For each kind: how often a right text is more trusted than a wrong one (AUC), and the share that is trusted."""
    told = {"right text": {"auc": float("nan"), "trusted": float(np.mean(right >= TRUSTED))}}
    for name, values in found.items():
        wrong_ones = np.array(values)
        above = np.mean([np.mean(wrong_ones < value) + np.mean(wrong_ones == value) / 2 for value in right])
        told[name] = {"auc": float(above), "trusted": float(np.mean(wrong_ones >= TRUSTED))}
    told["two sentences"]["auc"] = float("nan")  # a right text as well
    return told


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
    trust = separation(np.array([each.confidence for each in found]), wrong(clips, aligner))
    if options.json:
        print(json.dumps({"clips": len(clips), "seconds": seconds, "errors": errors, "trust": trust, "seconds_per_second": cost}))
        return
    print(f"{len(clips)} recordings, {seconds:.0f} s, {sum(len(clip.starts) for clip in clips)} words")
    print("error     median      p90     bias   <= 50 ms")
    for name, row in errors.items():
        print(f"{name:6}{row['median_ms']:7.1f} ms{row['p90_ms']:6.1f} ms{row['bias_ms']:6.1f} ms{row['within_50_ms']:9.1%}")
    print("start must be <= 40 ms and 120 ms, is meant to be <= 20 ms and 60 ms")
    print(f"time a second of audio: {cost['wall']:.4f} s, {cost['processor']:.4f} s of this process  (must be <= 0.03)")
    print("is it trusted?    AUC    trusted")
    for name, row in trust.items():
        print(f"{name:14}{row['auc']:7.3f}{row['trusted']:11.1%}")


if __name__ == "__main__":
    main()
