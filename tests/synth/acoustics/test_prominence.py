from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_speech import RATE, Said, speak

from prosody_tagger.errors import BadInput
from synth.acoustics.contours import measure_contours
from synth.acoustics.prominence import boundaries, prominence
from synth.acoustics.wavelet import ridges, scale_of, transform
from synth.base import Audio, WordTime

WORDS = ("one", "two", "three", "four", "five", "six", "seven")


def plain() -> list[Said]:
    return [Said(word) for word in WORDS]


@pytest.mark.parametrize("index", range(len(WORDS)))
def test_a_word_that_is_longer_louder_and_higher_is_the_most_prominent(index: int) -> None:
    said = plain()
    said[index] = replace(said[index], seconds=0.36, hertz=155.0, gain_db=5.0)
    audio, _, words = speak(*said)
    assert int(np.argmax(prominence(audio, words))) == index


@pytest.mark.parametrize("change", [{"seconds": 0.45}, {"hertz": 160.0}, {"gain_db": 8.0}])
def test_each_of_duration_pitch_and_energy_counts_alone(change: dict[str, float]) -> None:
    said = plain()
    before = prominence(*_without_text(*speak(*said)))[3]
    said[3] = replace(said[3], **change)
    after = prominence(*_without_text(*speak(*said)))
    assert int(np.argmax(after[1:-1])) == 2  # silence beside them makes the outer words stand out
    assert after[3] > before


def test_the_level_of_the_recording_does_not_matter() -> None:
    said = plain()
    said[2] = replace(said[2], gain_db=6.0)
    audio, _, words = speak(*said)
    quiet = Audio(audio.samples * np.float32(0.05), audio.rate)
    np.testing.assert_allclose(prominence(audio, words), prominence(quiet, words), atol=0.02)


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100])
def test_any_usual_rate_works(rate: int) -> None:
    said = plain()
    said[4] = replace(said[4], seconds=0.36, hertz=155.0, gain_db=5.0)
    audio, _, words = speak(*said, rate=rate)
    assert int(np.argmax(prominence(audio, words))) == 4


def test_the_strongest_boundary_is_where_the_voice_pauses() -> None:
    said = plain()
    said[4] = replace(said[4], gap=0.25)
    audio, _, words = speak(*said)
    found = boundaries(audio, words)
    assert int(np.argmax(found[:-1])) == 3
    assert found[-1] > 0  # the end is one, too


def test_no_words_give_no_values() -> None:
    audio, _, _ = speak(*plain())
    assert prominence(audio, []).shape == boundaries(audio, []).shape == (0,)


def test_one_word() -> None:
    audio, _, words = speak(Said("stop"))
    assert prominence(audio, words).shape == (1,)
    assert np.isfinite(prominence(audio, words)).all()


def test_words_without_length_have_no_prominence_and_change_no_other() -> None:
    audio, _, words = speak(*plain())
    at = words[2].end
    more = [*words[:3], WordTime("(", 99, at, at), *words[3:]]
    found = prominence(audio, more)
    assert found[3] == 0
    np.testing.assert_allclose(np.delete(found, 3), prominence(audio, words), atol=0.3)


def test_silence_and_noise_without_voice_are_measured_all_the_same() -> None:
    words = [WordTime("a", 0, 0.1, 0.4), WordTime("b", 2, 0.5, 0.9)]
    silent = Audio(np.zeros(RATE, dtype=np.float32), RATE)
    assert np.isfinite(prominence(silent, words)).all()
    noise = np.random.default_rng(1).normal(0, 0.1, RATE).astype(np.float32)
    assert np.isfinite(prominence(Audio(noise, RATE), words)).all()


def test_digital_silence_stands_out_nowhere() -> None:
    words = [WordTime("a", 0, 0.1, 0.4), WordTime("b", 2, 0.4, 0.7), WordTime("c", 4, 0.7, 1.0)]
    found = prominence(Audio(np.zeros(RATE, dtype=np.float32), RATE), words)
    assert found.max() - found.min() < 1.0


@pytest.mark.parametrize(
    ("samples", "rate", "what"),
    [
        (np.zeros(0, dtype=np.float32), RATE, "0 samples"),
        (np.array([0.1, np.nan, 0.2] * 3000, dtype=np.float32), RATE, "NaN"),
        (np.array([0.1, np.inf], dtype=np.float32), RATE, "infinite"),
        (np.zeros((2, 800), dtype=np.float32), RATE, "one channel"),
        (np.zeros(800, dtype=np.float32), 500, "500 Hz"),
    ],
)
def test_invalid_audio_is_refused(samples: np.ndarray, rate: int, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        prominence(Audio(samples, rate), [])


@pytest.mark.parametrize("times", [(0.5, 0.2), (float("nan"), 1.0), (0.0, float("inf"))])
def test_invalid_times_are_refused(times: tuple[float, float]) -> None:
    audio, _, _ = speak(*plain())
    with pytest.raises(BadInput, match="'one'"):
        prominence(audio, [WordTime("one", 0, *times)])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 5), st.floats(0, 2)), max_size=12),
    st.integers(1, 3 * RATE),
    st.sampled_from(["noise", "silence", "clipped", "click"]),
)
def test_any_words_in_any_audio_get_finite_values(spans: list[tuple[float, float]], count: int, kind: str) -> None:
    rng = np.random.default_rng(count)
    samples = np.zeros(count, dtype=np.float32)
    if kind in ("noise", "clipped"):
        samples = np.clip(rng.normal(0, 9 if kind == "clipped" else 0.1, count), -1, 1).astype(np.float32)
    if kind == "click":
        samples[count // 2] = 1.0
    words = [WordTime("w", index, start, start + length) for index, (start, length) in enumerate(spans)]
    for found in (prominence(Audio(samples, RATE), words), boundaries(Audio(samples, RATE), words)):
        assert found.shape == (len(words),)
        assert np.isfinite(found).all()
        assert (found >= 0).all()


def test_a_long_recording_is_the_same_as_a_short_one_where_both_have_it() -> None:
    audio, _, _ = speak(*plain())
    short = measure_contours(audio)
    silence = np.zeros(30 * RATE, dtype=np.float32)
    long = measure_contours(Audio(np.concatenate([audio.samples, silence, audio.samples]), RATE))
    np.testing.assert_allclose(long.energy[: len(short.energy) - 10], short.energy[:-10], atol=1e-6)
    np.testing.assert_allclose(np.nanmedian(long.semitones[: len(short.semitones)]), np.nanmedian(short.semitones), atol=0.05)


def test_the_contours_contain_the_pitch_of_the_voice() -> None:
    for hertz in (90.0, 130.0, 210.0, 300.0):
        audio, _, _ = speak(*(Said(word, hertz=hertz) for word in WORDS))
        found = measure_contours(audio).semitones
        assert 2 ** (np.nanmedian(found) / 12) == pytest.approx(hertz, rel=0.01)


def test_a_scale_responds_to_a_bump_of_its_length() -> None:
    frames = np.arange(1040)
    scales = scale_of(40.0) * 2.0 ** np.arange(-3, 3, 0.25)
    wave = np.sin(2 * np.pi * frames / 80)  # bumps of 40 frames
    # By amplitude the peak is where the product of scale and angular frequency is the square root of 2.
    strongest = scales[np.abs(transform(wave, scales)).max(axis=1).argmax()]
    assert strongest * 2 * np.pi / 80 == pytest.approx(np.sqrt(2), rel=0.1)


def test_the_scales_add_up_to_the_signal() -> None:
    frames = np.arange(2048)
    wave = np.cos(2 * np.pi * frames / 64) + 0.5 * np.cos(2 * np.pi * frames / 256)
    scales = 2.0 ** np.arange(-1, 10, 0.25)
    np.testing.assert_allclose(transform(wave, scales).sum(axis=0), wave, atol=0.08)


def test_a_ridge_stands_on_every_bump_and_is_the_stronger_the_higher_it_is() -> None:
    frames = np.arange(1024)
    signal = sum(height * np.exp(-((frames - at) ** 2) / (2 * 15.0**2)) for at, height in ((200, 1.0), (500, 2.0), (800, 0.5)))
    scales = scale_of(30.0) * 2.0 ** np.arange(-2, 1, 0.25)
    places, strengths = ridges(transform(signal, scales), scales)
    for at, height in ((200, 1.0), (500, 2.0), (800, 0.5)):
        near = np.flatnonzero(np.abs(places - at) < 5)
        assert len(near)
        assert strengths[near].max() == pytest.approx(height * strengths.max() / 2.0, rel=0.05)


def _without_text(audio: Audio, _text: str, words: list[WordTime]) -> tuple[Audio, list[WordTime]]:
    return audio, words
