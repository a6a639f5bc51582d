"""The embedded backend: espeak-ng, with emphasis and pitch marks applied to the audio of each marked word.

espeak-ng gets plain text without SSML, because its tags cannot express the marks: ``<emphasis>`` lowers the pitch, ``<prosody>``
has no contour, has no effect at the ends of the ranges of rate and pitch, and changes the wrong word where the dictionary joins
two. Instead, every mark is realised in the audio of its word (`synth.audio.psola`); the samples of other words do not change.

Marks are rendered by fixed amounts, without the measuring loop of `synth.acoustics.emphasis`: word times are exact, the amounts put
the marked word on top in 92 to 96 of 100 sentences, and the loop would make a request 3.6 times as expensive
(`benchmarks/results/2026-11-30-emphasis-ways.md`).
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import regex
from pydantic import BaseModel, ConfigDict, Field

from prosody_tagger.markup import KINDS, PAUSES, Mark, closest
from prosody_tagger.segment import word_after
from synth.audio.pitch import LOWEST_HZ
from synth.audio.psola import Edit, PitchPoints, modify
from synth.audio.signal import FRAME_SECONDS, silence_level
from synth.audio.time_stretch import check_speed
from synth.base import Audio, Capabilities, Speech, SpeechRequest, Strength, Synthesizer, Voice, WordTime
from synth.embedded import espeak
from synth.errors import RefusedRequest
from synth.lowering import add_comma
from synth.normalisation import SpokenWord, spoken_words

MAX_CHARS = 2000


class EmbeddedSettings(BaseModel):
    """Defaults of the embedded voice.

    Attributes:
        voice: default voice, a name from `EmbeddedVoice.voices`.
        pitch: pitch of the voice, 0 to 99; a step is about a quarter of a semitone.
        words_per_minute: rate of speech at speed 1.0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    voice: str = "en-us"
    pitch: int = Field(default=50, ge=0, le=99)
    words_per_minute: int = Field(default=165, ge=espeak.SLOWEST, le=espeak.FASTEST)


class _MarkStrength(NamedTuple):
    """How strongly marks change a word.

    Attributes:
        stretch: factor of the duration, for emph.
        gain_db: change of the level in dB, for emph.
        rise: change of the pitch in semitones, for emph.
        bend: change of the pitch in semitones, for pitch marks.
    """

    stretch: float
    gain_db: float
    rise: float
    bend: float


_STRENGTHS: Mapping[Strength, _MarkStrength] = {
    "low": _MarkStrength(1.28, 3.0, 3.0, 3.0),
    "medium": _MarkStrength(1.40, 4.5, 4.5, 4.5),
    "high": _MarkStrength(1.55, 6.0, 6.0, 6.0),
}
"""benchmarks/embedded_marks.py measures what these do to the marked words of ten sentences."""

_POSITIONS = (0.0, 0.15, 0.85, 1.0)
_CONTOURS: Mapping[str, tuple[float, ...]] = {
    "emph": (0.5, 1.0, 1.0, 0.5),
    "pitch_high": (0.5, 1.0, 1.0, 0.5),
    "pitch_low": (-0.5, -1.0, -1.0, -0.5),
    "pitch_rising": (-0.5, -0.5, 1.0, 1.0),
    "pitch_falling": (0.75, 0.75, -0.75, -0.75),
}
"""Pitch contour of a marked word: the change at each of `_POSITIONS` of its voiced part, as a factor of ``rise`` or ``bend``."""

_FLAT: PitchPoints = ((0.0, 0.0),)


class _SampleRange(NamedTuple):
    """The samples ``[start, end)`` of a word; empty if the word is not spoken."""

    start: int
    end: int


class _EngineText(NamedTuple):
    """The input of the engine.

    Attributes:
        words: the words of the written text and their spoken forms.
        text: the spoken forms with the punctuation between them.
        starts: offset in ``text`` at which each word's spoken form begins.
        weights: number of spoken letters, digits and symbols of each word; 0 if it makes no sound.
    """

    words: tuple[SpokenWord, ...]
    text: str
    starts: tuple[int, ...]
    weights: tuple[int, ...]


class EmbeddedVoice(Synthesizer):
    """espeak-ng, which needs no server, no GPU and no download. The engine starts at the first request.

    All instances share one worker, which processes one request at a time. Equal requests return equal samples.

    A piece that ends a sentence keeps espeak-ng's final silence. An ``unfinished`` piece ends with the intonation of a comma and
    without that silence.
    """

    name = "embedded"

    def __init__(self, settings: EmbeddedSettings | None = None) -> None:
        self._settings = settings or EmbeddedSettings()

    @property
    def capabilities(self) -> Capabilities:
        """The pipeline inserts pauses ("realised"); all other marks are rendered here.

        Raises:
            BackendUnavailable: espeak-ng is not installed.
        """
        return Capabilities(
            marks={kind: "realised" if kind in PAUSES else "rendered" for kind in KINDS},
            rate=espeak.RATE,
            languages=tuple(sorted({voice.languages[0] for voice in espeak.voices()})),
            max_chars=MAX_CHARS,
            word_times=True,
        )

    async def voices(self) -> tuple[Voice, ...]:
        """Return one voice for each language and accent, the default first.

        Raises:
            BackendUnavailable: espeak-ng is not installed.
            RefusedRequest: the voice in the settings does not exist.
        """
        default = self._find_voice(None)
        ordered = sorted(_voices_by_name().items(), key=lambda item: (item[1] is not default, item[0]))
        return tuple(Voice(name, voice.languages[0], voice.title) for name, voice in ordered)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        """Speak one piece and yield it as one chunk. Its pauses and the marks of silent words are returned as unrealised.

        Raises:
            RefusedRequest: unknown voice, speed out of range, text too long.
            BackendUnavailable: espeak-ng is missing or does not start.
            BackendError: espeak-ng failed on this text.
        """
        length = len(request.text.text)
        if length > MAX_CHARS:
            raise RefusedRequest(f"a text of {length} characters is too long for one request; give at most {MAX_CHARS} at a time")
        check_speed(request.speed)
        voice = self._find_voice(request.voice)
        espeak.WORKER.start()
        engine_text = await asyncio.to_thread(_engine_text, request, voice.languages[0])
        if not any(engine_text.weights):
            yield _build_speech(request, engine_text, (espeak.NO_AUDIO, ()), 1.0, LOWEST_HZ)
            return
        wanted = self._settings.words_per_minute * request.speed
        kept = min(max(wanted, espeak.SLOWEST), espeak.FASTEST)
        pitch, end_pause = self._settings.pitch, not request.unfinished
        spoken = await espeak.WORKER.speak(engine_text.text, voice.path, round(kept), pitch, end_pause=end_pause)
        lowest = espeak.lowest_pitch(pitch)
        yield await asyncio.to_thread(_build_speech, request, engine_text, spoken, kept / wanted, lowest)

    async def close(self) -> None:
        """End the engine's process after the pending requests. A later request starts it again."""
        await espeak.WORKER.stop()

    def _find_voice(self, name: str | None) -> espeak.EspeakVoice:
        asked = self._settings.voice if name is None else name
        wanted = asked.strip().lower().replace("_", "-")
        known = {**_voices_by_alias(), **_voices_by_name()}
        if wanted in known:
            return known[wanted]
        nearest = closest(wanted, known)
        hint = f"did you mean {nearest!r}? " if nearest else ""
        raise RefusedRequest(f"the embedded voice has no voice {asked!r}; {hint}`prosody voices` lists all")


@lru_cache(maxsize=1)
def _voices_by_name() -> Mapping[str, espeak.EspeakVoice]:
    """Return the voices by name: the tag of the main language, or the file name if another voice has that tag."""
    names: dict[str, espeak.EspeakVoice] = {}
    for voice in espeak.voices():
        tag = voice.languages[0]
        names[voice.path.name.lower() if tag in names else tag] = voice
    return names


@lru_cache(maxsize=1)
def _voices_by_alias() -> Mapping[str, espeak.EspeakVoice]:
    """Return the voices by other accepted names: the file name ("fr" for "fr-fr") and the tags of further languages."""
    voices = espeak.voices()
    tags = {tag: voice for voice in reversed(voices) for tag in voice.languages[1:]}
    return {**tags, **{voice.path.name.lower(): voice for voice in voices}}


_SPOKEN_CHARACTER = regex.compile(r"[\p{L}\p{N}\p{S}%&@#*]")


def _engine_text(request: SpeechRequest, language: str) -> _EngineText:
    """Return the engine's input for a request. Punctuation between the words is kept if it shapes the intonation.

    A comma before each later pause makes the voice lead up to it.
    """
    source = request.text.text
    words = spoken_words(request.text, language)
    text = ""
    run = position = 0
    starts, weights = [], []
    for item in words:
        if item.word.start in request.breaks:
            text = add_comma(text)
        starts.append(len(text))
        said = espeak.sanitise(item.spoken)
        weights.append(len(_SPOKEN_CHARACTER.findall(said)))
        between = source[position : item.word.start]
        apart = between or run + len(said) > espeak.MAX_RUN
        piece = f" {espeak.sanitise(between)} {said}".replace("  ", " ") if apart else said
        run = len(piece) - piece.rfind(" ") - 1 + (0 if " " in piece else run)
        text += piece
        position = item.word.end
    text = f"{text} {espeak.sanitise(source[position:])}".rstrip()
    if request.unfinished:
        text = add_comma(text)
    return _EngineText(words, text, tuple(starts), tuple(weights))


def _build_speech(
    request: SpeechRequest,
    engine_text: _EngineText,
    spoken: tuple[Audio, espeak.WordStarts],
    stretch: float,
    lowest: float,
) -> Speech:
    """Return the engine's audio with its marks realised.

    Args:
        request: the request.
        engine_text: the engine's input for it.
        spoken: the engine's output.
        stretch: factor of the duration, for speeds outside the engine's range.
        lowest: lowest pitch of the voice, Hz.
    """
    audio, word_starts = spoken
    ranges = _word_ranges(engine_text, audio, word_starts)
    kinds: dict[int, set[str]] = {}
    unrealised: list[Mark] = []
    runs = [item.word for item in engine_text.words]
    for mark in request.text.marks:
        index = word_after(runs, mark.offset)
        if mark.is_pause or index is None or ranges[index].start == ranges[index].end:
            unrealised.append(mark)
        else:
            kinds.setdefault(index, set()).add(mark.kind)
    edits = _build_edits(ranges, kinds, _STRENGTHS[request.strength], stretch, len(audio.samples))
    samples, before, after = modify(audio.samples, audio.rate, edits, lowest)
    times = np.interp(np.array(ranges, dtype=np.float64).reshape(-1, 2), before, after) / espeak.RATE
    source = request.text.text
    heard = tuple(
        WordTime(word.core(source), word.core_start, float(start), float(end))
        for word, (start, end) in zip(runs, times, strict=True)
    )
    return Speech(Audio(samples, espeak.RATE), heard, tuple(unrealised))


def _word_ranges(engine_text: _EngineText, audio: Audio, word_starts: espeak.WordStarts) -> list[_SampleRange]:
    """Return the sample range of each word.

    The engine reports where its own words begin, which may be several written words ("of the") or a part of one ("299"). Words that
    it does not report share the audio of the one before them in proportion to their letters. A word ends with its last loud frame.
    """
    begins: list[tuple[int, int]] = []
    for offset, sample in word_starts:
        index = bisect_right(engine_text.starts, offset) - 1
        if not begins:
            begins.append((0, sample))
        elif index > begins[-1][0]:
            begins.append((index, sample))
    begins = begins or [(0, 0)]
    begins.append((len(engine_text.words), len(audio.samples)))
    frame = round(FRAME_SECONDS * espeak.RATE)
    loud = _loud_frames(audio, frame)
    ranges: list[_SampleRange] = []
    for (first, start), (last, limit) in pairwise(begins):
        heard = loud[: bisect_right(loud, (limit - 1) // frame)]
        end = max(start, min(limit, (heard[-1] + 1) * frame)) if heard else start
        shares = np.cumsum([0, *engine_text.weights[first:last]])
        cuts = start + (end - start) * shares // max(1, shares[-1])
        ranges.extend(_SampleRange(int(begin), int(stop)) for begin, stop in pairwise(cuts))
    return ranges


def _loud_frames(audio: Audio, frame: int) -> list[int]:
    """Return the indices of the frames that are not silent."""
    whole = audio.samples[: len(audio.samples) // frame * frame].reshape(-1, frame)
    level = silence_level(audio)
    loud: list[int] = np.flatnonzero(np.mean(np.square(whole, dtype=np.float64), axis=1) > level**2).tolist()
    return loud


def _build_edits(
    ranges: Sequence[_SampleRange], kinds: Mapping[int, Collection[str]], amounts: _MarkStrength, stretch: float, length: int
) -> list[Edit]:
    """Return the edits: the marked words, and if ``stretch`` is not 1, everything else as well."""
    edits: list[Edit] = []
    position = 0
    for index, word_range in enumerate(ranges):
        marks = kinds.get(index, ())
        if word_range.start == word_range.end or (not marks and stretch == 1.0):
            continue
        if stretch != 1.0 and word_range.start > position:
            edits.append(Edit(position, word_range.start, stretch, 0.0, _FLAT))
        edits.append(_word_edit(word_range, marks, amounts, stretch))
        position = word_range.end
    if stretch != 1.0 and length > position:
        edits.append(Edit(position, length, stretch, 0.0, _FLAT))
    return edits


def _word_edit(word_range: _SampleRange, marks: Collection[str], amounts: _MarkStrength, stretch: float) -> Edit:
    heights = np.zeros(len(_POSITIONS))
    for kind in marks:
        heights += np.array(_CONTOURS[kind]) * (amounts.rise if kind == "emph" else amounts.bend)
    gain = amounts.gain_db if "emph" in marks else 0.0
    if "emph" in marks:
        stretch *= amounts.stretch
    return Edit(word_range.start, word_range.end, stretch, gain, tuple(zip(_POSITIONS, heights.tolist(), strict=True)))
