"""Progress: a bar on a terminal; validations and samples are printed above it."""

import sys
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .events import Advanced, Evaluated, Event, Logged, RunResult, Started
from .reporters import describe, printable

__all__ = ["ProgressReporter"]


class ProgressReporter:
    """Shows a bar with step, loss, validation loss, tokens per second and the time left.

    stream: a terminal. Everything but the steps is printed above the bar.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.console = Console(file=stream or sys.stdout, highlight=False)
        self.progress = Progress(
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("validation {task.fields[validation]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self.console,
        )

    def report(self, event: Event) -> None:
        """Advance the bar, or print above it; the end of the run is printed below it."""
        if isinstance(event, RunResult):
            self.progress.stop()
        if not isinstance(event, Logged) and (text := describe(event)) is not None:
            self.console.print(Text(printable(text, self.console.file)), soft_wrap=True)
        match event:
            case Started():
                self.task = self.progress.add_task(
                    "", total=event.steps, completed=event.step, loss="-", validation="-", rate="-"
                )
                self.progress.start()
            case Advanced():
                self.progress.update(self.task, completed=event.step, loss=f"{event.loss:.3f}")
            case Logged():
                self.progress.update(self.task, rate=f"{event.rate:,.0f} {event.unit}/s")
            case Evaluated():
                self.progress.update(self.task, validation=f"{event.validation_loss:.3f}")

    def close(self) -> None:
        """Stop the bar and restore the terminal."""
        self.progress.stop()
