"""The figures of a tagger as people read them: one table, a row for it and for each baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

from prosody_tagger.evaluation import metrics as evaluate
from prosody_tagger.evaluation.metrics import HUMAN, MEASURES, Guess, Truth

Figures = Mapping[str, float | None]

SHORT_NAMES = {
    "prominence_2way_accuracy": "prominence, 2-way accuracy",
    "prominence_3way_accuracy": "prominence, 3-way accuracy",
    "emph_ap": "prominence 2, average precision",
    "emph_f1_at_density": "prominence 2, F1 at density",
    "sparse_emph_ap": "real prominence >= 2.0, average precision",
    "sparse_emph_f1_at_density": "real prominence >= 2.0, F1 at density",
    "pause_f1": "pauses, all slots, F1 at density",
    "pause_f1_nonfinal": "pauses within the text, F1 at density",
    "pause_ap_unpunctuated": "pauses without punctuation, average precision",
    "top1_agreement": "most prominent word found",
    "emph_per_word": "emphases a word",
    "verbatim_rate": "texts unchanged",
    "words_per_second": "words a second",
}


def baselines(truth: Truth, elsewhere: Truth | None = None) -> dict[str, dict[str, float | None]]:
    """The figures of those who need no tagger, and of people (quoted).

    Args:
        elsewhere: labelled words for the baseline of word identity; without them it learns from the other speakers of ``truth``.
    """
    return {
        "tag_nothing": evaluate.figures(truth, evaluate.tag_nothing(truth)),
        "word_identity": evaluate.figures(truth, evaluate.word_identity(truth, elsewhere)),
        "punctuation_rule": evaluate.figures(truth, evaluate.punctuation_rule(truth)),
        "human_quoted": {name: HUMAN.get(name) for name in MEASURES},
    }


def table(rows: Mapping[str, Figures], names: Sequence[str], intervals: Mapping[str, Any] | None = None) -> list[list[str]]:
    """A header, and a line for each of ``names`` that anybody but people has a figure for; intervals go with the first row."""
    lines = [["", *(name.replace("_quoted", " (quoted)").replace("_", " ") for name in rows)]]
    for name in names:
        if all(row.get(name) is None for kind, row in rows.items() if kind != "human_quoted"):
            continue
        cells = [_cell(row.get(name)) for row in rows.values()]
        interval = (intervals or {}).get(name)
        if interval is not None:
            cells[0] += f" ({_cell(interval[0])} to {_cell(interval[1])})"
        lines.append([SHORT_NAMES[name], *cells])
    return lines


def mark_table(rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A header, and a line for each kind of mark of each row: exact and within one word."""
    lines = [["mark", "by", "there", "set", "precision", "recall", "F1", "within one word: precision", "recall", "F1"]]
    for by, kinds in rows.items():
        for kind, found in kinds.items():
            rates = [_cell(found[where][rate]) for where in ("exact", "within_one_word") for rate in ("precision", "recall", "f1")]
            lines.append([kind, by.replace("_", " "), str(found["there"]), str(found["set"]), *rates])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table for a model card."""
    rule = "|---" * len(lines[0]) + "|"
    header, *others = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([header, rule, *others])


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"


def guess_rows(truth: Truth, guess: Guess, elsewhere: Truth | None = None) -> dict[str, dict[str, float | None]]:
    """The tagger's figures, and the baselines' beside them."""
    return {"tagger": evaluate.figures(truth, guess), **baselines(truth, elsewhere)}
