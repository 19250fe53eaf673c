"""Losses of runs by step: one run with training and validation, or several beside each other."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from .figure import COLORS, FAINT, RUNS, axes_style, drawable, figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["loss", "plot_loss"]

Run = str | Path | Iterable[Mapping[str, Any]]
LOSSES = {"step": "loss", "evaluation": "validation_loss"}  # what each event calls its loss
STYLES = ["-", "--", ":"]  # with more runs than colors


def loss(*runs: Run) -> "Figure":
    """Return a figure of the losses of one run, or of several beside each other, in one line: `plot_loss`."""
    return plot_loss(*runs)


def plot_loss(*runs: Run) -> "Figure":
    """Return a figure of losses by step: that of training batches, and that of validation.

    runs: for each the folder of a run, or the records of its log.jsonl. One run has a curve of each kind; of several
    each has a color, and its training losses are drawn thin.

    Raises MissingExtraError without Matplotlib, RunError without a run, for a folder without a log, or a log without
    losses.
    """
    if not runs:
        raise RunError("plot_loss: there is at least one run, got none. Give the folder of a run.")
    figure = figure_of((6.4, 4.0), "constrained")
    panel: Any = figure.subplots()
    names = _names(runs)
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        records = list(_read_log(Path(run)) if isinstance(run, str | Path) else run)
        before = len(panel.lines)
        if len(runs) == 1:
            _curve(panel, records, "step", label="training", color=FAINT, linewidth=1.5)
            _curve(panel, records, "evaluation", label="validation", color=COLORS[3], linewidth=1.5)
        else:
            style = {"color": RUNS[index % len(RUNS)], "linestyle": STYLES[index // len(RUNS) % len(STYLES)]}
            _curve(panel, records, "step", label="_", linewidth=0.6, alpha=0.45, **style)
            _curve(panel, records, "evaluation", label="_", linewidth=1.8, **style)
        if len(panel.lines) == before:
            where = f" of {name}" if len(runs) > 1 else ""
            raise RunError(
                f"plot_loss: the log of a run holds losses by step, got none{where}. Train for some steps first."
            )
        panel.lines[-1].set_label(panel.lines[-1].get_label() if len(runs) == 1 else drawable(name))
    axes_style(panel, "step", "loss" if len(runs) == 1 else "loss (thick: validation, thin: training)")
    panel.legend(frameon=False, fontsize=9)
    return figure


def _curve(panel: Any, records: list[Mapping[str, Any]], event: str, **style: Any) -> None:
    """Draw the losses of one kind of record, if there are any."""
    key = LOSSES[event]
    points = [(r["step"], r[key]) for r in records if r.get("event") == event and r.get(key) is not None]
    if points:
        panel.plot(*zip(*points, strict=True), **style)


def _names(runs: tuple[Run, ...]) -> list[str]:
    """Return a name for each run: that of its folder, or the whole path where folders share a name."""
    paths = [Path(run) if isinstance(run, str | Path) else None for run in runs]
    short = [f"run {number}" if path is None else path.resolve().name for number, path in enumerate(paths, 1)]
    return [
        str(path) if path is not None and short.count(name) > 1 else name
        for path, name in zip(paths, short, strict=True)
    ]


def _read_log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "log.jsonl"
    if not path.is_file():
        raise RunError(
            f"plot_loss: the folder of a run holds a log.jsonl, got {str(folder)!r} without one. "
            "Check the path, or start a run: compyute train"
        )
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
        except ValueError:
            if number == len(lines):  # a line that is being written
                continue
            raise RunError(
                f"plot_loss: each line of {path} is a JSON object, got another in line {number}. Delete it."
            ) from None
        if isinstance(found, dict):
            records.append(found)
    return records
