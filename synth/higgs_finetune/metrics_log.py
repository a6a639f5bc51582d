"""Metrics log of a run (JSON Lines, optionally TensorBoard), and the monitor that compares text and audio loss."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prosody_tagger.files import write_file
from synth.errors import BackendUnavailable

IMBALANCE_RATIO = 2.0
"""The monitor warns when one loss, as a share of its initial value, is this many times the other."""

_MEMORY = 0.95  # weight of the past in the running means, which so cover about 20 steps
_WARMUP_STEPS = 40  # steps before the first warning: twice the span of the running means


class MetricsLog:
    """Writer of a run's metrics. A run that resumes from step n keeps the lines up to n and replaces all later ones.

    Args:
        path: the file to write.
        from_step: the step that the run resumes from; 0 for a new run.
        tensorboard: folder for TensorBoard's files; None writes none.

    Raises:
        BackendUnavailable: TensorBoard is requested but not installed.
    """

    def __init__(self, path: Path, from_step: int = 0, tensorboard: Path | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(path) if line["step"] <= from_step] if from_step else []
        write_file(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = None if tensorboard is None else tensorboard_writer()(str(tensorboard), purge_step=from_step + 1)

    def write(self, kind: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Add a line. ``kind`` is train, held_out or sample."""
        self._file.write(json.dumps({"kind": kind, "step": step, **metrics}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)
                elif isinstance(value, list):
                    for number, one in enumerate(value):
                        self._board.add_scalar(f"{kind}/{name}/{number}", one, step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a metrics log. Skip lines that are not JSON, such as one that an interruption cut off."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            metrics = json.loads(line)
        except ValueError:
            continue
        yield metrics


def tensorboard_writer() -> Any:
    """Return TensorBoard's writer class.

    Raises:
        BackendUnavailable: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise BackendUnavailable(
            "TensorBoard is not installed: pip install tensorboard, or leave --tensorboard out; log.jsonl has the same metrics"
        ) from None
    return SummaryWriter


class LossMonitor:
    """Running means of text and audio loss, each as a share of its initial value; warns when one lags far behind the other.

    Args:
        state: the state of another monitor, to continue from.
    """

    def __init__(self, state: Mapping[str, float] | None = None) -> None:
        self._state = dict(state or {})

    def state(self) -> dict[str, float]:
        """Return the state for a checkpoint. Its keys are part of the checkpoint format."""
        return dict(self._state)

    def add(self, losses: Mapping[str, Any]) -> str | None:
        """Add the losses ``text`` and ``audio`` of a step; either may be missing.

        Returns:
            A warning each time that one loss begins to lag, otherwise None.
        """
        state = self._state
        for name in ("text", "audio"):
            if name in losses:
                state.setdefault(f"{name}_first", losses[name])
                before = state.get(name, losses[name])
                state[name] = _MEMORY * before + (1 - _MEMORY) * losses[name]
        state["steps"] = state.get("steps", 0) + 1
        if state["steps"] < _WARMUP_STEPS or not {"text", "audio"} <= state.keys():
            return None
        remaining = {name: max(state[name], 1e-3) / max(state[f"{name}_first"], 1e-3) for name in ("text", "audio")}
        slow, fast = sorted(remaining, key=remaining.__getitem__, reverse=True)
        lags = remaining[slow] > IMBALANCE_RATIO * remaining[fast]
        lagged, state["behind"] = state.get("behind", 0.0), float(lags)
        if not lags or lagged:
            return None
        return (
            f"the {slow} loss is at {remaining[slow]:.0%} of its initial value and the {fast} loss at {remaining[fast]:.0%}; "
            f"if this continues, raise --{slow}-loss-weight"
        )
