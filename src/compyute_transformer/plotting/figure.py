"""Figure: what all plots share: an empty figure, colored cells, a color bar, and the file a figure is written to."""

import io
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtraError, RangeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "FAINT",
    "INK",
    "RUNS",
    "axes_style",
    "color_bar",
    "colored_cells",
    "drawable",
    "figure_of",
    "matplotlib",
    "save_figure",
]

INK, FAINT, HIDDEN = "#1b2a41", "#8a94a6", "#eef0f4"
COLORS = ["#ffffff", "#cfe3f5", "#7fb6e6", "#2f7fc9", "#123f7a", "#0b1f3f"]  # from 0 to 1
RUNS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]  # Okabe and Ito's: all can be told
TICKS = [0, 0.05, 0.2, 0.5, 1]


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


def figure_of(size: tuple[float, float], layout: str) -> "Figure":
    """Return an empty figure that a notebook displays, without pyplot and so without a window."""
    figure_class: Any = matplotlib("figure").Figure

    class DisplayedFigure(figure_class):  # type: ignore[misc]
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
            return buffer.getvalue()

    figure: Figure = DisplayedFigure(figsize=size, layout=layout, facecolor="white")
    return figure


def colored_cells(panel: Any, values: np.ndarray) -> Any:
    """Draw a matrix of numbers from 0 to 1 as colored cells."""
    colors = matplotlib("colors")
    color_map = colors.LinearSegmentedColormap.from_list("weights", COLORS).with_extremes(bad=HIDDEN)
    scale = colors.PowerNorm(0.5, vmin=0.0, vmax=1.0)  # of the square root, so that small values are visible
    panel.tick_params(labelsize=7, color=FAINT, labelcolor=INK, pad=2)
    panel.spines[:].set(color=FAINT, linewidth=0.5)
    return panel.imshow(values, cmap=color_map, norm=scale, interpolation="nearest", aspect="equal")


def color_bar(figure: "Figure", image: Any, panels: Any, label: str, shrink: float) -> None:
    bar: Any = figure.colorbar(image, ax=panels, ticks=TICKS, shrink=shrink, aspect=25)
    bar.set_label(label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, length=2, color=FAINT, labelcolor=INK)
    bar.outline.set(edgecolor=FAINT, linewidth=0.5)


def matplotlib(module: str) -> Any:
    try:
        return import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise MissingExtraError(
            "plotting: a figure needs Matplotlib, which is not installed. "
            "pip install 'compyute-transformer[pictures]'; the numbers are there without it: attention_maps, "
            "print(confusion), log.jsonl."
        ) from error


def axes_style(panel: Any, x: str, y: str) -> None:
    """Label the axes of a panel of curves."""
    panel.set_xlabel(x, fontsize=9, color=INK)
    panel.set_ylabel(y, fontsize=9, color=INK)
    panel.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    panel.spines[:].set(color=FAINT, linewidth=0.5)


def drawable(label: str) -> str:
    """Return a label in characters that Matplotlib's own font has, and the code points of the others."""
    known = matplotlib("font_manager").get_font(matplotlib("font_manager").findfont("DejaVu Sans")).get_charmap()
    return "".join(c if ord(c) in known else f"U+{ord(c):04X}" for c in label)
