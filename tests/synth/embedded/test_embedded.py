"""The embedded voice: its output, word times and marks, and its robustness."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scaling import is_linear

from prosody_tagger.markup import KINDS, Alias, Mark, MarkedText, parse, plain
from prosody_tagger.segment import segment_words
from synth.audio import pitch
from synth.audio.psola import Edit, modify
from synth.base import Audio, Speech, SpeechRequest, Strength
from synth.embedded import espeak
from synth.embedded.backend import MAX_CHARS, EmbeddedSettings, EmbeddedVoice
from synth.errors import BackendError, BackendTimeout, BackendUnavailable, RefusedRequest

SENTENCE = "I never said she stole my money."


async def spoken(request: SpeechRequest, voice: EmbeddedVoice | None = None) -> Speech:
    chunks = [chunk async for chunk in (voice or EmbeddedVoice()).speak(request)]
    assert len(chunks) == 1
    return chunks[0]


def speak(text: str | MarkedText, embedded: EmbeddedVoice | None = None, **options: object) -> Speech:
    """Speak a text with the given or the default backend; a string is parsed as marked text."""
    marked = parse(text) if isinstance(text, str) else text
    return asyncio.run(spoken(SpeechRequest(marked, **options), embedded))  # type: ignore[arg-type]


def part(speech: Speech, index: int) -> np.ndarray:
    word = speech.words[index]
    return speech.audio.samples[round(word.start * espeak.RATE) : round(word.end * espeak.RATE)]


def seconds(speech: Speech, index: int) -> float:
    return speech.words[index].end - speech.words[index].start


def level(speech: Speech, index: int) -> float:
    return 10 * float(np.log10(np.mean(np.square(part(speech, index), dtype=np.float64))))


def frequencies(speech: Speech, index: int) -> np.ndarray:
    """Return the F0 of the voiced frames of a word, in semitones above 1 Hz."""
    hop = pitch.hop(espeak.RATE) / espeak.RATE
    found = pitch.track(speech.audio.samples, espeak.RATE)
    found = found[round(speech.words[index].start / hop) : round(speech.words[index].end / hop) + 1]
    return 12 * np.log2(found[~np.isnan(found)])


def rise(speech: Speech, index: int) -> float:
    """Return the change of F0 in semitones from the first to the last third of the voiced part of a word."""
    found = frequencies(speech, index)
    third = len(found) // 3
    return float(np.median(found[-third:]) - np.median(found[:third]))


def others(speech: Speech, index: int) -> list[bytes]:
    return [part(speech, other).tobytes() for other in range(len(speech.words)) if other != index]


def check_times(speech: Speech, text: str) -> None:
    """Check that each word of the text has a time, in order, within the audio."""
    runs = segment_words(text)
    assert [(word.word, word.offset) for word in speech.words] == [(run.core(text), run.core_start) for run in runs]
    times = [time for word in speech.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert not times or (times[0] >= 0 and times[-1] <= speech.audio.seconds + 1e-9)


# Capabilities, voices, settings


def test_capabilities_name_every_mark() -> None:
    capabilities = EmbeddedVoice().capabilities
    assert {kind for kind in KINDS if capabilities.marks[kind] == "rendered"} == set(KINDS) - {"pause_short", "pause_long"}
    assert {capabilities.marks["pause_short"], capabilities.marks["pause_long"]} == {"realised"}
    assert capabilities.rate == 22_050 == speak(SENTENCE).audio.rate
    assert capabilities.word_times
    assert {"en-us", "en-gb", "de", "cmn", "ar"} <= set(capabilities.languages)


def test_voices_are_listed_with_the_default_first() -> None:
    listed = asyncio.run(EmbeddedVoice().voices())
    names = [voice.name for voice in listed]
    assert names[0] == "en-us"
    assert len(set(names)) == len(names) > 100
    assert asyncio.run(EmbeddedVoice(EmbeddedSettings(voice="de")).voices())[0].name == "de"
    assert next(voice for voice in listed if voice.name == "de").description == "German"
    assert not any(name.startswith("mb") for name in names)


def test_every_listed_voice_speaks() -> None:
    async def all_of_them() -> list[Speech]:
        voice = EmbeddedVoice()
        return [await spoken(SpeechRequest(plain("12 Anna"), voice=each.name)) for each in await voice.voices()]

    assert all(speech.audio.seconds > 0.2 for speech in asyncio.run(all_of_them()))


def test_voices_go_by_several_names() -> None:
    expected = speak("Bonjour à tous.", voice="fr-fr").audio.samples
    for name in ("fr", "FR_fr", " fr-FR "):
        assert np.array_equal(speak("Bonjour à tous.", voice=name).audio.samples, expected)
    assert len(speak("你好", voice="zh").words) == 2


@pytest.mark.parametrize(("asked", "hint"), [("en-uss", "'en-us'"), ("germn", None), ("", None), ("de\x00", None)])
def test_an_unknown_voice_is_refused(asked: str, hint: str | None) -> None:
    with pytest.raises(RefusedRequest, match="prosody voices") as refusal:
        speak(SENTENCE, voice=asked)
    assert repr(asked) in str(refusal.value)
    assert hint is None or hint in str(refusal.value)
    with pytest.raises(RefusedRequest):
        speak(SENTENCE, EmbeddedVoice(EmbeddedSettings(voice=asked)))


def test_settings_are_checked() -> None:
    for wrong in ({"pitch": -1}, {"pitch": 100}, {"words_per_minute": 10}, {"words_per_minute": 1000}, {"speed": 1.0}):
        with pytest.raises(ValidationError):
            EmbeddedSettings(**wrong)  # type: ignore[arg-type]


def test_rate_and_pitch_are_settable() -> None:
    usual = speak(SENTENCE)
    slow = speak(SENTENCE, EmbeddedVoice(EmbeddedSettings(words_per_minute=110)))
    high = speak(SENTENCE, EmbeddedVoice(EmbeddedSettings(pitch=75)))
    assert slow.words[-1].end / usual.words[-1].end == pytest.approx(1.5, rel=0.1)
    assert np.median(frequencies(high, 1)) - np.median(frequencies(usual, 1)) > 3


@pytest.mark.parametrize("speed", [0.25, 0.4, 0.5, 0.8, 1.5, 2.5, 3.0, 4.0])
def test_speed_is_obeyed(speed: float) -> None:
    usual, other = speak(SENTENCE), speak(SENTENCE, speed=speed)
    check_times(other, SENTENCE)
    assert usual.words[-1].end / other.words[-1].end == pytest.approx(speed, rel=0.15)


@pytest.mark.parametrize("speed", [0.0, -1.0, 0.2, 4.1, float("nan"), float("inf")])
def test_speed_out_of_range_is_refused(speed: float) -> None:
    with pytest.raises(RefusedRequest, match=r"0\.25 to 4"):
        speak(SENTENCE, speed=speed)


def test_a_long_text_is_refused_and_the_longest_is_not() -> None:
    with pytest.raises(RefusedRequest, match=f"{MAX_CHARS + 1} characters.*{MAX_CHARS}"):
        speak(plain("a" * (MAX_CHARS + 1)))
    text = ("word " * MAX_CHARS)[:MAX_CHARS]
    check_times(speak(plain(text)), text)


# Word times


@pytest.mark.parametrize(
    ("text", "voice"),
    [
        ("It cost $299, 30% less than on 3 May 2021.", None),
        ("Café naïve 😀 wörd — “quoted” (aside) … end!", None),
        ("Well -- yes - no – and — so...", None),
        ("A lot of the time, as well as out of it, I am able to be there.", None),
        ("👩‍👩‍👧‍👦 family 𝔘nicode ﬁn", None),
        ("Straße über 12 Äpfel.", "de"),
        ("我说这是一个很好的苹果。", "cmn"),
        ("わたしは がくせい です。", "ja"),
        ("ผมไม่เคยพูดว่าเธอขโมยเงินของผม", "th"),
        ("لم أقل إنها سرقت أموالي.", "ar"),
        ("Я не говорил, что она украла.", "ru"),
    ],
)
def test_word_times_are_keyed_to_the_text(text: str, voice: str | None) -> None:
    speech = speak(plain(text), voice=voice)
    check_times(speech, text)
    heard = [word for word in speech.words if word.end > word.start]
    assert len(heard) == sum(any(character.isalnum() for character in word.word) for word in speech.words)
    assert speech.words[-1].end < speech.audio.seconds - 0.2  # the silence at the end is no part of the word


def test_word_times_match_the_audio() -> None:
    """A word has the same samples at every position, so it can be found by correlation."""
    speech = speak("Six, six, six.")
    first = part(speech, 0)
    for index in (0, 1):
        start = round(speech.words[index].start * espeak.RATE)
        around = speech.audio.samples[max(0, start - 400) : start + len(first) + 400]
        found = int(np.argmax(np.correlate(around, first, "valid")))
        assert found + max(0, start - 400) == pytest.approx(start, abs=60)
    assert speech.words[0].end < speech.words[1].start - 0.05  # the pause of the comma belongs to neither


def test_a_number_has_the_time_of_its_spoken_form() -> None:
    speech = speak("It costs $299 now.")
    assert seconds(speech, 2) > 3 * seconds(speech, 1)


def test_words_that_the_engine_joins_share_their_audio() -> None:
    speech = speak("at the end of the day")
    of, the = speech.words[3], speech.words[4]
    assert of.start < of.end == the.start < the.end


def test_an_alias_is_spoken_and_timed_on_the_text() -> None:
    text = "The W3C decides."
    speech = speak(MarkedText(text, aliases=(Alias(4, 7, "World Wide Web Consortium"),)))
    check_times(speech, text)
    assert seconds(speech, 1) > seconds(speak(plain(text)), 1) + 0.2


def test_an_unfinished_piece_keeps_its_pitch_and_has_no_final_silence() -> None:
    ended, going = speak("because she stole my money"), speak("because she stole my money", unfinished=True)
    assert ended.audio.seconds - ended.words[-1].end > 0.2
    assert going.audio.seconds - going.words[-1].end < 0.05
    assert np.median(frequencies(going, 4)[-8:]) > np.median(frequencies(ended, 4)[-8:]) + 1


@pytest.mark.parametrize("text", ["", "   ", "...", "?! — …", "\x00\n", "😀", "😀 🎉!", "\u200d\u2060\ufeff"])
def test_a_text_without_words_gives_no_audio(text: str) -> None:
    speech = speak(plain(text))
    check_times(speech, text)
    assert len(speech.audio.samples) == 0
    assert speech.audio.samples.dtype == np.float32


# Marks

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


def with_and_without(sentence: str, *kinds: str, **options: object) -> tuple[Speech, Speech, int]:
    """Speak the sentence with marks at <> and without; return both and the index of the marked word."""
    marked = parse(sentence.replace("<>", "".join(f"<{kind}>" for kind in kinds)))
    after, before = speak(marked, **options), speak(MarkedText(marked.text), **options)
    index = [run.start >= marked.marks[0].offset for run in segment_words(marked.text)].index(True)
    check_times(after, marked.text)
    assert after.unrealised == ()
    assert others(after, index) == others(before, index)  # sample for sample
    assert np.abs(after.audio.samples).max() < 1.0
    assert np.abs(np.diff(after.audio.samples)).max() < 2.5 * np.abs(np.diff(before.audio.samples)).max()  # no clicks
    return after, before, index


@pytest.mark.parametrize("sentence", SENTENCES)
def test_emphasis_lengthens_raises_and_strengthens(sentence: str) -> None:
    changes = []
    for strength in ("low", "medium", "high"):
        after, before, index = with_and_without(sentence, "emph", strength=strength)
        changes.append(
            (
                seconds(after, index) / seconds(before, index),
                level(after, index) - level(before, index),
                float(np.median(frequencies(after, index)) - np.median(frequencies(before, index))),
            )
        )
    longer, louder, higher = zip(*changes, strict=True)
    assert [1.25 < change < 1.6 for change in longer] == [True] * 3
    assert [2.5 < change < 6.5 for change in louder] == [True] * 3
    assert [change > least for change, least in zip(higher, (2.0, 3.5, 4.5), strict=True)] == [True] * 3
    for ordered in (longer, louder, higher):
        assert ordered[0] < ordered[1] < ordered[2]


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize(("kind", "sign"), [("pitch_high", 1), ("pitch_low", -1)])
def test_pitch_moves_as_marked(sentence: str, kind: str, sign: int) -> None:
    after, before, index = with_and_without(sentence, kind)
    assert sign * (np.median(frequencies(after, index)) - np.median(frequencies(before, index))) > 2
    assert seconds(after, index) == pytest.approx(seconds(before, index), abs=1e-3)
    assert level(after, index) == pytest.approx(level(before, index), abs=0.5)


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize(("kind", "sign"), [("pitch_rising", 1), ("pitch_falling", -1)])
def test_pitch_turns_within_the_word(sentence: str, kind: str, sign: int) -> None:
    turns = []
    for strength in ("low", "medium", "high"):
        after, before, index = with_and_without(sentence, kind, strength=strength)
        turns.append(sign * (rise(after, index) - rise(before, index)))
    assert min(turns) > 2
    assert turns[2] > turns[0]


def test_several_marks_on_one_word() -> None:
    for kind, sign in (("pitch_rising", 1), ("pitch_falling", -1)):
        after, before, index = with_and_without(SENTENCES[9], "emph", kind)
        assert seconds(after, index) > 1.3 * seconds(before, index)
        assert level(after, index) > level(before, index) + 3
        assert np.median(frequencies(after, index)) > np.median(frequencies(before, index)) + 2
        assert sign * (rise(after, index) - rise(before, index)) > 3


def test_marks_on_many_words() -> None:
    text = "We must act now"
    plain_speech = speak(text)
    speech = speak(MarkedText(text, tuple(Mark("emph", run.start) for run in segment_words(text))))
    for index in range(4):
        assert seconds(speech, index) == pytest.approx(1.4 * seconds(plain_speech, index), rel=0.02)


@pytest.mark.parametrize(
    ("sentence", "voice"),
    [
        ("I'd have <>thought you knew.", "en-gb"),
        ("Der schnelle braune <>Fuchs springt.", "de"),
        ("Le vif renard <>brun saute.", "fr"),
        ("El rápido <>zorro marrón salta.", "es"),
        ("Я не <>говорил этого.", "ru"),
        ("لم <>أقل إنها سرقت.", "ar"),
        ("我说这是一个<>很好的苹果。", "cmn"),
        ("Tôi không <>nói rằng cô ấy.", "vi"),
    ],
)
def test_emphasis_in_other_languages(sentence: str, voice: str) -> None:
    after, before, index = with_and_without(sentence, "emph", voice=voice)
    assert seconds(after, index) > 1.3 * seconds(before, index)
    assert level(after, index) > level(before, index) + 2.5
    assert np.median(frequencies(after, index)) > np.median(frequencies(before, index)) + 2


@pytest.mark.parametrize("strength", ["low", "high"])
@pytest.mark.parametrize("speed", [0.3, 0.6, 2.0, 3.5])
def test_emphasis_lengthens_at_every_speed(speed: float, strength: Strength) -> None:
    marked = parse("I never said <emph>she stole my money.")
    after = speak(marked, speed=speed, strength=strength)
    before = speak(plain(marked.text), speed=speed)
    assert seconds(after, 3) > 1.25 * seconds(before, 3)


def test_unrealised_marks_are_returned() -> None:
    marked = parse("<pause_short>One <pause_long:900ms>two <emph>😀 <emph>three.<pause_short> <emph>")
    speech = speak(marked)
    done = next(mark for mark in marked.marks if mark.kind == "emph" and marked.text.startswith("three", mark.offset))
    assert speech.unrealised == tuple(mark for mark in marked.marks if mark != done)


def test_a_flat_contour_returns_the_audio_unchanged() -> None:
    samples = speak(SENTENCE).audio.samples
    same, old, new = modify(
        samples, espeak.RATE, [Edit(2000, 16000, 1.0, 0.0, ((0.0, 0.0),)), Edit(16000, 40000, 1.0, 0.0, ((0.0, 0.0),))]
    )
    assert np.abs(same - samples).max() < 1e-5
    assert np.array_equal(old, new)


def test_an_edit_meets_its_neighbours_without_a_step() -> None:
    wave = (0.3 * np.cos(2 * np.pi * 110 * np.arange(22_050) / 22_050)).astype(np.float32)
    peak = 22_050 // 110  # a period, so that the edit begins and ends near a peak
    edit = Edit(40 * peak, 70 * peak, 1.3, 6.0, ((0.0, 2.0), (1.0, 6.0)))
    shaped, old, new = modify(wave, 22_050, [edit])
    assert np.interp(edit.end, old, new) == pytest.approx(edit.start + 1.3 * (edit.end - edit.start), abs=1)
    steepest = 0.3 * 10 ** (6 / 20) * 2 * np.pi * 110 * 2 ** (6 / 12) / 22_050
    assert np.abs(np.diff(shaped)).max() < 1.3 * steepest
    assert np.array_equal(shaped[: edit.start], wave[: edit.start])
    assert np.array_equal(shaped[-(len(wave) - edit.end) :], wave[edit.end :])


def test_the_pitch_of_a_known_signal_is_found() -> None:
    time_axis = np.arange(22_050) / 22_050
    for hertz in (70.0, 110.0, 220.0):
        sound = sum(np.sin(2 * np.pi * hertz * harmonic * time_axis) / harmonic for harmonic in range(1, 12))
        found = pitch.track(sound.astype(np.float32), 22_050)[10:-10]
        assert np.allclose(found, hertz, rtol=0.01)
    noise = np.random.default_rng(0).normal(size=22_050).astype(np.float32)
    assert np.isnan(pitch.track(noise, 22_050)).mean() > 0.8
    assert np.isnan(pitch.track(np.zeros(22_050, np.float32), 22_050)).all()


# Reproducibility


def test_equal_requests_give_equal_audio() -> None:
    marked = parse("I never said <emph>she <pitch_rising>stole my money.")
    first = speak(marked)
    for voice, speed, embedded in (("de", 1.0, None), ("cmn", 2.5, None), (None, 0.3, EmbeddedVoice(EmbeddedSettings(pitch=90)))):
        speak("Something 你好 else: 42!", embedded, voice=voice, speed=speed)
        again = speak(marked)
        assert np.array_equal(again.audio.samples, first.audio.samples)
        assert again.words == first.words


# Hostile text


@settings(deadline=None, max_examples=60, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=60), voice=st.sampled_from(["en-us", "de", "ar"]))
def test_any_text_is_spoken(text: str, voice: str) -> None:
    speech = speak(plain(text), voice=voice)
    check_times(speech, text)
    assert np.isfinite(speech.audio.samples).all()


@pytest.mark.parametrize(
    "text",
    [
        "\ufffe\uffff\U0010ffff \ue000 \u0378",
        "\u202eback\u2066 \u200fwards\u200e",
        "x" * 2000,
        "ა" * 2000,
        "ა." * 1000,
        "-" * 2000,
        "e" + "\u0301" * 1999,
        "<" * 1000 + "&" * 1000,
        "]]> <!-- --> <?xml?> <![CDATA[ x ]]>",
        "`code` ⓜ ⣿ [x]{y}|z\\ ~^_",
        "1234567890" * 50,
    ],
)
def test_hostile_text_is_spoken(text: str) -> None:
    check_times(speak(plain(text)), text)


def test_a_nul_does_not_cut_the_text() -> None:
    assert speak(plain("stop \x00 now")).audio.seconds == speak("stop now").audio.seconds
    assert seconds(speak(plain("go\x00away")), 0) > seconds(speak("go"), 0)


def test_nothing_in_the_text_commands_the_engine() -> None:
    expected = speak("one two").audio.samples
    for command in ("\x01", "\x02", "\x01\x1f\x85", "\ue03c"):
        assert np.array_equal(speak(plain(f"one {command} two")).audio.samples, expected)
    assert speak(plain("one <break time='9s'/> two")).audio.seconds < 8
    tags = plain("<prosody pitch='+90%'>two</prosody>")
    assert len(speak(tags).words) == 2
    phonemes = speak(plain("x [[h@l'oU]] y"))
    assert seconds(phonemes, 1) != pytest.approx(seconds(speak("x hello y"), 1), abs=0.05)


@pytest.mark.parametrize("unit", ["\u0301", "a\u0301\u0301", ".", "x", "a."])
def test_cleaning_is_linear(unit: str) -> None:
    count = 50_000 // len(unit)
    assert is_linear(espeak.sanitise, unit * count, unit * count * 4)


# Concurrency and errors


def test_concurrent_requests_get_their_own_audio() -> None:
    texts = [f"Number {index}." for index in range(20)]
    alone = [speak(text).audio.samples for text in texts]

    async def together() -> list[Speech]:
        voice = EmbeddedVoice()
        return await asyncio.gather(*(spoken(SpeechRequest(plain(text)), voice) for text in texts * 10))

    for index, speech in enumerate(asyncio.run(together())):
        assert np.array_equal(speech.audio.samples, alone[index % 20])


def test_several_loops_share_the_worker() -> None:
    expected = speak(SENTENCE).audio.samples
    heard: list[bool] = []

    def loop() -> None:
        heard.extend(np.array_equal(speak(SENTENCE).audio.samples, expected) for _ in range(5))

    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert heard == [True] * 20


def test_a_cancelled_request_blocks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thirty long requests that are cancelled, the engine processes only those that it began before."""
    expected = speak(SENTENCE).audio.samples
    begun: list[str] = []
    ask = espeak._ask

    def counted(process: "subprocess.Popen[bytes]", message: tuple[str, str, int, int, bool]) -> object:
        begun.append(message[0])
        return ask(process, message)

    monkeypatch.setattr(espeak, "_ask", counted)

    async def cancelling() -> tuple[Speech, int]:
        long = [asyncio.create_task(spoken(SpeechRequest(plain("7391 " * 400)))) for _ in range(30)]
        while not begun:  # noqa: ASYNC110 (the worker's thread appends)
            await asyncio.sleep(0.01)
        for task in long:
            task.cancel()
        before = len(begun)
        speech = await spoken(SpeechRequest(plain(SENTENCE)))
        results = await asyncio.gather(*long, return_exceptions=True)
        assert any(isinstance(result, asyncio.CancelledError) for result in results)
        return speech, before

    speech, before = asyncio.run(cancelling())
    assert np.array_equal(speech.audio.samples, expected)
    assert len(begun) <= before + 5  # our own request, and a few that began before their cancellation


def test_closing_lets_go_and_a_later_request_starts_again() -> None:
    async def twice() -> tuple[Speech, Speech]:
        voice = EmbeddedVoice()
        first = await spoken(SpeechRequest(plain(SENTENCE)), voice)
        await voice.close()
        await voice.close()
        return first, await spoken(SpeechRequest(plain(SENTENCE)), voice)

    first, second = asyncio.run(twice())
    assert np.array_equal(first.audio.samples, second.audio.samples)


def request_to(worker: espeak.EspeakWorker, text: str = "hello") -> Audio:
    async def once() -> Audio:
        try:
            audio, _ = await worker.speak(text, Path("some/voice"), 165, 50, end_pause=True)
            return audio
        finally:
            await worker.stop()

    return asyncio.run(once())


def test_an_engine_that_died_is_started_again() -> None:
    expected = speak(SENTENCE).audio.samples
    process = espeak.WORKER._process
    assert process is not None
    process.kill()
    assert np.array_equal(speak(SENTENCE).audio.samples, expected)


def script(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> espeak.EspeakWorker:
    """Return a worker whose process sends the rate and then runs ``body``."""
    path = folder / "worker.py"
    path.write_text(
        "import marshal, os, sys, time\n"
        f"marshal.dump({espeak.RATE}, sys.stdout.buffer); sys.stdout.flush()\n"
        f"marshal.load(sys.stdin.buffer)\n{body}\n"
    )
    monkeypatch.setattr(espeak, "_SCRIPT", path)
    return espeak.EspeakWorker()


def test_a_crash_is_an_error_of_that_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="crashed on 'hello'"):
        request_to(script(tmp_path, monkeypatch, "os.abort()"))


def test_an_engine_that_does_not_answer_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "_TIMEOUT_SECONDS", 0.5)
    with pytest.raises(BackendTimeout, match="did not answer"):
        request_to(script(tmp_path, monkeypatch, "time.sleep(60)"))


def test_cancelling_stops_the_engine_at_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "_TIMEOUT_SECONDS", 60)
    mark = tmp_path / "once"
    worker = script(
        tmp_path,
        monkeypatch,
        f"if os.path.exists({str(mark)!r}):\n"
        "    marshal.dump((bytes(20), []), sys.stdout.buffer); sys.stdout.flush(); sys.stdin.read()\n"
        f"open({str(mark)!r}, 'w').close()\n"
        "time.sleep(600)",
    )

    async def cancelled() -> None:
        task = asyncio.create_task(worker.speak("one", Path("some/voice"), 165, 50, end_pause=True))
        while not mark.exists():  # noqa: ASYNC110 (the other process makes it)
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    # The script sleeps far beyond the timeout, so an answer shows that its process was killed and replaced.
    assert len(request_to(worker).samples) == 10


def test_a_failure_of_the_engine_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="no more memory"):
        request_to(script(tmp_path, monkeypatch, "marshal.dump('no more memory', sys.stdout.buffer); sys.stdout.flush()"))


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(BackendUnavailable, match="pip install"):
        request_to(espeak.EspeakWorker())
    espeak.voices.cache_clear()
    with pytest.raises(BackendUnavailable, match="espeakng-loader"):
        espeak.voices()


def test_a_library_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "_library", lambda: (tmp_path / "nowhere.so", tmp_path))
    with pytest.raises(BackendUnavailable, match=r"does not start.*nowhere\.so.*pip install"):
        request_to(espeak.EspeakWorker())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_starts_another_engine() -> None:
    expected = speak(SENTENCE).audio.samples
    child = os.fork()
    if child == 0:
        try:
            same = np.array_equal(speak(SENTENCE).audio.samples, expected)
            asyncio.run(EmbeddedVoice().close())
            os._exit(0 if same else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(speak(SENTENCE).audio.samples, expected)


def test_the_interpreter_exits_without_waiting() -> None:
    program = (
        "import asyncio\n"
        "from prosody_tagger.markup import plain\n"
        "from synth.base import SpeechRequest\n"
        "from synth.embedded import espeak\n"
        "from synth.embedded.backend import EmbeddedVoice\n"
        "async def main():\n"
        "    async for speech in EmbeddedVoice().speak(SpeechRequest(plain('hello'))): pass\n"
        "    voice = espeak.voices()[0].path\n"
        "    request = espeak.EspeakRequest('7391 ' * 400, voice, 165, 50, True)\n"
        "    for _ in range(60): espeak.WORKER._queue.put(espeak._QueuedRequest(request))\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_the_voice_leads_up_to_a_pause_that_will_be_cut_in() -> None:
    text = plain("Nobody told us that the shop had moved.")
    at = text.text.index("the shop")
    plainly, broken = speak(text), speak(text, breaks=(at,))
    gap = [
        next(w for w in speech.words or () if w.offset == at).start - next(w for w in speech.words or () if w.word == "that").end
        for speech in (plainly, broken)
    ]
    assert gap[1] > gap[0] + 0.05
    assert [word.offset for word in broken.words or ()] == [word.core_start for word in segment_words(text.text)]
