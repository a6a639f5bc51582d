"""The natural backend: a small neural voice whose marks are obeyed inside the network.

The network of PyPI hibari-tts (a distillation of Kokoro-82M's voice af_heart) is cut open at its durations and at its pitch and
energy (`synth.natural.network`), and the marks are changes of these (`synth.natural.emphasis_marks`). An emphasis is first made by
fixed amounts; if a look at the prominence of the result finds another word that rivals it, it is made again, stronger. Word times
come from the durations. The voice reads American English alone.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from prosody_tagger.markup import KINDS, PAUSES, Mark
from prosody_tagger.segment import Word, word_after
from synth.acoustics.prominence import prominence
from synth.audio.signal import FADE_SECONDS, NO_SAMPLES, Samples
from synth.audio.time_stretch import check_speed, time_stretch
from synth.base import Audio, Capabilities, Speech, SpeechRequest, Strength, Synthesizer, Voice, WordTime
from synth.errors import BackendUnavailable, RefusedRequest
from synth.natural.emphasis_marks import EMPHASIS, PITCH_SEMITONES, ease, emphasise, turn
from synth.natural.network import FRAME_SECONDS, RATE, SpeechNetwork, network
from synth.natural.package import VERSION, read_model
from synth.natural.pronunciation import Pronunciation, Symbol, pronounce, with_stress
from synth.natural.settings import NaturalSettings
from synth.natural.utterance import Utterance
from synth.natural.word_timing import Stretch, silent_stretches, time_words

MAX_CHARS = 400
"""Longest text of a request, in code points; the network's memory grows with the square of its input."""

VOICE = Voice("heart", "en-us", f"American English, female (hibari-tts {VERSION}, distilled from Kokoro-82M's af_heart)")

_MOST_SYMBOLS = 400  # of one run of the network; the spoken form of a request can be longer than its text
_SLOWEST, _FASTEST = 0.5, 2.0  # made by durations; speeds beyond are made by stretching the audio
_ROUNDS = 5  # most renderings of a sentence with emphasis; 1.3 on average
_CLEAR: Mapping[Strength, float] = {"low": 1.0, "medium": 1.15, "high": 1.15}
"""How far the prominence of an emphasised word must exceed that of every other word, as a factor."""
_EASING, _MOST_EASING = 0.35, 1.4  # of a rival word: added in each round, and at most
_PAD_FRAMES = 8  # of the pad at the start, whose own 25 to 30 frames are silence
_LEAD_SECONDS = 0.030  # silence kept before the first word,
_TAIL_SECONDS = 0.250  # after the last word of a sentence,
_INNER_SECONDS = 0.030  # and after the last word of a part of a sentence
_BREAK_SECONDS = 0.100  # most of the durations of a comma and a space before a break
_BREAK_SILENCE = 0.180  # most silence at a break: the pause that is asked for is longer, and silence is only added to
_CROSSFADE_SECONDS = 0.005


class NaturalVoice(Synthesizer):
    """The voice of hibari-tts, which needs no server, no GPU and no download. The network is loaded at the first request.

    All instances share one network. Equal requests return equal samples. A text in another script is a `BackendError`, so that the
    caller can have another voice speak it.
    """

    name = "natural"

    def __init__(self, settings: NaturalSettings | None = None) -> None:
        self._settings = settings or NaturalSettings()

    @property
    def capabilities(self) -> Capabilities:
        """Pauses are made by the caller ("realised"), all other marks here ("rendered")."""
        return Capabilities(
            marks={kind: "realised" if kind in PAUSES else "rendered" for kind in KINDS},
            rate=RATE,
            languages=(VOICE.language,),
            max_chars=MAX_CHARS,
            word_times=True,
            at_once=2,
        )

    async def voices(self) -> tuple[Voice, ...]:
        """Return the one voice.

        Raises:
            RefusedRequest: the voice in the settings does not exist.
        """
        self._check_voice(None)
        return (VOICE,)

    def unready(self) -> str | None:
        """Why it cannot speak: hibari-tts or its model is missing, or the model is not the one that was cut open."""
        try:
            read_model()
        except BackendUnavailable as error:
            return str(error)
        return None

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
        """Speak one piece and yield it as one chunk. Its pauses and the marks of silent words are returned as unrealised.

        Raises:
            RefusedRequest: unknown voice, speed out of range, text too long.
            BackendUnavailable: hibari-tts, its model or onnxruntime is missing, or not the version that is needed.
            BackendError: the text holds letters of other scripts than Latin, or the network failed.
        """
        length = len(request.text.text)
        if length > MAX_CHARS:
            raise RefusedRequest(f"a text of {length} characters is too long for one request; give at most {MAX_CHARS} at a time")
        check_speed(request.speed)
        self._check_voice(request.voice)
        yield await asyncio.to_thread(_speak, request)

    def _check_voice(self, name: str | None) -> None:
        asked = self._settings.voice if name is None else name
        if asked.strip().lower().replace("_", "-") not in (VOICE.name, VOICE.language):
            raise RefusedRequest(f"the natural voice has no voice {asked!r}; it has {VOICE.name!r} (`prosody voices` lists all)")


class _Take(NamedTuple):
    """Audio and the times of its words, by their index."""

    samples: Samples
    times: Mapping[int, Stretch]


class _WordMarks(NamedTuple):
    """The marks of the words that have a sound: the emphasised words, and the pitch marks of each word."""

    emphasised: frozenset[int]
    pitch: Mapping[int, tuple[str, ...]]


def _speak(request: SpeechRequest) -> Speech:
    net = network()
    pronunciation = pronounce(request)
    marks, unrealised = _marks_of_words(request, pronunciation)
    breaks = {index for index, word in enumerate(pronunciation.words) if word.start in request.breaks}
    has_sound = any(symbol.word is not None for symbol in pronunciation.symbols)
    parts = _parts(pronunciation.symbols) if has_sound else []
    takes = [_perform(net, part, marks, breaks, request) for part in parts]
    take = _trimmed(_without_long_breaks(_joined(takes), breaks), _INNER_SECONDS if request.unfinished else _TAIL_SECONDS)
    source = request.text.text
    speech = Speech(
        Audio(take.samples, RATE),
        _word_times(pronunciation.words, take.times, source),
        tuple(unrealised),
        warnings=_unspoken_warnings(pronunciation, source),
    )
    return time_stretch(speech, request.speed / _within_range(request.speed))


def _within_range(speed: float) -> float:
    return min(max(speed, _SLOWEST), _FASTEST)


def _marks_of_words(request: SpeechRequest, pronunciation: Pronunciation) -> tuple[_WordMarks, list[Mark]]:
    """Return the marks of the words that have a sound, and the marks that cannot be rendered here."""
    heard = {symbol.word for symbol in pronunciation.symbols}
    emphasised: set[int] = set()
    pitch: dict[int, tuple[str, ...]] = {}
    unrealised: list[Mark] = []
    for mark in request.text.marks:
        index = word_after(pronunciation.words, mark.offset)
        if mark.is_pause or index is None or index not in heard:
            unrealised.append(mark)
        elif mark.kind == "emph":
            emphasised.add(index)
        else:
            pitch[index] = (*pitch.get(index, ()), mark.kind)
    return _WordMarks(frozenset(emphasised), pitch), unrealised


def _parts(symbols: Sequence[Symbol]) -> list[tuple[Symbol, ...]]:
    """Return the symbols in parts that the network takes at once, divided after a space where there is one."""
    parts: list[tuple[Symbol, ...]] = []
    start = 0
    while start < len(symbols):
        end = min(start + _MOST_SYMBOLS, len(symbols))
        if end < len(symbols):
            spaces = [index for index in range(start + 1, end) if symbols[index].character == " "]
            end = spaces[-1] + 1 if spaces else end
        parts.append(tuple(symbols[start:end]))
        start = end
    return parts


def _perform(net: SpeechNetwork, symbols: tuple[Symbol, ...], marks: _WordMarks, breaks: set[int], request: SpeechRequest) -> _Take:
    """Render symbols with the marks of their words, again and stronger while a word rivals the emphasised ones."""
    present = {symbol.word for symbol in symbols if symbol.word is not None}
    emphasised = sorted(marks.emphasised & present)
    natural = Utterance(net, with_stress(symbols, set(emphasised)))
    natural.shorten(0, int(natural.frames[0]) - _PAD_FRAMES)
    _limit_breaks(natural, breaks & present)
    amounts, clear = EMPHASIS[request.strength], _CLEAR[request.strength]
    rivals: dict[int, float] = {}
    best: tuple[float, _Take] | None = None
    for _ in range(_ROUNDS):
        changed = natural.copy()
        if emphasised:
            emphasise(changed, emphasised, amounts)
        for word, amount in rivals.items():
            ease(changed, word, amount)
        for word in sorted(marks.pitch.keys() & present):
            for kind in marks.pitch[word]:
                turn(changed, word, kind, PITCH_SEMITONES[request.strength])
        take = _rendered(changed, request)
        if not emphasised or len(emphasised) == len(present):
            return take
        values = _prominence_by_word(take)
        least = min(values[word] for word in emphasised)
        others = {word: value for word, value in values.items() if word not in marks.emphasised}
        margin = least / max(clear * max(others.values()), 1e-9)
        if best is None or margin > best[0]:
            best = margin, take
        if margin >= 1:
            break
        for word, value in others.items():
            if clear * value > least:
                rivals[word] = min(rivals.get(word, 0.0) + _EASING, _MOST_EASING)
        amounts = amounts.stronger()
    assert best is not None
    return best[1]


def _limit_breaks(utterance: Utterance, words: set[int]) -> None:
    """Shorten what stands before the words of ``words``, a comma and a space mostly."""
    most = round(_BREAK_SECONDS / FRAME_SECONDS)
    for word in words:
        first, _ = utterance.span(word)
        symbol = first - 1
        between = []
        while symbol > 0 and utterance.symbols[symbol - 1].word is None:
            between.append(symbol)
            symbol -= 1
        excess = int(utterance.frames[between].sum()) - most if between and symbol else 0
        for symbol in between:
            removed = min(max(0, excess), int(utterance.frames[symbol]) - 1)
            utterance.shorten(symbol, removed)
            excess -= removed


def _rendered(utterance: Utterance, request: SpeechRequest) -> _Take:
    utterance.stretch(np.full(len(utterance.frames), 1 / _within_range(request.speed)))
    samples = utterance.render(request.seed or 0)
    return _Take(samples, time_words(utterance.symbols, utterance.symbol_times(), samples))


def _prominence_by_word(take: _Take) -> dict[int, float]:
    take = _trimmed(take, _TAIL_SECONDS)
    words = sorted(take.times)
    spoken = [WordTime("", index, *take.times[index]) for index in words]
    values = prominence(Audio(take.samples, RATE), spoken)
    return dict(zip(words, values.tolist(), strict=True))


def _joined(takes: Sequence[_Take]) -> _Take:
    """Return the parts one after another, without the silence that the network puts between them."""
    if len(takes) == 1:
        return takes[0]
    pieces, times, seconds = [NO_SAMPLES], dict[int, Stretch](), 0.0
    for take in takes:
        part = _trimmed(take, _INNER_SECONDS)
        for word, (start, end) in part.times.items():
            times[word] = Stretch(times[word].start if word in times else start + seconds, end + seconds)
        pieces.append(part.samples)
        seconds += len(part.samples) / RATE
    return _Take(np.concatenate(pieces), times)


def _without_long_breaks(take: _Take, breaks: set[int]) -> _Take:
    """Cut the middle out of every silence at a break that is longer than `_BREAK_SILENCE`."""
    samples, times = take.samples, dict(take.times)
    quiet = silent_stretches(samples) if breaks else []
    for word in sorted(breaks & times.keys(), reverse=True):
        silence = next((one for one in quiet if abs(one.end - times[word].start) < 0.002), None)
        surplus = round((silence.end - silence.start - _BREAK_SILENCE) * RATE) if silence else 0
        if silence is None or surplus <= 0:
            continue
        first = round((silence.start + silence.end) / 2 * RATE) - surplus // 2
        share = np.linspace(0, 1, round(_CROSSFADE_SECONDS * RATE), dtype=np.float32)
        end = first + len(share)
        crossed = samples[first:end] * (1 - share) + samples[first + surplus : end + surplus] * share
        samples = np.concatenate([samples[:first], crossed, samples[end + surplus :]])
        for later in [index for index, time in times.items() if time.start >= times[word].start]:
            times[later] = Stretch(*(at - surplus / RATE for at in times[later]))
    return _Take(samples, times)


def _trimmed(take: _Take, tail_seconds: float) -> _Take:
    """Cut the silence at the start and the end to a fixed length, and lower the whole where it would clip."""
    samples = take.samples
    quiet = silent_stretches(samples)
    seconds = len(samples) / RATE
    first = max(0.0, quiet[0].end - _LEAD_SECONDS) if quiet and quiet[0].start == 0 else 0.0
    last = min(seconds, quiet[-1].start + tail_seconds) if quiet and quiet[-1].end > seconds - 0.002 else seconds
    kept = samples[round(first * RATE) : round(last * RATE)].copy()
    fade = min(round(FADE_SECONDS * RATE), len(kept) // 2)
    if fade:
        ramp = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
        kept[:fade] *= ramp
        kept[-fade:] *= ramp[::-1]
    peak = float(np.max(np.abs(kept), initial=0.0))
    if peak > 1.0:
        kept /= np.float32(peak)
    limit = len(kept) / RATE
    return _Take(kept, {word: Stretch(*(min(max(at - first, 0.0), limit) for at in time)) for word, time in take.times.items()})


def _word_times(words: Sequence[Word], times: Mapping[int, Stretch], source: str) -> tuple[WordTime, ...]:
    """Return the time of every word; one without a sound has no length, at the end of the word before it."""
    found = []
    last = min((time.start for time in times.values()), default=0.0)
    for index, word in enumerate(words):
        start, end = times.get(index, (last, last))
        found.append(WordTime(word.core(source), word.core_start, start, end))
        last = end
    return tuple(found)


def _unspoken_warnings(pronunciation: Pronunciation, source: str) -> tuple[str, ...]:
    cores = [pronunciation.words[index].core(source) for index in pronunciation.unspoken]
    return (f"the natural voice cannot speak {', '.join(map(repr, cores))}; it is left out",) if cores else ()
