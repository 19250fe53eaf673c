"""Attention weights as pictures: a panel for each head of each block."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array, to_numpy
from ..errors import ShapeError
from .figure import FAINT, INK, color_bar, colored_cells, drawable, figure_of, matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attention", "plot_attention"]

MOST_LABELS = 32  # with more tokens than this an axis is numbered


def attention(model: Any, ids: Array, labels: Sequence[str] | None = None, row: int = 0) -> "Figure":
    """Return a figure of the attention weights of a model for its input, in one line.

    ids: what the model reads, (B, T) for a text; of a model with several inputs a tuple of them. labels: one for each
    token. row: which row of the batch. Draws the attentions of the first shape; see `plot_attention` for the others.

    Raises MissingExtraError without Matplotlib, and what the model raises about its input.
    """
    inputs = ids if isinstance(ids, tuple) else (ids,)
    maps = model(*inputs, return_attention=True).attentions
    if model.training:
        model.clear_saved()
    return plot_attention([array for array in maps if array.shape == maps[0].shape], labels, row)


def plot_attention(
    maps: Sequence[Array],
    labels: Sequence[str] | None = None,
    row: int = 0,
    query_labels: Sequence[str] | None = None,
) -> "Figure":
    """Return a figure of attention weights: a row of panels for each block, a column for each head.

    In a panel a row is a query and a column a key. The darker a cell, the larger the weight; masked keys are gray. The
    color scale is that of the square root, so that small weights are visible.

    maps: of `generation.attention_maps`, all of one shape (B, H, T, S). labels: one for each token, see
    `generation.attention.token_labels`; up to 32 are written along an axis. row: which row of the batch. query_labels:
    those of the queries, where they are tokens of another text than the keys; None: the same labels.

    Raises MissingExtraError without Matplotlib, ShapeError for maps of several shapes and another number of labels.
    """
    given = [to_numpy(array) for array in maps]
    if any(array.ndim != 4 or array.dtype.kind != "f" or not -len(array) <= row < len(array) for array in given):
        raise ShapeError(
            f"plot_attention: maps are arrays of floats of shape (B, H, T, S) with B above row {row}, got "
            f"{', '.join(f'{array.dtype} {array.shape}' for array in given[:9])}."
        )
    weights = [array[row] for array in given]
    if len({array.shape for array in weights}) != 1:
        raise ShapeError(
            "plot_attention: the maps of one figure have one shape (B, H, T, S), got "
            f"{', '.join(str(tuple(array.shape)) for array in maps) or 'none'}. Plot the attention within a text and "
            "the attention between two texts apart, see named_attention_maps."
        )
    blocks, (heads, T, S) = len(weights), weights[0].shape
    columns, rows = _written(labels, S), _written(labels if query_labels is None else query_labels, T)
    width, height = (
        min(max(1.7, 0.135 * length) if texts else 2.0, 60 / max(blocks, heads))  # of a panel, in inches
        for texts, length in ((columns, S), (rows, T))
    )
    figure = figure_of((heads * width + 1.6, blocks * height + 1.3), "compressed")
    panels: Any = figure.subplots(blocks, heads, squeeze=False, sharex=True, sharey=True)
    for block, head in np.ndindex(blocks, heads):
        masked = ~weights[block].any(axis=0)  # a key with weight 0 in every head is masked
        cells = np.ma.masked_array(weights[block][head].astype(np.float64), masked)
        image = colored_cells(panels[block, head], cells)
        if block == 0:
            panels[block, head].set_title(f"head {head}", fontsize=9, color=INK)
        if head == 0:
            panels[block, head].set_ylabel(f"block {block}", fontsize=9, color=INK)
    _label_axes(panels, columns, rows)
    figure.supxlabel("key", fontsize=9, color=FAINT)
    figure.supylabel("query", fontsize=9, color=FAINT)
    color_bar(figure, image, panels, "attention weight", min(1.0, 3.0 / (blocks * height)))
    return figure


def _label_axes(panels: Any, columns: list[str] | None, rows: list[str] | None) -> None:
    """Write the labels along the axes that the panels share, or numbers where there are none."""
    ticker = matplotlib("ticker")
    for axis, texts in (("x", columns), ("y", rows)):
        first = getattr(panels[0, 0], f"{axis}axis")  # the panels share ticks
        if texts:
            first.set_ticks(range(len(texts)), texts, parse_math=False)
        else:
            first.set_major_locator(ticker.MaxNLocator(4, integer=True))
        for panel in panels.flat:
            panel.tick_params(axis=axis, length=0 if texts else 2)
    if columns and max(map(len, columns)) > 2:
        for panel in panels[-1]:  # each panel at the bottom has texts of its own
            panel.tick_params(axis="x", labelrotation=90)


def _written(labels: Sequence[str] | None, length: int) -> list[str] | None:
    """Return the labels of an axis as they are written; None where there are none, or too many."""
    if labels is not None and len(labels) != length:
        raise ShapeError(f"plot_attention: one label a token, got {len(labels)} labels for {length} tokens.")
    return [drawable(label) for label in labels] if labels is not None and length <= MOST_LABELS else None
