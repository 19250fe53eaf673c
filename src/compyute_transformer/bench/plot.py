"""Plot: a report as bars in a PNG, the spread as a line across the end of each, one panel a piece of work."""

from pathlib import Path
from typing import Any, NamedTuple

from ..errors import MissingExtraError, RangeError
from .candidates import Report, Result
from .report import number

__all__ = ["plot"]

COLORS = {"compyute": "#c2410c", "torch": "#64748b"}
OTHER = "#a8a29e"
BAR, MARGIN, WIDTH = 0.34, 0.62, 8.0  # inches


class Bar(NamedTuple):
    """label: in front of it. text: behind it."""

    label: str
    result: Result
    text: str


def plot(report: Report, path: Path) -> None:
    """Draw the unit that the report is about. Raises MissingExtraError without Matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "bench: a chart is drawn by Matplotlib, which is not installed: "
            "pip install 'compyute-transformer[pictures]'."
        ) from error
    panels = _panels(report)
    if not panels:
        raise RangeError("bench: a chart shows at least one number; there is nothing to draw. The notes say why.")
    heights = [MARGIN + BAR * len(bars) for bars in panels.values()]
    figure = Figure(figsize=(WIDTH, sum(heights) + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(report.title, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, (title, bars) in zip(axes, panels.items(), strict=True):
        _draw(axis, title, bars)
    axes[-1].set_xlabel(report.charted)
    environment = report.environment
    figure.supxlabel(
        f"{environment.cpu}, {environment.threads} threads, {environment.date}. Median, 20th to 80th percentile.",
        fontsize=8, color="#57534e",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")


def _panels(report: Report) -> dict[str, list[Bar]]:
    """Bars by panel; works that have one bar each share a panel."""
    ratios = {(r.what, r.shape, r.name): f"   {r.value:.2f} ×" for r in report.results if r.unit.startswith("×")}
    panels: dict[str, list[Bar]] = {}
    for result in report.results:
        if result.unit == report.charted:
            ratio = ratios.get((result.what, result.shape, result.name), "")
            bars = panels.setdefault(f"{result.what}: {result.shape}", [])
            bars.append(Bar(result.name, result, number(result.value) + ratio))
    if panels and all(len(bars) == 1 for bars in panels.values()):
        return {"": [bar._replace(label=bar.result.what) for (bar,) in panels.values()]}
    return panels


def _draw(axis: Any, title: str, bars: list[Bar]) -> None:
    values = [bar.result.value for bar in bars]
    ends = [bar.result.spread.p80 if bar.result.spread else bar.result.value for bar in bars]
    axis.barh(range(len(bars)), values, height=0.66, color=[COLORS.get(bar.result.provider, OTHER) for bar in bars])
    for place, bar in enumerate(bars):
        if spread := bar.result.spread:
            axis.plot([spread.p20, spread.p80], [place, place], color="black", linewidth=1.2)
        axis.text(ends[place] + 0.01 * max(ends), place, bar.text, va="center", fontsize=9)
    axis.set_yticks(range(len(bars)), [bar.label for bar in bars], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.18 * max(ends))
    axis.set_title(title, fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="x", labelsize=8)
