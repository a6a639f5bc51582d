"""Command `evaluate-tagger`: measure a tagger on labelled text, beside baselines without a model.

evaluate-tagger --data dev.txt --data dev_v1.txt --tagger output/tagger
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from prosody_tagger.corpus.examples import LabelledText
    from prosody_tagger.corpus.readers import DataFile
    from prosody_tagger.density import Density
    from prosody_tagger.markup import MarkedText
    from prosody_tagger.tagger import ProsodyTagger

RUN_MEASURES = ("emph_per_word", "verbatim_rate", "words_per_second")
"""Measures of the running tagger: emphases per word, share of texts whose words are unchanged, and speed."""
TEXTS_PER_BATCH = 64

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def evaluate_tagger(
    data: Annotated[
        list[Path], typer.Option("--data", help="Helsinki columns, marked text or JSONL; repeatable.", show_default=False)
    ],
    labels: Annotated[
        Literal["v1", "v3"] | None,
        typer.Option("--labels", help="Use only the older (v1) or the released (v3) labelling of the Helsinki corpus."),
    ] = None,
    tagger: Annotated[
        Path | None, typer.Option("--tagger", help="Folder of a trained tagger.", show_default="the shipped tagger")
    ] = None,
    density: Annotated[
        Literal["low", "medium", "high"], typer.Option("--density", "--intensity", help="How many words the tagger stresses.")
    ] = "medium",
    words_from: Annotated[
        list[Path] | None,
        typer.Option(
            "--words-from",
            help="Labelled text for the word-identity baseline; repeatable.",
            show_default="the other speakers of the data",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a tagger on labelled text.

    The 95 % intervals come from resampling the speakers, or the texts where the speakers are unknown.
    """
    from prosody_tagger.corpus.readers import read_examples, read_files

    files = read_files(data)
    examples = select_labelling([example for file in files for example in file.examples], labels)
    baseline_examples = select_labelling(read_examples(*words_from), None) if words_from else None
    from prosody_tagger.model import SHIPPED_ADAPTER
    from prosody_tagger.tagger import ProsodyTagger

    result = evaluate(ProsodyTagger.load(tagger), examples, density=density, baseline_examples=baseline_examples, seed=seed)
    result |= {"data": [str(path) for path in data], "trained_on": _training_files(tagger or SHIPPED_ADAPTER, files)}
    if as_json:
        sys.stdout.write(json.dumps(result, ensure_ascii=False, indent=2) + "\n")
    else:
        _print_result(result)


def _training_files(folder: Path, files: "Sequence[DataFile]") -> list[str]:
    """Return those of the files that the tagger's training.json names, by their hash."""
    try:
        hashes = {file["sha256"] for file in json.loads((folder / "training.json").read_text(encoding="utf-8"))["data"]}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(file.path) for file in files if file.sha256 in hashes]


def select_labelling(examples: "Sequence[LabelledText]", labels: Literal["v1", "v3"] | None) -> "list[LabelledText]":
    """Return the examples of one labelling or, without ``labels``, all of them, merged by `readers.merge_labellings`.

    Raises:
        DataError: there are none of that labelling.
    """
    from prosody_tagger.corpus.readers import merge_labellings
    from prosody_tagger.errors import DataError

    if labels is None:
        return merge_labellings(examples)[0]
    chosen = [example for example in examples if example.labelling == labels]
    if not chosen:
        present = ", ".join(sorted({example.labelling for example in examples}))
        raise DataError(f"there are no {labels} labels in the data, only {present}; omit --labels, or give data that has them")
    return chosen


def evaluate(
    tagger: "ProsodyTagger",
    examples: "Sequence[LabelledText]",
    *,
    density: "Density" = "medium",
    baseline_examples: "Sequence[LabelledText] | None" = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a tagger on labelled text.

    Args:
        tagger: the tagger.
        examples: the labelled text.
        density: how many words the tagger stresses.
        baseline_examples: labelled text for the word-identity baseline; by default, the other speakers of ``examples``.
        seed: of the bootstrap intervals.

    Returns:
        `metrics.MEASURES` as fractions, None where there are no labels for them; `RUN_MEASURES`; ``marks``, for marked text the
        precision, recall and F1 of each mark; ``intervals`` of 95 % for each measure; the same for each of ``baselines``; the
        numbers of ``sentences``, ``words`` and ``speakers``.
    """
    from prosody_tagger.evaluation.baselines import measure_with_baselines
    from prosody_tagger.evaluation.metrics import Predictions, WordLabels, bootstrap_intervals, score_examples

    word_labels = WordLabels.of(examples)
    predictions = Predictions.of(score_examples(tagger.model, examples))
    rows = measure_with_baselines(word_labels, predictions, None if baseline_examples is None else WordLabels.of(baseline_examples))
    measures: dict[str, Any] = rows.pop("tagger")
    tagged, run_measures = _run_tagger(tagger, _texts_to_tag(examples), density)
    marks: dict[str, dict[str, Any] | None] = {"tagger": None, **dict.fromkeys(rows)}
    with_marks = [example for example in examples if example.marks is not None]
    if with_marks:
        by_tagger = [tagged[example.text] for example in with_marks]
        marks |= {"tagger": _score_marks(with_marks, by_tagger)} | _score_baseline_marks(with_marks)
    return {
        **measures,
        **run_measures,
        "marks": marks.pop("tagger"),
        "intervals": bootstrap_intervals(word_labels, predictions, seed),
        "baselines": {
            name: {**row, "emph_per_word": 0.0 if name == "tag_nothing" else None, "marks": marks[name]}
            for name, row in rows.items()
        },
        "sentences": len(examples),
        "words": len(word_labels.words),
        "speakers": len({example.speaker for example in examples if example.speaker}),
    }


def _texts_to_tag(examples: "Sequence[LabelledText]") -> list[str]:
    """Return the texts to run the tagger on: consecutive sentences of a chapter joined, marked text as it is."""
    texts: list[list[str]] = []
    before = None
    for example in examples:
        chapter = example.source.split("_")[:2] if example.marks is None and example.source else None
        if chapter is not None and chapter == before:
            texts[-1].append(example.text)
        else:
            texts.append([example.text])
        before = chapter
    return [" ".join(sentences) for sentences in texts]


def _run_tagger(
    tagger: "ProsodyTagger", texts: Sequence[str], density: "Density"
) -> "tuple[dict[str, MarkedText], dict[str, float]]":
    """Mark all texts; return the marked text of each, and `RUN_MEASURES`."""
    from prosody_tagger.markup import parse, render
    from prosody_tagger.segment import segment_words

    tagger.mark(texts[0], density)  # warm up before measuring the speed
    began = time.perf_counter()
    tagged: list[MarkedText] = []
    for start in range(0, len(texts), TEXTS_PER_BATCH):
        tagged.extend(tagger.mark_batch(texts[start : start + TEXTS_PER_BATCH], density))
    seconds = time.perf_counter() - began
    count = sum(len(segment_words(text)) for text in texts)
    emphases = sum(mark.kind == "emph" for marked in tagged for mark in marked.marks)
    verbatim = [marked.text == text and parse(render(marked)).text == text for marked, text in zip(tagged, texts, strict=True)]
    measures = (emphases / count, sum(verbatim) / len(verbatim), count / seconds)
    return dict(zip(texts, tagged, strict=True)), dict(zip(RUN_MEASURES, measures, strict=True))


def _score_marks(examples: "Sequence[LabelledText]", tagged: "Sequence[MarkedText]") -> dict[str, Any]:
    from prosody_tagger.evaluation.mark_scores import MarkScores

    scores = MarkScores()
    for example, marked in zip(examples, tagged, strict=True):
        scores.add(example, marked)
    return scores.as_dict()


def _score_baseline_marks(examples: "Sequence[LabelledText]") -> dict[str, dict[str, Any]]:
    """Return the mark scores of the baselines that need only the text."""
    from prosody_tagger.evaluation.baselines import mark_punctuation
    from prosody_tagger.markup import plain

    rules: dict[str, Callable[[str], MarkedText]] = {"tag_nothing": plain, "punctuation_rule": mark_punctuation}
    return {name: _score_marks(examples, [rule(example.text) for example in examples]) for name, rule in rules.items()}


def _print_result(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from prosody_tagger.evaluation import report
    from prosody_tagger.evaluation.metrics import MEASURES

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    results = {"tagger": result, **result["baselines"]}
    tables = [(report.measures_table(results, [*MEASURES, *RUN_MEASURES], result["intervals"]), 1)]
    marks = {name: row["marks"] for name, row in results.items() if row["marks"] is not None}
    if marks:
        tables.append((report.mark_table(marks), 2))
    for rows, text_columns in tables:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for index, head in enumerate(rows[0]):
            table.add_column(head, justify="left" if index < text_columns else "right")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    speakers = f" of {result['speakers']} speakers" if result["speakers"] else ""
    console.print(f"{result['sentences']:,} examples, {result['words']:,} words{speakers}; 95 % intervals in brackets")
    for name in result["trained_on"]:
        console.print(f"the tagger was trained on {name}: these results do not show how well it marks other text", markup=False)


def main() -> None:
    """Run the command and exit the process with its exit code."""
    from prosody_tagger.command import run_command

    run_command(app)


if __name__ == "__main__":
    main()
