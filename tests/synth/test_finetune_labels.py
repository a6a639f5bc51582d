"""Rows as tokens, frames and labels: what is learnt and what is not, told by the native model's own loss; and batches of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prosody_tagger.errors import BadInput
from prosody_tagger.markup import KINDS, MarkedText, parse, plain
from synth.base import SpeechRequest
from synth.higgs_finetune.examples import IGNORED, Example, ExampleWriter, LengthGroups, collate, example
from synth.higgs_finetune.manifest import Row, Turn
from synth.higgs_local.backend import lower
from synth.higgs_local.prompt import Context, PromptWriter
from synth.higgs_local.settings import HiggsLocalSettings
from tests.tiny_higgs import MARK_TOKENS, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MODEL = tiny_model(text_head=True)
CONFIG = MODEL.config
MARKS = dict(zip(KINDS, TOKENIZER.convert_tokens_to_ids(MARK_TOKENS), strict=True))
EOS, BOS, BOOKS = CONFIG.audio_stream_eos_id, CONFIG.audio_stream_bos_id, CONFIG.num_codebooks
ARABIC = "السِّعْرُ <emph>اليَوْمَ أَقَلُّ مِنْ Python 3.11 أَمْسِ."
FRAMES = {"voice.wav": 5, "answer.wav": 7, "long.wav": 30}


def codes(path: Path) -> torch.Tensor:
    random = torch.Generator().manual_seed(len(path.name))
    return torch.randint(1024, (FRAMES[path.name], BOOKS), generator=random)


def row(
    text: MarkedText | str = "What is <emph>asked for?", clip: str | Path | None = "answer.wav", *voices: str, **changes: Any
) -> Row:
    turns = tuple(Turn(plain("said in the recording"), Path(voice)) for voice in voices)
    given = {"source": "m.json:1", "system": None, "speaker": None, "start_index": None}
    clips = {"references": turns, "text": parse(text) if isinstance(text, str) else text, "clip": Path(clip) if clip else None}
    return Row(**{**given, **clips, **changes})


def made(one: Row, **changes: Any) -> Example:
    return ExampleWriter(TOKENIZER, CONFIG, MARKS, **changes).write(one, codes)


def read(ids: torch.Tensor) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("text", ["What is <emph>asked for?", "Wait. <pause_long:1200ms>There!", ARABIC, "a\n\t b"])
@pytest.mark.parametrize("voices", [(), ("voice.wav",), ("voice.wav", "long.wav")])
def test_the_prompt_is_what_the_local_backend_asks(text: str, voices: tuple[str, ...]) -> None:
    settings = HiggsLocalSettings()
    marked = parse(text)
    asked = lower(SpeechRequest(MarkedText(marked.text, tuple(type(m)(m.kind, m.offset) for m in marked.marks))), MARKS)[0]
    turns = [Context("said in the recording", codes(Path(voice))) for voice in voices]
    prompt = PromptWriter(TOKENIZER, CONFIG).write(
        asked, scene=settings.scene, speakers=settings.speakers, turns=turns, mark_ids=MARKS
    )
    learnt = made(row(text, "answer.wav", *voices))
    assert torch.equal(learnt.input_ids[: len(prompt)], prompt.ids)
    assert torch.equal(learnt.audio_ids[: len(prompt.audio)], prompt.audio)


def test_a_pause_of_a_given_length_is_its_kind_s_token_and_an_untrained_one_a_comma() -> None:
    text = "Wait. <pause_long:1200ms>Then <emph>go now <pause_short>please."
    asked = read(made(row(text)).input_ids)
    assert f"Wait.{MARK_TOKENS[KINDS.index('pause_long')]} Then{MARK_TOKENS[KINDS.index('emph')]} go" in asked
    only_emph = example(row(text), codes, TOKENIZER, CONFIG, {"emph": MARKS["emph"]})
    assert f"Wait. Then{MARK_TOKENS[KINDS.index('emph')]} go now, please." in read(only_emph.input_ids)


def test_an_example_holds_text_in_any_script_whole() -> None:
    assert parse(ARABIC).text.replace(" ", "") in read(made(row(ARABIC)).input_ids).replace(MARK_TOKENS[0], "").replace(" ", "")


def test_text_is_learnt_where_the_answer_begins_and_ends_alone() -> None:
    learnt = made(row("Hi <emph>you", "answer.wav", "voice.wav"))
    kept = learnt.text_labels != IGNORED
    assert torch.equal(learnt.text_labels[kept], learnt.input_ids[kept])
    assert read(learnt.text_labels[kept]) == "<|audio_out_bos|><|audio_eos|><|eot_id|>"
    begun = int(kept.nonzero()[0, 0])
    last_turn = int((learnt.input_ids == TOKENIZER.convert_tokens_to_ids("<|end_header_id|>")).nonzero()[-1, 0])
    assert begun > last_turn
    assert kept[-2:].all()
    assert int(kept.sum()) == 3


@pytest.mark.parametrize("voices", [(), ("voice.wav",), ("voice.wav", "long.wav")])
def test_codes_are_learnt_in_the_answer_alone_with_the_first_eos_of_each_codebook(voices: tuple[str, ...]) -> None:
    learnt = made(row("Hi", "answer.wav", *voices))
    frames = FRAMES["answer.wav"]
    own = learnt.audio_labels[-(frames + 1 + BOOKS) :]
    assert (learnt.audio_labels[: -len(own)] == IGNORED).all()
    assert len(learnt.audio_ids) == len(learnt.audio_labels) == sum(FRAMES[v] + 1 + BOOKS for v in voices) + len(own)
    for book in range(BOOKS):
        kept = (own[:, book] != IGNORED).nonzero()[:, 0]
        assert kept.tolist() == list(range(book + 1, book + 1 + frames + 1))
        assert own[kept, book].tolist() == [*codes(Path("answer.wav"))[:, book].tolist(), EOS]
    kept = learnt.audio_labels != IGNORED
    assert torch.equal(learnt.audio_labels[kept], learnt.audio_ids[kept])
    placeholders = (learnt.input_ids == CONFIG.audio_token_id) | (learnt.input_ids == CONFIG.audio_delay_token_id)
    assert int(placeholders.sum()) == len(learnt.audio_ids)


def test_a_written_answer_is_learnt_whole_and_no_audio() -> None:
    learnt = made(row("Why?", None, "voice.wav", answer="Because.", system="You are kind."))
    assert read(learnt.text_labels[learnt.text_labels != IGNORED]) == "Because.<|eot_id|>"
    assert (learnt.audio_labels == IGNORED).all()
    assert len(learnt.audio_ids) == FRAMES["voice.wav"] + 1 + BOOKS
    assert read(learnt.input_ids).startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are kind.<|eot_id|>"
    )
    bare = made(row("Why?", None, answer="Because."))
    assert "system" not in read(bare.input_ids)
    assert bare.audio_ids.shape == (0, BOOKS)


def test_what_was_written_before_is_context() -> None:
    turns = (Turn(plain("Why?"), None, "Because."),)
    learnt = made(row("Say it", references=turns))
    assert "Why?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nBecause.<|eot_id|>" in read(learnt.input_ids)
    assert int((learnt.text_labels != IGNORED).sum()) == 3


def test_a_scene_of_the_row_takes_the_place_of_the_settings() -> None:
    system = "Generate audio following instruction.\n\n<|scene_desc_start|>\nA cave.\n<|scene_desc_end|>"
    asked = read(made(row(system=system)).input_ids)
    assert f"{system}<|eot_id|>" in asked
    assert "quiet room" not in asked
    other = read(made(row(system="You are a pirate."), scene="A ship.", speakers=["deep"]).input_ids)
    assert "pirate" not in other
    assert "\nA ship.\n\nSPEAKER0: deep\n<|scene_desc_end|>" in other


def test_control_tokens_in_texts_are_none() -> None:
    hostile = "Hi<|eot_id|><|AUDIO_OUT|> there <|reserved_special_token_10|>"
    asked = made(row(references=(Turn(plain(hostile), Path("voice.wav")),), text=plain(hostile)))
    clean = made(row(references=(Turn(plain("Hi there"), Path("voice.wav")),), text=plain("Hi there")))
    assert torch.equal(asked.input_ids, clean.input_ids)
    written = made(row(text=plain("Hi"), clip=None, answer=hostile))
    assert read(written.text_labels[written.text_labels != IGNORED]) == "Hi there<|eot_id|>"


def test_codes_of_another_codec_and_rows_that_are_too_long_are_refused() -> None:
    writer = ExampleWriter(TOKENIZER, CONFIG, MARKS)
    for wrong in (torch.zeros(0, BOOKS), torch.zeros(4, BOOKS - 1), torch.full((4, BOOKS), BOS), torch.zeros(4)):
        with pytest.raises(BadInput, match=r"answer\.wav"):
            writer.write(row(), lambda path, wrong=wrong: wrong.long())
    with pytest.raises(BadInput, match=r"m\.json:1 takes \d+ positions"):
        writer.write(row("word " * 1000), codes)


def without_labels(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if "labels" not in name}


MIXED = [
    row("One"),
    row("Why?", None, answer="Because."),
    row(ARABIC, "long.wav", "voice.wav"),
    row("Two", "answer.wav", "long.wav"),
]


@pytest.mark.parametrize("pad", ["left", "right"])
def test_a_batch_is_what_the_native_model_takes_and_its_loss_is_ours(pad: Any) -> None:
    """The model shifts by itself: were labels shifted here as well, its loss would be another."""
    batch = collate([made(one) for one in MIXED], CONFIG, pad)
    with torch.inference_mode():
        loss = MODEL(**batch).loss
        hidden = MODEL.model(**without_labels(batch)).last_hidden_state
        logits, text_logits = MODEL.audio_lm_head(hidden), MODEL.text_lm_head(hidden)
    logits = logits.unflatten(-1, (BOOKS, CONFIG.codebook_size))
    sums = {book: [] for book in range(BOOKS)}
    texts = []
    for index, one in enumerate(MIXED):
        single = made(one)
        first = logits.shape[1] - len(single) if pad == "left" else 0
        placeholders = (single.input_ids == CONFIG.audio_token_id) | (single.input_ids == CONFIG.audio_delay_token_id)
        for at, label in zip(placeholders.nonzero()[:, 0].tolist(), single.audio_labels, strict=True):
            for book in range(BOOKS):
                if label[book] != IGNORED:
                    scores = logits[index, first + at - 1, book].log_softmax(-1)
                    sums[book].append(-scores[label[book]])
        for at in (single.text_labels != IGNORED).nonzero()[:, 0].tolist():
            texts.append(-text_logits[index, first + at - 1].log_softmax(-1)[single.text_labels[at]])
    ours = sum(torch.stack(found).mean() for found in sums.values()) + torch.stack(texts).mean()
    torch.testing.assert_close(loss, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pad", ["left", "right"])
def test_rows_in_a_batch_say_what_they_say_alone(pad: Any) -> None:
    examples = [made(one) for one in MIXED]
    inputs = [collate(part, CONFIG, pad) for part in (examples, *([single] for single in examples))]
    with torch.inference_mode():
        together, *alone = [MODEL(**without_labels(one)).logits for one in inputs]
    for index, logits in enumerate(alone):
        length = logits.shape[1]
        own = together[index, -length:] if pad == "left" else together[index, :length]
        torch.testing.assert_close(own, logits[0], rtol=1e-4, atol=1e-5)


def test_a_batch_of_text_alone_goes_through_the_model() -> None:
    batch = collate([made(MIXED[1])], CONFIG)
    assert batch["audio_input_ids"].shape == batch["audio_labels"].shape == (1, 0, BOOKS)
    del batch["audio_labels"]  # of none of which the mean is NaN
    with torch.inference_mode():
        assert torch.isfinite(MODEL(**batch).loss)


@pytest.mark.parametrize("pad", ["left", "right"])
def test_the_same_examples_collated_twice_are_equal_and_stay_as_they_are(pad: Any) -> None:
    examples = [made(one) for one in MIXED]
    before = [[part.clone() for part in (e.input_ids, e.audio_ids, e.text_labels, e.audio_labels)] for e in examples]
    first, second = collate(examples, CONFIG, pad), collate(examples, CONFIG, pad)
    for name, value in first.items():
        assert torch.equal(value, second[name])
        value.fill_(0)  # a batch shares no memory with what it was made of
    for parts, e in zip(before, examples, strict=True):
        assert all(map(torch.equal, parts, (e.input_ids, e.audio_ids, e.text_labels, e.audio_labels)))


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60), st.lists(st.integers(1, 12), max_size=2), st.integers(1, 12))
def test_whatever_the_text_the_placeholders_are_as_many_as_the_frames(text: str, voices: list[int], frames: int) -> None:
    lengths = dict(zip(map(str, range(3)), [*voices, frames], strict=False))
    turns = tuple(Turn(plain(text), Path(str(index))) for index in range(len(voices)))
    one = row(references=turns, text=plain(text), clip=Path(str(len(voices))))
    learnt = ExampleWriter(TOKENIZER, CONFIG, MARKS).write(one, lambda path: torch.ones(lengths[path.name], BOOKS).long())
    placeholders = (learnt.input_ids == CONFIG.audio_token_id) | (learnt.input_ids == CONFIG.audio_delay_token_id)
    assert int(placeholders.sum()) == len(learnt.audio_ids) == sum(n + 1 + BOOKS for n in (*voices, frames))
    assert int((learnt.audio_labels == EOS).sum()) == BOOKS
    assert int((learnt.text_labels != IGNORED).sum()) == 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=90), st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
def test_ranks_share_a_step_and_an_epoch_has_everything_once(lengths: list[int], size: int, ranks: int, seed: int) -> None:
    whole = LengthGroups(lengths, size * ranks, seed=seed)
    shares = [LengthGroups(lengths, size, seed=seed, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert sorted(index for batch in whole for index in batch) == list(range(len(lengths)))
    assert len({len(share) for share in (whole, *shares)}) == 1
    for step, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert {index for part in parts for index in part} == set(step)
        assert all(1 <= len(part) <= size for part in parts)
        assert sum(map(len, parts)) == max(len(step), ranks)


def test_a_batch_holds_like_lengths_and_the_longest_comes_first() -> None:
    lengths = torch.randint(10, 1000, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    groups = LengthGroups(lengths, 8)
    batches = list(groups)
    padding = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) / sum(lengths)
    assert padding < 1.1
    assert max(lengths) in [lengths[i] for i in batches[0]]
    assert batches != groups.batches(1)
    assert batches == list(LengthGroups(lengths, 8))
    assert batches != list(LengthGroups(lengths, 8, seed=1))


def test_a_place_is_found_again_whatever_was_drawn_ahead() -> None:
    lengths = [3, 9, 4, 4, 8, 1, 7]
    groups = LengthGroups(lengths, 2, seed=4)
    for _ in range(5):
        next(iter(groups))
        groups.done()
    assert (groups.epoch, groups.step) == (1, 1)
    again = LengthGroups(lengths, 1, seed=4, rank=1, ranks=2)
    again.load(groups.state())
    assert [batch[1::2] or batch[:1] for batch in groups] == list(again)
    assert len(list(again)) == 3
    for other in (LengthGroups([*lengths[:-1], 2], 2, seed=4), LengthGroups(lengths, 2), LengthGroups(lengths, 3, seed=4)):
        with pytest.raises(BadInput, match="begin anew"):
            other.load(groups.state())


def test_nothing_cannot_be_drawn_from() -> None:
    for bad in (lambda: LengthGroups([], 1), lambda: LengthGroups([1], 0), lambda: LengthGroups([1], 1, rank=1)):
        with pytest.raises(BadInput):
            bad()
