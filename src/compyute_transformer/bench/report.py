"""Report: print the results of a benchmark as tables, one line a candidate and one column a unit."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from .candidates import TIMES, Report, Result

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["number", "show"]


def show(report: Report, console: "Console") -> None:
    """Print the tables, the environment they were measured in, the notes and the warnings."""
    from rich.table import Table
    from rich.text import Text

    works: dict[tuple[str, str], list[Result]] = {}
    for result in report.results:
        works.setdefault((result.what, result.shape), []).append(result)
    names = {result.name for result in report.results}
    widths: dict[str, int] = {}
    for result in report.results:
        heading = _heading(result.unit)
        widths[heading] = max(widths.get(heading, len(heading)), len(_cell(result)))
    console.print(Text(report.title, style="bold"))
    for (what, shape), results in works.items():
        console.print(Text(f"\n{what}", style="bold").append(f"  {shape}", style="dim"))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("", min_width=max(map(len, names)), no_wrap=True)
        units = list(dict.fromkeys(result.unit for result in results))
        for heading in map(_heading, units):
            table.add_column(heading, justify="right", min_width=widths[heading], no_wrap=True)
        for name in dict.fromkeys(result.name for result in results):
            cells = {result.unit: _cell(result) for result in results if result.name == name}
            table.add_row(Text(name), *(cells.get(unit, "") for unit in units))
        console.print(table)
    for line in ("", *_legend(widths), *_environment_lines(report)):
        console.print(Text(line, style="dim"))
    for note in report.notes:
        console.print(Text(f"Note: {note}", style="cyan"))
    for warning in filter(None, [*report.warnings, report.noise]):
        console.print(Text(f"Warning: {warning}", style="yellow"))


def number(value: float) -> str:
    """Format a number with three digits, or with all digits before the point."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:,.{digits}f}"


def _cell(result: Result) -> str:
    spread = result.spread
    if spread is None or spread.runs == 1 or result.unit not in TIMES:
        return number(result.value)  # a rate or a ratio varies as the time beside it
    return f"{number(spread.p50)} ({number(spread.p20)} to {number(spread.p80)})"


def _heading(unit: str) -> str:
    return unit.partition(" ")[0] if unit[0] in "×%" else unit


def _legend(headings: Collection[str]) -> list[str]:
    return [meaning for heading, meaning in MEANINGS.items() if heading in headings]


MEANINGS = {
    "ms": "Medians, and in brackets the 20th to the 80th percentile.",
    "s": "Medians, and in brackets the 20th to the 80th percentile.",
    "×": "×: how many times as long as the first line takes, the quotient of the medians.",
    "%": "%: of the rate of the copy, or the matrix product, in the last line.",
    "of the best": "of the best: the rate, as a share of the highest one.",
    "MB": "MB: peak resident memory of a process that does nothing else.",
}


def _environment_lines(report: Report) -> list[str]:
    environment = report.environment
    return [
        f"{environment.cpu}, {environment.threads} threads, {environment.machine}",
        environment.blas,
        f"{environment.versions}; {environment.date}",
    ]
