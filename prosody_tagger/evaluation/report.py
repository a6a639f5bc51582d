"""Tables of evaluation results, with one column for the tagger and one for each baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

Measures = Mapping[str, float | None]

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
    "emph_per_word": "emphases per word",
    "verbatim_rate": "texts unchanged",
    "words_per_second": "words per second",
}
"""Row headers of `measures_table`."""


def measures_table(
    results: Mapping[str, Measures], names: Sequence[str], intervals: Mapping[str, Any] | None = None
) -> list[list[str]]:
    """Return a table of measures as rows of cells, the first row a header.

    Args:
        results: the measures of the tagger and of each baseline, one column each.
        names: the measures to list; one that only the human readers have is left out.
        intervals: lower and upper bound of each measure of the first column.
    """
    rows = [["", *(name.replace("_quoted", " (quoted)").replace("_", " ") for name in results)]]
    for name in names:
        if all(measures.get(name) is None for kind, measures in results.items() if kind != "human_quoted"):
            continue
        cells = [_cell(measures.get(name)) for measures in results.values()]
        interval = (intervals or {}).get(name)
        if interval is not None:
            cells[0] += f" ({_cell(interval[0])} to {_cell(interval[1])})"
        rows.append([SHORT_NAMES[name], *cells])
    return rows


def mark_table(results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return a table of mark scores as rows of cells, the first row a header.

    Args:
        results: for the tagger and each baseline, `MarkScores.as_dict`.
    """
    rows = [["mark", "by", "reference", "predicted", "precision", "recall", "F1", "within one word: precision", "recall", "F1"]]
    for by, kinds in results.items():
        for kind, counts in kinds.items():
            rates = [_cell(counts[where][rate]) for where in ("exact", "within_one_word") for rate in ("precision", "recall", "f1")]
            rows.append([kind, by.replace("_", " "), str(counts["there"]), str(counts["set"]), *rates])
    return rows


def to_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    rule = "|---" * len(rows[0]) + "|"
    header, *others = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([header, rule, *others])


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"
