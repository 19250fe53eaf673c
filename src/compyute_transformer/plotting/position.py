"""Positions: the vectors that tell a model where a token stands, and how alike they are."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array, to_numpy
from ..errors import ShapeError
from ..ops.position import sinusoids
from .figure import FAINT, INK, figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["positions"]


def positions(model: Any) -> "Figure":
    """Return a figure of position vectors: the table (L, C) as a picture, and the cosine between all pairs of rows.

    model: a model, whose table is its learned one or its sinusoids; or the table itself.

    Raises MissingExtraError without Matplotlib, ShapeError for what has no table of positions.
    """
    table = _table(model).astype(np.float64)
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    cosines = (table / np.where(norms == 0, 1.0, norms)) @ (table / np.where(norms == 0, 1.0, norms)).T
    figure = figure_of((10.0, 3.8), "constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1.0))
    largest = float(np.abs(table).max()) or 1.0
    for panel, values, limit, title, axes in (
        (left, table.T, largest, "position vectors", ("position", "dimension")),
        (right, cosines, 1.0, "cosine of two positions", ("position", "position")),
    ):
        image = panel.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        panel.set_title(title, fontsize=10, color=INK)
        panel.set_xlabel(axes[0], fontsize=9, color=INK)
        panel.set_ylabel(axes[1], fontsize=9, color=INK)
        panel.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
        bar: Any = figure.colorbar(image, ax=panel, aspect=25)
        bar.ax.tick_params(labelsize=7, color=FAINT, labelcolor=INK)
    return figure


def _table(model: Any) -> Array:
    """Return the positions (L, C) of a model, or the array that was given."""
    if hasattr(model, "shape"):
        table = to_numpy(model)
    else:
        weight = getattr(getattr(model, "position", None), "weight", None)
        config: Any = getattr(model, "config", None)
        if weight is not None:
            table = to_numpy(weight.data)
        elif hasattr(model, "position") and hasattr(config, "context_length"):
            table = sinusoids(config.context_length, config.embed_dim)
        else:
            raise ShapeError(
                f"plotting.positions: a model with positions, or a table (L, C), got {type(model).__name__}."
            )
    if table.ndim != 2 or not table.size:
        raise ShapeError(f"plotting.positions: a table of positions has shape (L, C), got {tuple(table.shape)}.")
    return table
