"""Pauses are exact, measured independently: 10 ms RMS every millisecond, 40 dB below the clip's 95th percentile."""

import numpy as np
import pytest

from synth.audio.joining import END_SECONDS, join
from synth.base import Audio, Speech, WordTime

RATE = 24_000


def tone(seconds: float, lead: float = 0.0, tail: float = 0.0, decay: float = 0.0) -> Audio:
    """Return a tone with silence at its edges, fading out over the last ``decay`` seconds."""
    samples = 0.5 * np.sin(2 * np.pi * 180 * np.arange(int(seconds * RATE)) / RATE)
    if decay:
        n = int(decay * RATE)
        samples[-n:] *= np.geomspace(1, 1e-4, n)
    parts = [np.zeros(int(lead * RATE)), samples, np.zeros(int(tail * RATE))]
    return Audio(np.concatenate(parts).astype(np.float32), RATE)


def silences(audio: Audio) -> list[tuple[float, float]]:
    """Return start and length in seconds of each silence, by windows of 10 ms, one a millisecond."""
    window, hop = RATE // 100, RATE // 1000
    x = audio.samples.astype(np.float64)
    rms = np.array([np.sqrt(np.mean(x[i : i + window] ** 2)) for i in range(0, len(x) - window + 1, hop)])
    quiet = rms < np.percentile(rms, 95) / 100
    found, start = [], None
    for index, is_quiet in enumerate([*quiet, False]):
        if is_quiet and start is None:
            start = index
        elif not is_quiet and start is not None:
            found.append((start / 1000, (index - 1 - start) / 1000 + 0.010))
            start = None
    return found


@pytest.mark.parametrize("asked", [40, 250, 700, 1234])
@pytest.mark.parametrize(("tail", "lead", "decay"), [(0, 0, 0), (0.3, 0.05, 0), (0.02, 0.3, 0.08), (0.9, 0.9, 0.1)])
def test_a_pause_between_pieces_is_as_long_as_asked(asked: int, tail: float, lead: float, decay: float) -> None:
    joined, _ = join([Speech(tone(0.5, 0, tail, decay)), Speech(tone(0.5, lead))], [None, asked, None], RATE)
    ((_, length),) = silences(joined.audio)
    assert length == pytest.approx(asked / 1000, abs=0.003)


def test_pauses_first_and_last() -> None:
    joined, _ = join([Speech(tone(0.5, 0.1, 0.4))], [300, 500], RATE)
    (first, first_length), (_, last_length) = silences(joined.audio)
    assert first == 0
    assert first_length == pytest.approx(0.3, abs=0.003)
    assert last_length == pytest.approx(0.5, abs=0.003)


def test_a_pause_alone_is_exact() -> None:
    joined, _ = join([], [250], RATE)
    assert len(joined.audio.samples) == RATE // 4


def test_without_marks_the_silence_of_the_voice_stays_except_a_long_end() -> None:
    piece = tone(0.5, 0.05, 0.08)
    assert np.array_equal(join([Speech(piece)], [None, None], RATE)[0].audio.samples, piece.samples)
    long_end, _ = join([Speech(tone(0.5, 0, 2.0))], [None, None], RATE)
    assert long_end.audio.seconds == pytest.approx(0.5 + END_SECONDS, abs=0.012)


@pytest.mark.parametrize(("asked", "expected"), [(None, 0.45), (250, 0.45), (700, 0.7)])
def test_between_sentences_the_longer_of_pause_and_silence_counts(asked: int | None, expected: float) -> None:
    first, rest = join([Speech(tone(0.5, 0, 0.4))], [None, None], RATE, last=False)
    second, _ = join([Speech(tone(0.5, 0.05))], [asked, None], RATE, before=rest)
    whole = Audio(np.concatenate([first.audio.samples, second.audio.samples]), RATE)
    ((_, length),) = silences(whole)
    assert length == pytest.approx(expected, abs=0.003)


def test_word_times_move_with_the_audio() -> None:
    pieces = [
        Speech(tone(0.5, 0.1), (WordTime("a", 0, 0.1, 0.6),)),
        Speech(tone(0.5, 0.2), (WordTime("b", 2, 0.2, 0.7),)),
    ]
    joined, _ = join(pieces, [400, 300, None], RATE)
    first, second = joined.words
    assert (first.start, first.end) == pytest.approx((0.4, 0.9), abs=0.002)
    assert (second.start, second.end) == pytest.approx((1.2, 1.7), abs=0.002)


def test_no_click_where_silence_is_cut() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-4, RATE).astype(np.float32)
    left = Audio(np.concatenate([tone(0.5).samples, noise]), RATE)
    right = Audio(np.concatenate([noise, tone(0.5).samples]), RATE)
    joined = join([Speech(left), Speech(right)], [None, 200, None], RATE)[0].audio.samples
    middle = joined[int(0.55 * RATE) : int(0.65 * RATE)]
    assert np.abs(np.diff(middle)).max() < 1e-3
