"""Gradients of a model by depth: the norm of each parameter's gradient, from the embedding to the head."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import to_numpy
from ..errors import BackwardError
from .figure import FAINT, INK, RUNS, axes_style, figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["gradient_norms", "gradients"]


def gradient_norms(model: Any) -> dict[str, float]:
    """Return the norm of the gradient of each parameter that has one, by its path.

    Raises BackwardError where none has.
    """
    norms = {
        path: float(np.linalg.norm(to_numpy(parameter.grad).astype(np.float64)))
        for path, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    if not norms:
        raise BackwardError(
            "plotting.gradients: a parameter has a gradient after a backward, got none. Run model.backward first, and "
            "draw before zero_grad."
        )
    return norms


def gradients(model: Any) -> "Figure":
    """Return a figure of the norms of the gradients by depth: a curve for each parameter that every block has.

    Parameters outside the blocks are points at the ends. A gradient that is zero, NaN or infinite has no place on a
    logarithmic axis: it is a cross at the lower edge, and named.

    Raises MissingExtraError without Matplotlib, BackwardError before a backward.
    """
    norms = gradient_norms(model)
    places, curves = _by_depth(norms)
    figure = figure_of((max(6.4, 0.45 * len(places)), 4.4), "constrained")
    panel: Any = figure.subplots()
    panel.set_yscale("log")
    good = [norm for norm in norms.values() if 0.0 < norm < float("inf")]
    lowest = min(good, default=1e-3) / 2
    for index, (name, points) in enumerate(curves.items()):
        x = [places[place] for place, _ in points]
        drawn = [norm if 0.0 < norm < float("inf") else float("nan") for _, norm in points]
        color, marker = RUNS[index % len(RUNS)], "os^Dv"[index // len(RUNS) % 5]
        panel.plot(x, drawn, color=color, marker=marker, markersize=4, linewidth=1.2, label=name)
        bad = [place for place, norm in zip(x, drawn, strict=True) if np.isnan(norm)]
        panel.plot(bad, [lowest] * len(bad), color=color, marker="x", markersize=9, linestyle="none")
    axes_style(panel, "", "norm of the gradient")
    panel.set_xticks(list(places.values()), list(places), rotation=60, ha="right", parse_math=False)
    panel.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.5)
    panel.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    wrong = [path for path, norm in norms.items() if not 0.0 < norm < float("inf")]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        panel.set_title(f"× zero, NaN or infinite: {', '.join(wrong[:3])}{more}", fontsize=8, color=INK)
    return figure


def _by_depth(norms: dict[str, float]) -> tuple[dict[str, int], dict[str, list[tuple[str, float]]]]:
    """Return the places along the axis by name, and for each curve the places and norms of its points.

    A place is a block, "blocks.0", or a part of the model outside the blocks.
    """
    places: dict[str, int] = {}
    curves: dict[str, list[tuple[str, float]]] = {}
    for path, norm in norms.items():
        parts = path.split(".")
        depth = next((index for index, part in enumerate(parts) if part.isdigit()), None)
        place = ".".join(parts[: depth + 1]) if depth is not None else ".".join(parts[:-1] or parts)
        stack = ".".join(parts[:depth]) + ": " if depth is not None else ""
        name = stack + ".".join(parts[depth + 1 :]) if depth is not None else path
        places.setdefault(place, len(places))
        curves.setdefault(name, []).append((place, norm))
    return places, curves
