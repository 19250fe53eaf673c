"""Progress: a bar on a terminal; validations and samples are printed above it."""

import sys
from collections.abc import Iterable
from typing import IO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from .events import Advanced, Evaluated, Event, Logged, RunResult, Started
from .journal import read_log
from .reporters import describe, printable

__all__ = ["ProgressReporter"]

WITH_BAR, WITH_RATE, WITH_VALIDATION = 96, 80, 60  # columns of the terminal


def columns_for(width: int) -> list[str | ProgressColumn]:
    """Return what fits a terminal of that many columns; the step, the loss and the time left always do."""
    step = TextColumn("step {task.completed:,.0f}/{task.total:,.0f}")
    loss = TextColumn("loss {task.fields[loss]}")
    validation = TextColumn("validation {task.fields[validation]}")
    left, word = TimeRemainingColumn(compact=True), TextColumn("left")
    if width < WITH_VALIDATION:
        return [TextColumn("{task.completed:,.0f}/{task.total:,.0f}"), loss, left]
    if width < WITH_RATE:
        return [step, loss, validation, left]
    bar: list[ProgressColumn] = [BarColumn(min(40, width - WITH_RATE))] if width >= WITH_BAR else []
    return [step, *bar, loss, validation, TextColumn("{task.fields[rate]}"), left, word]


class Bar(Progress):
    """A bar that follows the width of the terminal. notice: a line below it."""

    def __init__(self, console: Console) -> None:
        self._terminal, self.notice = console, ""
        super().__init__(console=console)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar and the notice."""
        self.columns = tuple(columns_for(self._terminal.width))
        yield self.make_tasks_table(self.tasks)
        if self.notice:
            yield Text(self.notice)


class ProgressReporter:
    """Shows a bar with step, loss, validation loss, tokens per second and the time left.

    stream: a terminal. Everything but the steps is printed above the bar.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.console = Console(file=stream or sys.stdout, highlight=False)
        self.progress = Bar(self.console)

    def report(self, event: Event) -> None:
        """Advance the bar, or print above it; the end of the run is printed below it."""
        if isinstance(event, RunResult):
            self.progress.stop()
        if not isinstance(event, Logged) and (text := describe(event)) is not None:
            self.console.print(Text(printable(text, self.console.file)), soft_wrap=True)
        match event:
            case Started():
                self.task = self.progress.add_task(
                    "", total=event.steps, completed=event.step, loss="-", validation=_latest(event), rate="-"
                )
                self.progress.start()
            case Advanced():
                self.progress.update(self.task, completed=event.step, loss=f"{event.loss:.3f}")
            case Logged():
                self.progress.update(self.task, rate=f"{event.rate:,.0f} {event.unit}/s")
            case Evaluated():
                self.progress.update(self.task, validation=f"{event.validation_loss:.3f}")

    def validating(self, done: int, total: int) -> None:
        """Show in the bar how far a validation has come."""
        self.progress.update(self.task, validation=f"{done / total:.0%} done")

    def interrupted(self, notice: str) -> bool:
        """Show a notice below the bar, and return whether there is a bar. Signal handlers call this: it only notes it.

        A line that is written past the bar would leave a copy of the bar on the screen.
        """
        self.progress.notice = notice
        return bool(self.progress.live.is_started)

    def close(self) -> None:
        """Stop the bar and restore the terminal."""
        self.progress.stop()


def _latest(event: Started) -> str:
    """Return the latest validation loss of a run that goes on."""
    losses = [values["validation_loss"] for values in read_log(event.folder) if "validation_loss" in values]
    return f"{losses[-1]:.3f}" if event.step and losses else "-"
