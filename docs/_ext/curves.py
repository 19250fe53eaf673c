"""Curves of a committed run, drawn as the site is built from its log in `benchmarks/results/`.

```{curves} dates        a log: loss by step, and how good the model was at each validation
:metric: exact_match     which of the log's metrics
:label: exact match
:goal: 0.99              a dotted line
:where: two CPU cores    the machine of the log
"""

import json
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from matplotlib import rc_context
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "results"
BLUE, PALE = "#123f7a", "#9fbfe0"


class Curves(SphinxDirective):
    """A picture with two panels, and a sentence."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "metric": directives.unchanged_required,
        "label": directives.unchanged_required,
        "goal": float,
        "where": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """The picture stands in the page itself, so that nothing has to be loaded."""
        log = RESULTS / f"{self.arguments[0]}.jsonl"
        self.env.note_dependency(str(log))
        events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        steps = [event for event in events if event["event"] == "step"]
        evaluations = [event for event in events if event["event"] == "evaluation"]
        metric, label, where = (self.options[name] for name in ("metric", "label", "where"))
        last = evaluations[-1]
        words = f"{last['step']:,} steps in {last['seconds']:.0f} s on {where}, {label} {last[metric]:.2%}."
        picture = draw(steps, evaluations, metric, label, self.options["goal"])
        said = escape(f"Loss and {label}, by step")
        shown = f'<figure role="img" aria-label="{said}">{picture}</figure>'
        return [nodes.raw("", shown, format="html"), nodes.paragraph(words, words)]


def draw(steps: list[Any], evaluations: list[Any], metric: str, label: str, goal: float) -> str:
    """Loss by step on the left, the metric of each validation on the right: SVG."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([e["step"] for e in steps], [e["loss"] for e in steps], color=PALE, linewidth=1, label="training")
    left.plot(
        [e["step"] for e in evaluations],
        [e["validation_loss"] for e in evaluations],
        "o-",
        color=BLUE,
        label="validation",
    )
    left.set(xlabel="step", ylabel="loss (nats)", yscale="log")
    left.legend(frameon=False)
    right.plot([e["step"] for e in evaluations], [e[metric] for e in evaluations], "o-", color=BLUE)
    right.axhline(goal, color="gray", linewidth=1, linestyle=":")
    right.set(xlabel="step", ylabel=label, ylim=(0, 1.02))
    last = evaluations[-1]
    right.annotate(
        f"{last[metric]:.2%}", (last["step"], last[metric]), (-6, -16), textcoords="offset points", ha="right"
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    file = StringIO()
    with rc_context({"svg.hashsalt": label}):  # the same picture each time
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :].replace("<svg ", '<svg style="max-width: 100%; height: auto" ', 1)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("curves", Curves)
    return {"parallel_read_safe": True}
