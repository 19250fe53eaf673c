"""Committed measurements: a chart first, then the tables behind a fold, one for each question.

```{results} */step.csv      files of benchmarks/results, by a pattern; each kind of processor has a folder there
:but: mutants*.csv           files that are left out
"""

import csv
from collections.abc import Iterable
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from matplotlib import rc_context
from matplotlib.figure import Figure
from sphinx.application import Sphinx

from .markdown import MarkdownDirective, table

RESULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "results"
BLUE, PALE = "#2f7fc9", "#8a94a6"
QUESTIONS = {
    "attention": "How long does attention take?",
    "generate": "How fast is a text generated?",
    "kernels": "What does each kind of kernel gain?",
    "parallel": "What do more processes gain?",
    "products": "How fast are matrix products?",
    "ops": "How much faster is each kernel than its reference?",
    "startup": "How long until the first step?",
    "step": "How long is a training step?",
}
TIMES = ("ms", "s")
SCALING = "predicted"
MOST_PANELS = 10  # with more subjects, ratios are drawn in one panel instead of times in many

Row = dict[str, str]


class Results(MarkdownDirective):
    """Files of measurements, by a pattern."""

    required_arguments = 1
    option_spec: ClassVar = {"but": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        but = {path for pattern in self.options.get("but", "").split() for path in RESULTS.glob(pattern)}
        paths = sorted(set(RESULTS.glob(self.arguments[0])) - but)
        found: list[nodes.Node] = []
        for path in paths:
            self.env.note_dependency(str(path))
            found += self.section(path, heading=len(paths) > 1)
        return found or self.parse_text_to_nodes("*Nothing has been committed yet.*")

    def section(self, path: Path, heading: bool) -> list[nodes.Node]:
        """Return the question that a file answers, its chart, and its tables."""
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            return self.parse_text_to_nodes(f"*{path.stem} has no rows.*")
        kind = path.parent.name  # of processor
        question = f"{QUESTIONS.get(path.stem, path.stem)} ({kind})"
        same = [name for name in rows[0] if len(rows) > 1 and len({row[name] for row in rows}) == 1]
        of_all = [f"{name} {rows[0][name]}" for name in same if rows[0][name] and name != "what"]
        common = "; ".join([kind, *of_all])
        said = escape(f"Chart: {question} The numbers are in the tables below.")
        picture = f'<figure role="img" aria-label="{said}">{draw(rows, path.stem)}</figure>'
        fold = f"<details><summary>All {len(rows)} numbers</summary>"
        return [
            *([nodes.rubric(question, question)] if heading else []),
            nodes.raw("", picture, format="html"),
            *self.parse_text_to_nodes(f"In all rows: {common}."),
            nodes.raw("", fold, format="html"),
            *self.parse_text_to_nodes("\n\n".join(tables(rows, same))),
            nodes.raw("", "</details>", format="html"),
        ]


def tables(rows: list[Row], same: list[str]) -> Iterable[str]:
    """Yield a table for each unit, without the columns that are the same in all rows."""
    for unit in dict.fromkeys(row["unit"] for row in rows):
        of_unit = [row for row in rows if row["unit"] == unit]
        shown = [name for name in rows[0] if name not in (*same, "unit") and any(row[name] for row in of_unit)]
        yield f"**{unit}**"
        yield table(shown, [[row[name] for name in shown] for row in of_unit])


def draw(rows: list[Row], name: str) -> str:
    """Draw the times of each subject, or the ratios where there are many subjects. SVG."""
    subjects = dict.fromkeys((row["what"], row["shape"]) for row in rows if row["unit"] in TIMES)
    if any(row["what"].startswith(SCALING) for row in rows):
        figure = scaling(rows)
    elif len(subjects) > MOST_PANELS:
        figure = ratios([row for row in rows if row["unit"].startswith("×")])
    else:
        figure = times(rows, list(subjects))
    file = StringIO()
    with rc_context({"svg.hashsalt": name}):  # the same picture each time
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :].replace("<svg ", '<svg style="max-width: 100%; height: auto" ', 1)


def times(rows: list[Row], subjects: list[tuple[str, str]]) -> Figure:
    """Draw a panel for each subject, with a bar for each candidate."""
    bars = {
        subject: [row for row in rows if (row["what"], row["shape"]) == subject and row["unit"] in TIMES]
        for subject in subjects
    }
    heights = [0.9 + len(found) for found in bars.values()]
    figure = Figure(figsize=(9, 0.32 * sum(heights) + 0.3 * len(heights)), layout="constrained")
    panels: Any = figure.subplots(len(bars), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, ((what, shape), found) in zip(panels, bars.items(), strict=True):
        labels = [label(row) for row in found]
        values = [float(row["value"]) for row in found]
        drawn = panel.barh(range(len(found)), values, color=[color(row) for row in found])
        panel.bar_label(drawn, [f" {float(row['value']):,.4g} {row['unit']}" for row in found], fontsize=9)
        finish(panel, labels, f"{what}: {shape}")
    return figure


def ratios(rows: list[Row]) -> Figure:
    """Draw one bar for each ratio, on a logarithmic axis."""
    ordered = sorted(rows, key=lambda row: float(row["value"]))
    figure = Figure(figsize=(9, 0.27 * len(ordered) + 0.7), layout="constrained")
    panel: Any = figure.subplots()
    drawn = panel.barh(range(len(ordered)), [float(row["value"]) for row in ordered], color=BLUE)
    panel.bar_label(drawn, [f" {float(row['value']):,.3g}" for row in ordered], fontsize=9)
    panel.set_xscale("log")
    panel.axvline(1, color=PALE, linewidth=1)
    first = ordered[0] if ordered else {"provider": "", "mode": "", "unit": ""}
    finish(panel, [row["what"] for row in ordered], f"{label(first)}, {first['unit']}")
    return figure


def scaling(rows: list[Row]) -> Figure:
    """Draw what is predicted for each network, by the number of processes: the same batch, and a batch that grows.

    The same batch ends where each process has one row of it.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels: Any = figure.subplots(1, 2)
    titles = {
        f"{SCALING}: ": "a step in ms, the same batch",
        f"{SCALING} efficiency, the batch grows: ": "efficiency in percent, the batch grows",
    }
    for panel, (start, title) in zip(panels, titles.items(), strict=True):
        found = [row for row in rows if row["what"].startswith(start)]
        for network in dict.fromkeys(row["what"] for row in found):
            points = [(int(row["mode"].split()[0]), float(row["value"])) for row in found if row["what"] == network]
            panel.plot(*zip(*points, strict=True), "o-", markersize=3, label=network.removeprefix(start))
        counts = sorted({int(row["mode"].split()[0]) for row in found})
        panel.set_xscale("log", base=2)
        panel.set_xticks(counts, [f"{count:,}" for count in counts], fontsize=8)
        panel.set_xlabel("processes, each as fast as the one that was measured", fontsize=8)
        panel.set_title(title, loc="left", fontsize=9.5)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color=PALE, alpha=0.3)
        panel.tick_params(axis="y", labelsize=8)
    panels[0].set_ylim(bottom=0)
    lowest = min(float(row["value"]) for row in found)
    panels[1].set_ylim(max(0, lowest - 0.1 * (101 - lowest)), 100 + 0.05 * (101 - lowest))
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def finish(panel: Any, labels: list[str], title: str) -> None:
    """Set what stands around the bars."""
    panel.set_yticks(range(len(labels)), labels, fontsize=9)
    panel.set_title(title, loc="left", fontsize=9.5)
    panel.invert_yaxis()
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.set_xticks([], minor=False)
    panel.set_xticks([], minor=True)
    panel.margins(x=0.16)


def label(row: Row) -> str:
    """Return the name of a candidate."""
    return f"{row['provider']} {row['mode']}".strip()


def color(row: Row) -> str:
    """Return the color of a candidate: ours, or another library."""
    return BLUE if row["provider"] == "compyute" else PALE


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("results", Results)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
