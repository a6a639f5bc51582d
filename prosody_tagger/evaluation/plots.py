"""Plots of a training run: the loss of each epoch, and precision against recall."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prosody_tagger.corpus.examples import UNKNOWN
from prosody_tagger.evaluation.metrics import SPARSE_EMPHASIS, Floats, Predictions, WordLabels, precision_recall_curve
from prosody_tagger.markup import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSS_FILE = "loss.png"
CURVES_FILE = "precision-recall.png"


def plot_loss(history: Sequence[Mapping[str, Any]], best_epoch: int, path: Path) -> None:
    """Plot the training and evaluation loss of each epoch, with a line at the epoch that was kept.

    Args:
        history: ``TrainingProgress.history``.
        best_epoch: the epoch that was kept, counted from 1.
        path: the image to write.
    """
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes") -> None:
        epochs = [epoch["epoch"] for epoch in history]
        axes.plot(epochs, [epoch["loss"] for epoch in history], marker="o", label="training")
        axes.plot(epochs, [epoch["evaluation_loss"] for epoch in history], marker="o", label="evaluation")
        axes.axvline(best_epoch, color="0.7", linestyle="--", label="kept")
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    _save_figure(draw, path)


def plot_precision_recall(labels: WordLabels, predictions: Predictions, path: Path) -> None:
    """Plot precision against recall over all thresholds, for emphasis and for pauses within the text, to the image ``path``."""
    curves: dict[str, tuple[Floats, Floats]] = {}
    emphasis = labels.marks[:, KINDS.index("emph")]
    if predictions.emphasis is not None and (emphasis == 1).any():
        known = emphasis != UNKNOWN
        name = "<emph>" if np.isnan(labels.real_prominence).all() else f"real prominence of {SPARSE_EMPHASIS} or more"
        curves[name] = precision_recall_curve(predictions.emphasis[known], emphasis[known] == 1)
    if predictions.prominence is not None and (labels.prominence == 2).any():
        known = labels.prominence != UNKNOWN
        is_positive = labels.prominence[known] == 2
        curves["prominence 2"] = precision_recall_curve(predictions.prominence[known, 2], is_positive)
    if predictions.boundary is not None:
        inner = (labels.boundary != UNKNOWN) & labels.is_inner
        for name, chosen in {"pauses": inner, "pauses without punctuation": inner & ~labels.is_punctuated}.items():
            if (labels.boundary[chosen] == 1).any():
                curves[name] = precision_recall_curve(predictions.boundary[chosen], labels.boundary[chosen] == 1)

    def draw(axes: "Axes") -> None:
        for name, (precision, recall) in curves.items():
            axes.plot(recall, precision, label=name)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)

    _save_figure(draw, path)


def _save_figure(draw: "Callable[[Axes], None]", path: Path) -> None:
    """Let ``draw`` draw on new axes, and save the figure to ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
