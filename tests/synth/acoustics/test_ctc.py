"""CTC alignment: with a fake network that reads the characters from the samples, and with a real, untrained one."""

import asyncio
import json
import math
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_core.alignment import align_words, find_word_times
from ai_core.commands.label import label
from ai_core.commands.measure import measure
from ai_core.runtime import Runtime
from ai_core.settings import Settings
from prosody_tagger.command import exit_code
from prosody_tagger.errors import BadInput, ModelError
from prosody_tagger.markup import MarkedText, parse
from prosody_tagger.segment import segment_words
from synth.acoustics import ctc, dtw
from synth.acoustics.align import Alignment
from synth.acoustics.ctc import CtcAligner, Vocabulary, best_path
from synth.acoustics.realise import realise
from synth.audio.encoding import encode
from synth.base import Audio, Speech

RATE, HOP, FIELD = 16_000, 320, 400
STRIDES, KERNELS = (5, 2, 2, 2, 2, 2, 2), (10, 3, 3, 3, 3, 2, 2)
BLANK, DELIMITER = 0, 1
Heard = tuple[str, int]
"""A character, "" for the blank or "|" for the delimiter, and the number of frames that it lasts."""


class Oracle:
    """A fake network that recognises the characters that `recorded` wrote into the samples, from any starting point."""

    def __init__(self, characters: str, sure: float = 0.95, extra_frames: int = 0) -> None:
        self.config = SimpleNamespace(conv_kernel=KERNELS, conv_stride=STRIDES)
        self.device = "cpu"
        self.longest = 0
        self.ids = {"": BLANK, "|": DELIMITER} | {character: index for index, character in enumerate(characters, 2)}
        self._sure, self._extra = sure, extra_frames

    def __call__(self, samples: Any) -> Any:
        import torch

        frames = (samples.shape[1] - FIELD) // HOP + 1
        self.longest = max(self.longest, frames)
        # The blank is the loudest, so that the peak is the same in every recording.
        written = samples[0, FIELD // 2 + HOP * torch.arange(frames)]
        heard = torch.round((1 - written) * len(self.ids)).long() % len(self.ids)
        rest = (1 - self._sure) / (len(self.ids) - 1)
        probabilities = torch.full((frames + self._extra, len(self.ids)), rest)
        probabilities[torch.arange(frames), heard] = self._sure
        return SimpleNamespace(logits=probabilities.log()[None])


class Fed:
    """A feature extractor that passes the samples on unchanged."""

    sampling_rate = RATE

    def __call__(self, samples: Any, **_: object) -> dict[str, Any]:
        return {"input_values": [samples]}


def oracle(characters: str = "abcdefghijklmnopqrstuvwxyz'", **how: Any) -> CtcAligner:
    network = Oracle(characters, **how)
    ids = {character: index for character, index in network.ids.items() if index > DELIMITER}
    return CtcAligner(network, Fed(), Vocabulary(ids, BLANK, DELIMITER))


def recorded(aligner: CtcAligner, heard: Sequence[Heard]) -> Audio:
    """Return samples that the oracle recognises as ``heard``."""
    ids = aligner._network.ids
    levels = [1 - ids[character] / len(ids) for character, frames in heard for _ in range(frames)]
    return Audio(np.append(np.repeat(levels, HOP), np.ones(FIELD - HOP)).astype(np.float32), RATE)


def spelled(said: Sequence[str], pause: int = 7) -> tuple[list[Heard], list[tuple[int, int]]]:
    """Return the words as a network's output, with silence around them, and the frames of each word."""
    heard: list[Heard] = [("", pause)]
    spans = []
    for word in said:
        start = sum(frames for _, frames in heard)
        for character in word:
            heard += [("|", 3)] if character == " " else [(character, 2), ("", 1)]
        spans.append((start, sum(frames for _, frames in heard) - 1))
        heard += [("|", 2), ("", pause)]
    return heard, spans


def found(said: Sequence[str], text: str, aligner: CtcAligner | None = None, **how: Any) -> tuple[Alignment, float]:
    """Return the alignment, and the greatest error of a start or end, in frames."""
    aligner = aligner or oracle()
    heard, spans = spelled(said)
    alignment = aligner.align(recorded(aligner, heard), text, **how)
    check(alignment, text)
    times = [(word.start, word.end) for word in alignment.words if word.end > word.start]
    return alignment, float(np.abs(np.array(times) * RATE / HOP - spans).max())


def check(alignment: Alignment, text: str) -> None:
    """Check that there is one time for each word, in order."""
    assert [(word.word, word.offset) for word in alignment.words] == [
        (run.core(text), run.core_start) for run in segment_words(text)
    ]
    times = [moment for word in alignment.words for moment in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert all(0 <= word.confidence <= 1 for word in alignment.words)
    assert 0 <= alignment.confidence <= 1


# The most probable path


def spellings(states: Sequence[int], frames: int) -> Iterator[tuple[int, ...]]:
    """Yield every path that spells the labels, with optional blanks between them."""

    def further(path: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(path) == frames:
            if path[-1] >= len(states) - 2:
                yield path
            return
        at = path[-1]
        for place in range(at, min(at + 3, len(states))):
            if place - at < 2 or (place % 2 and states[place] != states[at]):
                yield from further((*path, place))

    for first in (0, 1):
        yield from further((first,))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=1, max_size=3), st.integers(0, 3), st.integers(0, 2**31), st.data())
def test_the_path_is_the_most_probable_of_all(labels: list[int], more: int, seed: int, data: st.DataObject) -> None:
    between = data.draw(st.lists(st.integers(0, 1), min_size=len(labels) + 1, max_size=len(labels) + 1))
    frames = ctc._fewest_frames(np.array(labels)) + more
    logits = np.random.default_rng(seed).normal(0, 3, (frames, 5))
    emissions = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    path = best_path(emissions, np.array(labels), np.array(between))
    states = [column for pair in zip(between, [*labels, -1], strict=True) for column in pair][:-1]
    ways = list(spellings(states, frames))
    assert tuple(path.states.tolist()) in ways
    costs = [-sum(float(emissions[frame, states[place]]) for frame, place in enumerate(way)) for way in ways]
    assert float(path.costs.sum()) == pytest.approx(min(costs), abs=1e-4)
    assert path.costs == pytest.approx([-emissions[frame, states[place]] for frame, place in enumerate(path.states)])


def test_a_label_twice_has_a_blank_between() -> None:
    emissions = np.log(np.array([[0.01, 0.99], [0.01, 0.99], [0.01, 0.99]], np.float32))
    path = best_path(emissions, np.array([1, 1]), np.array([0, 0, 0]))
    assert path.states.tolist() == [1, 2, 3]


# Where the words are


def test_words_are_found_to_the_frame() -> None:
    said = "i never said she stole my money".split()
    alignment, away = found(said, "I never said she stole my money.")
    assert away < 0.2
    assert alignment.trusted
    assert [word.confidence for word in alignment.words] == pytest.approx([0.95] * 7, abs=0.04)


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_at_any_rate_and_loudness(rate: int) -> None:
    aligner = oracle()
    heard, spans = spelled(["one", "two"])
    audio = recorded(aligner, heard)
    levels = np.repeat(audio.samples[FIELD // 2 :: HOP], round(HOP * rate / RATE)) * 1e-3
    alignment = aligner.align(Audio(levels.astype(np.float32), rate), "one two")
    assert alignment.trusted
    starts = [word.start * RATE / HOP for word in alignment.words]
    assert starts == pytest.approx([start for start, _ in spans], abs=1)


def test_numbers_are_aligned_in_their_spoken_form() -> None:
    alignment, away = found(["only", "two hundred ninety nine dollars", "today"], "Only $299 today!")
    assert away < 0.2
    assert alignment.trusted
    assert found(["zweihundertneunundneunzig", "tage"], "299 Tage", language="de")[0].trusted


def test_letters_that_repeat() -> None:
    _, away = found(["bookkeeper", "needs", "all", "llamas"], "Bookkeeper needs all llamas")
    assert away < 0.2


def test_words_without_a_pause_or_a_delimiter() -> None:
    aligner = oracle()
    alignment = aligner.align(recorded(aligner, [("a", 3), ("b", 3), ("c", 3), ("d", 3)]), "ab cd")
    assert alignment.trusted
    assert alignment.words[0].end == alignment.words[1].start == pytest.approx((6 * HOP + 40) / RATE)


def test_a_network_without_a_delimiter_uses_blanks() -> None:
    aligner = oracle()
    aligner.vocabulary = Vocabulary(aligner.vocabulary.ids, BLANK)
    heard, spans = spelled(["ab", "cd"])
    silent = [("", frames) if character == "|" else (character, frames) for character, frames in heard]
    alignment = aligner.align(recorded(aligner, silent), "ab cd")
    assert alignment.trusted
    assert alignment.words[1].start * RATE / HOP == pytest.approx(spans[1][0], abs=0.2)


@pytest.mark.parametrize(
    ("characters", "text", "said"),
    [
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZ'", "“Naïve” Straße, isn’t it?", ["NAIVE", "STRASSE", "ISN'T", "IT"]),
        ("абвгдежзийклмнопрстуфхцчшщъыьэюяё", "Съешь ещё булок", ["съешь", "ещё", "булок"]),
        ("αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώ", "Καλημέρα ΚΌΣΜΕ", ["καλημέρα", "κόσμε"]),
        ("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", "مرحبا بكم", ["مرحبا", "بكم"]),
        ("abcdefghijklmnopqrstuvwxyzé", "Cafe\u0301 noir", ["café", "noir"]),
        ("你好世界", "你 好 世 界", ["你", "好", "世", "界"]),
        ("नमस्ते", "नमस्ते नमस्ते", ["नमस्ते"] * 2),
        ("안녕하세요", "안녕 하세요", ["안녕", "하세요"]),
    ],
)
def test_scripts(characters: str, text: str, said: list[str]) -> None:
    alignment, away = found(said, text, oracle(characters), language="und")
    assert alignment.trusted
    assert away < 0.2


def test_a_letter_is_spelled_as_the_network_writes_it() -> None:
    ids = {"a": 5, "s": 6, "é": 7, "'": 8, "İ": 9}
    spell = Vocabulary(ids, 0).spell
    assert [spell(character) for character in "aAáß’éÉşxİ"] == [[5], [5], [5], [6, 6], [8], [7], [7], [6], [], [9]]


def test_marks_and_layout_make_no_difference() -> None:
    marked = parse("Only <emph>nine <pause_long>dollars")
    aligner = oracle()
    heard, _ = spelled(["only", "nine", "dollars"])
    audio = recorded(aligner, heard)
    assert aligner.align(audio, marked) == aligner.align(audio, marked.text)
    spread = aligner.align(audio, " Only \n\n nine -- \u200bdollars\0 ")
    assert [word.start for word in spread.words if word.confidence] == [word.start for word in aligner.align(audio, marked).words]


def test_a_word_without_known_characters_has_no_length() -> None:
    alignment, away = found(["so", "nice"], "так so 😀 nice 你好")
    assert away < 0.2
    assert alignment.trusted
    silent = [word for word in alignment.words if word.word not in ("so", "nice")]
    assert [(word.end - word.start, word.confidence) for word in silent] == [(0, 0)] * 4
    assert silent[1].start == alignment.words[1].end


def test_a_text_in_an_unknown_script_is_not_aligned() -> None:
    aligner = oracle()
    audio = recorded(aligner, spelled(["one"])[0])
    alignment = aligner.align(audio, "Привет, мир")
    check(alignment, "Привет, мир")
    assert alignment.confidence == 0
    assert alignment.words[-1].end == pytest.approx(audio.seconds)


# Long and short


def test_windows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["one", "two", "three", "four", "five"] * 12
    whole, away = found(said, " ".join(said))
    assert away < 0.2
    monkeypatch.setattr(ctc, "_WINDOW", 50)
    monkeypatch.setattr(ctc, "_CONTEXT", 10)
    aligner = oracle()
    assert found(said, " ".join(said), aligner)[0] == whole
    assert aligner._network.longest == 70


def test_a_text_longer_than_the_search_window() -> None:
    said = "the quick brown fox jumps over a lazy dog while seven wizards vex both queens".split() * 35
    assert sum(map(len, said)) > dtw.WINDOW / 2
    alignment, away = found(said, " ".join(said))
    assert alignment.trusted
    assert away < 0.2


@pytest.mark.parametrize("samples", [1, 399, 400, 720, 1500])
def test_too_short_for_the_text(samples: int) -> None:
    text = "nobody says this much in no time"
    alignment = oracle().align(Audio(np.ones(samples, np.float32), RATE), text)
    check(alignment, text)
    assert alignment.confidence == 0
    assert not alignment.trusted


def test_just_long_enough() -> None:
    aligner = oracle()
    alignment = aligner.align(recorded(aligner, [("a", 1), ("b", 1), ("", 1), ("b", 1)]), "abb")
    assert alignment.trusted
    assert (alignment.words[0].start, alignment.words[0].end) == pytest.approx((40 / RATE, (4 * HOP + 40) / RATE))


# Wrong texts


@pytest.mark.parametrize(
    "text",
    [
        "completely different words about birds",
        "money my stole she said never i",
        "i never said she stole my money and everything else in the house was gone",
        "i never",
    ],
)
def test_another_text_is_not_trusted(text: str) -> None:
    aligner = oracle()
    heard, _ = spelled("i never said she stole my money".split())
    alignment = aligner.align(recorded(aligner, heard), text)
    check(alignment, text)
    assert not alignment.trusted


def test_one_wrong_word_among_many_is_the_unsure_one() -> None:
    said = "i never said she stole my money from the kitchen".split()
    text = "i never said she stole our money from the kitchen"
    aligner = oracle()
    alignment = aligner.align(recorded(aligner, spelled(said)[0]), text)
    assert min(alignment.words, key=lambda word: word.confidence).word == "our"


def test_an_extra_sentence_in_a_long_recording_is_detected() -> None:
    said = ["one", "two", "three", "four", "five"] * 20
    aligner = oracle()
    extra = "nobody asked for any more of these sentences at all so why".split()
    heard, _ = spelled([*said[:50], *extra, *said[50:]])
    alignment = aligner.align(recorded(aligner, heard), " ".join(said))
    assert not alignment.trusted
    assert alignment.words[0].confidence > 0.9


def test_silence_is_not_trusted() -> None:
    alignment = oracle().align(Audio(np.zeros(3 * RATE, np.float32), RATE), "hello there")
    check(alignment, "hello there")
    assert not alignment.trusted


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.integers(1, 20_000), st.integers(0, 2**31))
def test_any_text_and_any_noise(text: str, samples: int, seed: int) -> None:
    audio = Audio(np.random.default_rng(seed).uniform(0, 1, samples).astype(np.float32), RATE)
    if not segment_words(text):
        with pytest.raises(BadInput, match="no words"):
            oracle().align(audio, text)
        return
    alignment = oracle().align(audio, text)
    check(alignment, text)
    assert alignment.words[-1].end <= audio.seconds


# Audio that cannot be aligned


@pytest.mark.parametrize(
    ("audio", "what"),
    [
        (Audio(np.zeros(0, np.float32), RATE), "0 samples"),
        (Audio(np.ones((RATE, 2), np.float32), RATE), r"shape \(16000, 2\)"),
        (Audio(np.full(RATE, np.nan, np.float32), RATE), "NaN"),
        (Audio(np.full(RATE, -np.inf, np.float32), RATE), "infinite"),
        (Audio(np.ones(1000, np.float32), 1000), "1000 Hz"),
        (Audio(np.broadcast_to(np.float32(1), 3 * 3600 * RATE), RATE), "hours"),
    ],
)
def test_bad_audio(audio: Audio, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        oracle().align(audio, "hello")


def test_a_network_that_gives_nan_or_other_frames() -> None:
    audio = Audio(np.ones(RATE, np.float32), RATE)
    with pytest.raises(ModelError, match="NaN"):
        oracle(sure=math.nan).align(audio, "hello")
    with pytest.raises(ModelError, match="gives 50 frames where its configuration says 49"):
        oracle(extra_frames=1).align(audio, "hello")


# Checkpoints

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
VOCABULARY = {token: index for index, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS))}


def make_checkpoint(folder: Path) -> Path:
    """Write a tiny wav2vec 2.0 checkpoint with random weights."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(VOCABULARY),
        pad_token_id=0,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        conv_kernel=KERNELS,
        conv_stride=STRIDES,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("ctc") / "model")


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoint that a test may break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@contextmanager
def edited(path: Path) -> Iterator[dict[str, Any]]:
    data = json.loads(path.read_text())
    yield data
    path.write_text(json.dumps(data))


def noise(seconds: float = 2.0, rate: int = 24_000) -> Audio:
    """Return noise modulated at the rate of syllables."""
    count = round(seconds * rate)
    loudness = 0.1 * np.maximum(0, np.sin(2 * np.pi * 4 * np.arange(count) / rate))
    return Audio((np.random.default_rng(0).normal(0, 1, count) * loudness).clip(-1, 1).astype(np.float32), rate)


def test_a_checkpoint_is_loaded_and_used(checkpoint: Path) -> None:
    aligner = CtcAligner.load(checkpoint)
    assert aligner.rate == RATE
    assert aligner.vocabulary == Vocabulary({letter: VOCABULARY[letter] for letter in LETTERS}, 0, 4)
    text = "I paid $299 – it's “naïve” 😀, isn’t it?"
    alignment = aligner.align(noise(), text)
    check(alignment, text)
    assert not alignment.trusted
    assert CtcAligner.load(str(checkpoint)).align(noise(), text) == alignment


def test_a_real_network_gives_the_frames_that_its_strides_say(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aligner = CtcAligner.load(checkpoint)
    for samples in (FIELD, FIELD + HOP - 1, FIELD + HOP, 12_345):
        aligner.align(Audio(noise().samples[:samples], RATE), "a")
    whole = aligner.align(noise(), "hello there")
    monkeypatch.setattr(ctc, "_WINDOW", 40)
    windowed = aligner.align(noise(), "hello there")
    assert windowed.confidence == pytest.approx(whole.confidence, abs=0.01)


def test_loading_is_silent_about_weights_for_training(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers.utils import logging

    drop(copied, "masked_spec_embed")
    logger, level = logging.get_logger(), logging.get_verbosity()
    logger.addHandler(caplog.handler)
    try:
        CtcAligner.load(copied)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.messages == []
    assert logging.get_verbosity() == level


def drop(folder: Path, name: str) -> None:
    """Remove the weights of that name from a checkpoint."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if name not in key}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def another_model(folder: Path) -> None:
    with edited(folder / "config.json") as config:
        config["model_type"] = "gpt2"


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")


def no_vocabulary(folder: Path) -> None:
    for name in ("vocab.json", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)


def broken_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").write_text("{")


def vocabulary_of_pieces(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "|": 1, "ab": 2, "cd": 3}))


def larger_vocabulary(folder: Path) -> None:
    beyond = {letter: len(VOCABULARY) + index for index, letter in enumerate(LETTERS)}
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "|": 4} | beyond))


def no_head(folder: Path) -> None:
    drop(folder, "lm_head")


def no_extractor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


@pytest.mark.parametrize(
    ("breaking", "what"),
    [
        (another_model, "gpt2, not a CTC model"),
        (no_config, "configuration"),
        (no_weights, "cannot load the CTC model"),
        (broken_weights, "cannot load the CTC model"),
        (no_vocabulary, "tokenizer|no vocabulary"),
        (broken_vocabulary, "tokenizer"),
        (vocabulary_of_pieces, "no vocabulary of single characters"),
        (larger_vocabulary, "no vocabulary of single characters"),
        (no_head, "lacks lm_head.bias; give one fine-tuned with CTC"),
        (no_extractor, "feature extractor"),
    ],
)
def test_a_broken_checkpoint_is_reported(copied: Path, breaking: Callable[[Path], None], what: str) -> None:
    breaking(copied)
    with pytest.raises(ModelError, match=what) as caught:
        CtcAligner.load(copied)
    assert "copy" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["/no/such/folder", "./gone", "~/gone", Path("gone"), "a/b/c", "/x\ud800", __file__])
def test_no_such_folder(source: str | Path) -> None:
    with pytest.raises(ModelError, match="no folder"):
        CtcAligner.load(source)


# The hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub address that refuses connections."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def put(hub: Path, name: str, *files: Path) -> None:
    """Store files in the cache as if they had been downloaded."""
    model = hub / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    for file in files:
        shutil.copy(file, snapshot)


@pytest.mark.parametrize("name", ["owner/model", "model", "a b", "\0", "", "x" * 5000])
def test_an_unknown_name_is_reported_after_one_request(hub: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []
    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: attempts.append(address) or connect(self, address))
    with pytest.raises(ModelError, match="neither a folder nor in the hub's cache") as caught:
        CtcAligner.load(name)
    assert len(attempts) <= 2  # one for the model, and at first use one by which the library learns who calls it
    assert len(str(caught.value)) < 1000


def test_a_cached_checkpoint_needs_no_connection(hub: Path, checkpoint: Path) -> None:
    put(hub, "owner/model", *checkpoint.iterdir())
    assert CtcAligner.load("owner/model").rate == RATE


@pytest.mark.parametrize("both", [True, False])
def test_missing_files_are_downloaded(hub: Path, checkpoint: Path, both: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One format of the weights is downloaded, and no other files than needed."""
    import huggingface_hub

    put(hub, "owner/model", checkpoint / "config.json")
    holds = ["config.json", "pytorch_model.bin", "adapter.deu.safetensors", *(["model.safetensors"] if both else [])]
    siblings = [SimpleNamespace(rfilename=name) for name in holds]
    asked = []
    cached = huggingface_hub.snapshot_download

    def fetch(name: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
        if local_files_only:
            return str(cached(name, allow_patterns=allow_patterns, local_files_only=True))
        asked.append(allow_patterns)
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=siblings))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert CtcAligner.load("owner/model").rate == RATE
    assert asked == [["*.json", "*.txt", "model*.safetensors" if both else "pytorch_model*.bin"]]


# In the commands

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(measure)
app.command()(label)


def test_an_aligner_is_loaded_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = CtcAligner.load
    monkeypatch.setattr(CtcAligner, "load", lambda source: loads.append(source) or load(source))
    runtime = Runtime(Settings(aligner=str(checkpoint)))

    async def twice() -> None:
        first, second = await asyncio.gather(runtime.aligner(), runtime.aligner())
        assert first is second is await runtime.aligner()

    asyncio.run(twice())
    assert loads == [str(checkpoint)]


@pytest.mark.parametrize("setting", [None, ""])
def test_without_the_setting_there_is_no_neural_aligner(setting: str | None) -> None:
    assert asyncio.run(Runtime(Settings(aligner=setting)).aligner()) is None


def with_oracle() -> tuple[Runtime, Audio, list[tuple[int, int]]]:
    runtime = Runtime(Settings(aligner="oracle"))
    runtime._aligner = oracle()
    heard, spans = spelled(["one", "two", "three"])
    return runtime, recorded(runtime._aligner, heard), spans


def test_words_are_found_by_the_configured_aligner() -> None:
    runtime, audio, spans = with_oracle()
    alignment = asyncio.run(align_words(audio, "One two three.", runtime))
    assert alignment.trusted
    assert [word.start * RATE / HOP for word in alignment.words] == pytest.approx([start for start, _ in spans], abs=0.2)
    assert not runtime._backends


def realised(audio: Audio, sentence: MarkedText, runtime: Runtime) -> tuple[Speech, bool]:
    """Realise the marks of a sentence at the aligner's word times; return the result and whether these are trusted."""
    speech, trusted = asyncio.run(find_word_times(Speech(audio, unrealised=sentence.marks), sentence, runtime, None))
    return realise(speech, sentence, trusted=trusted), trusted


def test_marks_are_realised_at_the_times_of_the_aligner() -> None:
    runtime, audio, spans = with_oracle()
    result, trusted = realised(audio, parse("One <pause_long>two three."), runtime)
    assert trusted
    assert result.words is not None
    assert [word.word for word in result.words] == ["One", "two", "three"]
    assert result.audio.seconds > audio.seconds + 0.3
    assert result.words[1].start > spans[1][0] * HOP / RATE + 0.3


def test_the_times_of_an_untrained_network_are_not_used(checkpoint: Path) -> None:
    runtime = Runtime(Settings(aligner=str(checkpoint)))
    result, trusted = realised(noise(), parse("I never said that <emph>she stole my money."), runtime)
    assert not trusted
    assert "could not be aligned with the audio" in result.warnings[0]
    assert np.array_equal(result.audio.samples, noise().samples)


@pytest.fixture
def wav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("a.wav").write_bytes(encode(noise()))
    return "a.wav"


def test_measure_uses_the_aligner(
    wav: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROSODY_ALIGNER", str(checkpoint))
    code = exit_code(app, ["measure", "--audio", wav, "--text", "I never said <emph>she stole it.", "--reference", wav, "--json"])
    out, err = capfd.readouterr()
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert not report["trusted"]
    assert len(report["warnings"]) == 2


@pytest.mark.parametrize("command", ["measure", "label"])
def test_a_wrong_setting_is_named(
    command: str, wav: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROSODY_ALIGNER", "./gone")
    code = exit_code(app, [command, "--audio", wav, "--text", "Hello there."])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert "PROSODY_ALIGNER: no folder './gone'" in err
    assert "skipped" not in err


def test_label_refuses_a_recording_of_another_text(
    wav: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROSODY_ALIGNER", str(checkpoint))
    assert exit_code(app, ["label", "--audio", wav, "--text", "Hello there, all of you."]) == 2
    assert "does not match the transcript" in capfd.readouterr().err


def test_label_uses_the_aligner(wav: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    aligner = oracle()
    Path(wav).write_bytes(encode(recorded(aligner, spelled(["one", "two", "three"], pause=20)[0])))
    monkeypatch.setenv("PROSODY_ALIGNER", "oracle")
    monkeypatch.setattr(CtcAligner, "load", lambda source: aligner)
    assert exit_code(app, ["label", "--audio", wav, "--text", "One two three.", "-o", "labels.jsonl"]) == 0
    row = json.loads(Path("labels.jsonl").read_text())
    assert [word["word"] for word in row["words"]] == ["One", "two", "three"]
