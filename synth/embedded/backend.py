"""The embedded voice: espeak-ng inside this project, with stress and pitch put into its sound word by word.

What goes to espeak-ng is plain text, without SSML, because its tags cannot do what the marks ask: ``<emphasis>`` lowers the pitch,
``<prosody>`` knows no contour, does nothing at the ends of the ranges of rate and pitch, and hits another word where the dictionary
joins two. So every mark is made in the sound of its word (`synth.audio.psola`), and the other words stay as they are, sample
for sample.
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
from synth.audio.psola import Edit, Points, modify
from synth.audio.signal import FRAME_SECONDS, silence_level
from synth.base import Audio, Capabilities, Speech, SpeechRequest, Strength, Synthesizer, Voice, WordTime
from synth.embedded import espeak
from synth.errors import RefusedRequest
from synth.lowering import add_comma
from synth.normalisation import SpokenWord, spoken_words

MAX_CHARS = 2000
SLOWEST, FASTEST = 0.25, 4.0


class EmbeddedSettings(BaseModel):
    """How the embedded voice sounds where a request does not say.

    Attributes:
        voice: a name from `EmbeddedVoice.voices`.
        pitch: the voice's own pitch, 0 to 99; a step is about a quarter of a semitone.
        words_per_minute: what a request's speed 1.0 means.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    voice: str = "en-us"
    pitch: int = Field(default=50, ge=0, le=99)
    words_per_minute: int = Field(default=165, ge=espeak.SLOWEST, le=espeak.FASTEST)


class _Amounts(NamedTuple):
    """What an strength means: for emph the factor of duration, the gain and the rise in semitones; how far pitch marks go."""

    stretch: float
    gain_db: float
    rise: float
    bend: float


_STRENGTHS: Mapping[Strength, _Amounts] = {
    "low": _Amounts(1.28, 3.0, 3.0, 3.0),
    "medium": _Amounts(1.40, 4.5, 4.5, 4.5),
    "high": _Amounts(1.55, 6.0, 6.0, 6.0),
}

_PLACES = (0.0, 0.15, 0.85, 1.0)
_CONTOURS: Mapping[str, tuple[float, ...]] = {
    "emph": (0.5, 1.0, 1.0, 0.5),
    "pitch_high": (0.5, 1.0, 1.0, 0.5),
    "pitch_low": (-0.5, -1.0, -1.0, -0.5),
    "pitch_rising": (-0.5, -0.5, 1.0, 1.0),
    "pitch_falling": (0.75, 0.75, -0.75, -0.75),
}
"""The pitch of a word at `_PLACES` of what is voiced of it, as parts of the amounts."""

_FLAT: Points = ((0.0, 0.0),)


class _Part(NamedTuple):
    """Where a word lies in the sound: samples ``[start, end)``, none if it is not heard."""

    start: int
    end: int


class _Script(NamedTuple):
    """What the engine is given.

    Attributes:
        words: the user's words, and what is said for each.
        text: all of it, with the punctuation between the words.
        starts: where in ``text`` the share of each word begins.
        weights: letters, digits and signs of each word that are said; 0 if it makes no sound.
    """

    words: tuple[SpokenWord, ...]
    text: str
    starts: tuple[int, ...]
    weights: tuple[int, ...]


class EmbeddedVoice(Synthesizer):
    """espeak-ng. It needs no server, no GPU and no download. Making one costs nothing: the engine starts at the first request.

    All objects of this class share one worker, which speaks one piece after another. The same request is the same sound.

    A piece that ends a sentence keeps espeak-ng's silence after it. One that is ``unfinished`` ends in the tune of a comma, and
    without that silence.
    """

    name = "embedded"

    def __init__(self, settings: EmbeddedSettings | None = None) -> None:
        self._settings = settings or EmbeddedSettings()

    @property
    def capabilities(self) -> Capabilities:
        """Pauses are for whoever joins the pieces; all other marks are made here.

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
        """One for each language and accent.

        Raises:
            BackendUnavailable: espeak-ng is not installed.
            RefusedRequest: the settings name a voice that there is not.
        """
        default = self._find(None)
        ordered = sorted(_names().items(), key=lambda item: (item[1] is not default, item[0]))
        return tuple(Voice(name, voice.languages[0], voice.title) for name, voice in ordered)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        """Speak one piece, as one chunk. Pauses in it are left, and so are marks whose word is not heard.

        Raises:
            RefusedRequest: unknown voice, speed out of range, text too long.
            BackendUnavailable: espeak-ng is missing or does not start.
            BackendError: espeak-ng failed on this text.
        """
        length = len(request.text.text)
        if length > MAX_CHARS:
            raise RefusedRequest(f"a text of {length} characters is too long for one request; give at most {MAX_CHARS} at a time")
        if not SLOWEST <= request.speed <= FASTEST:
            raise RefusedRequest(f"speed {request.speed:g} is out of range; give {SLOWEST:g} to {FASTEST:g}")
        voice = self._find(request.voice)
        espeak.WORKER.wake()
        script = await asyncio.to_thread(_script, request, voice.languages[0])
        if not any(script.weights):
            yield _speech(request, script, espeak.SILENT, 1.0, LOWEST_HZ)
            return
        wanted = self._settings.words_per_minute * request.speed
        kept = min(max(wanted, espeak.SLOWEST), espeak.FASTEST)
        order = espeak.Request(script.text, voice.path, round(kept), self._settings.pitch, end_pause=not request.unfinished)
        utterance = await espeak.WORKER.speak(order)
        yield await asyncio.to_thread(_speech, request, script, utterance, kept / wanted, espeak.lowest_pitch(order.pitch))

    async def close(self) -> None:
        """End the engine's process, once the pieces before are spoken. A later request starts it again."""
        await espeak.WORKER.rest()

    def _find(self, name: str | None) -> espeak.EspeakVoice:
        asked = self._settings.voice if name is None else name
        wanted = asked.strip().lower().replace("_", "-")
        known = {**_other_names(), **_names()}
        if wanted in known:
            return known[wanted]
        nearest = closest(wanted, known)
        hint = f"did you mean {nearest!r}? " if nearest else ""
        raise RefusedRequest(f"the embedded voice has no voice {asked!r}; {hint}`prosody voices` lists all")


@lru_cache(maxsize=1)
def _names() -> Mapping[str, espeak.EspeakVoice]:
    """The voices by name: the tag of the main language, or the name of the file where another voice has that tag."""
    names: dict[str, espeak.EspeakVoice] = {}
    for voice in espeak.voices():
        tag = voice.languages[0]
        names[voice.path.name.lower() if tag in names else tag] = voice
    return names


@lru_cache(maxsize=1)
def _other_names() -> Mapping[str, espeak.EspeakVoice]:
    """What else a voice may be called: its file's name ("fr" for "fr-fr"), and the tags of its other languages."""
    voices = espeak.voices()
    tags = {tag: voice for voice in reversed(voices) for tag in voice.languages[1:]}
    return {**tags, **{voice.path.name.lower(): voice for voice in voices}}


_SAID = regex.compile(r"[\p{L}\p{N}\p{S}%&@#*]")


def _script(request: SpeechRequest, language: str) -> _Script:
    """What to say for each word. What stands between the words stays as far as it shapes the intonation.

    A comma where a pause will be lets the voice lead up to it.
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
        said = espeak.readable(item.spoken)
        weights.append(len(_SAID.findall(said)))
        between = source[position : item.word.start]
        apart = between or run + len(said) > espeak.LONGEST_RUN
        piece = f" {espeak.readable(between)} {said}".replace("  ", " ") if apart else said
        run = len(piece) - piece.rfind(" ") - 1 + (0 if " " in piece else run)
        text += piece
        position = item.word.end
    text = f"{text} {espeak.readable(source[position:])}".rstrip()
    if request.unfinished:
        text = add_comma(text)
    return _Script(words, text, tuple(starts), tuple(weights))


def _speech(request: SpeechRequest, script: _Script, utterance: espeak.Utterance, stretch: float, lowest: float) -> Speech:
    """The utterance with its marks made and its length multiplied by ``stretch``; ``lowest`` is the voice's lowest pitch in Hz."""
    parts = _parts(script, utterance)
    kinds: dict[int, set[str]] = {}
    unrealised: list[Mark] = []
    runs = [item.word for item in script.words]
    for mark in request.text.marks:
        index = word_after(runs, mark.offset)
        if mark.is_pause or index is None or parts[index].start == parts[index].end:
            unrealised.append(mark)
        else:
            kinds.setdefault(index, set()).add(mark.kind)
    edits = _edits(parts, kinds, _STRENGTHS[request.strength], stretch, len(utterance.samples))
    samples, before, after = modify(utterance.samples, espeak.RATE, edits, lowest)
    times = np.interp(np.array(parts, dtype=np.float64).reshape(-1, 2), before, after) / espeak.RATE
    source = request.text.text
    heard = tuple(
        WordTime(word.core(source), word.core_start, float(start), float(end))
        for word, (start, end) in zip(runs, times, strict=True)
    )
    return Speech(Audio(samples, espeak.RATE), heard, tuple(unrealised))


def _parts(script: _Script, utterance: espeak.Utterance) -> list[_Part]:
    """Where each word lies.

    The engine tells where a word of its own begins, which may be several of the user's ("of the") or a part of one ("299"). Words
    that it does not tell of share the sound of the one before them by their letters. A word ends where its sound does.
    """
    begins: list[tuple[int, int]] = []
    for offset, sample in utterance.words:
        index = bisect_right(script.starts, offset) - 1
        if not begins:
            begins.append((0, sample))
        elif index > begins[-1][0]:
            begins.append((index, sample))
    begins = begins or [(0, 0)]
    begins.append((len(script.words), len(utterance.samples)))
    frame = round(FRAME_SECONDS * espeak.RATE)
    loud = _loud_frames(utterance, frame)
    parts: list[_Part] = []
    for (first, start), (last, limit) in pairwise(begins):
        heard = loud[: bisect_right(loud, (limit - 1) // frame)]
        end = max(start, min(limit, (heard[-1] + 1) * frame)) if heard else start
        shares = np.cumsum([0, *script.weights[first:last]])
        cuts = start + (end - start) * shares // max(1, shares[-1])
        parts.extend(_Part(int(begin), int(stop)) for begin, stop in pairwise(cuts))
    return parts


def _loud_frames(utterance: espeak.Utterance, frame: int) -> list[int]:
    """Numbers of the frames that are not silence."""
    whole = utterance.samples[: len(utterance.samples) // frame * frame].reshape(-1, frame)
    level = silence_level(Audio(utterance.samples, espeak.RATE))
    loud: list[int] = np.flatnonzero(np.mean(np.square(whole, dtype=np.float64), axis=1) > level**2).tolist()
    return loud


def _edits(
    parts: Sequence[_Part], kinds: Mapping[int, Collection[str]], amounts: _Amounts, stretch: float, length: int
) -> list[Edit]:
    """What to change: the words that bear marks, and if all is to be ``stretch`` times as long, everything."""
    edits: list[Edit] = []
    position = 0
    for index, part in enumerate(parts):
        marks = kinds.get(index, ())
        if part.start == part.end or (not marks and stretch == 1.0):
            continue
        if stretch != 1.0 and part.start > position:
            edits.append(Edit(position, part.start, stretch, 0.0, _FLAT))
        edits.append(_edit(part, marks, amounts, stretch))
        position = part.end
    if stretch != 1.0 and length > position:
        edits.append(Edit(position, length, stretch, 0.0, _FLAT))
    return edits


def _edit(part: _Part, marks: Collection[str], amounts: _Amounts, stretch: float) -> Edit:
    heights = np.zeros(len(_PLACES))
    for kind in marks:
        heights += np.array(_CONTOURS[kind]) * (amounts.rise if kind == "emph" else amounts.bend)
    gain = amounts.gain_db if "emph" in marks else 0.0
    if "emph" in marks:
        stretch *= amounts.stretch
    return Edit(part.start, part.end, stretch, gain, tuple(zip(_PLACES, heights.tolist(), strict=True)))
