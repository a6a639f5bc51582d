"""Emphasis density: texts of any domain have the requested share of emphases, independent of the rest of the batch."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from prosody_tagger.density import DENSITIES, EmphasisBudget, density_of, nearest_level, threshold_at
from prosody_tagger.errors import BadInput
from prosody_tagger.markup import Mark, MarkedText
from prosody_tagger.model import SHIPPED_ADAPTER, TaggerModel
from prosody_tagger.segment import segment_sentences, segment_words
from prosody_tagger.tagger import ProsodyTagger, Thresholds

NOVEL = """The old ferryman had not spoken since the storm began, and nobody on the crowded deck dared to ask him why.
She folded the letter twice, pressed it flat against her knee, and let the wind take whatever was left of her anger.
Down in the harbour the lamps were lit one by one, though the sun still stood a hand's breadth above the hills.
My grandfather used to say that a house without a clock was a house without an argument, and he owned eleven clocks.
It was only when the dog refused to enter the barn that we understood how badly we had misjudged the winter.
He had promised to write every week, but the road was long and the ink, as he later told us, had frozen in its bottle.""".split(
    "\n"
)
MANUAL = """The function returns a list of offsets, sorted in ascending order, unless the buffer was closed by another thread first.
Set the timeout to zero to disable retries; a negative value is rejected when the configuration file is parsed at startup.
Each worker process keeps its own cache of compiled patterns, so memory use grows with the number of workers and not with load.
If the checksum of a block does not match, the reader skips to the next block and reports the error at the end of the run.
Arguments after the double dash are passed to the child process unchanged, including those that start with a hyphen.
The index is rebuilt in the background, and queries that arrive meanwhile are answered from the previous version of it.""".split(
    "\n"
)
NEWS = """The city council voted nine to four on Tuesday to close the bridge for repairs that are expected to last until 2031.
Shares of the company fell 12% in early trading after its chief executive said that demand had weakened across Europe.
A spokesman for the ministry declined to comment on the report, which was first published by a regional newspaper.
Farmers in the northern valley expect the smallest harvest in forty years, and prices at the market have already doubled.
The two teams meet again on Saturday in front of a crowd of 48,000, the largest that the stadium has ever held.
Doctors at the hospital performed the operation three times last month, and all of the patients have since gone home.""".split("\n")
DIALOGUE = """"I never said that you could take the car, and you know perfectly well that I never would have," she said quietly.
"Then tell me what you did say, because everybody in this kitchen seems to remember it differently," he answered.
"Are you really going to stand there and pretend that the money just walked out of the drawer on its own?" asked Ruth.
"Look, I would rather lose the whole farm than sign one more paper that your brother has put in front of me!" """.split("\n")
CAPITALS = [line.upper() for line in NOVEL + NEWS]
DOMAINS = {"novel": NOVEL, "manual": MANUAL, "news": NEWS, "dialogue": DIALOGUE, "capitals": CAPITALS}
ALL_DENSITIES = ["low", "medium", "high", 0.05, 0.07, 0.09, 0.12, 0.18, 0.3]


class CachedModel:
    """A tagger model that caches the scores of each window."""

    def __init__(self, model: TaggerModel) -> None:
        self.tokenizer, self.max_tokens, self._model = model.tokenizer, model.max_tokens, model
        self._known: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def forward(self, tokens: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        windows = {(*ids, -1, *last): (ids, last) for ids, last in zip(tokens, ends, strict=True)}
        new = {key: window for key, window in windows.items() if key not in self._known}
        if new:
            tables = self._model.forward(*zip(*new.values(), strict=True))
            self._known.update(zip(new, tables, strict=True))
        return [self._known[(*ids, -1, *last)] for ids, last in zip(tokens, ends, strict=True)]


@pytest.fixture(scope="session")
def model() -> TaggerModel:
    return TaggerModel.load()


@pytest.fixture(scope="session")
def shipped(model: TaggerModel) -> ProsodyTagger:
    return ProsodyTagger(cast(TaggerModel, CachedModel(model)), Thresholds.load(SHIPPED_ADAPTER / "thresholds.json"))


@pytest.fixture(scope="session")
def tiny(tiny_tagger: Path) -> ProsodyTagger:
    return ProsodyTagger.load(tiny_tagger)


def text_of(domain: str, count: int = 1100) -> str:
    """Return at least ``count`` words of a domain: its sentences in random order, four to a paragraph."""
    draw = random.Random(domain)
    parts: list[str] = []
    while len(segment_words("".join(parts))) < count:
        parts.append(draw.choice(DOMAINS[domain]).strip() + ("\n\n" if len(parts) % 4 == 3 else " "))
    return "".join(parts).strip()


def stressed(marked: MarkedText) -> list[int]:
    """Return the indices of the stressed words."""
    index = {word.start: place for place, word in enumerate(segment_words(marked.text))}
    return [index[mark.offset] for mark in marked.marks if mark.kind == "emph"]


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_long_text_has_the_requested_density(shipped: ProsodyTagger, domain: str) -> None:
    text = text_of(domain)
    count = len(segment_words(text))
    for density, tagged in zip(ALL_DENSITIES, shipped.tag_batch([text] * len(ALL_DENSITIES), ALL_DENSITIES), strict=True):
        assert len(stressed(tagged.marked)) / count == pytest.approx(density_of(density), rel=0.1), density


@pytest.mark.parametrize("density", ALL_DENSITIES)
def test_density_is_kept_with_wrong_thresholds(tiny: ProsodyTagger, density: str | float) -> None:
    text = text_of("news")
    for calibrated in (tiny.thresholds.emph, dict.fromkeys(DENSITIES, 0.0), dict.fromkeys(DENSITIES, 1.0)):
        tagger = ProsodyTagger(tiny.model, replace(tiny.thresholds, emph=calibrated))
        assert len(stressed(tagger.mark(text, density))) / len(segment_words(text)) == pytest.approx(density_of(density), rel=0.1)


def test_portions_equal_the_whole_text_and_share_a_budget(shipped: ProsodyTagger) -> None:
    text = text_of("novel", 1900)
    for density in ("low", 0.12):
        whole, offset = [], 0
        for portion in shipped.tag_in_portions(text, density):
            whole += [Mark(mark.kind, mark.offset + offset, mark.ms) for mark in portion.marked.marks]
            offset += len(portion.marked.text)
        assert offset == len(text)
        assert tuple(whole) == shipped.mark(text, density).marks


def test_a_text_gets_the_same_marks_in_any_batch(model: TaggerModel, shipped: ProsodyTagger) -> None:
    shipped = ProsodyTagger(model, shipped.thresholds)  # the last digits of a score may depend on the batch
    texts = ["How much?", text_of("news", 150), "", text_of("manual", 300), "He never came back.", text_of("dialogue", 100)]
    asked = ["high", "low", "medium", 0.12, "medium", "high"]
    alone = [shipped.mark(text, density) for text, density in zip(texts, asked, strict=True)]
    order = [4, 2, 0, 5, 3, 1, 1, 0]
    together = shipped.tag_batch([texts[place] for place in order], [asked[place] for place in order])
    assert [tagged.marked for tagged in together] == [alone[place] for place in order]


@pytest.mark.parametrize("density", ["low", 0.03, 0.08])
def test_below_medium_no_neighbours_are_stressed(shipped: ProsodyTagger, density: str | float) -> None:
    for domain in DOMAINS:
        assert all(right - left > 1 for left, right in pairwise(stressed(shipped.mark(text_of(domain), density))))


@pytest.mark.parametrize("density", ["medium", "high", 0.1])
def test_from_medium_on_every_longer_sentence_has_an_emphasis(shipped: ProsodyTagger, density: str | float) -> None:
    text = text_of("novel", 600) + " " + "Go. Come here. I said no more. That is all there is. " * 60
    runs, found = segment_words(text), stressed(shipped.mark(text, density))
    for start, end in segment_sentences(text):
        inside = [index for index, word in enumerate(runs) if start <= word.start < end]
        assert len(inside) < 4 or set(inside) & set(found)


def test_where_every_sentence_has_one_already_nothing_is_added(shipped: ProsodyTagger) -> None:
    text = "She left us here. He did not wait. It was too late. " * 100
    assert len(stressed(shipped.mark(text))) == len(segment_sentences(text))


def test_a_short_text_follows_its_scores() -> None:
    """A single sentence may have no emphasis or several, because the rank within it means little."""
    calibrated = {"low": 0.8, "medium": 0.6, "high": 0.4}
    for scores, count in (([0.2] * 9, 0), ([0.2] * 6 + [0.9, 0.2, 0.95], 2)):
        budget = EmphasisBudget(0.08, calibrated)
        assert len(budget.choose(np.array(scores, np.float32), np.ones(9, bool), [], [])) == count


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.sampled_from(ALL_DENSITIES), st.integers(0, 2**32 - 1))
def test_the_budget_balances(portions: list[int], density: str | float, seed: int) -> None:
    """Any scores, any division into parts: the density is within the tolerance if no rule adds or forbids emphases."""
    draw = np.random.default_rng(seed)
    budget = EmphasisBudget(density_of(density), {"low": 0.8, "medium": 0.6, "high": 0.4})
    total = 0
    for size in portions:
        scores = draw.beta(*draw.uniform(0.2, 5, 2), size * 30).astype(np.float32)
        total += len(budget.choose(scores, np.ones(len(scores), bool), [], []))
    count = sum(portions) * 30
    aim = density_of(density) * count
    assert abs(total - aim) <= 0.02 * aim + 20 * density_of(density) + 0.5


def test_density_zero_and_one(tiny: ProsodyTagger) -> None:
    text = text_of("manual", 200)
    assert stressed(tiny.mark(text, 0)) == []
    assert len(stressed(tiny.mark(text, 1.0))) > 0.85 * len(segment_words(text))


def test_the_nearest_level() -> None:
    assert [nearest_level(density) for density in ("low", 0, 0.06, 0.1, 0.13, 0.14, 1)] == [
        "low",
        "low",
        "low",
        "medium",
        "medium",
        "high",
        "high",
    ]


def test_thresholds_between_and_beyond_the_named_ones() -> None:
    calibrated = {"low": 0.8, "medium": 0.6, "high": 0.4}
    at = [threshold_at(density, calibrated) for density in (0.01, 0.05, 0.07, 0.09, 0.12, 0.18, 0.4)]
    assert at == sorted(at, reverse=True)
    assert [at[1], at[3], at[5]] == pytest.approx([0.8, 0.6, 0.4])


@pytest.mark.parametrize("density", ["loud", "", float("nan"), float("inf"), -0.1, 1.5, True, 9])
def test_an_invalid_density(tiny: ProsodyTagger, density: str | float) -> None:
    with pytest.raises(BadInput, match=r"low, medium, high, or emphases a word as a number from 0 to 1"):
        tiny.mark("Go.", density)
