"""The engine of higgs-local: prompts, decoding, sampling, streaming and loading, with a random model of two small layers."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_higgs import CONTROL, MARK_TOKENS, ending, save_checkpoint, tiny_model, tiny_tokenizer

from prosody_tagger.errors import MarkupError
from prosody_tagger.extras import install_command
from prosody_tagger.markup import Mark, MarkedText, parse
from synth.audio.encoding import encode
from synth.base import Audio, Reference
from synth.errors import BackendUnavailable, RefusedRequest
from synth.higgs_local import checkpoint as checkpoints
from synth.higgs_local import codec_model
from synth.higgs_local.codec_stream import CodecStream
from synth.higgs_local.engine import Context, HiggsEngine, Prompt, Sampling
from synth.higgs_local.prompt import PromptWriter, delayed, undelayed
from synth.higgs_local.sampling import draw, redraw
from synth.higgs_local.settings import HiggsLocalSettings

GREEDY = Sampling(0.0)
LIVELY = Sampling(0.9, 0.95, 50, 7, 2)
TOLERANCE = 1e-4  # of full scale, as documented for `CodecStream`


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("higgs"))


def load(folder: Path, **values: Any) -> HiggsEngine:
    return HiggsEngine.load(HiggsLocalSettings(**{"model": str(folder), "device": "cpu", **values}))


@pytest.fixture(scope="module")
def engine(folder: Path) -> HiggsEngine:
    return load(folder)


@pytest.fixture(scope="module")
def ending_engine(tmp_path_factory: pytest.TempPathFactory) -> HiggsEngine:
    """An engine whose rows end at EOS, some early and some late."""
    return load(save_checkpoint(tmp_path_factory.mktemp("ending"), model=ending(tiny_model())))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some_codes(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 1024, (frames, 8), generator=torch.Generator().manual_seed(seed))


def prompts_of(engine: HiggsEngine) -> list[Prompt]:
    """Prompts of several lengths, with and without audio in them."""
    return [
        engine.prompt("Hello there."),
        engine.prompt("A text that is a good deal longer than the first, to have rows of unequal length.", context=None),
        engine.prompt("And on.", context=Context("What came before.", some_codes(30))),
        engine.prompt("x"),
    ]


def generated(engine: HiggsEngine, prompt: Prompt, most: int, **options: Any) -> torch.Tensor:
    """Return the delayed frames that transformers' generate() adds to a prompt."""
    audio = {}
    if len(prompt.audio):
        audio = {"audio_input_ids": prompt.audio[None], "audio_input_ids_mask": torch.ones(1, len(prompt.audio), dtype=torch.bool)}
    ones = torch.ones(1, len(prompt), dtype=torch.long)
    options = {"do_sample": False, **options}
    found = engine.model.generate(input_ids=prompt.ids[None], attention_mask=ones, max_new_tokens=most, **options, **audio)
    return found[0, len(prompt.audio) :]


def spoken(engine: HiggsEngine, prompts: list[Prompt], sampling: Sampling = GREEDY, frames: int = 60) -> list[torch.Tensor]:
    batch = engine.start(prompts, [sampling] * len(prompts), [frames] * len(prompts))
    while batch.running:
        batch.step()
    return [batch.delayed(row) for row in range(len(prompts))]


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


# Decoding


@pytest.mark.parametrize("shape", [{}, {"num_key_value_heads": 4}, {"num_hidden_layers": 3, "num_attention_heads": 8}])
def test_greedy_codes_are_those_of_generate(tmp_path: Path, shape: dict[str, int]) -> None:
    engine = load(save_checkpoint(tmp_path, model=ending(tiny_model(3, **shape), 1.5)))
    for prompt in prompts_of(engine):
        assert equal(spoken(engine, [prompt]), [generated(engine, prompt, 68)])


def test_rows_that_end_by_themselves_end_as_in_generate(ending_engine: HiggsEngine) -> None:
    lengths = set()
    for prompt in prompts_of(ending_engine):
        (ours,) = spoken(ending_engine, [prompt], frames=200)
        assert torch.equal(ours, generated(ending_engine, prompt, 208))
        lengths.add(len(ours))
    assert len(lengths) > 1, "rows of one length show nothing"
    assert min(lengths) < 208


@pytest.mark.parametrize("book", [1, 4, 7])
def test_an_end_in_another_codebook_is_as_in_generate(tmp_path: Path, book: int) -> None:
    engine = load(save_checkpoint(tmp_path, model=ending(tiny_model(1), 4.0, book)))
    prompt = engine.prompt("Hello there.")
    ours = spoken(engine, [prompt], frames=200)[0]
    assert len(ours) < 208
    assert torch.equal(ours, generated(engine, prompt, 208))


def test_together_and_alone_are_the_same(ending_engine: HiggsEngine) -> None:
    prompts = prompts_of(ending_engine)
    alone = [spoken(ending_engine, [prompt], frames=150)[0] for prompt in prompts]
    assert equal(spoken(ending_engine, prompts, frames=150), alone)
    assert equal(spoken(ending_engine, prompts[::-1], frames=150), alone[::-1])


def test_seeded_rows_are_the_same_in_any_company(engine: HiggsEngine) -> None:
    prompts = prompts_of(engine)
    samplings = [replace(LIVELY, seed=7), GREEDY, replace(LIVELY, seed=8, top_k=1000), replace(LIVELY, seed=7, ras_window=0)]
    alone = [spoken(engine, [prompt], sampling)[0] for prompt, sampling in zip(prompts, samplings, strict=True)]
    batch = engine.start(prompts, samplings, [60] * 4)
    while batch.running:
        batch.step()
    assert equal([batch.delayed(row) for row in range(4)], alone)
    assert not torch.equal(alone[0], spoken(engine, prompts[:1], replace(LIVELY, seed=9))[0])


def test_no_seed_is_another_each_time(engine: HiggsEngine) -> None:
    prompt = engine.prompt("Hello.")
    assert not equal(spoken(engine, [prompt], LIVELY), spoken(engine, [prompt], LIVELY))


def test_rows_may_join_and_leave(engine: HiggsEngine) -> None:
    prompts = prompts_of(engine)
    alone = [spoken(engine, [prompt], frames=40)[0] for prompt in prompts]
    batch = engine.start(prompts[:2], [GREEDY] * 2, [40] * 2)
    for _ in range(10):
        batch.step()
    batch.cancel(0)
    assert batch.running == [1]
    assert batch.add(prompts[2], GREEDY, 40) == 2
    for _ in range(5):
        batch.step()
    assert batch.add(prompts[3], GREEDY, 40) == 3
    ended: list[int] = []
    while batch.running:
        ended += batch.step()
    assert ended == [1, 2, 3]
    assert equal([batch.delayed(row) for row in (1, 2, 3)], alone[1:])
    assert torch.equal(batch.delayed(0), alone[0][:11]), "what a cancelled row had stays right"


def test_a_cancelled_row_frees_its_place_at_once(folder: Path) -> None:
    engine = load(folder, max_batch=2)
    prompt = engine.prompt("Hello.")
    batch = engine.start([prompt] * 2, [GREEDY] * 2, [50] * 2)
    batch.step()
    assert batch.free == 0
    with pytest.raises(RuntimeError, match="2 slots"):
        batch.add(prompt, GREEDY, 50)
    batch.cancel(1)
    assert (batch.free, batch.running) == (1, [0])
    assert batch.add(prompt, GREEDY, 50) == 2
    batch.cancel(1)
    batch.cancel(99)
    assert batch.running == [0, 2]
    assert 1 not in batch.step()
    batch.close()
    batch.close()
    assert (batch.running, batch.free, batch.step()) == ([], 2, [])


def test_steps_grow_with_the_rows_that_run(engine: HiggsEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    run = engine._runner.run

    def seen(cache: Any, width: int, *rest: Any) -> None:
        widths.append(width)
        run(cache, width, *rest)

    monkeypatch.setattr(engine._runner, "run", seen)
    batch = engine.start(prompts_of(engine), [GREEDY] * 4, [40] * 4)
    batch.step()
    for row in (0, 2, 1):
        batch.cancel(row)
        batch.step()
    assert widths == [4, 3, 2, 1]


def test_memory_is_taken_once(folder: Path) -> None:
    engine = load(folder)
    taken = set()
    for number in range(30):
        batch = engine.start([engine.prompt(f"Text {number}.")] * 2, [replace(LIVELY, seed=number)] * 2, [3, 5])
        taken.add(id(batch._cache))
        while batch.running:
            batch.step()
    assert len(taken) == 1
    assert len(engine._free_caches) == 1


def test_memory_comes_back_from_a_start_that_failed(folder: Path) -> None:
    engine = load(folder, max_batch=1)
    prompt = engine.prompt("Hello.")
    with pytest.raises(RuntimeError, match="slots"):
        engine.start([prompt] * 2, [GREEDY] * 2, [5] * 2)
    assert len(engine._free_caches) == 1


@pytest.mark.parametrize("frames", [1, 2, 7, 30])
def test_a_row_has_no_more_frames_than_it_may(engine: HiggsEngine, frames: int) -> None:
    batch = engine.start([engine.prompt("Hello.")], [GREEDY], [frames])
    steps = 0
    while batch.running:
        batch.step()
        steps += 1
    assert len(batch.codes(0)) == frames
    assert batch.cut(0)
    assert steps == frames + 7


def test_a_row_that_ends_is_not_cut_and_its_codes_are_codes(ending_engine: HiggsEngine) -> None:
    batch = ending_engine.start([ending_engine.prompt("Hello there.")], [GREEDY], [1000])
    while batch.running:
        batch.step()
    codes, raw = batch.codes(0), batch.delayed(0)
    assert not batch.cut(0)
    first_end = int((raw[:, 0] == 1025).nonzero()[0])
    assert len(codes) == first_end - 1
    assert (int(codes.min()) >= 0) & (int(codes.max()) < 1024)
    assert torch.equal(codes[:, 0], raw[1:first_end, 0].clamp(max=1023))


def test_codes_come_bit_by_bit(ending_engine: HiggsEngine) -> None:
    batch = ending_engine.start([ending_engine.prompt("Hello there.")], [GREEDY], [1000])
    parts, have = [], 0
    while batch.running:
        batch.step()
        parts.append(batch.codes(0, have))
        have += len(parts[-1])
    assert max(map(len, parts)) == 1
    assert torch.equal(torch.cat([*parts, batch.codes(0, have)]), batch.codes(0))
    assert batch.codes(0, 10_000).shape == (0, 8)
    batch.forget(0)
    with pytest.raises(KeyError):
        batch.codes(0)


def test_frames_end_where_the_model_does(tmp_path: Path) -> None:
    engine = load(save_checkpoint(tmp_path, model=tiny_model(max_position_embeddings=512)))
    prompt = engine.prompt("Hello.")
    batch = engine.start([prompt], [GREEDY], [100_000])
    while batch.running:
        batch.step()
    assert len(batch.codes(0)) == 512 - len(prompt) - 7
    with pytest.raises(ValueError, match="0 frames"):
        engine.start([prompt], [GREEDY], [0])
    too_long = Prompt(torch.full((512,), 65), torch.zeros(0, 8, dtype=torch.int64))
    with pytest.raises(RefusedRequest, match="512 tokens"):
        engine.start([too_long], [GREEDY], [10])


def test_what_a_graph_would_hold_gives_the_same_codes(ending_engine: HiggsEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the steps of a capture, with rounded lengths and warm-up runs, without a graph."""
    prompts = prompts_of(ending_engine)[:3]
    expected = [spoken(ending_engine, prompts, sampling, 80) for sampling in (GREEDY, replace(LIVELY, seed=3))]
    runner = ending_engine._runner
    captured = set()

    def record(cache: Any, width: int, length: int, candidates: int) -> Any:
        captured.add((width, length, candidates))
        runner.warm_up(cache, width, length, candidates)
        return SimpleNamespace(replay=lambda: runner._step(cache, width, length, masked=True, candidates=candidates))

    monkeypatch.setattr(runner, "_mode", "graph")
    monkeypatch.setattr(runner, "_capture", record)
    for sampling, codes in zip((GREEDY, replace(LIVELY, seed=3)), expected, strict=True):
        assert equal(spoken(ending_engine, prompts, sampling, 80), codes)
    assert {width for width, _, _ in captured} <= {1, 2, 4}
    assert all(length % 256 == 0 for _, length, _ in captured)
    captured.clear()
    ending_engine.warm_up()
    assert {width for width, _, _ in captured} == {1, 2, 4, 8}
    assert {length for _, length, _ in captured} == set(range(256, 2049, 256))
    captured.clear()
    assert equal(spoken(ending_engine, prompts, replace(LIVELY, seed=3), 80), expected[1])
    assert not captured, "all graphs were captured before"
    ending_engine._free_caches.clear()  # they hold the fake graphs of this test


def test_an_adapter_changes_what_is_decoded(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    engine = load(folder)
    prompt = engine.prompt("Hello there.")
    before = spoken(engine, [prompt])
    targets = r".*\.layers\.\d+\.(self_attn\.[qkvo]_proj|audio_mlp\.(gate|up|down)_proj)"
    torch.manual_seed(0)
    get_peft_model(engine.model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False)).eval()
    after = spoken(engine, [prompt])
    assert not equal(before, after)
    assert equal(after, [generated(engine, prompt, 68)])


# Sampling


def shares(logits: torch.Tensor, temperature: float, top_p: float, top_k: int) -> torch.Tensor:
    """Return the distribution that transformers' logits warpers make of ``logits`` [codes]."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = logits[None]
    for warp in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)):
        scores = warp(None, scores)
    return scores.softmax(-1)[0]


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k", "candidates"),
    [
        (1.0, 1.0, 30, 30),
        (0.7, 0.9, 30, 30),
        (1.5, 1.0, 5, 30),
        (1.5, 1.0, 5, 15),
        (1.0, 0.5, 12, 15),
        (2.0, 0.01, 30, 30),
        (0.3, 0.95, 1, 15),
    ],
)
def test_codes_are_drawn_as_often_as_they_should(temperature: float, top_p: float, top_k: int, candidates: int) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(1)) * 2
    expected = shares(logits, temperature, top_p, top_k)
    draws = 40_000
    # Evenly spaced numbers instead of random ones make each count exact to one draw.
    uniform = ((torch.arange(draws) + 0.5) / draws)[:, None]
    full = [torch.full((draws,), value) for value in (temperature, top_p)]
    codes = draw(logits.expand(draws, 1, 30), *full, torch.full((draws,), top_k), uniform, candidates)
    counted = torch.bincount(codes[:, 0], minlength=30) / draws
    assert (counted - expected).abs().max() < 2e-4
    assert set(counted.nonzero()[:, 0].tolist()) <= set(expected.nonzero()[:, 0].tolist())


def test_each_row_is_drawn_by_its_own_settings() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(3, 2, 4)
    uniform = torch.full((3, 2), 0.999_999)
    codes = draw(logits, torch.tensor([0.0, 1.0, 1.0]), torch.ones(3), torch.tensor([4, 2, 4]), uniform, 4)
    assert codes.tolist() == [[3, 3], [2, 2], [0, 0]]


def test_what_repeats_is_drawn_anew_from_all_codes() -> None:
    codes = torch.tensor([[5, 6, 7]]).repeat(4, 1)
    logits = torch.full((4, 3, 10), -50.0)
    logits[..., 2] = 0.0
    recent = torch.full((4, 6, 3), -1)
    recent[:, -2:, 0] = 5  # twice, recently
    recent[:, -1, 1] = 6  # once
    recent[:, :2, 2] = 7  # twice, but long ago
    window, repeats = torch.tensor([4, 4, 0, 6]), torch.tensor([2, 3, 1, 2])
    found = redraw(codes, logits, recent, window, repeats, torch.full((4, 3), 0.5))
    assert found.tolist() == [[2, 6, 7], [5, 6, 7], [5, 6, 7], [2, 6, 2]]


def test_sampled_frames_are_distributed_as_those_of_generate(folder: Path) -> None:
    """Compare the distribution over many rows, with repetition-aware sampling and few codes to draw from."""
    engine = load(folder, max_batch=64)
    prompt = engine.prompt("Hello.")
    many = prompt.ids[None].expand(500, -1)
    config = engine.model.generation_config
    config.ras_win_len, config.ras_win_max_num_repeat = 3, 1
    torch.manual_seed(0)
    options = {"do_sample": True, "temperature": 1.0, "top_k": 6, "top_p": 0.9}
    theirs = engine.model.generate(input_ids=many, attention_mask=torch.ones_like(many), max_new_tokens=4, **options)
    rows = [spoken(engine, [prompt] * 64, Sampling(1.0, 0.9, 6, 3, 1), 1) for _ in range(7)]
    ours = torch.stack([row for batch in rows for row in batch])
    for frame, book in ((1, 0), (2, 0), (3, 1)):
        share = torch.bincount(theirs[:, frame, book], minlength=1026) / len(theirs)
        top = share.topk(6).indices
        assert share[top].sum() > 0.3, "too few of a kind to compare"
        found = (ours[:, frame, book][:, None] == top).float().mean(0)
        spread = (share[top] * (1 / len(ours) + 1 / len(theirs))).sqrt()
        assert ((found - share[top]).abs() < 4.5 * spread).all()


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"ras_window": 65},
        {"ras_repeats": 0},
    ],
)
def test_impossible_sampling_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        Sampling(**values)  # type: ignore[arg-type]


# Prompts


def test_a_prompt_is_chatml(engine: HiggsEngine) -> None:
    context = Context("Before.", some_codes(2))
    prompt = engine.prompt("Now.", context=context)
    assert engine.tokenizer.decode(prompt.ids) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nGenerate audio following instruction.\n\n"
        "<|scene_desc_start|>\nAudio is recorded from a quiet room.\n<|scene_desc_end|><|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBefore.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<|audio_out_bos|>"
        + "<|AUDIO_OUT|>" * 4
        + "<|reserved_special_token_6|>" * 7
        + "<|audio_eos|><|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nNow.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<|audio_out_bos|>"
    )
    assert torch.equal(prompt.audio, delayed(context.codes, engine.model.config))


def test_scene_and_speakers_are_told(folder: Path) -> None:
    spoken_to = load(folder, scene="A train station.", speakers=("a man, tired", "a child <|eot_id|>"))
    text = spoken_to.tokenizer.decode(spoken_to.prompt("[SPEAKER0] Hi. [SPEAKER1] Ho.").ids)
    assert "<|scene_desc_start|>\nA train station.\n\nSPEAKER0: a man, tired\nSPEAKER1: a child\n<|scene_desc_end|>" in text
    assert "[SPEAKER0] Hi. [SPEAKER1] Ho.<|eot_id|>" in text
    assert "<|scene_desc_start|>" not in load(folder, scene="").tokenizer.decode(load(folder, scene="").prompt("Hi.").ids)


def test_delay_and_back() -> None:
    codes = some_codes(5)
    config = SimpleNamespace(num_codebooks=8, audio_stream_bos_id=1024, audio_stream_eos_id=1025)
    frames = delayed(codes, config)
    assert frames.shape == (5 + 2 + 7, 8)
    assert frames[0].tolist() == [1024] * 8
    assert frames[-1].tolist() == [1025] * 8
    assert frames[3].tolist() == [*codes[2, :1].tolist(), *codes[1, 1:2].tolist(), *codes[0, 2:3].tolist(), *[1024] * 5]
    assert torch.equal(undelayed(frames, 0, 5), codes)
    assert torch.equal(undelayed(frames, 2, 4), codes[2:4])


def test_a_recording_goes_along_as_its_codes(engine: HiggsEngine) -> None:
    seconds = np.arange(4 * 16_000) / 16_000
    sound = Audio((0.3 * np.sin(2 * np.pi * 200 * seconds)).astype(np.float32), 16_000)
    reference = Reference(encode(sound), "wav", "It was said <|eot_id|>here.")
    prompt = engine.prompt("Now.", reference=reference)
    assert len(prompt.audio) == 100 + 2 + 7
    text = engine.tokenizer.decode(prompt.ids)
    assert "\n\nIt was said here.<|eot_id|><|start_header_id|>assistant" in text
    both = engine.prompt("Now.", reference=reference, context=Context("Before.", some_codes(3)))
    assert torch.equal(both.audio[:109], prompt.audio)
    assert len(both.audio) == 109 + 12
    assert text.index("said here") < engine.tokenizer.decode(both.ids).index("Before.")


def test_codes_of_a_recording_are_made_once(engine: HiggsEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * 24_000 + 17).astype(np.float32)
    reference = Reference(encode(Audio(noise, 24_000)), "wav", "noise")
    first = engine.prompt("One.", reference=reference)
    monkeypatch.setattr(engine.codec, "encode", None)
    assert torch.equal(first.audio, engine.prompt("Two.", reference=reference).audio)


def test_a_context_too_long_is_left_out(folder: Path) -> None:
    engine = load(folder, context_seconds=2)
    short, long = (Context("Before.", some_codes(frames)) for frames in (50, 51))
    assert len(engine.prompt("Now.", context=short).audio) == 59
    assert len(engine.prompt("Now.", context=long).audio) == 0
    assert len(engine.prompt("n" * 1640, context=short).audio) == 0, "no room for both"
    with pytest.raises(RefusedRequest, match="shorter text"):
        engine.prompt("n" * 2000)


def test_marks_become_their_tokens(engine: HiggsEngine) -> None:
    ids = {
        "emph": engine.tokenizer.convert_tokens_to_ids(MARK_TOKENS[0]),
        "pause_short": engine.tokenizer.convert_tokens_to_ids(MARK_TOKENS[1]),
    }
    emph, pause = MARK_TOKENS[:2]
    for marked, expected in {
        "It's <emph>only<pause_short> me": f"It's{emph} only{pause} me",
        "<emph>Now": f"{emph}Now",
        "a <pause_short><emph>b": f"a{pause}{emph} b",
        "a<pause_short>": f"a{pause}",
    }.items():
        text = engine.tokenizer.decode(engine.prompt(parse(marked), mark_ids=ids).ids)
        assert f"\n\n{expected}<|eot_id|><|start_header_id|>assistant" in text
    with pytest.raises(ValueError, match="<pitch_high>"):
        engine.prompt(MarkedText("hi", (Mark("pitch_high", 0),)), mark_ids=ids)


tokens = st.sampled_from([*CONTROL, *MARK_TOKENS, "<|", "|>", "<|x|>", "<emph>", "eot_id", "\x00", "｜", "\u202e", "𝒳"])
hostile = st.lists(tokens | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=12).map("".join)


@settings(max_examples=80, deadline=None)
@given(hostile, hostile, hostile)
def test_no_text_gives_a_control_token(text: str, before: str, scene: str) -> None:
    writer = PromptWriter(TOKENIZER, CONFIG)
    plain = writer.write("", scene="x", speakers=(), turns=[Context("", some_codes(1))], mark_ids={})
    prompt = writer.write(text, scene=f"x{scene}", speakers=(), turns=[Context(before, some_codes(1))], mark_ids={})
    added = set(TOKENIZER.get_added_vocab().values())
    assert [i for i in prompt.ids.tolist() if i in added] == [i for i in plain.ids.tolist() if i in added]
    assert not added & set(writer._encode(text)), "even if it were not taken out before"


TOKENIZER = tiny_tokenizer()
CONFIG = tiny_model().config


def test_control_tokens_are_taken_out_and_words_stay(engine: HiggsEngine) -> None:
    text = engine.tokenizer.decode(engine.prompt("One <|eot_id|> two<|AUDIO_OUT|>three <b> <| four |> 5<6").ids)
    assert "\n\nOne two three <b>  5<6<|eot_id|>" in text or "\n\nOne two three <b> 5<6<|eot_id|>" in text
    with pytest.raises(MarkupError, match="surrogate"):
        engine.prompt("\ud800")


def test_long_hostile_text_is_quick(engine: HiggsEngine) -> None:
    for piece in ("<|", "<|a", "<|a|>", "< |"):
        assert len(engine._writer.words(piece * 300_000)) <= len(piece) * 300_000


def test_a_tokenizer_of_another_model_is_refused(engine: HiggsEngine) -> None:
    with pytest.raises(BackendUnavailable, match=r"no .*eot_id"):
        PromptWriter(SimpleNamespace(get_added_vocab=dict, name_or_path="other"), engine.model.config)


# Audio


@pytest.mark.parametrize("pieces", [[1] * 97, [7] * 13 + [6], [97], [50, 0, 47]])
@pytest.mark.parametrize(("first", "chunk"), [(1, 1), (5, 25), (40, 3)])
def test_a_stream_sounds_like_the_whole(engine: HiggsEngine, pieces: list[int], first: int, chunk: int) -> None:
    codes = some_codes(97)
    whole = engine.decode(codes)
    loudest = float(np.abs(whole.samples).max())
    stream = CodecStream(engine.codec, first, chunk)
    sounds = [stream.push(part) for part in torch.split(codes, pieces)]
    heard = np.concatenate([*(sound.samples for sound in sounds), stream.finish().samples])
    assert heard.shape == whole.samples.shape == (97 * 960,)
    assert np.abs(heard - whole.samples).max() < TOLERANCE * loudest
    assert {sound.rate for sound in sounds} == {24_000}
    assert not len(stream.finish().samples)


def test_the_first_sound_comes_once_its_frames_cannot_change(engine: HiggsEngine) -> None:
    codes, reach = some_codes(60), engine.codec.reach
    stream = CodecStream(engine.codec, 5, 10)
    lengths = [len(stream.push(codes[at : at + 1]).samples) // 960 for at in range(60)]
    assert lengths.index(5) == 5 + reach - 1
    assert lengths[5 + reach :].index(10) == 9
    assert set(lengths) == {0, 5, 10}


def test_the_reach_is_all_that_the_decoder_sees(engine: HiggsEngine) -> None:
    codes = some_codes(81)
    other = codes.clone()
    other[40] = (codes[40] + 500) % 1024
    differs = np.flatnonzero(engine.decode(codes).samples != engine.decode(other).samples)
    reach = engine.codec.reach
    assert differs[0] >= (40 - reach) * 960
    assert differs[-1] < (41 + reach) * 960
    assert differs[0] < (40 - reach + 3) * 960, "and not much more"


def test_a_stream_without_codes_is_silent(engine: HiggsEngine) -> None:
    assert not len(engine.stream().finish().samples)
    assert not len(engine.decode(some_codes(0)).samples)
    stream = engine.stream()
    assert not len(stream.push(some_codes(0)).samples)
    assert not len(stream.finish().samples)


# The replacement of torchaudio's resample


@pytest.mark.parametrize("hertz", [100, 440, 3000, 5500])
def test_resampling_keeps_a_tone(hertz: int) -> None:
    def tone(rate: int) -> torch.Tensor:
        return torch.sin(2 * torch.pi * hertz * torch.arange(rate, dtype=torch.float64) / rate)[None, None]

    found = codec_model.resample(tone(24_000), 24_000, 16_000)
    assert found.shape == (1, 1, 16_000)
    assert (found - tone(16_000))[..., 100:-100].abs().max() < 0.02


def test_resampling_stops_what_the_new_rate_cannot_hold() -> None:
    above = torch.sin(2 * torch.pi * 10_500 * torch.arange(24_000) / 24_000)
    assert codec_model.resample(above, 24_000, 16_000)[100:-100].abs().max() < 0.02
    assert codec_model.resample(above, 16_000, 16_000) is above
    assert codec_model.resample(above[:7], 24_000, 16_000).shape == (5,)  # 7 * 2 / 3, rounded up


def test_resampling_is_linear_interpolation_by_a_windowed_sinc() -> None:
    """The response to an impulse is the filter, computed here from its definition."""
    impulse = torch.zeros(61, dtype=torch.float64)
    impulse[30] = 1
    found = codec_model.resample(impulse, 24_000, 16_000)
    cutoff = 2 * 0.99 / 3  # relative to half of the input's rate
    for at, value in enumerate(found.tolist()):
        crossings = (30 - at * 1.5) * cutoff
        window = np.cos(np.pi * crossings / 12) ** 2 if abs(crossings) < 6 else 0.0
        assert value == pytest.approx(np.sinc(crossings) * window * cutoff, abs=1e-12)


@pytest.mark.parametrize("error", [OSError, ImportError])
def test_the_codec_encodes_where_torchaudio_does_not_load(
    engine: HiggsEngine, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(name: str) -> Any:
        if name == "torchaudio":
            raise error("libcudart.so.13: cannot open shared object file")
        return importing(name)

    importing = codec_model.importlib.import_module
    monkeypatch.setattr(codec_model.importlib, "import_module", fail)
    kind = codec_model.codec_class()
    assert "torchaudio" not in sys.modules
    codec = kind(engine.codec._model.config).eval()
    assert codec.encode(torch.randn(1, 1, 9600)).audio_codes.shape == (1, 8, 10)


# Loading


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder: Path | str, **values: Any) -> str:
    """Return the one-line message with which a checkpoint is refused."""
    with pytest.raises(BackendUnavailable) as caught:
        HiggsEngine.load(HiggsLocalSettings(**{"model": str(folder), "device": "cpu", **values}))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_is_loaded_whole(engine: HiggsEngine, folder: Path) -> None:
    assert (engine.rate, engine.frames_per_second, engine.folder) == (24_000, 25.0, folder)
    assert engine.model.dtype == torch.float32
    assert not any(weight.requires_grad for weight in engine.model.parameters())
    assert load(folder, dtype="bfloat16").model.dtype == torch.bfloat16
    assert engine.sampling(5) == Sampling(0.3, 0.95, 50, 7, 2, 5)


def test_bfloat16_decodes(folder: Path) -> None:
    engine = load(folder, dtype="bfloat16")
    assert spoken(engine, prompts_of(engine)[:2], replace(LIVELY, seed=1), 20)[0].shape == (28, 8)


def test_the_codec_is_found_beside_the_model(folder: Path, tmp_path: Path) -> None:
    model = copied(folder, tmp_path / "model")
    codec = (model / "codec").rename(tmp_path / "codec")
    assert load(model).codec.reach
    elsewhere = codec.rename(tmp_path / "elsewhere")
    assert load(model, codec=str(elsewhere)).codec.reach
    named = {"audio_tokenizer": {"audio_tokenizer_name_or_path": str(elsewhere)}}
    (model / "processor_config.json").write_text(json.dumps(named))
    assert load(model).codec.reach


def test_what_is_no_checkpoint_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(tmp_path / "empty")
    assert "no folder" in refused(tmp_path / "nowhere" / "at" / "all")
    broken = copied(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\x00" * 100)
    assert "cannot be loaded" in refused(broken)
    (broken / "model.safetensors").unlink()
    assert "incomplete" in refused(broken)
    (broken / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    assert "incomplete" in refused(broken)
    (broken / "config.json").write_text("[" * 100_000)
    assert "no config.json" in refused(broken)


def test_missing_weights_are_told(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    partial = copied(folder, tmp_path / "partial")
    weights = load_file(partial / "model.safetensors")
    del weights["audio_lm_head.weight"]
    save_file(weights, partial / "model.safetensors", {"format": "pt"})
    assert "lacks 1 of the model's weights, 'audio_lm_head.weight'" in refused(partial)


def test_an_old_checkpoint_is_told_how_to_be_converted(folder: Path, tmp_path: Path) -> None:
    old = copied(folder, tmp_path / "old")
    (old / "config.json").write_text(json.dumps({"model_type": "higgs_audio", "text_config": {}, "audio_adapter_type": "dual_ffn"}))
    assert "prosody higgs convert" in refused(old)
    other = copied(folder, tmp_path / "other")
    edited(other / "config.json", model_type="llama")
    assert "'llama'" in refused(other)
    old_codec = copied(folder, tmp_path / "old_codec")
    (old_codec / "codec" / "config.json").write_text(json.dumps({"n_q": 8}))
    assert "codec" in refused(old_codec)
    assert "convert" in refused(old_codec)


def test_what_is_not_there_and_cannot_be_fetched_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def unreachable(name: str, **options: Any) -> str:
        asked.append(options["local_files_only"])
        raise LocalEntryNotFoundError(f"cannot reach the hub for {name}\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    message = refused("someone/some-higgs", revision="abc")
    assert "someone/some-higgs at abc" in message
    assert "cannot reach the hub" in message
    assert asked == [True, False]


def test_what_is_in_the_local_store_is_not_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def stored(name: str, *, local_files_only: bool, revision: str | None, **options: Any) -> str:
        assert (name, local_files_only, revision) == ("someone/some-higgs", True, "abc")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", stored)
    assert load(Path("someone/some-higgs"), revision="abc").folder == folder


def test_too_little_memory_is_told_before_it_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_free_bytes", lambda device: 1000)
    message = refused(folder)
    assert "cpu has 0.0 GB free" in message
    assert "max_batch" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told(folder: Path) -> None:
    assert "sees no GPU" in refused(folder, device="cuda")
    assert "cuda:3" in refused(folder, device="cuda:3")
    assert "needs a GPU" in refused(folder, device="auto", decode="graph")
    assert load(folder, device="auto").model.device.type == "cpu"


def test_an_old_transformers_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("cannot import name 'HiggsAudioV2TokenizerModel'")

    monkeypatch.setattr(checkpoints, "codec_class", missing)
    assert install_command("higgs") in refused(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"unknown": 1},
        {"device": "tpu"},
        {"device": "cpu", "decode": "graph"},
        {"top_p": 0},
        {"temperature": float("nan")},
        {"model": ""},
        {"model": "a\x00b"},
        {"max_batch": 0},
        {"first_frames": 0},
        {"ras_window": 65},
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        HiggsLocalSettings(**values)


def test_empty_settings_are_not_set() -> None:
    found = HiggsLocalSettings(codec="", revision="", adapters="")
    assert (found.codec, found.revision, found.adapters) == (None, None, None)
