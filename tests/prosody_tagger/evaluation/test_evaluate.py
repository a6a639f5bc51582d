import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prosody_tagger.corpus.examples import UNKNOWN, LabelledText, from_marked_text
from prosody_tagger.density import DENSITIES
from prosody_tagger.errors import DataError, ModelError
from prosody_tagger.evaluation.baselines import predict_nothing, predict_punctuation, predict_word_identity
from prosody_tagger.evaluation.evaluate import RUN_MEASURES, app
from prosody_tagger.evaluation.mark_scores import MarkScores
from prosody_tagger.evaluation.metrics import (
    MEASURES,
    Predictions,
    WordLabels,
    average_precision,
    bootstrap_intervals,
    f1_at_density,
    measure,
    score_examples,
)
from prosody_tagger.markup import parse
from prosody_tagger.tagger import ProsodyTagger
from prosody_tagger.training.artifacts import choose_thresholds

KEYS = {*MEASURES, *RUN_MEASURES}


def labelled(speakers: int = 6, sentences: int = 8, seed: int = 0) -> list[LabelledText]:
    """Sentences in the released labelling in which long words are prominent."""
    draw = np.random.default_rng(seed)
    examples = []
    for number in range(speakers * sentences):
        lengths = draw.integers(1, 9, 7)
        words = ["abcdefghi"[:length] for length in lengths]
        real = tuple(float(length) / 3 for length in lengths)
        prominence = tuple(int(length > 3) + int(length > 6) for length in lengths)
        boundary = tuple(2 if length == 8 else 0 for length in lengths[:-1])
        examples.append(LabelledText(f"{number // sentences}_1_{number}", " ".join(words) + ".", prominence, (*boundary, 2), real))
    return examples


def naive_ap(scores: list[float], is_positive: list[bool]) -> float:
    found = [sum(t for s, t in zip(scores, is_positive, strict=True) if s >= limit) for limit in scores]
    taken = [sum(s >= limit for s in scores) for limit in scores]
    precision = [hits / count for hits, count in zip(found, taken, strict=True)]
    return sum(p for p, t in zip(precision, is_positive, strict=True) if t) / sum(is_positive)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=1).filter(lambda x: any(t for _, t in x)))
def test_average_precision_is_the_mean_precision_at_true_items(items: list[tuple[float, bool]]) -> None:
    scores, is_positive = [s for s, _ in items], [t for _, t in items]
    assert math.isclose(average_precision(np.array(scores), np.array(is_positive)), naive_ap(scores, is_positive))


def test_f1_at_density() -> None:
    assert f1_at_density(np.array([0.9, 0.8, 0.1, 0.2]), np.array([True, False, False, True])) == 0.5
    # Of three tied items one is chosen: each with a third.
    assert math.isclose(f1_at_density(np.zeros(3), np.array([True, False, False])), 1 / 3)


def test_perfect_and_empty_predictions() -> None:
    labels = WordLabels.of(labelled())
    real, boundary = labels.real_prominence / 10, labels.boundary.astype(float)
    perfect = measure(labels, Predictions(np.eye(3)[labels.prominence], real, boundary))
    assert all(value == 1.0 for value in perfect.values())
    nothing = measure(labels, predict_nothing(labels))
    assert nothing["prominence_2way_accuracy"] == np.mean(labels.prominence == 0)
    assert nothing["emph_ap"] == pytest.approx(np.mean(labels.prominence == 2))
    assert nothing["emph_f1_at_density"] == nothing["sparse_emph_f1_at_density"] == nothing["pause_f1"] == 0.0


def test_the_punctuation_rule_finds_the_ends_of_texts() -> None:
    labels = WordLabels.of(labelled())
    found = measure(labels, predict_punctuation(labels))
    ends, pauses = np.sum(~labels.is_inner), np.sum(labels.boundary == 1)
    assert found["pause_f1"] == pytest.approx(2 * ends / (ends + pauses))
    assert found["pause_f1_nonfinal"] == 0.0
    assert found["prominence_2way_accuracy"] is None


def test_word_identity_learns_from_other_speakers_only() -> None:
    examples = labelled()
    labels = WordLabels.of(examples)
    predictions = predict_word_identity(labels)
    assert predictions.prominence is not None
    assert np.mean(predictions.prominence.argmax(1) == labels.prominence) > 0.95  # the label is a function of the word
    alone = [LabelledText(f"{i}_1_1", f"only{i}", (i % 3,), (2,), (float(i),)) for i in range(6)]
    unseen = predict_word_identity(WordLabels.of(alone))
    assert unseen.prominence is not None
    assert all(share[i % 3] < 1 for i, share in enumerate(unseen.prominence))


def test_intervals_contain_the_measures_and_are_reproducible() -> None:
    labels = WordLabels.of(labelled(speakers=12))
    noise = np.random.default_rng(1).normal(0, 0.5, len(labels.real_prominence))
    predictions = Predictions(np.eye(3)[labels.prominence] * 0.5 + 0.2, labels.real_prominence + noise, labels.boundary + noise)
    measures, intervals = measure(labels, predictions), bootstrap_intervals(labels, predictions)
    for name in MEASURES:
        value, interval = measures[name], intervals[name]
        assert value is not None
        assert interval is not None
        assert interval[0] <= value <= interval[1]
    assert intervals == bootstrap_intervals(labels, predictions)
    wide = intervals["sparse_emph_ap"]
    assert wide is not None
    assert wide[1] - wide[0] > 0.005


def test_top1_counts_sentences() -> None:
    examples = [
        LabelledText("1_1_1", "a b c", (0, 0, 0), (0, 0, 2), (0.1, 3.0, 1.0)),
        LabelledText("2_1_1", "d e", (0, 0), (0, 2), (2.0, 1.0)),
    ]
    labels = WordLabels.of(examples)
    assert measure(labels, Predictions(emphasis=np.array([0.1, 0.9, 0.2, 0.1, 0.2])))["top1_agreement"] == 0.5
    assert measure(labels, Predictions(emphasis=np.zeros(5)))["top1_agreement"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_marks_found_exactly_and_within_one_word() -> None:
    found = MarkScores()
    example = from_marked_text(parse("<emph>one two three <pause_short>four <emph>five six"))
    found.add(example, parse("one <emph>two three <pause_short>four <emph>five <emph>six"))
    emph = found.as_dict()["emph"]
    assert emph["exact"] == {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5}
    assert emph["within_one_word"] == {"precision": 2 / 3, "recall": 1.0, "f1": 4 / 5}
    assert found.as_dict()["pause_short"]["exact"]["f1"] == 1.0
    assert set(found.as_dict()) == {"emph", "pause_short"}


def test_thresholds_give_the_requested_density(tiny_tagger: Path) -> None:
    tagger = ProsodyTagger.load(tiny_tagger)
    examples = labelled(speakers=10, sentences=20)
    labels, scores = WordLabels.of(examples), score_examples(tagger.model, examples)
    found = choose_thresholds(scores, labels)
    for name, density in DENSITIES.items():
        assert np.mean(scores.marks[:, 0] >= found["emph"][name]) == pytest.approx(density, abs=0.01)
    assert np.mean(scores.boundary[labels.is_inner] >= found["pause"]) == pytest.approx(
        np.mean(labels.boundary[labels.is_inner] == 1), abs=0.01
    )
    assert "pitch" not in found


def test_long_texts_are_scored_in_windows(tiny_tagger: Path) -> None:
    tagger = ProsodyTagger.load(tiny_tagger)
    text = "It was cold. The clocks were striking, and he slipped in! " * 20
    example = from_marked_text(parse(text))
    scores = score_examples(tagger.model, [example, from_marked_text(parse("short one"))])
    assert np.allclose(scores.marks[:-2], tagger.score(text).marks, atol=1e-5)


def columns(examples: list[LabelledText]) -> str:
    lines = []
    for example in examples:
        lines.append(f"<file>\t{example.source}.txt")
        rows = zip(example.text.rstrip(".").split(), example.prominence, example.boundary, example.real_prominence, strict=True)
        lines.extend(f"{word}\t{p}\t{b}\t{real:.3f}\t1.0" for word, p, b, real in rows)
        lines.append(".\tNA\tNA\tNA\tNA")
    return "\n".join(lines) + "\n"


def run(*args: object) -> dict[str, object]:
    result = CliRunner().invoke(app, [str(arg) for arg in (*args, "--json")], catch_exceptions=False)
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_the_command_on_columns(tiny_tagger: Path, tmp_path: Path) -> None:
    data = tmp_path / "dev.txt"
    data.write_text(columns(labelled()))
    found = run("--data", data, "--tagger", tiny_tagger, "--labels", "v3")
    assert set(found) >= KEYS
    assert all(isinstance(found[name], float) for name in KEYS)
    assert found["verbatim_rate"] == 1.0
    assert found["marks"] is None
    assert (found["sentences"], found["speakers"]) == (48, 6)
    rows = found["baselines"]
    assert isinstance(rows, dict)
    assert set(rows) == {"tag_nothing", "word_identity", "punctuation_rule", "human_quoted"}
    assert rows["human_quoted"]["prominence_2way_accuracy"] == 0.778


def test_the_command_on_marked_text(tiny_tagger: Path, tmp_path: Path) -> None:
    data = tmp_path / "marked.txt"
    data.write_text("The <emph>only one, <pause_short>he said. <pause_long>And <emph> then?\nSo <emph>it was.\n")
    found = run("--data", data, "--tagger", tiny_tagger)
    assert found["prominence_2way_accuracy"] is None
    assert found["sparse_emph_ap"] is None
    marks = found["marks"]
    assert isinstance(marks, dict)
    assert marks["emph"]["there"] == 3
    rows = found["baselines"]
    assert isinstance(rows, dict)
    assert rows["punctuation_rule"]["marks"]["pause_long"]["exact"]["f1"] == 1.0
    printed = CliRunner().invoke(app, ["--data", str(data), "--tagger", str(tiny_tagger)], catch_exceptions=False)
    assert "within one word" in printed.stdout


def test_the_command_refuses_missing_labels_and_taggers(tiny_tagger: Path, tmp_path: Path) -> None:
    data = tmp_path / "marked.txt"
    data.write_text("One <emph>two\n")
    with pytest.raises(DataError, match="no v1 labels"):
        run("--data", data, "--tagger", tiny_tagger, "--labels", "v1")
    with pytest.raises(ModelError, match="no tagger in"):
        run("--data", data, "--tagger", tmp_path)


def test_a_tagger_without_thresholds_or_of_another_base_is_refused(tiny_tagger: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_tagger.parent, tmp_path / "copy")
    folder = tmp_path / "copy" / "adapter"
    (folder / "training.json").write_text(json.dumps({"base": {"name": "elsewhere", "fingerprint": "0" * 64}}))
    with pytest.raises(ModelError, match="trained over another base"):
        ProsodyTagger.load(folder)
    (folder / "training.json").unlink()
    (folder / "thresholds.json").unlink()
    with pytest.raises(ModelError, match="without thresholds"):
        ProsodyTagger.load(folder)


def test_unknown_labels_are_ignored() -> None:
    examples = [LabelledText("1_1_1", "a b", (UNKNOWN, 2), (UNKNOWN, UNKNOWN), (math.nan, math.nan))]
    found = measure(WordLabels.of(examples), Predictions(np.array([[1.0, 0, 0], [0, 0, 1.0]]), np.zeros(2), np.zeros(2)))
    assert found["prominence_3way_accuracy"] == 1.0
    assert found["pause_f1"] is found["sparse_emph_ap"] is None
