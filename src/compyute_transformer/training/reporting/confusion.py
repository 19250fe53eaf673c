"""Confusion: the confusion matrix of a classifier, as a table, as plain values, and as a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import MissingExtraError
from ...generation.attention import save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Confusion"]

MOST_COLUMNS = 20  # with more classes, the table lists the most frequent errors instead
MOST_NUMBERS = 30  # with more classes, the picture has colors only
MOST_ERRORS = 10
LONGEST = 12  # letters of a class in a heading
CORNER = "true \\ predicted"
INK, FAINT = "#1b2a41", "#8a94a6"
COLORS = ["#ffffff", "#cfe3f5", "#7fb6e6", "#2f7fc9", "#123f7a", "#0b1f3f"]


@dataclass(frozen=True, eq=False)
class Confusion:
    """counts[true, predicted]: how many images of the true class were predicted to be of the other."""

    classes: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def of(cls, classes: tuple[str, ...], true: np.ndarray, predicted: np.ndarray) -> "Confusion":
        """Count pairs of class indices."""
        counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
        np.add.at(counts, (true, predicted), 1)
        return cls(classes, counts)

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions."""
        return float(np.trace(self.counts) / max(1, self.counts.sum()))

    def errors(self) -> list[tuple[str, str, int]]:
        """Return (true class, predicted class, count) of all errors, the most frequent first."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
        pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [(self.classes[true], self.classes[other], int(wrong[true, other])) for true, other in pairs]

    def __str__(self) -> str:
        """Return a table of true classes by predicted classes; of many classes, the most frequent errors."""
        if len(self.classes) > MOST_COLUMNS:
            worst = [f"{true} predicted as {other}: {count}" for true, other, count in self.errors()[:MOST_ERRORS]]
            return "\n".join(["most frequent errors", *(worst or ["none"])])
        names = [short(name) for name in self.classes]
        first = max(len(CORNER), *map(len, names))
        width = max(len(str(self.counts.max(initial=0))), *map(len, names)) + 2
        recalls = np.diag(self.counts) / np.maximum(1, self.counts.sum(axis=1))
        rows = [(CORNER, names, "recall"), *zip(names, self.counts.tolist(), recalls, strict=True)]
        lines = []
        for name, cells, recall in rows:
            numbers = "".join(f"{cell or '·':>{width}}" for cell in cells)
            lines.append(f"{name:<{first}}{numbers}  {recall if isinstance(recall, str) else f'{recall:.1%}':>6}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"classes": list(self.classes), "counts": self.counts.tolist()}

    def figure(self) -> "Figure":
        """Draw the counts; the darker a cell, the larger its fraction of the true class.

        Raises MissingExtraError without Matplotlib.
        """
        figure_class, colors = _matplotlib("figure").Figure, _matplotlib("colors")
        number, names = len(self.classes), [short(name) for name in self.classes]
        side = min(max(4.0, 0.45 * number), 20.0)
        figure: Figure = figure_class(figsize=(side + 1.2, side), layout="constrained", facecolor="white")
        panel: Any = figure.subplots()
        shares = self.counts / np.maximum(1, self.counts.sum(axis=1, keepdims=True))
        color_map = colors.LinearSegmentedColormap.from_list("confusion", COLORS)
        scale = colors.PowerNorm(0.5, vmin=0.0, vmax=1.0)  # of a square root, so that single mistakes show
        image = panel.imshow(shares, cmap=color_map, norm=scale, interpolation="nearest")
        if number <= MOST_NUMBERS:
            for true, predicted in zip(*np.nonzero(self.counts), strict=True):
                color = "white" if shares[true, predicted] > 0.3 else INK
                text = str(self.counts[true, predicted])
                panel.text(predicted, true, text, ha="center", va="center", fontsize=8, color=color)
            panel.set_xticks(range(number), names, parse_math=False, rotation=90 if max(map(len, names)) > 2 else 0)
            panel.set_yticks(range(number), names, parse_math=False)
        panel.tick_params(labelsize=8, length=0, labelcolor=INK)
        panel.spines[:].set(color=FAINT, linewidth=0.5)
        panel.set_xlabel("predicted class", fontsize=9, color=INK)
        panel.set_ylabel("true class", fontsize=9, color=INK)
        panel.set_title(f"{self.accuracy:.2%} of {self.counts.sum():,} images correct", fontsize=10, color=INK)
        bar = figure.colorbar(image, ax=panel, ticks=[0, 0.05, 0.2, 0.5, 1], shrink=0.8, aspect=25)
        bar.set_label("fraction of the true class", fontsize=8, color=INK)
        bar.ax.tick_params(labelsize=7, length=2, color=FAINT, labelcolor=INK)
        bar.outline.set(edgecolor=FAINT, linewidth=0.5)
        return figure

    def draw(self, path: str | Path) -> None:
        """Write the picture to a file. Raises as `figure` and `save_picture`."""
        save_picture(self.figure(), Path(path))


def short(name: str) -> str:
    """Return the name of a class in few letters."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _matplotlib(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise MissingExtraError(
            "Confusion.draw: drawing needs Matplotlib, which is not installed. "
            "pip install 'compyute-transformer[pictures]'; printing it shows the same numbers."
        ) from error
