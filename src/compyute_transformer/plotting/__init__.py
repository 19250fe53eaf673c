"""Plots, each in one line: losses of runs, gradients by depth, attention weights, positions, a confusion matrix.

    from compyute_transformer import plotting

    plotting.loss("runs/nano", "runs/wide")         several runs beside each other
    plotting.gradients(model)                       after a backward
    plotting.attention(model, ids, labels)
    plotting.positions(model)

Each returns a figure of Matplotlib, which a notebook displays where it is the last line of a cell; `save_figure` writes
it to a file. pip install 'compyute-transformer[pictures]'
"""

from .confusion import plot_confusion
from .figure import save_figure
from .gradient import gradient_norms, gradients
from .heads import attention, plot_attention
from .losses import loss, plot_loss
from .position import positions

__all__ = [
    "attention",
    "gradient_norms",
    "gradients",
    "loss",
    "plot_attention",
    "plot_confusion",
    "plot_loss",
    "positions",
    "save_figure",
]
