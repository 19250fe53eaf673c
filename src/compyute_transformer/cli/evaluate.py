"""`compyute eval`: measure a trained model on held-out data."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import terminal
from .options import Checkpoint, Json, Kernels, OnDevice, RunFolder

__all__ = ["evaluate"]


def evaluate(
    run: RunFolder,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA", help="Data to evaluate the model on. Without DATA: the validation part of the run's data."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the confusion matrix of an image classifier as a picture."),
    ] = None,
    checkpoint: Checkpoint = "best",
    device: OnDevice = "cpu",
    kernels: Kernels = "auto",
    json: Json = False,
) -> None:
    """Evaluate a trained model on held-out data."""
    with terminal.loading():
        from ..dispatch import use_kernels
        from ..training import evaluate_run
        from ..training.reporting.reporters import describe_metrics

    with use_kernels(kernels), terminal.bar("evaluated"):
        result = evaluate_run(run, text or (), checkpoint, device)
    if picture is not None:
        if result.confusion is None:
            raise typer.BadParameter("--picture draws a confusion matrix, which only a run that learned images has.")
        result.confusion.draw(picture)
    if json:
        facts: dict[str, Any] = {"run": run, "checkpoint": checkpoint} | result.metrics
        if result.confusion is not None:
            facts["confusion"] = result.confusion.to_dict()
        terminal.print_json(facts | {"seconds": result.seconds})
        return
    terminal.show(f"{describe_metrics(result.metrics)}\n")
    if result.confusion is not None:
        terminal.show(f"\n{result.confusion}\n")
    if picture is not None:
        terminal.note(f"confusion matrix: {picture}")
    if "exact_match" in result.metrics and "bleu" not in result.metrics:
        terminal.note("BLEU was left out: it needs sacreBLEU. pip install 'compyute-transformer[translation]'")
    part = ", on the validation part of the data that it was trained on" if result.own_data else ""
    terminal.note(f"{run}, {checkpoint} checkpoint{part}, {result.seconds:.1f} s")
