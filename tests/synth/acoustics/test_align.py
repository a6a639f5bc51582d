"""Alignment, on speech with known word times: the embedded voice in another accent and tempo."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import Alias, MarkedText, parse, plain
from prosody_tagger.segment import segment_words
from synth.acoustics import align as align_module
from synth.acoustics import dtw
from synth.acoustics.align import Alignment, align
from synth.acoustics.dtw import warp
from synth.acoustics.mel_cepstra import HOP_SECONDS, band_energies, features, highest_hz
from synth.audio.signal import resample
from synth.base import Audio, Capabilities, Speech, SpeechRequest
from synth.embedded.backend import EmbeddedVoice
from synth.errors import RefusedRequest

VOICE = EmbeddedVoice()
TEXT = "I never said she stole my money, but somebody certainly took it from the kitchen."
OTHER = "Every third visitor comes back within a week because the garden is so beautiful."


def say(text: str, voice: str = "en-gb-scotland", speed: float = 1.1) -> Speech:
    async def spoken() -> Speech:
        chunks = [chunk async for chunk in VOICE.speak(SpeechRequest(plain(text), voice=voice, speed=speed))]
        return chunks[0]

    return asyncio.run(spoken())


def found(audio: Audio, text: str | MarkedText, language: str | None = None) -> Alignment:
    return asyncio.run(align(audio, text, VOICE, language=language))


def errors(alignment: Alignment, speech: Speech) -> np.ndarray:
    """Return the errors of the word starts, in milliseconds."""
    assert speech.words is not None
    return 1000 * np.array([abs(a.start - b.start) for a, b in zip(alignment.words, speech.words, strict=True)])


def check_words(alignment: Alignment, text: str, seconds: float) -> None:
    """Check that there is one time for each word, in order and within the audio."""
    assert [(word.word, word.offset) for word in alignment.words] == [
        (run.core(text), run.core_start) for run in segment_words(text)
    ]
    times = [time for word in alignment.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= seconds
    assert all(0 <= word.confidence <= 1 for word in alignment.words)
    assert 0 <= alignment.confidence <= 1
    assert alignment.trusted == (alignment.confidence >= align_module.TRUSTED)


@pytest.fixture(scope="module")
def speech() -> Speech:
    return say(TEXT)


# Where the words are


def test_words_are_found(speech: Speech) -> None:
    alignment = found(speech.audio, TEXT)
    check_words(alignment, TEXT, speech.audio.seconds)
    assert alignment.trusted
    assert np.median(errors(alignment, speech)) < 15
    assert errors(alignment, speech).max() < 80
    assert min(word.confidence for word in alignment.words) > 0.6


@pytest.mark.parametrize("speed", [0.6, 1.0, 1.8])
def test_tempo_makes_no_difference(speed: float) -> None:
    spoken = say(TEXT, speed=speed)
    alignment = found(spoken.audio, TEXT)
    assert alignment.trusted
    assert np.median(errors(alignment, spoken)) < 20


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_any_rate(speech: Speech, rate: int) -> None:
    alignment = found(resample(speech.audio, rate), TEXT)
    assert alignment.trusted
    assert np.median(errors(alignment, speech)) < 15
    assert errors(alignment, speech).max() < 100


@pytest.mark.parametrize("gain", [1e-4, 0.125, 64.0])
def test_loudness_makes_no_difference(speech: Speech, gain: float) -> None:
    louder = Audio(speech.audio.samples * np.float32(gain), speech.audio.rate)
    usual, other = found(speech.audio, TEXT), found(louder, TEXT)
    assert [word.start for word in other.words] == [word.start for word in usual.words]
    assert other.confidence == pytest.approx(usual.confidence, abs=1e-3)


@pytest.mark.parametrize("before", [3, 7, 12])
def test_words_after_a_pause_come_later(speech: Speech, before: int) -> None:
    assert speech.words is not None
    rate = speech.audio.rate
    cut = round(speech.words[before].start * rate)
    parts = [speech.audio.samples[:cut], np.zeros(rate, np.float32), speech.audio.samples[cut:]]
    alignment = found(Audio(np.concatenate(parts), rate), TEXT)
    assert alignment.trusted
    later = [word.start + (1.0 if index >= before else 0.0) for index, word in enumerate(speech.words)]
    away = np.array([abs(word.start - start) for word, start in zip(alignment.words, later, strict=True)])
    assert np.median(away) < 0.015
    assert away.max() < 0.15
    assert alignment.words[before - 1].end < speech.words[before].start + 0.1
    assert alignment.words[before].start > speech.words[before].start + 0.9


def test_silence_around_makes_no_difference(speech: Speech) -> None:
    rate = speech.audio.rate
    long = Audio(np.concatenate([np.zeros(20 * rate), speech.audio.samples, np.zeros(60 * rate)]).astype(np.float32), rate)
    alignment = found(long, TEXT)
    assert alignment.trusted
    assert alignment.words[0].start == pytest.approx(20.0, abs=0.05)
    assert np.median(np.abs([word.start - 20 for word in alignment.words] - np.array([w.start for w in speech.words]))) < 0.015


@pytest.mark.parametrize("decibels", [20, 10])
def test_noise_is_tolerated(speech: Speech, decibels: float) -> None:
    samples = speech.audio.samples
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-decibels / 20)
    noisy = samples + np.random.default_rng(0).normal(0, level, len(samples)).astype(np.float32)
    alignment = found(Audio(noisy, speech.audio.rate), TEXT)
    assert alignment.trusted
    assert np.median(errors(alignment, speech)) < 30


def test_repeated_words_are_distinguished() -> None:
    text = "No, no, no, that is not the one, not the one that I want."
    spoken = say(text)
    alignment = found(spoken.audio, text)
    assert alignment.trusted
    assert errors(alignment, spoken).max() < 100


def test_numbers_have_the_length_of_their_spoken_form() -> None:
    text = "It costs $299 on 3 May, 30% less than in 1999."
    spoken = say(text)
    alignment = found(spoken.audio, text)
    check_words(alignment, text, spoken.audio.seconds)
    assert alignment.trusted
    assert np.median(errors(alignment, spoken)) < 20
    assert alignment.words[2].end - alignment.words[2].start > 0.8


def test_one_word() -> None:
    spoken = say("Beautiful!")
    alignment = found(spoken.audio, "Beautiful!")
    assert alignment.trusted
    assert alignment.words[0].word == "Beautiful"
    assert alignment.words[0].end == pytest.approx(spoken.words[0].end, abs=0.1)


def test_marks_make_no_difference_and_aliases_do() -> None:
    text = "She works for the UN today."
    spoken = say("She works for the united nations today.")
    marked = parse("She <emph>works <pause_long>for the UN today.")
    aliased = replace(marked, aliases=(Alias(18, 20, "united nations"),))
    alignment = found(spoken.audio, aliased)
    check_words(alignment, text, spoken.audio.seconds)
    assert alignment.trusted
    assert alignment.words[-1].start == pytest.approx(spoken.words[-1].start, abs=0.04)
    assert found(spoken.audio, marked).words == found(spoken.audio, text).words


def test_unpronounced_words_have_no_length(speech: Speech) -> None:
    text = "I never 🎉 said she stole my money, but somebody certainly took it from the kitchen. ✨"
    alignment = found(speech.audio, text)
    check_words(alignment, text, speech.audio.seconds)
    assert alignment.trusted
    silent = [word for word in alignment.words if word.start == word.end]
    assert all(word.confidence == 0 for word in silent)
    spoken = [word for word in alignment.words if word.word not in "🎉✨"]
    assert np.median([abs(a.start - b.start) for a, b in zip(spoken, speech.words, strict=True)]) < 0.03


@pytest.mark.parametrize(
    ("language", "accent", "text"),
    [
        ("de", "de", "Der Zug nach Hamburg fährt heute leider nicht, weil es geschneit hat."),
        ("de-AT", "de", "Meine Schwester hat drei Katzen und einen alten Hund."),
        ("fr", "fr-be", "Ma voisine a trois chats, mais elle préfère son vieux chien."),
        ("hi", "hi", "मेरी बहन के पास तीन बिल्लियाँ और एक कुत्ता है।"),
        ("ru", "ru", "У моей сестры три кошки и одна большая собака."),
        ("zh", "cmn", "我的姐姐有三只猫和一只狗。"),
    ],
)
def test_other_languages(language: str, accent: str, text: str) -> None:
    spoken = say(text, accent, 1.25)
    alignment = found(spoken.audio, text, language)
    check_words(alignment, text, spoken.audio.seconds)
    assert alignment.trusted
    assert np.median(errors(alignment, spoken)) < 30
    assert errors(alignment, spoken).max() < 200


def test_long_texts_are_spoken_in_pieces() -> None:
    class Short(EmbeddedVoice):
        asked: list[str]

        @property
        def capabilities(self) -> Capabilities:
            return replace(super().capabilities, max_chars=30)

        async def speak(self, request: SpeechRequest) -> AsyncGenerator[Speech, None]:
            self.asked.append(request.text.text)
            async for chunk in super().speak(request):
                yield chunk

    text = f"{TEXT} {OTHER}"
    spoken = say(text)
    voice = Short()
    voice.asked = []
    alignment = asyncio.run(align(spoken.audio, text, voice))
    check_words(alignment, text, spoken.audio.seconds)
    assert max(map(len, voice.asked)) <= 30
    assert len(voice.asked) >= 6
    assert alignment.trusted
    assert np.median(errors(alignment, spoken)) < 25


def test_the_search_window_follows_a_long_recording(speech: Speech, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{TEXT} {OTHER} {TEXT} {OTHER}"
    spoken = say(text)
    whole = found(spoken.audio, text)
    monkeypatch.setattr(dtw, "BLOCK", 100)
    monkeypatch.setattr(dtw, "WINDOW", 600)
    monkeypatch.setattr(dtw, "_BEFORE", 200)
    monkeypatch.setattr(dtw, "_MEMORY", 1)
    followed = found(spoken.audio, text)
    assert np.max(np.abs([a.start - b.start for a, b in zip(whole.words, followed.words, strict=True)])) < 0.05
    assert followed.trusted


# Whether the recording says the text


def test_another_text_is_not_trusted(speech: Speech) -> None:
    alignment = found(speech.audio, OTHER)
    check_words(alignment, OTHER, speech.audio.seconds)
    assert alignment.confidence < 0.3
    assert np.mean([word.confidence for word in alignment.words]) < 0.5


def test_a_missing_sentence_is_detected(speech: Speech) -> None:
    alignment = found(speech.audio, f"{TEXT} {OTHER}")
    assert alignment.confidence < 0.3


def test_a_sentence_missing_in_the_middle_lowers_confidence_there(speech: Speech) -> None:
    third = say("He put the letters on the table and went home without a word.")
    rate = speech.audio.rate
    audio = Audio(np.concatenate([speech.audio.samples, third.audio.samples]), rate)
    text = f"{TEXT} {OTHER} He put the letters on the table and went home without a word."
    alignment = found(audio, text)
    assert not alignment.trusted
    first, missing = len(segment_words(TEXT)), len(segment_words(OTHER))
    sure = [word.confidence for word in alignment.words]
    assert np.mean(sure[: first - 4]) > np.mean(sure[first : first + missing]) + 0.3


def test_a_sentence_too_many_is_detected() -> None:
    assert found(say(f"{TEXT} {OTHER}").audio, TEXT).confidence < 0.3


def test_halves_in_the_wrong_order_are_detected(speech: Speech) -> None:
    assert found(speech.audio, "but somebody certainly took it from the kitchen, I never said she stole my money.").confidence < 0.3


def test_audio_without_speech_is_not_trusted() -> None:
    rate, rng = 24000, np.random.default_rng(0)
    time = np.arange(4 * rate) / rate
    notes = np.repeat(220 * 2 ** (rng.integers(0, 12, 16) / 12), rate // 4)
    music = sum(np.sin(2 * np.pi * k * np.cumsum(notes) / rate) / k for k in range(1, 6)) * np.abs(np.sin(np.pi * time * 4))
    sounds = {
        "silence": np.zeros(4 * rate),
        "noise": rng.standard_normal(4 * rate),
        "tone": np.sin(2 * np.pi * 440 * time),
        "music": music,
        "click": np.eye(1, 4 * rate, 2 * rate)[0],
        "one sample": np.ones(1),
        "dc": np.ones(4 * rate),
    }
    for name, samples in sounds.items():
        alignment = found(Audio((samples / 10).astype(np.float32), rate), TEXT)
        check_words(alignment, TEXT, len(samples) / rate)
        assert alignment.confidence < 0.2, name


def test_speech_backwards_is_not_trusted(speech: Speech) -> None:
    assert not found(Audio(speech.audio.samples[::-1].copy(), speech.audio.rate), TEXT).trusted


def test_a_text_of_symbols_only_is_not_trusted(speech: Speech) -> None:
    alignment = found(speech.audio, "🎉 ✨")
    check_words(alignment, "🎉 ✨", speech.audio.seconds)
    assert alignment.confidence == 0


def test_far_too_many_words_for_the_audio(speech: Speech) -> None:
    text = f"{TEXT} " * 20
    short = Audio(speech.audio.samples[:11025], speech.audio.rate)
    alignment = found(short, text)
    check_words(alignment, text, short.seconds)
    assert not alignment.trusted


# What is refused


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(0, np.float32), 24000, "0 samples"),
        (np.array([0.0, np.nan], np.float32), 24000, "NaN"),
        (np.array([0.0, -np.inf], np.float32), 24000, "infinite"),
        (np.zeros((2, 24000), np.float32), 24000, "one channel"),
        (np.zeros(100, np.float32), 100, "too low"),
        (np.zeros(4000 * 7201, np.int8), 4000, "2.0 hours long; give at most 2"),
    ],
)
def test_bad_recordings_are_refused(samples: np.ndarray, rate: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        found(Audio(samples, rate), TEXT)


@pytest.mark.parametrize("text", ["", "   \n", "... — !"])
def test_texts_without_words_are_refused(speech: Speech, text: str) -> None:
    with pytest.raises(BadInput, match="no words"):
        found(speech.audio, text)


def test_a_word_over_the_limit_of_the_voice_is_refused(speech: Speech) -> None:
    with pytest.raises(BadInput, match="3000 characters; the voice takes 2000"):
        found(speech.audio, "He said " + "a" * 3000)


def test_an_unknown_language_is_refused(speech: Speech) -> None:
    with pytest.raises(RefusedRequest, match="prosody voices"):
        found(speech.audio, TEXT, "tlh")


def test_a_voice_without_word_times_is_refused(speech: Speech) -> None:
    class Vague(EmbeddedVoice):
        @property
        def capabilities(self) -> Capabilities:
            return replace(super().capabilities, word_times=False)

    with pytest.raises(BadInput, match="'embedded'"):
        asyncio.run(align(speech.audio, TEXT, Vague()))


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=40), st.integers(1, 30000), st.sampled_from([8000, 11025, 22050, 48000]), st.integers(0, 2**32))
def test_anything_gives_words_in_order_or_a_clear_error(text: str, length: int, rate: int, seed: int) -> None:
    samples = np.random.default_rng(seed).normal(0, 0.1, length).astype(np.float32)
    samples[length // 3 : length // 2] = 0
    if not segment_words(text):
        with pytest.raises(BadInput):
            found(Audio(samples, rate), text)
        return
    check_words(found(Audio(samples, rate), text), text, length / rate)


# The parts


def test_the_path_is_the_cheapest() -> None:
    """Compare with an exhaustive search over all paths, on small inputs."""
    rng = np.random.default_rng(1)
    for frames, states in ((6, 5), (5, 7), (7, 3), (4, 1), (1, 2)):
        costs = rng.random((frames, states)).astype(np.float32)
        hold, leap = (rng.random(states).astype(np.float32) for _ in range(2))

        def paths(state: int, row: int, costs=costs, hold=hold, leap=leap) -> list[tuple[float, list[int]]]:  # type: ignore[no-untyped-def]
            if row == len(costs):
                return [(0.0, [])] if state >= len(hold) - 2 else []
            found_paths = []
            for step in (0, 1, 2):
                to = state + step
                if 0 <= to < len(hold):
                    extra = costs[row, to] + (hold[to] if step == 0 else leap[to] if step == 2 else 0.0)
                    found_paths += [(float(extra) + rest, [to, *path]) for rest, path in paths(to, row + 1)]
            return found_paths

        best = min(paths(-1, 0))
        path = warp(lambda rows, columns, costs=costs: costs[rows, columns], frames, hold, leap)
        assert path.states.tolist() == best[1]
        assert path.costs.tolist() == pytest.approx(costs[np.arange(frames), best[1]].tolist())


def test_features_do_not_depend_on_rate_and_loudness(speech: Speech) -> None:
    top = highest_hz(16000)
    usual = features(band_energies(resample(speech.audio, 16000), top))
    other = features(band_energies(Audio(resample(speech.audio, 48000).samples * np.float32(0.01), 48000), top))
    assert len(usual.values) == int(speech.audio.seconds / HOP_SECONDS) + 1
    count = min(len(usual.values), len(other.values))
    loud = usual.level[:count] > -30
    away = np.linalg.norm(usual.values[:count] - other.values[:count], axis=1)[loud]
    assert np.median(away) < 0.1 * np.median(np.linalg.norm(usual.values[:count][loud], axis=1))
