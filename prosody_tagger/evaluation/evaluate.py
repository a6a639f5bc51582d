"""The command `evaluate-tagger`: how well a tagger marks labelled text, beside those who need no tagger.

evaluate-tagger --data dev.txt --data dev_v1.txt --tagger output/tagger
"""

import json
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from prosody_tagger.corpus.examples import Example
    from prosody_tagger.corpus.readers import DataFile
    from prosody_tagger.density import Density
    from prosody_tagger.markup import MarkedText
    from prosody_tagger.tagger import ProsodyTagger

RUN_FIGURES = ("emph_per_word", "verbatim_rate", "words_per_second")
"""What is measured of the tagger at work."""
TEXTS_AT_A_TIME = 64

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def evaluate_tagger(
    data: Annotated[
        list[Path], typer.Option("--data", help="Helsinki columns, marked text or JSONL; may be given again.", show_default=False)
    ],
    labels: Annotated[
        Literal["v1", "v3"] | None,
        typer.Option("--labels", help="Take from the data the Helsinki corpus's older (v1) or released (v3) labelling alone."),
    ] = None,
    tagger: Annotated[
        Path | None, typer.Option("--tagger", help="Folder of a trained tagger.", show_default="the one that ships")
    ] = None,
    intensity: Annotated[
        Literal["low", "medium", "high"], typer.Option("--intensity", help="How often the tagger stresses a word.")
    ] = "medium",
    words_from: Annotated[
        list[Path] | None,
        typer.Option(
            "--words-from", help="Labelled text for the baseline of word identity.", show_default="the other speakers of the data"
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws behind the intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a tagger on labelled text.

    Intervals hold 95 % of the values when speakers, or where nobody says who speaks texts, are drawn anew.
    """
    from prosody_tagger.corpus.readers import read_examples, read_files

    files = read_files(data)
    examples = select([example for file in files for example in file.examples], labels)
    elsewhere = select(read_examples(*words_from), None) if words_from else None
    from prosody_tagger.model import SHIPPED_ADAPTER
    from prosody_tagger.tagger import ProsodyTagger

    found = evaluation(ProsodyTagger.load(tagger), examples, intensity=intensity, elsewhere=elsewhere, seed=seed)
    found |= {"data": [str(path) for path in data], "trained_on": _trained_on(tagger or SHIPPED_ADAPTER, files)}
    if as_json:
        sys.stdout.write(json.dumps(found, ensure_ascii=False, indent=2) + "\n")
    else:
        _print(found)


def _trained_on(folder: Path, files: "Sequence[DataFile]") -> list[str]:
    """Those of the files that the tagger's training.json names."""
    try:
        seen = {file["sha256"] for file in json.loads((folder / "training.json").read_text(encoding="utf-8"))["data"]}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(file.path) for file in files if file.sha256 in seen]


def select(examples: "Sequence[Example]", labels: Literal["v1", "v3"] | None) -> "list[Example]":
    """The examples of one labelling; without ``labels``, all of them, as `reading.merge_labellings` puts them together.

    Raises:
        DataError: there are none of that labelling.
    """
    from prosody_tagger.corpus.readers import merge_labellings
    from prosody_tagger.errors import DataError

    if labels is None:
        return merge_labellings(examples)[0]
    chosen = [example for example in examples if example.labelling == labels]
    if not chosen:
        there = ", ".join(sorted({example.labelling for example in examples}))
        raise DataError(f"there are no {labels} labels in the data, only {there}; leave --labels out, or give data that has them")
    return chosen


def evaluation(
    tagger: "ProsodyTagger",
    examples: "Sequence[Example]",
    *,
    intensity: "Density" = "medium",
    elsewhere: "Sequence[Example] | None" = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The figures of a tagger on labelled text.

    Args:
        elsewhere: labelled text for the baseline of word identity.
        seed: of the draws behind the intervals.

    Returns:
        `evaluate.MEASURES` and `RUN_FIGURES` as fractions, None where there are no such labels; ``marks``, for marked text the
        precision, recall and F1 of each mark; ``intervals`` of 95 % for each measure; the same for each of ``baselines``; the
        counts of ``sentences``, ``words`` and ``speakers``.
    """
    from prosody_tagger.evaluation import metrics as evaluate
    from prosody_tagger.evaluation import report
    from prosody_tagger.evaluation.metrics import Guess, Truth

    truth = Truth.of(examples)
    guess = Guess.of(evaluate.score_examples(tagger.model, examples))
    rows = report.guess_rows(truth, guess, None if elsewhere is None else Truth.of(elsewhere))
    figures: dict[str, Any] = rows.pop("tagger")
    tagged, run_figures = _run(tagger, _texts(examples), intensity)
    marks: dict[str, dict[str, Any] | None] = {"tagger": None, **dict.fromkeys(rows)}
    with_marks = [example for example in examples if example.marks is not None]
    if with_marks:
        of_tagger = [tagged[example.text] for example in with_marks]
        marks |= {"tagger": _marks(with_marks, of_tagger)} | _baseline_marks(with_marks)
    return {
        **figures,
        **run_figures,
        "marks": marks.pop("tagger"),
        "intervals": evaluate.intervals(truth, guess, seed),
        "baselines": {
            name: {**row, "emph_per_word": 0.0 if name == "tag_nothing" else None, "marks": marks[name]}
            for name, row in rows.items()
        },
        "sentences": len(examples),
        "words": len(truth.text),
        "speakers": len({example.speaker for example in examples if example.speaker}),
    }


def _texts(examples: "Sequence[Example]") -> list[str]:
    """What the tagger is given: sentences of one chapter that follow each other as one text, marked text as it stands."""
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


def _run(tagger: "ProsodyTagger", texts: Sequence[str], intensity: Density) -> "tuple[dict[str, MarkedText], dict[str, float]]":
    """Have all texts marked; what came out, and how that went."""
    from prosody_tagger.markup import parse, render
    from prosody_tagger.segment import segment_words

    tagger.mark(texts[0], intensity)
    began = time.perf_counter()
    found = []
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        found.extend(tagger.mark_batch(texts[start : start + TEXTS_AT_A_TIME], intensity))
    seconds = time.perf_counter() - began
    count = sum(len(segment_words(text)) for text in texts)
    emphases = sum(mark.kind == "emph" for marked in found for mark in marked.marks)
    same = [marked.text == text and parse(render(marked)).text == text for marked, text in zip(found, texts, strict=True)]
    figures = (emphases / count, sum(same) / len(same), count / seconds)
    return dict(zip(texts, found, strict=True)), dict(zip(RUN_FIGURES, figures, strict=True))


def _marks(examples: "Sequence[Example]", tagged: "Sequence[MarkedText]") -> dict[str, Any]:
    from prosody_tagger.evaluation.mark_scores import MarkScores

    found = MarkScores()
    for example, marked in zip(examples, tagged, strict=True):
        found.add(example, marked)
    return found.as_dict()


def _baseline_marks(examples: "Sequence[Example]") -> dict[str, dict[str, Any]]:
    """What those find who mark nothing, or pause after punctuation, long after a sentence."""
    from prosody_tagger.markup import plain

    rules: dict[str, Callable[[str], MarkedText]] = {"tag_nothing": plain, "punctuation_rule": _pauses_at_punctuation}
    return {name: _marks(examples, [rule(example.text) for example in examples]) for name, rule in rules.items()}


def _pauses_at_punctuation(text: str) -> "MarkedText":
    from prosody_tagger.markup import Mark, MarkedText
    from prosody_tagger.segment import segment_sentences, segment_words

    runs = segment_words(text)
    starts = [start for start, _ in segment_sentences(text)]
    marks = []
    for before, after in pairwise(runs):
        if before.end > before.core_end:
            ends = bisect_right(starts, after.core_start) > bisect_right(starts, before.core_end)
            marks.append(Mark("pause_long" if ends else "pause_short", after.start))
    return MarkedText(text, tuple(marks))


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from prosody_tagger.evaluation import report
    from prosody_tagger.evaluation.metrics import MEASURES

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    rows = {"tagger": found, **found["baselines"]}
    tables = [(report.table(rows, [*MEASURES, *RUN_FIGURES], found["intervals"]), 1)]
    marks = {name: row["marks"] for name, row in rows.items() if row["marks"] is not None}
    if marks:
        tables.append((report.mark_table(marks), 2))
    for lines, named in tables:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for index, head in enumerate(lines[0]):
            table.add_column(head, justify="left" if index < named else "right")
        for line in lines[1:]:
            table.add_row(*line)
        console.print(table)
    speakers = f" of {found['speakers']} speakers" if found["speakers"] else ""
    console.print(f"{found['sentences']:,} examples, {found['words']:,} words{speakers}; in brackets, 95 % intervals")
    for name in found["trained_on"]:
        console.print(f"the tagger's training had {name}: its figures here say little of other text", markup=False)


def main() -> None:
    """Entry point of the command."""
    from prosody_tagger.command import run_command

    run_command(app)


if __name__ == "__main__":
    main()
