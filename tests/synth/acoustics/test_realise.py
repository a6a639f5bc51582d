"""Realisation of marks: exact pauses, emphasis that stands out, pitch that moves, and audio that is otherwise unchanged."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS, Mark, MarkedText, parse, plain
from prosody_tagger.segment import segment_words
from synth.acoustics import realise as realisation
from synth.acoustics.contours import measure_contours
from synth.acoustics.prominence import prominence
from synth.audio import pitch
from synth.audio.signal import resample
from synth.base import Audio, Speech, SpeechRequest, WordTime
from synth.embedded.backend import EmbeddedVoice

SENTENCES = (
    "I never said <>she stole my money.",
    "<>Nobody told me that the meeting had moved.",
    "We can finish all of it by the end of <>Thursday.",
    "It is <>in the box, not under it.",
    "You get the whole package for only <>$299 today!",
    "Members save <>30% on every order.",
    "Is that <>really what you wanted?",
    "If it rains, <>stop, and wait for the next train.",
    "He read <>the book that you gave me.",
    "Please send <>Alexandra the extraordinarily long report.",
)
TEXT = "If it rains, we stay at home and read. Then we eat."


@cache
def spoken(text: str) -> Speech:
    async def speak() -> Speech:
        return await anext(EmbeddedVoice().speak(SpeechRequest(plain(text))))

    speech = asyncio.run(speak())
    speech.audio.samples.setflags(write=False)
    return speech


class Realised(NamedTuple):
    """What `realise` returned, with the marks that it was asked for and realised."""

    audio: Audio
    words: tuple[WordTime, ...]
    done: tuple[Mark, ...]
    unrealised: tuple[Mark, ...]
    warnings: tuple[str, ...]


def realise(
    audio: Audio, marked: MarkedText, words: Sequence[WordTime], *, marks: Sequence[Mark] | None = None, **options: object
) -> Realised:
    """Realise ``marks``, by default all of the text, in audio whose words are known."""
    wanted = marked.marks if marks is None else tuple(marks)
    speech = realisation.realise(Speech(audio, tuple(words), wanted), marked, **options)  # type: ignore[arg-type]
    assert speech.words is not None
    done = tuple(mark for mark in marked.marks if mark in wanted and mark not in speech.unrealised)
    return Realised(speech.audio, speech.words, done, speech.unrealised, speech.warnings)


def realised(source: str | MarkedText, **options: object) -> Realised:
    marked = parse(source) if isinstance(source, str) else source
    speech = spoken(marked.text)
    return realise(speech.audio, marked, speech.words, **options)  # type: ignore[arg-type]


def silences(audio: Audio) -> list[tuple[float, float]]:
    """Return start and end of each silence in seconds, by 10 ms windows every ms: an independent implementation of the rule."""
    samples, rate = audio.samples.astype(np.float64), audio.rate
    width, step = round(0.010 * rate), round(0.001 * rate)
    frames = samples[: len(samples) // width * width].reshape(-1, width)
    level = np.percentile(np.sqrt(np.mean(frames**2, axis=1)), 95) / 100
    padded = np.pad(samples, width)
    energy = np.concatenate([[0.0], np.cumsum(padded**2)])
    found: list[tuple[float, float]] = []
    for start in np.arange(0, len(padded) - width + 1, step):
        if energy[start + width] - energy[start] < level**2 * width:
            begin, end = max(0, start - width) / rate, min(len(samples), start) / rate
            if found and begin <= found[-1][1]:
                found[-1] = found[-1][0], end
            else:
                found.append((begin, end))
    return found


def silence_ms(audio: Audio, words: tuple[WordTime, ...], slot: int) -> float:
    """Return the longest silence at the boundary of word ``slot - 1`` and word ``slot``, or touching an edge of the audio."""
    runs = silences(audio)
    if slot == 0:
        near = [run for run in runs if run[0] == 0]
    elif slot == len(words):
        near = [run for run in runs if run[1] > audio.seconds - 0.002]
    else:
        near = [run for run in runs if run[0] < words[slot].start + 0.02 and run[1] > words[slot - 1].end - 0.02]
    return 1000 * max((end - start for start, end in near), default=0.0)


def sound_of(audio: Audio, word: WordTime) -> np.ndarray:
    return audio.samples[round(word.start * audio.rate) : round(word.end * audio.rate)]


def level_of(audio: Audio, word: WordTime) -> float:
    return 10 * float(np.log10(np.mean(np.square(sound_of(audio, word), dtype=np.float64))))


def pitches(audio: Audio, word: WordTime) -> np.ndarray:
    """Return the pitch of the voiced frames of a word, in semitones."""
    hop = pitch.hop(audio.rate) / audio.rate
    found = pitch.track(audio.samples, audio.rate)[round(word.start / hop) : round(word.end / hop) + 1]
    return 12 * np.log2(found[~np.isnan(found)])


def check(result: Realised, marked: MarkedText) -> None:
    """Check what holds for every result."""
    runs = marked.words
    assert [(word.word, word.offset) for word in result.words] == [(run.core(marked.text), run.core_start) for run in runs]
    times = [time for word in result.words for time in (word.start, word.end)]
    assert all(first <= second + 1e-9 for first, second in pairwise(times))
    assert not times or (times[0] >= 0 and times[-1] <= result.audio.seconds + 1e-6)
    assert sorted(result.done + result.unrealised, key=repr) == sorted(marked.marks, key=repr)
    assert result.audio.samples.dtype == np.float32
    assert np.isfinite(result.audio.samples).all()
    assert np.abs(result.audio.samples).max(initial=0) <= max(1.0, np.abs(spoken(marked.text).audio.samples).max(initial=0))


# Nothing to do


def test_audio_without_marks_is_returned_unchanged() -> None:
    speech = spoken(TEXT)
    for marked, marks in ((plain(TEXT), None), (parse("If <emph>it" + TEXT[5:]), ())):
        result = realise(speech.audio, marked, speech.words, marks=marks)
        assert result.audio.samples is speech.audio.samples
        assert (result.words, result.done, result.unrealised, result.warnings) == (speech.words, (), (), ())


def test_only_the_given_marks_are_realised() -> None:
    marked = parse("If it rains, <pause_long>we <emph>stay at home and read. Then we eat.")
    result = realised(marked, marks=[marked.marks[0]])
    assert result.done == (marked.marks[0],)
    assert result.unrealised == ()
    with pytest.raises(BadInput, match="<emph> at offset 3 is not a mark"):
        realised(marked, marks=[Mark("emph", 3)])


# Pauses


@pytest.mark.parametrize("length", [60, 250, 700, 1500])
@pytest.mark.parametrize("slot", range(13))
def test_a_pause_is_as_long_as_asked_wherever_it_stands(slot: int, length: int) -> None:
    runs = segment_words(TEXT)
    offset = runs[slot].start if slot < len(runs) else len(TEXT)
    marked = MarkedText(TEXT, (Mark("pause_long", offset, length),))
    result = realised(marked)
    check(result, marked)
    before = silence_ms(spoken(TEXT).audio, spoken(TEXT).words, slot)
    assert result.done == marked.marks
    assert silence_ms(result.audio, result.words, slot) == pytest.approx(max(length, before), abs=8)


def test_two_pauses_in_a_slot_add_up() -> None:
    result = realised("If it rains, we stay <pause_short:300ms><pause_short:400ms>at home and read. Then we eat.")
    assert silence_ms(result.audio, result.words, 5) == pytest.approx(700, abs=8)
    same = realised("If it rains, we stay <pause_short><pause_short>at home and read. Then we eat.")
    assert silence_ms(same.audio, same.words, 5) == pytest.approx(500, abs=8)
    assert len(same.done) == 2


def test_many_pauses_are_exact() -> None:
    runs = segment_words(TEXT)
    slots = [run.start for run in runs] + [len(TEXT)]
    lengths = [100 + 90 * index for index in range(len(slots))]
    marked = MarkedText(TEXT, tuple(Mark("pause_long", slot, ms) for slot, ms in zip(slots, lengths, strict=True)))
    result = realised(marked)
    check(result, marked)
    for slot, length in enumerate(lengths):
        before = silence_ms(spoken(TEXT).audio, spoken(TEXT).words, slot)
        assert silence_ms(result.audio, result.words, slot) == pytest.approx(max(length, before), abs=12)


def test_a_pause_in_silence_keeps_every_sample_of_speech() -> None:
    speech = spoken(TEXT)
    result = realised("If it rains, <pause_long>we stay at home and read. Then we eat.")
    rate, before, after = speech.audio.rate, speech.audio.samples, result.audio.samples
    head, tail = round(result.words[2].end * rate), len(after) - round(result.words[3].start * rate)
    assert np.array_equal(after[:head], before[:head])
    assert np.array_equal(after[-tail:], before[-tail:])
    assert result.words[-1].end - speech.words[-1].end == pytest.approx((len(after) - len(before)) / rate)


def test_a_pause_makes_no_click() -> None:
    steepest = np.abs(np.diff(spoken(TEXT).audio.samples)).max()
    for slot in range(13):
        runs = segment_words(TEXT)
        offset = runs[slot].start if slot < len(runs) else len(TEXT)
        result = realised(MarkedText(TEXT, (Mark("pause_long", offset, 400),)))
        assert np.abs(np.diff(result.audio.samples)).max() <= 1.05 * steepest


def test_a_pause_within_a_word_cuts_it() -> None:
    marked = parse("We like extra<pause_short:400ms>ordinary things.")
    result = realised(marked)
    check(result, marked)
    word = result.words[2]
    assert word.end - word.start == pytest.approx(
        spoken(marked.text).words[2].end - spoken(marked.text).words[2].start + 0.4, abs=0.05
    )
    inside = [end - start for start, end in silences(result.audio) if start > word.start + 0.1 and end < word.end - 0.1]
    assert max(inside) == pytest.approx(0.4, abs=0.008)
    short = realised("It is o<pause_short>f no use.")
    assert len(short.unrealised) == 1
    assert "too short" in short.warnings[0]


def test_a_long_silence_is_never_shortened() -> None:
    speech = spoken(TEXT)
    marked = parse("If it rains, we stay at home and read.<pause_short:20ms> Then we eat.")
    result = realised(marked)
    assert np.array_equal(result.audio.samples, speech.audio.samples)
    assert result.done == marked.marks


def test_a_pause_is_filled_with_room_tone() -> None:
    speech = spoken(TEXT)
    peak = np.abs(speech.audio.samples).max()
    for loudness in (0.0005, 0.02):  # under the level of silence, and over it
        room = (peak * loudness * np.random.default_rng(1).normal(size=len(speech.audio.samples))).astype(np.float32)
        audio = Audio(speech.audio.samples + room, speech.audio.rate)
        result = realise(audio, parse("If it rains, we stay <pause_long:900ms>at home and read. Then we eat."), speech.words)
        assert silence_ms(result.audio, result.words, 5) == pytest.approx(900, abs=10)
        start = round((result.words[4].end + 0.1) * audio.rate)
        inside = result.audio.samples[start : start + round(0.5 * audio.rate)]
        assert np.count_nonzero(inside) > 0.99 * len(inside)
        if loudness < 0.001:
            assert np.std(inside) == pytest.approx(peak * loudness, rel=0.3)


def test_text_without_words_is_its_pauses() -> None:
    nothing = Audio(np.zeros(0, np.float32), 24_000)
    result = realise(nothing, parse("<pause_long>"), ())
    assert len(result.audio.samples) == round(0.7 * 24_000)
    assert not result.audio.samples.any()


# Times that cannot be trusted


def test_without_times_pauses_go_to_the_silences_of_punctuation() -> None:
    speech = spoken(TEXT)
    wrong = tuple(WordTime(word.word, word.offset, 0.0, 0.01) for word in speech.words)
    marked = parse(
        "<pause_long>If it rains, <pause_long:900ms>we <emph>stay <pause_long>at home and read. Then we eat.<pause_short:800ms>"
    )
    result = realise(speech.audio, marked, wrong, trusted=False)
    kinds = [(mark.kind, mark.offset) for mark in result.unrealised]
    assert kinds == [("emph", 16), ("pause_long", 21)]
    assert len(result.done) == 3
    assert all("could not be aligned with the audio" in warning for warning in result.warnings)
    truth = realised(marked, marks=result.done)
    assert np.array_equal(result.audio.samples, truth.audio.samples)


def test_a_word_with_an_uncertain_time_is_not_changed() -> None:
    speech = spoken(TEXT)
    words = tuple(WordTime(w.word, w.offset, w.start, w.end, 0.1 if w.word == "stay" else 1.0) for w in speech.words)
    marked = parse("If it rains, we <emph>stay at home and read. Then we eat.")
    result = realise(speech.audio, marked, words)
    assert result.audio.samples is speech.audio.samples
    assert result.unrealised == marked.marks
    assert "'stay'" in result.warnings[0]


# Emphasis


@pytest.mark.parametrize("sentence", SENTENCES)
def test_emphasis_lengthens_raises_and_strengthens(sentence: str) -> None:
    marked = parse(sentence.replace("<>", "<emph>"))
    index = [word.start >= marked.marks[0].offset for word in marked.words].index(True)
    speech, stretches = spoken(marked.text), []
    for strength in ("low", "medium", "high"):
        result = realised(marked, strength=strength)
        check(result, marked)
        assert result.done == marked.marks
        before, after = speech.words[index], result.words[index]
        assert after.end - after.start > 1.15 * (before.end - before.start)
        assert level_of(result.audio, after) > level_of(speech.audio, before) + 1.5
        assert np.percentile(pitches(result.audio, after), 90) > np.percentile(pitches(speech.audio, before), 90) + 1.5
        stretches.append((after.end - after.start) / (before.end - before.start))
    assert stretches[0] < stretches[2] < 2.4
    standing = prominence(result.audio, result.words)
    assert standing.argmax() == index


@pytest.mark.parametrize("seconds", [-0.03, 0.03])
def test_emphasis_tolerates_wrong_word_times(seconds: float) -> None:
    for sentence in SENTENCES[:5]:
        marked = parse(sentence.replace("<>", "<emph>"))
        speech = spoken(marked.text)
        words = tuple(replace(word, start=max(0.0, word.start + seconds), end=word.end + seconds) for word in speech.words)
        result = realise(speech.audio, marked, words)
        index = [word.start >= marked.marks[0].offset for word in marked.words].index(True)
        assert prominence(result.audio, [word.moved(0, -seconds) for word in result.words[1:]]).argmax() == index - 1 or index == 0


def test_every_emphasis_of_a_sentence_rises() -> None:
    marked = parse("<emph>I never said she stole <emph>my money.")
    result = realised(marked)
    check(result, marked)
    speech = spoken(marked.text)
    before, after = prominence(speech.audio, speech.words), prominence(result.audio, result.words)
    assert set(np.argsort(after)[-2:]) == {0, 5}
    assert after[0] > before[0]
    assert after[5] > before[5]


@pytest.mark.parametrize(
    "source", ["I never said she <emph>stole my money.", "<emph>Nobody told me that the <emph>meeting had moved."]
)
def test_a_word_that_already_stands_out_is_not_changed(source: str) -> None:
    marked = parse(source)
    once = realised(marked, strength="high")
    again = realise(once.audio, marked, once.words)
    assert again.done == marked.marks
    assert np.array_equal(again.audio.samples, once.audio.samples)


def test_other_sentences_stay_as_they_are() -> None:
    marked = parse("If it rains, we stay at home and read. Then we <emph>eat.")
    speech, result = spoken(marked.text), realised(marked)
    for before, after in list(zip(speech.words, result.words, strict=True))[:9]:
        assert np.array_equal(sound_of(speech.audio, before), sound_of(result.audio, after))


def test_emphasis_never_clips() -> None:
    speech = spoken("Please send Alexandra the report.")
    marked = parse("Please send <emph>Alexandra the <emph>report.")
    for peak in (1.0, 0.99, 3.0):
        samples = np.clip(speech.audio.samples * (peak / np.abs(speech.audio.samples).max()), -1, 1).astype(np.float32)
        result = realise(Audio(samples, speech.audio.rate), marked, speech.words, strength="high")
        assert result.done == marked.marks
        assert np.abs(result.audio.samples).max() <= 1.0
        assert np.count_nonzero(np.abs(result.audio.samples) >= 0.999) <= np.count_nonzero(np.abs(samples) >= 0.999)


def test_emphasis_and_pauses_work_together() -> None:
    marked = parse("If it rains, <pause_long><emph>we stay at home <pause_short:450ms>and read. Then we eat.<pause_short:900ms>")
    result = realised(marked)
    check(result, marked)
    assert result.unrealised == ()
    for slot, length in ((3, 700), (7, 450), (12, 900)):
        assert silence_ms(result.audio, result.words, slot) == pytest.approx(length, abs=10)
    assert prominence(result.audio, result.words)[:9].argmax() == 3


# Pitch


@pytest.mark.parametrize(("kind", "sign"), [("pitch_high", 1), ("pitch_low", -1)])
@pytest.mark.parametrize("sentence", SENTENCES)
def test_pitch_moves_as_marked(sentence: str, kind: str, sign: int) -> None:
    marked = parse(sentence.replace("<>", f"<{kind}>"))
    index = [word.start >= marked.marks[0].offset for word in marked.words].index(True)
    result, speech = realised(marked), spoken(marked.text)
    check(result, marked)
    change = np.median(pitches(result.audio, result.words[index])) - np.median(pitches(speech.audio, speech.words[index]))
    assert sign * change > 2
    for other in range(len(speech.words)):
        if abs(other - index) > 1:
            assert np.array_equal(sound_of(speech.audio, speech.words[other]), sound_of(result.audio, result.words[other]))


@pytest.mark.parametrize(("kind", "sign"), [("pitch_rising", 1), ("pitch_falling", -1)])
@pytest.mark.parametrize("sentence", SENTENCES)
def test_pitch_turns_within_the_word(sentence: str, kind: str, sign: int) -> None:
    marked = parse(sentence.replace("<>", f"<{kind}>"))
    index = [word.start >= marked.marks[0].offset for word in marked.words].index(True)
    result = realised(marked)
    check(result, marked)
    found = pitches(result.audio, result.words[index])
    third = len(found) // 3
    assert sign * (np.median(found[-third:]) - np.median(found[:third])) > 2


# Bad recordings


def test_numbers_that_are_none_are_refused() -> None:
    speech, marked = spoken(TEXT), parse("<emph>" + TEXT)
    for wrong in (np.nan, np.inf, -np.inf):
        samples = speech.audio.samples.copy()
        samples[1000] = wrong
        with pytest.raises(BadInput, match=r"1 of \d+ samples are NaN or infinite"):
            realise(Audio(samples, speech.audio.rate), marked, speech.words)
    with pytest.raises(BadInput, match="one channel"):
        realise(Audio(np.zeros((100, 2), np.float32), 24_000), marked, speech.words)


def test_words_of_another_text_are_refused() -> None:
    speech = spoken(TEXT)
    with pytest.raises(BadInput, match="12 words"):
        realise(speech.audio, parse("<emph>" + TEXT), speech.words[:-1])
    with pytest.raises(BadInput, match="'If'"):
        realise(speech.audio, parse("<emph>" + TEXT), (WordTime("If", 0, float("nan"), 1.0), *speech.words[1:]))


def test_words_out_of_order_are_refused() -> None:
    speech = spoken(TEXT)
    swapped = (replace(speech.words[0], start=1.0, end=1.1), *speech.words[1:])
    with pytest.raises(BadInput, match=r"'it' begins at .* before 'If'"):
        realise(speech.audio, parse("<emph>" + TEXT), swapped)


@pytest.mark.parametrize("what", ["nothing", "silence", "noise", "hum", "constant"])
def test_audio_without_speech_is_unchanged(what: str) -> None:
    count = 0 if what == "nothing" else 48_000
    time = np.arange(count) / 24_000
    samples = {
        "nothing": time,
        "silence": 0 * time,
        "noise": 0.1 * np.random.default_rng(0).normal(size=count),
        "hum": 0.3 * np.sin(2 * np.pi * 120 * time),
        "constant": 0 * time + 0.5,
    }[what].astype(np.float32)
    marked = parse("If it rains, <pause_long>we <emph>stay <pitch_rising>at home and read. Then we eat.")
    words = tuple(WordTime(w.word, w.offset, 0.1 * k, 0.1 * k + 0.1) for k, w in enumerate(spoken(TEXT).words))
    result = realise(Audio(samples, 24_000), marked, words)
    assert result.audio.samples is samples
    assert result.unrealised == marked.marks
    assert len(result.warnings) == 1


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
def test_other_sample_rates(rate: int) -> None:
    speech = spoken(TEXT)
    audio = resample(speech.audio, rate)
    marked = parse("If it rains, <pause_long>we <emph>stay at <pause_short:300ms>home and read. Then we <pitch_rising>eat.")
    result = realise(audio, marked, speech.words)
    assert result.unrealised == ()
    assert silence_ms(result.audio, result.words, 3) == pytest.approx(700, abs=8)
    assert silence_ms(result.audio, result.words, 6) == pytest.approx(300, abs=8)
    assert prominence(result.audio, result.words)[:9].argmax() == 4


def test_word_times_beyond_the_audio_are_harmless() -> None:
    speech = spoken(TEXT)
    late = tuple(word.moved(0, 2.0) for word in speech.words)
    marked = parse("If <emph>it rains, we stay <pause_short>at home and <emph>read. Then <pause_long>we <pitch_high>eat.")
    result = realise(speech.audio, marked, late)
    assert np.isfinite(result.audio.samples).all()
    assert all(0 <= word.start <= word.end <= result.audio.seconds + 1e-9 for word in result.words)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    marks=st.lists(
        st.builds(
            lambda kind, offset, ms: Mark(kind, offset, ms if kind.startswith("pause") else None),
            st.sampled_from(KINDS),
            st.integers(0, len(TEXT)),
            st.none() | st.integers(0, 2000),
        ),
        max_size=8,
    ),
    strength=st.sampled_from(["low", "medium", "high"]),
    trusted=st.booleans(),
)
def test_any_marks_give_a_valid_recording(marks: list[Mark], strength: str, trusted: bool) -> None:
    marked = MarkedText(TEXT, tuple(marks))
    result = realised(marked, strength=strength, trusted=trusted)
    check(result, marked)
    assert measure_contours(result.audio).energy.max() == 0
    assert len(result.warnings) <= 4


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    count=st.sampled_from([1, 2, 50, 239, 500, 3000, 20_000]),
    times=st.lists(st.floats(-0.5, 1.5), min_size=24, max_size=24),
    kinds=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, len(TEXT))), min_size=1, max_size=5),
    trusted=st.booleans(),
)
def test_short_audio_with_any_word_times_is_harmless(
    count: int, times: list[float], kinds: list[tuple[str, int]], trusted: bool
) -> None:
    samples = spoken(TEXT).audio.samples[5000 : 5000 + count]
    edges = sorted(times)
    words = tuple(replace(word, start=edges[2 * k], end=edges[2 * k + 1]) for k, word in enumerate(spoken(TEXT).words))
    marked = MarkedText(TEXT, tuple(Mark(kind, offset) for kind, offset in kinds))
    result = realise(Audio(samples, 22_050), marked, words, trusted=trusted)
    assert np.isfinite(result.audio.samples).all()
    assert np.abs(result.audio.samples).max() <= 1.0
    assert sorted(result.done + result.unrealised, key=repr) == sorted(marked.marks, key=repr)


def test_equal_requests_give_equal_audio() -> None:
    source = "If it rains, <pause_long>we <emph>stay at home and <pitch_low>read. Then we eat."
    assert np.array_equal(realised(source).audio.samples, realised(source).audio.samples)
