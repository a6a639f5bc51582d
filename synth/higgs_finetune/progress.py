"""Terminal progress display of a run: messages and progress bars."""

from typing import TYPE_CHECKING, Any

from synth.higgs_finetune.codec_cache import ProgressCallback
from synth.higgs_finetune.run import Display

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


class TerminalDisplay(Display):
    """Display on a terminal. A context manager: the bars move while it is entered."""

    def __init__(self, console: "Console") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[metrics]}"), console=console)
        self._task: TaskID | None = None

    def __enter__(self) -> "TerminalDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show_message(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def on_warning(self, text: str) -> None:
        self._progress.console.print(f"warning: {text}", markup=False, highlight=False, style="yellow")

    def add_bar(self, description: str) -> ProgressCallback:
        task = self._progress.add_task(description, total=None, metrics="")

        def update(done: int, total: int) -> None:
            self._progress.update(task, completed=done, total=total, visible=done < total)

        return update

    def on_start(self, step: int, steps: int) -> None:
        if step:
            self.show_message(f"resuming after step {step}")
        self._task = self._progress.add_task("training", total=steps, completed=step, metrics="")

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        assert self._task is not None
        self._progress.update(self._task, completed=step, metrics=_summary(metrics))

    def on_evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        self.show_message(f"step {step}, held out: {_summary(metrics)}")


class NoDisplay(Display):
    """Display that shows nothing: for all processes but the first."""

    def show_message(self, text: str) -> None: ...

    def on_warning(self, text: str) -> None: ...

    def add_bar(self, description: str) -> ProgressCallback:
        return lambda done, total: None

    def on_start(self, step: int, steps: int) -> None: ...

    def on_step(self, step: int, metrics: dict[str, Any]) -> None: ...

    def on_evaluation(self, step: int, metrics: dict[str, Any]) -> None: ...


def _summary(metrics: dict[str, Any]) -> str:
    return "  ".join(f"{name} {metrics[name]:.3f}" for name in ("loss", "text", "audio", "shuffled") if name in metrics)
