"""The natural voice: marks, word times, pauses, speed, bounds, and what it does with texts that it cannot read."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scaling import is_linear

from ai_core.commands import doctor
from ai_core.pipeline import Job, collect
from ai_core.runtime import Runtime
from ai_core.settings import Settings
from prosody_tagger.markup import KINDS, Alias, Mark, MarkedText, parse, plain
from prosody_tagger.segment import segment_words
from synth import registry
from synth.acoustics.prominence import prominence
from synth.base import Speech, SpeechRequest
from synth.errors import BackendError, BackendUnavailable, RefusedRequest
from synth.natural import network, package
from synth.natural.backend import MAX_CHARS, NaturalVoice

SENTENCE = "I never said she stole my money."
RATE = network.RATE


def speak(text: str | MarkedText, **options: object) -> Speech:
    async def chunks() -> list[Speech]:
        marked = parse(text) if isinstance(text, str) else text
        return [chunk async for chunk in NaturalVoice().speak(SpeechRequest(marked, **options))]  # type: ignore[arg-type]

    (speech,) = asyncio.run(chunks())
    return speech


def seconds(speech: Speech, index: int) -> float:
    return speech.words[index].end - speech.words[index].start


def samples_of(speech: Speech, index: int) -> np.ndarray:
    word = speech.words[index]
    return speech.audio.samples[round(word.start * RATE) : round(word.end * RATE)]


def pitch_of(speech: Speech, index: int) -> np.ndarray:
    """Return the pitch of the voiced frames of a word, in semitones above 1 Hz."""
    from synth.acoustics.contours import measure_contours

    contours = measure_contours(speech.audio)
    word = speech.words[index]
    found = contours.semitones[round(word.start / contours.step) : round(word.end / contours.step) + 1]
    return found[~np.isnan(found)]


def check_times(speech: Speech, text: str) -> None:
    runs = segment_words(text)
    assert [(word.word, word.offset) for word in speech.words] == [(run.core(text), run.core_start) for run in runs]
    times = [time for word in speech.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert not times or (times[0] >= 0 and times[-1] <= speech.audio.seconds + 1e-9)


# Marks


@pytest.mark.parametrize("strength", ["low", "medium", "high"])
def test_an_emphasised_word_is_longer_higher_louder_and_on_top(strength: str) -> None:
    usual = speak(SENTENCE)
    for index in (1, 4, 6):
        word = segment_words(SENTENCE)[index]
        marked = speak(MarkedText(SENTENCE, (Mark("emph", word.start),)), strength=strength)
        check_times(marked, SENTENCE)
        assert not marked.unrealised
        assert seconds(marked, index) > 1.15 * seconds(usual, index)
        assert np.percentile(pitch_of(marked, index), 90) > np.percentile(pitch_of(usual, index), 90) + 1
        assert np.square(samples_of(marked, index)).mean() > np.square(samples_of(usual, index)).mean()
        assert int(np.argmax(prominence(marked.audio, marked.words))) == index


def test_strength_grows() -> None:
    marked = "She <emph>lives here."
    low, medium, high = (seconds(speak(marked, strength=strength), 1) for strength in ("low", "medium", "high"))
    assert low < medium < high


def test_several_emphases_all_stand_out() -> None:
    speech = speak("The <emph>red car and the <emph>blue bicycle were sold on Monday.")
    values = prominence(speech.audio, speech.words)
    assert set(np.argsort(values)[-2:]) == {1, 5}


def test_a_text_of_emphases_alone_is_spoken() -> None:
    speech = speak("<emph>Stop <emph>now!")
    check_times(speech, "Stop now!")
    assert not speech.unrealised


@pytest.mark.parametrize("kind", ["pitch_high", "pitch_low", "pitch_rising", "pitch_falling"])
def test_pitch_marks_move_the_pitch(kind: str) -> None:
    text = "We will meet the manager on Monday morning."
    usual, marked = speak(text), speak(text.replace("manager", f"<{kind}>manager"))
    was, now = pitch_of(usual, 4), pitch_of(marked, 4)
    if kind in ("pitch_high", "pitch_low"):
        change = np.median(now) - np.median(was)
    else:
        part = len(now) // 4
        change = np.median(now[-part:]) - np.median(now[:part])
    assert (change if kind in ("pitch_high", "pitch_rising") else -change) > 2


def test_pauses_and_marks_without_a_word_are_left_to_the_caller() -> None:
    marked = MarkedText("Well, yes.", (Mark("pause_short", 6), Mark("emph", 10)))
    assert speak(marked).unrealised == marked.marks


# Word times, speed, seeds, silence


def test_words_have_times_also_where_one_is_spoken_as_many() -> None:
    text = "It costs $299 – really, 30% less than in 2019!"
    speech = speak(text)
    check_times(speech, text)
    assert seconds(speech, 2) > 3 * seconds(speech, 0)


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.8, 1.5, 2.0, 3.0])
def test_speed_is_obeyed(speed: float) -> None:
    usual, other = speak(SENTENCE), speak(SENTENCE, speed=speed)
    check_times(other, SENTENCE)
    assert (usual.words[-1].end - usual.words[0].start) / (other.words[-1].end - other.words[0].start) == pytest.approx(
        speed, rel=0.12
    )


@pytest.mark.parametrize("speed", [0.0, 0.2, 4.1, float("nan")])
def test_a_speed_out_of_range_is_refused(speed: float) -> None:
    with pytest.raises(RefusedRequest, match="speed"):
        speak(SENTENCE, speed=speed)


def test_equal_requests_return_equal_samples_and_a_seed_changes_only_the_noise() -> None:
    first, again, other = speak(SENTENCE), speak(SENTENCE), speak(SENTENCE, seed=3)
    assert np.array_equal(first.audio.samples, again.audio.samples)
    assert np.array_equal(other.audio.samples, speak(SENTENCE, seed=3).audio.samples)
    assert not np.array_equal(first.audio.samples, other.audio.samples)
    assert other.audio.seconds == pytest.approx(first.audio.seconds, abs=0.02)


def test_silence_at_the_ends_is_short() -> None:
    whole, part = speak(SENTENCE), speak(SENTENCE[:-1], unfinished=True)
    assert whole.words[0].start <= 0.031
    assert whole.audio.seconds - whole.words[-1].end <= 0.251
    assert part.audio.seconds - part.words[-1].end <= 0.031


@pytest.mark.parametrize("text", ["", " ", "...", "—", "(!)", "\n"])
def test_a_text_without_words_is_silent(text: str) -> None:
    speech = speak(plain(text))
    assert not len(speech.audio.samples)
    assert not speech.words


def test_pauses_are_exact_through_the_pipeline() -> None:
    from synth.audio.signal import silence_level
    from synth.natural.word_timing import silent_stretches

    text = "We took the early train, because the last one is always late."

    async def results() -> None:
        async with Runtime(Settings(backend="natural", fallback="none")) as runtime:
            for index in (3, 5, 9):
                for ms in (250, 700):
                    marked = MarkedText(text, (Mark("pause_short", segment_words(text)[index].start, ms),))
                    result = await collect(Job(marked, tag=False), runtime)
                    assert result.backend == "natural"
                    assert not result.unrealised
                    assert silence_level(result.audio) > 0
                    start = result.words[index].start
                    near = min(silent_stretches(result.audio.samples), key=lambda stretch: abs(stretch.end - start))
                    assert near.end - near.start == pytest.approx(ms / 1000, abs=0.008)

    asyncio.run(results())


# What a user's text can hold


def test_phonemes_in_a_users_text_are_read_as_text() -> None:
    injected = speak("[word](/həlO/) test")
    assert [word.word for word in injected.words] == ["word](/həlO", "test"]
    assert seconds(injected, 0) > 2 * seconds(speak("hello test"), 0)
    for text in ("](/x/)", "[[a]](/b/)", "[a] (/b/)", "［a］（/b/）"):
        check_times(speak(plain(text)), text)


@pytest.mark.parametrize("text", ["Say привет to her.", "你好", "مرحبا", "The word こんにちは means hello."])
def test_another_script_is_not_left_out_in_silence(text: str) -> None:
    with pytest.raises(BackendError, match="English"):
        speak(plain(text))
    result = asyncio.run(collect(Job(text, backend="natural", tag=False), Runtime(Settings(fallback="embedded"))))
    assert result.backend == "embedded"
    assert result.fallback == "natural"
    assert any("English" in warning for warning in result.warnings)


def test_symbols_and_rare_letters_are_spoken() -> None:
    speech = speak(plain("😀 ♥ Łódź Đặng ﬁne"))
    assert all(word.end - word.start > 0.05 for word in speech.words)
    assert not speech.warnings


def test_a_word_without_sound_is_named() -> None:
    speech = speak(plain("Here \U0010ffff comes \ue000 nothing"))
    assert not speech.warnings  # neither is a word
    speech = speak(plain("Here Ꞑ comes nothing"))
    assert speech.words[1].start == speech.words[1].end
    assert "'Ꞑ'" in speech.warnings[0]


def test_an_alias_is_spoken() -> None:
    text = "Ask the W3C now."
    whole = speak(MarkedText(text, (), (Alias(8, 11, "World Wide Web Consortium"),)))
    check_times(whole, text)
    assert seconds(whole, 2) > 1.0


def test_bounds() -> None:
    with pytest.raises(RefusedRequest, match=str(MAX_CHARS)):
        speak(plain("a" * (MAX_CHARS + 1)))
    with pytest.raises(RefusedRequest, match="heart"):
        speak(SENTENCE, voice="emma")
    check_times(speak(SENTENCE, voice="en_US"), SENTENCE)
    long = speak(plain("9" * MAX_CHARS))  # two thousand symbols
    assert long.audio.seconds > 20
    assert len(speak(plain("a" * 200)).words) == 1


HOSTILE = ("[", "](", "[a](/", "'", "-", "a.", "1,", "$", "_", "(", "ab-", "😀", "\u0301", "“", "\\", "x^")


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_texts_take_time_in_proportion(unit: str) -> None:
    from synth.natural.pronunciation import pronounce

    def work(text: str) -> object:
        return pronounce(SpeechRequest(plain(text)))

    work(unit * (100 // len(unit)))
    assert is_linear(work, unit * (100 // len(unit)), unit * (400 // len(unit)))


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40), st.sampled_from(KINDS), st.integers(0, 40))
def test_any_text_is_spoken_or_refused_in_words(text: str, kind: str, offset: int) -> None:
    marked = MarkedText(text, (Mark(kind, min(offset, len(text))),))
    try:
        speech = speak(marked)
    except BackendError as error:
        assert "English" in str(error)  # noqa: PT017
        return
    check_times(speech, text)
    assert np.all(np.isfinite(speech.audio.samples))
    assert np.max(np.abs(speech.audio.samples), initial=0) <= 1


# The package


@pytest.fixture
def unloaded() -> Iterator[None]:
    """Have the network be loaded anew, and once more after the test."""
    network._load.cache_clear()
    yield
    network._load.cache_clear()


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("state", ["missing", "without a model", "altered"])
def test_a_package_that_is_not_the_right_one_is_said(state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if state == "missing":
        monkeypatch.setattr(package, "find_spec", lambda name: None)
    else:
        if state == "altered":
            data = bytearray((package.assets() / "hibari.onnx").read_bytes())
            data[len(data) // 2] ^= 1
            (tmp_path / "hibari.onnx").write_bytes(data)
        monkeypatch.setattr(package, "assets", lambda: tmp_path)
    with pytest.raises(BackendUnavailable, match=r"run: pip install.*(hibari-tts|natural)") as failure:
        speak(SENTENCE)
    reason = NaturalVoice().unready()
    assert reason == str(failure.value)
    result = asyncio.run(collect(Job(SENTENCE, backend="natural", tag=False), Runtime(Settings(fallback="embedded"))))
    assert result.backend == "embedded"
    assert reason in result.warnings[0]
    (finding,) = [finding for finding in doctor._backends(Settings()) if finding.name == "natural"]
    assert not finding.ready
    assert finding.detail == reason


def test_it_is_listed_and_ready() -> None:
    assert registry.BACKENDS["natural"].extra == "natural"
    assert NaturalVoice().unready() is None
    capabilities = NaturalVoice().capabilities
    assert {kind for kind in KINDS if capabilities.marks[kind] == "rendered"} == set(KINDS) - {"pause_short", "pause_long"}
    assert [voice.name for voice in asyncio.run(NaturalVoice().voices())] == ["heart"]


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import hibari.voices

    def fail(*_: object) -> None:
        raise AssertionError("a download was started")

    monkeypatch.setattr(hibari.voices, "download", fail)
    monkeypatch.setattr(hibari.voices, "voice_path", fail)
    speak(SENTENCE)


def test_the_network_is_loaded_once() -> None:
    speak(SENTENCE)
    assert network.network() is network.network()
