"""Plots: attention weights, a confusion matrix, the losses of a run. Everything here needs Matplotlib.

    figure = plot_attention(attention_maps(model, ids), token_labels(tokenizer, ids[0]))
    save_figure(figure, Path("attention.png"))      in a notebook, the figure as the last line of a cell is displayed

pip install 'compyute-transformer[pictures]'
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import Array, to_numpy
from .errors import MissingExtraError, RangeError, RunError, ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_attention", "plot_confusion", "plot_loss", "save_figure"]

MOST_LABELS = 32  # with more tokens than this an axis is numbered
MOST_NUMBERS = 30  # with more classes than this a confusion matrix has colors only
INK, FAINT, HIDDEN = "#1b2a41", "#8a94a6", "#eef0f4"
COLORS = ["#ffffff", "#cfe3f5", "#7fb6e6", "#2f7fc9", "#123f7a", "#0b1f3f"]  # from 0 to 1
TICKS = [0, 0.05, 0.2, 0.5, 1]


# --- attention -----------------------------------------------------------------------------------------------------


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
    weights = [to_numpy(array)[row] for array in maps]
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
    figure = _figure((heads * width + 1.6, blocks * height + 1.3), "compressed")
    panels: Any = figure.subplots(blocks, heads, squeeze=False, sharex=True, sharey=True)
    for block, head in np.ndindex(blocks, heads):
        masked = ~weights[block].any(axis=0)  # a key with weight 0 in every head is masked
        cells = np.ma.masked_array(weights[block][head].astype(np.float64), masked)
        image = _cells(panels[block, head], cells)
        if block == 0:
            panels[block, head].set_title(f"head {head}", fontsize=9, color=INK)
        if head == 0:
            panels[block, head].set_ylabel(f"block {block}", fontsize=9, color=INK)
    _label_axes(panels, columns, rows)
    figure.supxlabel("key", fontsize=9, color=FAINT)
    figure.supylabel("query", fontsize=9, color=FAINT)
    _color_bar(figure, image, panels, "attention weight", min(1.0, 3.0 / (blocks * height)))
    return figure


def _label_axes(panels: Any, columns: list[str] | None, rows: list[str] | None) -> None:
    """Write the labels along the axes that the panels share, or numbers where there are none."""
    ticker = _matplotlib("ticker")
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
    return [_drawable(label) for label in labels] if labels is not None and length <= MOST_LABELS else None


def _drawable(label: str) -> str:
    """Return a label in characters that Matplotlib's own font has, and the code points of the others."""
    known = _matplotlib("font_manager").get_font(_matplotlib("font_manager").findfont("DejaVu Sans")).get_charmap()
    return "".join(c if ord(c) in known else f"U+{ord(c):04X}" for c in label)


# --- confusion matrix ----------------------------------------------------------------------------------------------


def plot_confusion(counts: np.ndarray, classes: Sequence[str]) -> "Figure":
    """Return a figure of a confusion matrix: a row for each true class, a column for each predicted class.

    counts: (N, N) whole numbers, counts[true, predicted]. The darker a cell, the larger its part of the true class.

    Raises MissingExtraError without Matplotlib, ShapeError for counts of another shape than N by N.
    """
    number = len(classes)
    if counts.shape != (number, number):
        raise ShapeError(f"plot_confusion: {number} classes have counts ({number}, {number}), got {counts.shape}.")
    side = min(max(4.0, 0.45 * number), 20.0)
    figure = _figure((side + 1.2, side), "constrained")
    panel: Any = figure.subplots()
    parts = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    image = _cells(panel, parts)
    if number <= MOST_NUMBERS:
        for true, predicted in zip(*np.nonzero(counts), strict=True):
            color = "white" if parts[true, predicted] > 0.3 else INK
            text = str(counts[true, predicted])
            panel.text(predicted, true, text, ha="center", va="center", fontsize=8, color=color)
        names = [_drawable(name) for name in classes]
        rotation = 90 if max(map(len, names)) > 2 else 0
        panel.set_xticks(range(number), names, parse_math=False, rotation=rotation)
        panel.set_yticks(range(number), names, parse_math=False)
    panel.tick_params(labelsize=8, length=0, labelcolor=INK)
    panel.set_xlabel("predicted", fontsize=9, color=INK)
    panel.set_ylabel("true", fontsize=9, color=INK)
    accuracy = np.trace(counts) / max(1, counts.sum())
    panel.set_title(f"accuracy {accuracy:.2%} of {counts.sum():,} images", fontsize=10, color=INK)
    _color_bar(figure, image, panel, "part of the true class", 0.8)
    return figure


# --- losses --------------------------------------------------------------------------------------------------------


def plot_loss(run: str | Path | Iterable[Mapping[str, Any]]) -> "Figure":
    """Return a figure of the losses of a run by step: that of training batches, and that of validation.

    run: the folder of a run, or the records of its log.jsonl.

    Raises MissingExtraError without Matplotlib, RunError for a folder without a log, or a log without losses.
    """
    records = list(_read_log(Path(run)) if isinstance(run, str | Path) else run)
    figure = _figure((6.4, 4.0), "constrained")
    panel: Any = figure.subplots()
    curves = {"step": ("loss", "training", FAINT), "evaluation": ("validation_loss", "validation", COLORS[3])}
    for event, (loss, label, color) in curves.items():
        points = [(r["step"], r[loss]) for r in records if r.get("event") == event and r.get(loss) is not None]
        if points:
            panel.plot(*zip(*points, strict=True), label=label, color=color, linewidth=1.5)
    if not panel.lines:
        raise RunError("plot_loss: the log of a run holds losses by step, got none. Train for some steps first.")
    panel.set_xlabel("step", fontsize=9, color=INK)
    panel.set_ylabel("loss", fontsize=9, color=INK)
    panel.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    panel.spines[:].set(color=FAINT, linewidth=0.5)
    panel.legend(frameon=False, fontsize=9)
    return figure


def _read_log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "log.jsonl"
    if not path.is_file():
        raise RunError(f"plot_loss: the folder of a run holds a log.jsonl, got {str(folder)!r} without one.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


# --- all -----------------------------------------------------------------------------------------------------------


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure to a file, in the format that its ending names: .png, .svg, .pdf and others.

    Raises RangeError for an ending that names no format or a folder that does not exist, OSError where the file cannot
    be written.
    """
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise RangeError(
            f"save_figure: the file's ending names its format, one of {', '.join(sorted(known))}, got {str(path)!r}."
        )
    if not path.parent.is_dir():
        raise RangeError(f"save_figure: the folder of a figure exists, got {str(path)!r}. Make it first.")
    figure.savefig(path, dpi=150, bbox_inches="tight")


def _figure(size: tuple[float, float], layout: str) -> "Figure":
    """Return an empty figure that a notebook displays, without pyplot and so without a window."""
    figure_class: Any = _matplotlib("figure").Figure

    class DisplayedFigure(figure_class):  # type: ignore[misc]
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
            return buffer.getvalue()

    figure: Figure = DisplayedFigure(figsize=size, layout=layout, facecolor="white")
    return figure


def _cells(panel: Any, values: np.ndarray) -> Any:
    """Draw a matrix of numbers from 0 to 1 as colored cells."""
    colors = _matplotlib("colors")
    color_map = colors.LinearSegmentedColormap.from_list("weights", COLORS).with_extremes(bad=HIDDEN)
    scale = colors.PowerNorm(0.5, vmin=0.0, vmax=1.0)  # of the square root, so that small values are visible
    panel.tick_params(labelsize=7, color=FAINT, labelcolor=INK, pad=2)
    panel.spines[:].set(color=FAINT, linewidth=0.5)
    return panel.imshow(values, cmap=color_map, norm=scale, interpolation="nearest", aspect="equal")


def _color_bar(figure: "Figure", image: Any, panels: Any, label: str, shrink: float) -> None:
    bar: Any = figure.colorbar(image, ax=panels, ticks=TICKS, shrink=shrink, aspect=25)
    bar.set_label(label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, length=2, color=FAINT, labelcolor=INK)
    bar.outline.set(edgecolor=FAINT, linewidth=0.5)


def _matplotlib(module: str) -> Any:
    try:
        return import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise MissingExtraError(
            "plotting: a figure needs Matplotlib, which is not installed. "
            "pip install 'compyute-transformer[pictures]'; the numbers are there without it: attention_maps, "
            "print(confusion), log.jsonl."
        ) from error
