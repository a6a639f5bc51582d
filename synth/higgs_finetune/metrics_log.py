"""What a run has to tell: a line of JSON for each step and each evaluation, and TensorBoard's form of it if asked."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from synth.errors import BackendUnavailable


class Journal:
    """Writes a run's lines. A run that goes on from step n leaves those up to n and writes the later ones anew.

    Args:
        path: the file.
        from_step: the step that the run goes on from.
        tensorboard: folder for TensorBoard's files; None writes none.

    Raises:
        BackendUnavailable: as `tensorboard_writer` does.
    """

    def __init__(self, path: Path, from_step: int = 0, tensorboard: Path | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_journal(path) if line["step"] <= from_step] if from_step else []
        unfinished = path.with_name(f"{path.name}.unfinished")
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        unfinished.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._board = None if tensorboard is None else tensorboard_writer()(str(tensorboard), purge_step=from_step + 1)

    def write(self, kind: str, step: int, figures: Mapping[str, Any]) -> None:
        """Add a line: ``kind`` is train, held_out or sample."""
        self._file.write(json.dumps({"kind": kind, "step": step, **figures}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in figures.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)
                elif isinstance(value, list):
                    for number, one in enumerate(value):
                        self._board.add_scalar(f"{kind}/{name}/{number}", one, step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal; one that was cut off by a sudden end is left out."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        yield found


def tensorboard_writer() -> Any:
    """TensorBoard's writer.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise BackendUnavailable(
            "TensorBoard is not installed: pip install tensorboard, or leave --tensorboard out; the figures are in log.jsonl anyway"
        ) from None
    return SummaryWriter
