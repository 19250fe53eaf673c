"""`compyute summary`: the layers of a trained model, their parameters, operations and memory."""

from typing import Annotated

import typer

from . import terminal
from .options import Json, RunFolder

__all__ = ["summary"]


def summary(
    run: RunFolder,
    depth: Annotated[
        int, typer.Option(metavar="<number>", help="1: a line a block; 2: also its attention and feed-forward.")
    ] = 1,
    json: Json = False,
) -> None:
    """Print parameters, bytes, operations a token, and memory kept for the backward, a line for each layer."""
    with terminal.loading():
        from ..training import load_run

    found = load_run(run).model.summary(depth)
    if json:
        layers = [layer._asdict() for layer in found.layers]
        facts = {"model": found.model, "example": found.example, "flops_per_token": found.flops_per_token}
        terminal.print_json(facts | {"layers": layers, "total": found.total._asdict()})
        return
    terminal.show(f"{found}\n")
