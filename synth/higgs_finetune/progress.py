"""What people see of a run: lines, and bars that move."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from synth.higgs_finetune.run import Screen

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


class RichScreen(Screen):
    """On a terminal. To be entered before a run and left after it."""

    def __init__(self, console: "Console") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[figures]}"), console=console)
        self._task: TaskID | None = None

    def __enter__(self) -> "RichScreen":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def said(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def warned(self, text: str) -> None:
        self._progress.console.print(f"warning: {text}", markup=False, highlight=False, style="yellow")

    def counted(self, what: str) -> Callable[[int, int], None]:
        task = self._progress.add_task(what, total=None, figures="")

        def tell(done: int, of: int) -> None:
            self._progress.update(task, completed=done, total=of, visible=done < of)

        return tell

    def started(self, step: int, steps: int) -> None:
        if step:
            self.said(f"going on from step {step}")
        self._task = self._progress.add_task("training", total=steps, completed=step, figures="")

    def stepped(self, step: int, figures: dict[str, Any]) -> None:
        assert self._task is not None
        self._progress.update(self._task, completed=step, figures=_told(figures))

    def evaluated(self, step: int, figures: dict[str, Any]) -> None:
        self.said(f"step {step}, held out: {_told(figures)}")


class SilentScreen(Screen):
    """Of the processes that say nothing."""

    def said(self, text: str) -> None: ...

    def warned(self, text: str) -> None: ...

    def counted(self, what: str) -> Callable[[int, int], None]:
        return lambda done, of: None

    def started(self, step: int, steps: int) -> None: ...

    def stepped(self, step: int, figures: dict[str, Any]) -> None: ...

    def evaluated(self, step: int, figures: dict[str, Any]) -> None: ...


def _told(figures: dict[str, Any]) -> str:
    return "  ".join(f"{name} {figures[name]:.3f}" for name in ("loss", "text", "audio", "shuffled") if name in figures)
