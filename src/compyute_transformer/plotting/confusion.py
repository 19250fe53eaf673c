"""Confusion matrix: which classes an image classifier takes for which others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import to_numpy
from ..errors import DtypeError, ShapeError
from .figure import INK, color_bar, colored_cells, drawable, figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_confusion"]

MOST_NUMBERS = 30  # with more classes than this a confusion matrix has colors only


def plot_confusion(counts: np.ndarray, classes: Sequence[str]) -> "Figure":
    """Return a figure of a confusion matrix: a row for each true class, a column for each predicted class.

    counts: (N, N) whole numbers, counts[true, predicted]. The darker a cell, the larger its part of the true class.

    Raises MissingExtraError without Matplotlib, ShapeError for counts of another shape than N by N.
    """
    number, counts = len(classes), to_numpy(counts)
    if counts.dtype.kind not in "iuf":
        raise DtypeError(f"plot_confusion: counts are whole numbers, got {counts.dtype}.")
    if counts.shape != (number, number):
        raise ShapeError(f"plot_confusion: {number} classes have counts ({number}, {number}), got {counts.shape}.")
    side = min(max(4.0, 0.45 * number), 20.0)
    figure = figure_of((side + 1.2, side), "constrained")
    panel: Any = figure.subplots()
    parts = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    image = colored_cells(panel, parts)
    if number <= MOST_NUMBERS:
        for true, predicted in zip(*np.nonzero(counts), strict=True):
            color = "white" if parts[true, predicted] > 0.3 else INK
            text = str(counts[true, predicted])
            panel.text(predicted, true, text, ha="center", va="center", fontsize=8, color=color)
        names = [drawable(name) for name in classes]
        rotation = 90 if max(map(len, names)) > 2 else 0
        panel.set_xticks(range(number), names, parse_math=False, rotation=rotation)
        panel.set_yticks(range(number), names, parse_math=False)
    panel.tick_params(labelsize=8, length=0, labelcolor=INK)
    panel.set_xlabel("predicted", fontsize=9, color=INK)
    panel.set_ylabel("true", fontsize=9, color=INK)
    accuracy = np.trace(counts) / max(1, counts.sum())
    panel.set_title(f"accuracy {accuracy:.2%} of {counts.sum():,} images", fontsize=10, color=INK)
    color_bar(figure, image, panel, "part of the true class", 0.8)
    return figure
