"""Pictures of a training run: the loss of each epoch, and precision against recall."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosody_tagger.corpus.examples import UNKNOWN
from prosody_tagger.evaluation.metrics import SPARSE_EMPHASIS, Floats, Guess, Truth, precision_recall
from prosody_tagger.markup import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSS_FILE = "loss.png"
CURVES_FILE = "precision-recall.png"


def plot_loss(history: Sequence[Mapping[str, Any]], best_epoch: int, path: Path) -> None:
    """The training and evaluation loss of each epoch."""
    from matplotlib.ticker import MaxNLocator

    def draw(axes: "Axes") -> None:
        epochs = [epoch["epoch"] for epoch in history]
        axes.plot(epochs, [epoch["loss"] for epoch in history], marker="o", label="training")
        axes.plot(epochs, [epoch["evaluation_loss"] for epoch in history], marker="o", label="evaluation")
        axes.axvline(best_epoch, color="0.7", linestyle="--", label="kept")
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    _draw(draw, path)


def plot_precision_recall(truth: Truth, guess: Guess, path: Path) -> None:
    """Precision against recall, for emphasis and for pauses within the text, at all thresholds."""
    curves: dict[str, tuple[Floats, Floats]] = {}
    emph = truth.marks[:, KINDS.index("emph")]
    if guess.emph is not None and (emph == 1).any():
        known = emph != UNKNOWN
        name = "<emph>" if (truth.real != truth.real).all() else f"real prominence of {SPARSE_EMPHASIS} or more"
        curves[name] = precision_recall(guess.emph[known], emph[known] == 1)
    if guess.prominence is not None and (truth.label == 2).any():
        known = truth.label != UNKNOWN
        curves["prominence 2"] = precision_recall(guess.prominence[known, 2], truth.label[known] == 2)
    if guess.boundary is not None:
        within = (truth.boundary != UNKNOWN) & truth.inner
        for name, chosen in {"pauses": within, "pauses without punctuation": within & ~truth.punctuated}.items():
            if (truth.boundary[chosen] == 1).any():
                curves[name] = precision_recall(guess.boundary[chosen], truth.boundary[chosen] == 1)

    def draw(axes: "Axes") -> None:
        for name, (precision, recall) in curves.items():
            axes.plot(recall, precision, label=name)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)

    _draw(draw, path)


def _draw(draw: Any, path: Path) -> None:
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
