"""Thresholds over a tagger's scores, set on held-out text so that as much is marked as is wanted."""

from typing import Any

from prosody_tagger.corpus.examples import UNKNOWN
from prosody_tagger.density import DENSITIES
from prosody_tagger.evaluation.metrics import Truth, at_density
from prosody_tagger.markup import KINDS, PITCHES
from prosody_tagger.model import Scores

NO_LABELS = 0.5
"""The threshold where the held-out text has no labels to set one by."""


def set_thresholds(scores: Scores, truth: Truth) -> dict[str, Any]:
    """What `thresholds.json` holds.

    Emphasis at the densities of the three intensities; pauses as often as the held-out text has them within. Where that has marks,
    the other kinds as often as it has them: pitch marks on words, and long pauses among its pauses.
    """
    emph = scores.marks[:, KINDS.index("emph")]
    within = truth.inner & (truth.boundary != UNKNOWN)
    share = float((truth.boundary[within] == 1).mean()) if within.any() else None
    found: dict[str, Any] = {
        "emph": {name: at_density(emph, density) for name, density in DENSITIES.items()},
        "pause": NO_LABELS if share is None else at_density(scores.boundary[within], share) if share else 1.0,
    }
    pitches = {}
    for kind in PITCHES:
        column = KINDS.index(kind)
        known = truth.marks[:, column] != UNKNOWN
        if (truth.marks[:, column] == 1).any():
            pitches[kind] = at_density(scores.marks[known, column], float((truth.marks[known, column] == 1).mean()))
    if pitches:
        found["pitch"] = pitches
    long, short = KINDS.index("pause_long"), KINDS.index("pause_short")
    paused = within & (truth.boundary == 1) & (truth.marks[:, long] != UNKNOWN)
    is_long = truth.marks[paused, long] == 1
    if is_long.any() or (truth.marks[paused, short] == 1).any():
        found["pause_long"] = at_density(scores.marks[paused, long], float(is_long.mean())) if is_long.any() else 1.0
    return found
