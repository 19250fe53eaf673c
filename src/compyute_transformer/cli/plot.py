"""`compyute plot`: the losses of one run, or of several, as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from . import terminal

__all__ = ["plot"]


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, such as runs/nano.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture: .png, .svg or .pdf.")] = Path("loss.png"),
) -> None:
    """Draw the training and validation losses of runs by step, several in one picture."""
    with terminal.loading():
        from ..plotting import plot_loss, save_figure

    save_figure(plot_loss(*runs), out)
    terminal.note(f"losses: {out}")
