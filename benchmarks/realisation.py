"""Measure `synth.acoustics.realise`: are the marks audible afterwards, and what else changes?

    python benchmarks/realisation.py --speech DIR                       # WAV + JSON, as neural/make.py makes them
    python benchmarks/realisation.py --speech DIR                       # WAV + marked text in NAME.txt, times by a recogniser
    python benchmarks/realisation.py --backend embedded --sentences benchmarks/sentences/test.txt
    ... [--only emphasis|pauses|pitch|quality] [--limit 40] [--strength high] [--json out.json] [--plots DIR] [--judge PYTHON]

Every sentence is spoken without its marks. Then `realise` adds them, with the word times of our aligner ("realised") and, as an
upper bound, with the known times ("with known times"). The score always uses the known times, mapped through the changes that
`realise` made to the times that it was given. The rows:

- emphasised word on top: the share of sentences whose marked word is the most prominent, by `synth.acoustics.prominence`, which
  `realise` itself optimises, and by an independent scorer (`hearing.py`). In the control the mark is on another content word,
  drawn at random, and either word is looked for.
- pauses: the silence at the slot has the requested length, or the voice's own where that is longer, within 20 ms.
- pitch marks: high and low move the word by 2 semitones relative to the others; rising and falling words rise or fall by 2, which
  may already be so in plain speech.
- false: unmarked words that sound emphasised afterwards (two of: 15 % longer, 3 dB louder, 2 semitones higher), and new silences.
- WER and DNSMOS by neural/judge.py, in the environment described in neural/README.md.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hearing
import numpy as np
import scores
import soundfile
from listening import recognise, times_of
from rich.console import Console
from rich.progress import track
from rich.table import Table

from prosody_tagger.markup import PITCHES, Mark, MarkedText, parse, plain
from synth.acoustics.align import Alignment, align
from synth.acoustics.measure import measure
from synth.acoustics.realise import realise
from synth.acoustics.report import Report
from synth.base import Audio, Speech, SpeechRequest, Strength, WordTime
from synth.embedded.backend import EmbeddedVoice

JUDGE = Path(".venv-neural/bin/python")
PROGRESS = Console(stderr=True)
SEED = 7
WAYS = (("realised", False), ("with known times", True))
QUESTIONS = ("emphasis", "pauses", "pitch", "quality")


@dataclass(frozen=True)
class Clip:
    """A sentence spoken without its marks, with its true word times.

    ``own`` is the sentence with the marks that the voice renders itself, if it renders any.
    """

    name: str
    marked: MarkedText
    audio: Audio
    known: tuple[WordTime, ...]
    own: tuple[Audio, tuple[WordTime, ...]] | None = None


@dataclass(frozen=True)
class Trial:
    """A clip after `realise`, with the true word times in the new audio."""

    clip: Clip
    marked: MarkedText
    audio: Audio
    times: tuple[WordTime, ...]
    warnings: tuple[str, ...]
    report: Report | None = None


@dataclass
class StepTimes:
    """Seconds spent in each step, and seconds of input audio."""

    spent: dict[str, float] = field(default_factory=dict)
    audio: float = 0.0

    def add(self, step: str, since: float) -> None:
        self.spent[step] = self.spent.get(step, 0.0) + time.perf_counter() - since


def recorded(folder: Path, judge: Path) -> list[Clip]:
    """Return recordings with known times in NAME.json, or with marked text in NAME.txt and times by a recogniser."""
    clips = []
    texts = sorted(path for path in folder.glob("*.txt") if path.with_suffix(".wav").exists())
    if texts and not judge.exists():
        raise SystemExit(f"no {judge}, and NAME.txt gives no word times; benchmarks/neural/README.md says how to make it")
    recognised = recognise(judge, [path.with_suffix(".wav") for path in texts]) if texts else []
    for path, words in zip(texts, recognised, strict=True):
        samples, rate = soundfile.read(path.with_suffix(".wav"), dtype="float32", always_2d=True)
        marked = parse(path.read_text(encoding="utf-8").strip())
        audio = Audio(samples.mean(axis=1), rate)
        clips.append(Clip(path.stem, marked, audio, times_of(marked.text, words, audio.seconds)))
    for path in sorted(folder.glob("*.json")):
        known = json.loads(path.read_text(encoding="utf-8"))
        samples, rate = soundfile.read(path.with_suffix(".wav"), dtype="float32")
        times = tuple(WordTime(word["word"], word["offset"], word["start"], word["end"]) for word in known["words"])
        clips.append(Clip(path.stem, parse(known["marked"]), Audio(samples, rate), times))
    return clips


async def embedded(lines: Sequence[str], voice: EmbeddedVoice) -> list[Clip]:
    """Return the sentences spoken by the embedded voice, with its own word times."""
    clips = []
    for number, line in enumerate(lines):
        marked = parse(line)
        stress = MarkedText(marked.text, tuple(mark for mark in marked.marks if not mark.is_pause))
        clips.append(Clip(f"{number:03d}", marked, *await _spoken(voice, plain(marked.text)), await _spoken(voice, stress)))
    return clips


async def _spoken(voice: EmbeddedVoice, marked: MarkedText) -> tuple[Audio, tuple[WordTime, ...]]:
    chunks = [chunk async for chunk in voice.speak(SpeechRequest(marked))]
    assert len(chunks) == 1
    assert chunks[0].words is not None
    return chunks[0].audio, chunks[0].words


class Bench:
    """Realises marks in every clip in the ways that the questions need."""

    def __init__(self, clips: Sequence[Clip], voice: EmbeddedVoice, strength: Strength, *, known_alone: bool) -> None:
        self.clips = clips
        self.clock = StepTimes(audio=sum(clip.audio.seconds for clip in clips))
        self.ways = WAYS[known_alone:]
        self._voice = voice
        self._strength = strength
        self._aligned: dict[str, Alignment] = {}

    async def align(self) -> None:
        """Align every clip with our aligner, and time it."""
        await align(self.clips[0].audio, self.clips[0].marked, self._voice)  # imports and starts the voice, which is not timed
        for clip in track(self.clips, "aligning", transient=True, console=PROGRESS):
            begun = time.perf_counter()
            self._aligned[clip.name] = await align(clip.audio, clip.marked, self._voice)
            self.clock.add("align", begun)

    def aligned(self, clip: Clip) -> Alignment:
        return self._aligned[clip.name]

    def realised(self, change: Callable[[Clip], MarkedText], *, known: bool = False, timed: bool = False) -> list[Trial]:
        """Return every clip with the marks that ``change`` gives it, realised at our aligner's times or the known ones."""
        trials = []
        for clip in track(self.clips, "realising", transient=True, console=PROGRESS):
            marked = change(clip)
            given, trusted = (clip.known, True) if known else (self.aligned(clip).words, self.aligned(clip).trusted)
            begun = time.perf_counter()
            made = realise(Speech(clip.audio, tuple(given), marked.marks), marked, strength=self._strength, trusted=trusted)
            report = None
            if timed:
                self.clock.add("realise", begun)
                begun = time.perf_counter()
                report = measure(made.audio, marked, made.words)
                self.clock.add("measure", begun)
            times = made.words if known else scores.carried(clip.known, given, made.words, clip.audio, made.audio)
            trials.append(Trial(clip, marked, made.audio, tuple(times), tuple(made.warnings), report))
        return trials


def stress_alone(clip: Clip) -> MarkedText:
    """Return the clip's text with its emphasis only."""
    return MarkedText(clip.marked.text, tuple(mark for mark in clip.marked.marks if mark.kind == "emph"))


def stress_elsewhere(clip: Clip) -> MarkedText:
    """Return the text with the emphasis on another content word, drawn at random, the same in every run."""
    at = scores.stressed(clip.marked)
    others = [index for index in scores.content_words(clip.marked) if index != at]
    index = random.Random(f"{SEED} {clip.marked.text}").choice(others)
    return MarkedText(clip.marked.text, (Mark("emph", clip.marked.words[index].start),))


def every_mark(clip: Clip) -> MarkedText:
    return clip.marked


def with_pauses(clip: Clip) -> MarkedText:
    """Return the text with its own pauses; if it has none, with one at its first punctuation and one elsewhere, drawn at random."""
    if scores.slots(clip.marked):
        return MarkedText(clip.marked.text, tuple(mark for mark in clip.marked.marks if mark.is_pause))
    words = clip.marked.words
    punctuated = [slot for slot in range(1, len(words)) if scores.at_punctuation(clip.marked, slot)]
    free = [slot for slot in range(1, len(words)) if slot not in punctuated]
    chosen = [*punctuated[:1], random.Random(f"{SEED} {clip.marked.text}").choice(free)]
    return MarkedText(clip.marked.text, tuple(Mark("pause_short", words[slot].start) for slot in chosen))


def with_pitch(clip: Clip) -> MarkedText:
    """Return the text with its own pitch marks; if it has none, with a random one on a random content word."""
    own = tuple(mark for mark in clip.marked.marks if mark.kind in PITCHES)
    if own:
        return MarkedText(clip.marked.text, own)
    draw = random.Random(f"{SEED} {clip.marked.text}")
    word = clip.marked.words[draw.choice(scores.content_words(clip.marked))]
    return MarkedText(clip.marked.text, (Mark(draw.choice(PITCHES), word.start),))


def share(hits: Sequence[bool]) -> dict[str, float]:
    return {"share": sum(hits) / len(hits) if hits else float("nan"), "of": len(hits)}


def alignment(bench: Bench) -> dict[str, float]:
    """Return statistics of the errors of word starts, in milliseconds."""
    errors: list[float] = []
    for clip in bench.clips:
        found = bench.aligned(clip).words
        errors.extend(1000 * (ours.start - known.start) for ours, known in zip(found, clip.known, strict=True))
    lag = statistics.median(errors)
    plain_errors, moved = np.abs(errors), np.abs(np.array(errors) - lag)
    return {
        "median": float(np.median(plain_errors)),
        "p90": float(np.percentile(plain_errors, 90)),
        "offset": lag,
        "median without offset": float(np.median(moved)),
        "p90 without offset": float(np.percentile(moved, 90)),
        "words": len(errors),
        "clips not trusted": sum(not bench.aligned(clip).trusted for clip in bench.clips),
    }


def emphasis(bench: Bench) -> dict[str, Any]:
    """Return how often the word looked for is the most prominent, for each row."""
    rows: dict[str, list[tuple[str, Audio, Sequence[WordTime], int]]] = {
        "plain": [(clip.name, clip.audio, clip.known, scores.stressed(clip.marked)) for clip in bench.clips],
        "by the voice itself": [(clip.name, *clip.own, scores.stressed(clip.marked)) for clip in bench.clips if clip.own],
    }
    for name, known in bench.ways:
        trials = bench.realised(stress_alone, known=known)
        rows[name] = [(trial.clip.name, trial.audio, trial.times, scores.stressed(trial.marked)) for trial in trials]
    name, known = bench.ways[0]
    trials = bench.realised(stress_elsewhere, known=known)
    first, other = "mark elsewhere: first word", "mark elsewhere: its word"
    rows[first] = [(trial.clip.name, trial.audio, trial.times, scores.stressed(trial.clip.marked)) for trial in trials]
    rows[other] = [(trial.clip.name, trial.audio, trial.times, scores.stressed(trial.marked)) for trial in trials]
    return {name: _on_top(row) for name, row in rows.items() if row}


def _on_top(row: Sequence[tuple[str, Audio, Sequence[WordTime], int]]) -> dict[str, Any]:
    wavelet = [scores.most_prominent(audio, times) == index for _, audio, times, index in row]
    apart = [hearing.most_prominent(audio, times) == index for _, audio, times, index in row]
    missed = [name for (name, *_), hit in zip(row, wavelet, strict=True) if not hit]
    return {"wavelet": share(wavelet), "scorer apart": share(apart), "missed": missed}


def pauses(bench: Bench) -> dict[str, Any]:
    """Return how often pauses have the right length."""
    found: dict[str, Any] = {}
    for name, known in bench.ways:
        hits: dict[str, list[bool]] = {"at punctuation": [], "elsewhere": []}
        missed, misplaced = [], []
        for trial in bench.realised(with_pauses, known=known):
            clip = trial.clip
            errors = scores.pause_errors(clip.audio, clip.known, trial.audio, trial.times, trial.marked)
            for slot, (error, distance) in errors.items():
                is_true = abs(error) <= scores.PAUSE_WITHIN
                hits["at punctuation" if scores.at_punctuation(trial.marked, slot) else "elsewhere"].append(is_true)
                misplaced.append(1000 * distance)
                if not is_true:
                    missed.append(f"{clip.name}, before word {slot + 1}: {1000 * error:+.0f} ms")
        found[name] = {place: share(row) for place, row in hits.items()} | {
            "misplaced by ms, 90th percentile": float(np.nanpercentile(misplaced, 90)),
            "at most": float(np.nanmax(misplaced)),
            "missed": missed,
        }
    return found


def pitch(bench: Bench) -> dict[str, Any]:
    """Return how often pitch marks move their word by 2 semitones."""
    rows = {name: bench.realised(with_pitch, known=known) for name, known in bench.ways}
    spoken = [Trial(clip, with_pitch(clip), clip.audio, clip.known, ()) for clip in bench.clips]
    return {name: _pitches(trials) for name, trials in {"plain": spoken, **rows}.items()}


def _pitches(trials: Sequence[Trial]) -> dict[str, Any]:
    by_kind: dict[str, list[float]] = {}
    for trial in trials:
        clip = trial.clip
        for mark in trial.marked.marks:
            index = scores.word_of(clip.marked, mark)
            semitones = scores.pitch_of(clip.audio, clip.known, trial.audio, trial.times, index, mark.kind)
            by_kind.setdefault(mark.kind, []).append(semitones)
    return {
        kind: {**share([value >= scores.PITCH_SEMITONES for value in row]), "median semitones": float(np.nanmedian(row))}
        for kind, row in sorted(by_kind.items())
    }


def quality(bench: Bench, judge: Path | None, plots: Path | None) -> dict[str, Any]:
    """Return what the sentences sound like with all of their marks."""
    trials = bench.realised(every_mark, known=bench.ways[0][1], timed=True)
    marks = [mark for trial in trials if trial.report for mark in trial.report.marks]
    found: dict[str, Any] = {
        "clips with warnings": sum(bool(trial.warnings) for trial in trials),
        "marks heard, says measure": share([mark.realised for mark in marks]),
    }
    for name, count in (("words", scores.false_words), ("pauses", scores.false_pauses)):
        pairs = [count(trial.clip.audio, trial.clip.known, trial.audio, trial.times, trial.marked) for trial in trials]
        hits, of = (sum(column) for column in zip(*pairs, strict=True))
        found[f"false {name}"] = {"share": hits / of, "of": of}
    found["seconds a second of audio"] = {step: spent / bench.clock.audio for step, spent in bench.clock.spent.items()}
    if judge:
        texts = [clip.marked.text for clip in bench.clips]
        found["before"] = judged(judge, texts, [clip.audio for clip in bench.clips])
        found["after"] = judged(judge, texts, [trial.audio for trial in trials])
    if plots:
        pictures(trials[:: max(1, len(trials) // 6)], plots)
    return found


def pictures(trials: Sequence[Trial], folder: Path) -> None:
    from synth.acoustics.plot import draw

    folder.mkdir(parents=True, exist_ok=True)
    for trial in trials:
        clip = trial.clip
        before = draw(clip.audio, measure(clip.audio, trial.marked, clip.known))
        after = draw(trial.audio, measure(trial.audio, trial.marked, trial.times))
        (folder / f"{clip.name}_before.png").write_bytes(before)
        (folder / f"{clip.name}_after.png").write_bytes(after)


def judged(python: Path, texts: Sequence[str], sounds: Sequence[Audio]) -> dict[str, Any]:
    """Return word error rate and DNSMOS by neural/judge.py; ``python`` is that of its environment."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{number}.wav") for number in range(len(sounds))]
        for path, audio in zip(paths, sounds, strict=True):
            soundfile.write(path, audio.samples, audio.rate, subtype="PCM_16")
        worker = Path(__file__).parent / "neural" / "judge.py"
        done = subprocess.run(
            [python, worker], input="\n".join(paths) + "\n", stdout=subprocess.PIPE, text=True, check=True, encoding="utf-8"
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    counts = [scores.word_errors(text, answer["text"]) for text, answer in zip(texts, answers, strict=True)]
    return {
        "WER": sum(errors for errors, _ in counts) / sum(of for _, of in counts),
        "DNSMOS": statistics.mean(answer["mos"] for answer in answers),
        "missed": [answer["text"] for answer, (errors, _) in zip(answers, counts, strict=True) if errors],
    }


def show(found: dict[str, Any], console: Console) -> None:
    for question, part in found.items():
        table = Table(title=question, title_justify="left", show_header=False)
        for name, value in part.items():
            if isinstance(value, dict):
                cells = [f"{key} {_cell(inner)}" for key, inner in value.items() if key != "missed"]
                table.add_row(name, _cell(value) if "share" in value else ", ".join(cells))
            else:
                table.add_row(name, _cell(value))
        console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        details = f" ({value['median semitones']:+.1f})" if "median semitones" in value else ""
        return f"{100 * value['share']:.1f} % of {value['of']}{details}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, help="a folder of NAME.wav with NAME.json (known word times) or NAME.txt")
    parser.add_argument("--backend", choices=["embedded"], help="speak --sentences with a voice of ours")
    parser.add_argument("--sentences", type=Path, default=Path(__file__).parent / "sentences" / "test.txt")
    parser.add_argument("--only", choices=QUESTIONS, nargs="+", default=QUESTIONS)
    parser.add_argument("--limit", type=int, help="use only this many clips")
    parser.add_argument("--strength", choices=["low", "medium", "high"], default="medium")
    parser.add_argument("--known", action="store_true", help="use only the known times, not the aligner")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plots", type=Path, help="a folder for pictures, before and after (with quality; needs matplotlib)")
    parser.add_argument("--judge", type=Path, default=JUDGE, help="the Python of neural/README.md's environment")
    asked = parser.parse_args()
    if not (asked.speech or asked.backend):
        parser.error("give --speech DIR or --backend embedded")
    asked.lines = asked.sentences.read_text(encoding="utf-8").splitlines()
    return asked


async def run(asked: argparse.Namespace) -> None:
    console = Console(width=132)
    voice = EmbeddedVoice()
    clips = recorded(asked.speech, asked.judge) if asked.speech else await embedded(asked.lines, voice)
    if asked.limit and asked.limit < len(clips):  # evenly spaced, because the list is grouped by kind of mark
        clips = [clips[round(index)] for index in np.linspace(0, len(clips) - 1, asked.limit)]
    bench = Bench(clips, voice, asked.strength, known_alone=asked.known)
    found: dict[str, Any] = {}
    if not asked.known:
        await bench.align()
        found["word starts, ms"] = alignment(bench)
    if "emphasis" in asked.only:
        found["emphasised word on top"] = emphasis(bench)
    if "pauses" in asked.only:
        found["pauses true within 20 ms"] = pauses(bench)
    if "pitch" in asked.only:
        found["pitch marks, 2 semitones or more"] = pitch(bench)
    if "quality" in asked.only:
        judge = asked.judge if asked.judge.exists() else None
        if judge is None:
            console.print(f"no {asked.judge}: WER and DNSMOS are left out; benchmarks/neural/README.md says how to make it")
        found["quality"] = quality(bench, judge, asked.plots)
    await voice.close()
    console.print(f"{len(clips)} clips, {sum(clip.audio.seconds for clip in clips):.0f} s, strength {asked.strength}")
    show(found, console)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(run(arguments()))
