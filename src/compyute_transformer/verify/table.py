"""The outcome in words: a table on a terminal, plain lines in a pipe, JSON for a machine.

One line tells of one thing and one method: how many comparisons, and which of them came nearest to its limit.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any

from ..training.reporting.reporters import printable
from .plan import NotRun, Outcome, spelled
from .registry import REGISTRY
from .result import Result, Task

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Row", "TableReport", "plain_line", "rows_of", "summary", "to_json"]

MOST_TOLD = 5  # failures of one thing by one method
HEAD = ("what", "method", "checks", "worst", "limit", "result")


@dataclass(frozen=True)
class Row:
    """All results of one thing by one method, by the one that came nearest to its limit; none if it was not run."""

    name: str
    method: str
    checks: int
    worst: Result | None
    failed: int

    @property
    def status(self) -> str:
        """Say whether all errors are within tolerance."""
        if self.worst is None:
            return "not run"
        return "EXCEED" if self.failed else "within"

    def cells(self) -> tuple[str, ...]:
        """As text."""
        error, limit = (number(self.worst.error), number(self.worst.limit)) if self.worst else ("-", "-")
        return self.name, spelled(self.method), f"{self.checks:,}", error, limit, self.status


def rows_of(results: Iterable[Result], not_run: Iterable[NotRun] = ()) -> list[Row]:
    """Results by name and method, in the order in which names first come, what was not run beside what was."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.name, result.method), []).append(result)
    rows = [
        Row(name, method, len(group), max(group, key=lambda f: f.closeness), sum(not f.passed for f in group))
        for (name, method), group in groups.items()
    ]
    rows += [Row(absent.name, absent.method, 0, None, 0) for absent in not_run]
    order = list(dict.fromkeys(row.name for row in rows))
    return sorted(rows, key=lambda row: order.index(row.name))


def number(error: float) -> str:
    """An error as it is read."""
    return "0" if error == 0.0 else f"{error:.1e}"


def plain_line(cells: tuple[str, ...], width: int = 28) -> str:
    """One line of a pipe. width: of the longest name."""
    name, method, checks, error, limit, outcome = cells
    return f"{name:<{width}}  {method:<16} {checks:>7} {error:>9} {limit:>9}  {outcome}"


def summary(outcome: Outcome) -> list[str]:
    """What failed, what was not run and why, and the outcome."""
    lines = []
    for row in rows_of(outcome.failures):
        group = [f for f in outcome.failures if (f.name, f.method) == (row.name, row.method)]
        worst = sorted(group, key=lambda f: f.closeness, reverse=True)[:MOST_TOLD]
        lines += [f"FAIL {result}" for result in worst]
        if len(group) > len(worst):
            lines.append(f"FAIL {row.name}, {row.method}: and {len(group) - len(worst)} more; --json tells of all")
    reasons: dict[str, list[str]] = {}
    for absent in outcome.not_run:
        reasons.setdefault(absent.reason, []).append(f"{absent.name} ({spelled(absent.method)})")
    for reason, names in reasons.items():
        lines.append(
            f"NOT RUN, so not passed: {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}. {reason}"
        )
    verified = {result.name for result in outcome.results}
    lines += [op.remark for op in REGISTRY.values() if op.remark and f"ops.{op.name}" in verified]
    return [*lines, _last_line(outcome, list(reasons))]


def _last_line(outcome: Outcome, reasons: Sequence[str]) -> str:
    """Return what was verified and what was not, in one line."""
    total, failed, absent = len(outcome.results), len(outcome.failures), len(outcome.not_run)
    passed = "all that ran are within tolerance" if absent else "all within tolerance"
    kept = "NOTHING was verified" if not total else f"{failed:,} FAIL" if failed else passed
    line = f"{total:,} comparisons in {outcome.seconds:.1f} s: {kept}"
    if absent:
        why = reasons[0] if len(reasons) == 1 else "see above"
        line += f"; {absent:,} check{'s' if absent > 1 else ''} not run: {why}"
    return line


def to_json(outcome: Outcome, **facts: Any) -> str:
    """One object, with every result. A number that JSON cannot say is a string: "inf", "nan"."""
    results = [{**asdict(result), "passed": result.passed} for result in outcome.results]
    not_run = [asdict(absent) for absent in outcome.not_run]
    values = {"passed": outcome.passed, "seconds": outcome.seconds, **facts, "not_run": not_run, "results": results}
    return json.dumps(sayable(values), allow_nan=False)


def sayable(value: Any) -> Any:
    """The same with what JSON has no number for as strings."""
    if isinstance(value, dict):
        return {key: sayable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [sayable(item) for item in value]
    if isinstance(value, float):
        return float(value) if abs(value) < float("inf") else str(float(value))
    return value


class TableReport:
    """Tells of checks as they are carried out: a bar on a terminal and a table at the end, or line after line.

    tasks: those that will be. stream: where to.
    """

    def __init__(self, tasks: Sequence[Task], stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.width = max(len(task.name) for task in tasks)
        if self.terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self.console = Console(file=self.stream, highlight=False)
            columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
            self.progress = Progress(*columns, console=self.console, transient=True)
            self.bar = self.progress.add_task("", total=len(tasks))
            self.progress.start()
        else:
            self.print(plain_line(HEAD, self.width))

    def report(self, task: Task, results: list[Result], not_run: list[NotRun]) -> None:
        """Hear what a task found."""
        if self.terminal:
            self.progress.update(self.bar, advance=1, description=f"{task.name}, {task.methods[-1]}")
        else:
            for row in rows_of(results, not_run):
                self.print(plain_line(row.cells(), self.width))

    def close(self) -> None:
        """Give the terminal back."""
        if self.terminal:
            self.progress.stop()

    def conclude(self, outcome: Outcome) -> None:
        """Say how it ended."""
        if not self.terminal:
            for line in summary(outcome):
                self.print(line)
            return
        from rich.text import Text

        self.console.print(table_of(rows_of(outcome.results, outcome.not_run)))
        for line in summary(outcome):
            style = "green"
            if "FAIL" in line or "NOTHING" in line:
                style = "bold red"
            elif line.startswith("NOT RUN") or " not run: " in line:
                style = "yellow"
            self.console.print(Text(printable(line, self.stream), style=style), soft_wrap=True)

    def print(self, line: str) -> None:
        """One line."""
        print(printable(line, self.stream), file=self.stream, flush=True)


def table_of(rows: Iterable[Row]) -> "Table":
    """The table of a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))  # 80 columns hold the longest name
    for title in HEAD:
        table.add_column(title, justify="right" if title in HEAD[2:5] else "left", no_wrap=True)
    styles = {"within": "green", "not run": "yellow"}
    ordered = list(rows)
    for index, row in enumerate(ordered):
        name, *cells, outcome = row.cells()
        first = index == 0 or ordered[index - 1].name != row.name
        last = index + 1 == len(ordered) or ordered[index + 1].name != row.name
        styled = Text(outcome, style=styles.get(outcome, "bold red"))
        table.add_row(Text(name, style="bold") if first else "", *cells, styled, end_section=last)
    return table
