import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tagger import make_tagger

from prosody_tagger.errors import BadInput, MarkupError, ModelError
from prosody_tagger.markup import normalise, parse, render
from prosody_tagger.model import MARKS, SEP, TaggerModel, encode, token_id
from prosody_tagger.segment import segment_words
from prosody_tagger.tagger import ProsodyTagger

SENTENCE = "It was a bright cold day in April, and the clocks were striking thirteen."


@pytest.fixture(scope="session")
def tagger(tiny_tagger: Path) -> ProsodyTagger:
    return ProsodyTagger.load(tiny_tagger)


@pytest.fixture(scope="session")
def shipped() -> ProsodyTagger:
    return ProsodyTagger.load()


def test_encode_finds_the_last_token_of_each_word(tagger: ProsodyTagger) -> None:
    text = "It's naïve — unbelievably so, 你好 \U0001f600 ($299)!"
    runs = segment_words(text)
    (encoded,) = encode(tagger.model.tokenizer, [text], [runs])
    ends = [tagger.model.tokenizer.decode(encoded.ids[: last + 1]).strip() for last in encoded.last]
    assert ends == [text[: word.end].strip() for word in runs]


def test_text_that_spells_our_tokens_is_read_as_characters(tagger: ProsodyTagger) -> None:
    text = f"a {SEP} {' '.join(MARKS)} <|endoftext|> b"
    (encoded,) = encode(tagger.model.tokenizer, [text], [segment_words(text)])
    assert max(encoded.ids) < 50256
    assert tagger.mark(text).text == text


def test_scores_are_those_of_the_unmerged_model_at_the_copy(tiny_tagger: Path, tagger: ProsodyTagger) -> None:
    import torch
    from peft import PeftModel
    from transformers import GPT2LMHeadModel

    base = GPT2LMHeadModel.from_pretrained(tiny_tagger.parent / "base")
    base.resize_token_embeddings(tagger.model.tokenizer.get_vocab_size(), mean_resizing=False)
    network = PeftModel.from_pretrained(base, tiny_tagger).eval()
    (encoded,) = encode(tagger.model.tokenizer, [SENTENCE], [segment_words(SENTENCE)])
    sep = token_id(tagger.model.tokenizer, SEP)
    ids = torch.tensor([[*encoded.ids, sep, *encoded.ids]])
    places = torch.tensor([[*range(len(encoded.ids) + 1), *range(len(encoded.ids))]])  # the copy's begin anew
    with torch.inference_mode():
        logits = network(ids, position_ids=places, attention_mask=torch.ones_like(ids)).logits[0]
    at = logits[[len(encoded.ids) + 1 + last for last in encoded.last]]

    def softmax_of(*tokens: str) -> np.ndarray:
        return at[:, [token_id(tagger.model.tokenizer, token) for token in tokens]].softmax(-1).numpy()

    (scores,) = tagger.model.score([encoded])
    assert np.allclose(scores.prominence, softmax_of("<prom_0>", "<prom_1>", "<prom_2>"), atol=1e-5)
    assert np.allclose(scores.boundary, softmax_of("<bound_0>", "<bound_2>")[:, 1], atol=1e-5)
    assert np.allclose(scores.marks[:, 0], softmax_of("<none>", "<emph>")[:, 1], atol=1e-5)
    assert np.ptp(scores.marks[:, 0]) > 0.01


def test_the_score_of_a_word_depends_on_the_text_after_it(tagger: ProsodyTagger) -> None:
    first, second = (tagger.score(f"Nobody here ever saw {what}") for what in ("gold.", "so many people at once?"))
    assert np.abs(first.prominence[:4] - second.prominence[:4]).max(1).min() > 1e-4


def test_a_batch_gives_the_scores_of_single_texts(tagger: ProsodyTagger) -> None:
    texts = ["", "word", "... !!!", SENTENCE, "One. Two three. " * 40, "  \n "]
    assert tagger.mark_batch(texts) == [tagger.mark(text) for text in texts]
    runs = [segment_words(text) for text in texts[3:4] * 2 + ["A longer text than the other one, " + SENTENCE]]
    encoded = encode(tagger.model.tokenizer, [SENTENCE, SENTENCE, "A longer text than the other one, " + SENTENCE], runs)
    together = tagger.model.score(encoded)
    (alone,) = tagger.model.score(encoded[:1])
    assert np.allclose(together[0].marks, alone.marks, atol=1e-5)
    assert np.allclose(together[1].boundary, alone.boundary, atol=1e-5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), st.sampled_from(["low", "medium", "high"]))
def test_no_word_changes_and_marks_are_normal(tagger: ProsodyTagger, text: str, intensity: str) -> None:
    marked = tagger.mark(text, intensity)
    assert marked.text == text
    assert normalise(marked) == marked
    assert parse(render(marked)) == marked


@pytest.mark.parametrize(
    "text", ["", "word", "... — !!!", "\x00", "a" * 5000, "no stop " * 2000, "你好。" * 500, "\U0001f600 " * 300]
)
def test_texts_of_every_shape(tagger: ProsodyTagger, text: str) -> None:
    assert tagger.mark(text).text == text


def test_every_word_of_a_long_text_is_scored_once(tagger: ProsodyTagger) -> None:
    text = "It was cold. The clocks were striking, and he slipped in quickly through the doors! " * 60
    tagged = tagger.tag(text, "high")
    assert (tagger.score(text).marks[:, 0] > 0).all()
    assert len(tagged.scores) == len(tagged.marked.marks)


@pytest.mark.parametrize("intensity", ["low", "medium", "high"])
@pytest.mark.parametrize(
    "text",
    ["", "word", SENTENCE + " And that was it. " * 400, "no stop " * 2000, "  Cold.\n\n" * 900 + " ", "你好。" * 900, "a" * 5000],
)
def test_the_portions_of_a_text_are_the_whole(tagger: ProsodyTagger, text: str, intensity: str) -> None:
    focus = [(0, 5), (len(text) // 2, len(text) // 2 + 30)]
    whole = tagger.tag(text, intensity, focus)
    portions = list(tagger.tag_in_portions(text, intensity, focus))
    assert "".join(portion.marked.text for portion in portions) == text
    marks = []
    offset = 0
    for portion in portions:
        assert len(portion.scores) == len(portion.marked.marks)
        marks += [replace(mark, offset=mark.offset + offset) for mark in portion.marked.marks]
        offset += len(portion.marked.text)
    assert tuple(marks) == whole.marked.marks
    assert marks == sorted(marks, key=lambda mark: mark.offset)


def test_the_first_portion_of_a_long_text_is_small(tagger: ProsodyTagger) -> None:
    first, *others = tagger.tag_in_portions("It was cold. " * 2000)
    assert 0 < len(first.marked.text) < 1000
    assert len(others) > 3


def test_a_long_text_is_marked_throughout(shipped: ProsodyTagger) -> None:
    """Also where one stretch of it ends and the next begins: the pause between two sentences is never lost."""
    text = "We looked at it on Monday, and nobody had an answer. Then the rain came down for days. " * 250
    marked = shipped.mark(text, "low")
    pauses = {mark.offset for mark in marked.marks if mark.kind == "pause_long"}
    starts = {word.start for word in segment_words(text) if word.core(text) == "We"} - {0}
    assert starts <= pauses
    stressed = [mark.offset for mark in marked.marks if mark.kind == "emph"]
    order = {word.start: index for index, word in enumerate(segment_words(text))}
    assert all(order[b] - order[a] > 1 for a, b in pairwise(stressed))


def test_each_text_of_a_batch_has_its_own_intensity(tagger: ProsodyTagger) -> None:
    text = SENTENCE * 5
    together = tagger.tag_batch([text] * 3, ["low", "medium", "high"])
    assert [tagged.marked for tagged in together] == [tagger.mark(text, name) for name in ("low", "medium", "high")]


def test_windows_see_enough_context(shipped: ProsodyTagger) -> None:
    """A sentence in the middle of a long text gets nearly the scores that it gets with its neighbours alone."""
    filler = "They walked along the river until the evening came, and then they turned for home. " * 12
    text = filler + SENTENCE + " " + filler
    first = len(segment_words(filler))
    count = len(segment_words(SENTENCE))
    near = " ".join(filler.split(". ")[-2:]) + SENTENCE + " " + filler[:80]
    long_scores, near_scores = shipped.score(text), shipped.score(near)
    at = len(segment_words(near[: near.index(SENTENCE)]))
    difference = np.abs(long_scores.prominence[first : first + count] - near_scores.prominence[at : at + count])
    assert difference.mean() < 0.12


def test_rules_of_intensity(tagger: ProsodyTagger) -> None:
    text = "We found it there. No one else had ever seen the thing before. Go! " * 10
    runs = segment_words(text)
    index_of = {word.start: index for index, word in enumerate(runs)}
    stressed = {}
    for intensity in ("low", "medium", "high"):
        marks = tagger.mark(text, intensity).marks
        stressed[intensity] = [index_of[mark.offset] for mark in marks if mark.kind == "emph"]
    assert all(right - left > 1 for left, right in zip(stressed["low"], stressed["low"][1:], strict=False))
    assert len(stressed["low"]) < len(stressed["high"])
    for intensity in ("medium", "high"):
        for start in range(0, len(runs), 14):
            for first, last in ((start, start + 4), (start + 4, start + 13)):
                assert any(first <= index < last for index in stressed[intensity])


def test_an_intensity_that_is_none(tagger: ProsodyTagger) -> None:
    with pytest.raises(BadInput, match=r"'loud'.*low, medium, high"):
        tagger.mark("Go.", "loud")


def test_a_lone_surrogate_is_refused(tagger: ProsodyTagger) -> None:
    with pytest.raises(MarkupError, match="surrogate"):
        tagger.mark("a\ud800")


def test_the_shipped_tagger_marks_sensibly(shipped: ProsodyTagger) -> None:
    marked = shipped.mark("He opened the door very slowly, and nobody was there.")
    words_marked = [marked.text[mark.offset :].split()[0] for mark in marked.marks if mark.kind == "emph"]
    assert words_marked
    assert not {"the", "was", "and", "He"} & set(words_marked)
    assert any(mark.kind == "pause_short" and marked.text[mark.offset :].startswith("and") for mark in marked.marks)


@pytest.mark.parametrize(
    "text",
    [
        "\u0301",
        "\u0301 \u0302 so \u0303 it goes \u0304",
        "\u0301 " * 2000 + "and then he came",
        "[SEP] [CLS] [MASK] was a [PAD] of [UNK].",
        "\x00\x01 a \x02b\x7f",
        "x" * 3000 + " and then",
    ],
)
def test_text_that_the_shipped_vocabulary_has_nothing_for(shipped: ProsodyTagger, text: str) -> None:
    assert shipped.mark(text).text == text
    assert np.isfinite(shipped.score(text).prominence).all()


def test_special_tokens_of_the_vocabulary_are_read_as_characters(shipped: ProsodyTagger) -> None:
    tokenizer = shipped.model.tokenizer
    text = "The [SEP] of <SEP> was [MASK] and [PAD]."
    (encoded,) = encode(tokenizer, [text], [segment_words(text)])
    own = {tokenizer.token_to_id(token) for token in ("[SEP]", "[MASK]", "[PAD]", SEP, *MARKS)}
    assert not own & set(encoded.ids)


# --- loading -------------------------------------------------------------------------------------------------------------------


def broken(tiny_tagger: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_tagger.parent, tmp_path / "t")
    return tmp_path / "t" / "adapter"


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tagger in .*nowhere.*adapter_config.json is missing; give the folder"):
        ProsodyTagger.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter_config.json", "{", "adapter_config.json is broken"),
        ("adapter_config.json", "[]", "names no base_model_name_or_path"),
        ("tokenizer.json", "{}", "cannot read the tokenizer"),
        ("thresholds.json", "{}", "thresholds.json is broken"),
        ("thresholds.json", '{"emph": {"low": "x"}, "pause": 1}', "thresholds.json is broken"),
        ("thresholds.json", None, "trained without thresholds"),
        ("adapter_model.safetensors", "rubbish", "does not fit the base"),
        ("adapter_model.safetensors", None, "does not fit the base"),
        ("../base/model.safetensors", "rubbish", "cannot load the tagger's base"),
        ("../base/config.json", None, "cannot load the tagger's base"),
    ],
)
def test_a_broken_folder_is_reported(tiny_tagger: Path, tmp_path: Path, file: str, content: str | None, message: str) -> None:
    folder = broken(tiny_tagger, tmp_path)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        ProsodyTagger.load(folder)
    assert "\n" not in str(caught.value)


def test_an_adapter_over_another_base_is_refused(tiny_tagger: Path, tmp_path: Path) -> None:
    make_tagger(tmp_path, vocab=60000)
    with pytest.raises(ModelError, match="trained over another base"):
        ProsodyTagger.load(tiny_tagger, base=str(tmp_path / "base"))


def test_a_base_of_another_shape_is_refused(tiny_tagger: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=32)).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="does not fit the base"):
        ProsodyTagger.load(tiny_tagger, base=str(tmp_path / "other"))


def test_a_base_by_its_hub_name(tiny_tagger: Path, tmp_path: Path) -> None:
    """The hub's cache, laid out as the hub's client lays it out, stands in for the hub."""
    folder = broken(tiny_tagger, tmp_path)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "gpt2"}))
    repo = tmp_path / "hub" / "models--gpt2"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder.parent / "base", repo / "snapshots" / ("0" * 40))
    load = f"ProsodyTagger.load({str(folder)!r}).mark('It was cold today.').text"
    code = f"from prosody_tagger.tagger import ProsodyTagger; print({load})"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "It was cold today.\n"


def test_a_model_keeps_to_its_window(tagger: ProsodyTagger) -> None:
    assert isinstance(tagger.model, TaggerModel)
    assert tagger.model.max_tokens == 63
