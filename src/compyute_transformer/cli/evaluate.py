"""`compyute eval`: how good a trained model is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import terminal
from .options import Checkpoint, Json, OnDevice, RunFolder

__all__ = ["evaluate"]


def evaluate(
    run: RunFolder,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA", help="Data to judge the model by. Without DATA, the validation part of the run's own data."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the confusion matrix of a run that learned images as a picture."),
    ] = None,
    checkpoint: Checkpoint = "best",
    device: OnDevice = "cpu",
    json: Json = False,
) -> None:
    """Judge a trained model by data it was not trained on."""
    from ..training import evaluate_run
    from ..training.reporting.reporters import describe_metrics

    result = evaluate_run(run, text or (), checkpoint, device)
    if picture is not None:
        if result.confusion is None:
            raise typer.BadParameter("a confusion matrix belongs to a run that learned images.")
        result.confusion.draw(picture)
    if json:
        facts: dict[str, Any] = {"run": run, "checkpoint": checkpoint} | result.metrics
        if result.confusion is not None:
            facts["confusion"] = result.confusion.to_dict()
        terminal.print_json(facts | {"seconds": result.seconds})
        return
    typer.echo(describe_metrics(result.metrics))
    if result.confusion is not None:
        typer.echo(f"\n{result.confusion}")
    if picture is not None:
        terminal.note(f"confusion matrix: {picture}")
    if "exact_match" in result.metrics and "bleu" not in result.metrics:
        terminal.note("BLEU was left out: it needs sacreBLEU. pip install 'compyute-transformer[translation]'")
    terminal.note(f"{run}, {checkpoint} checkpoint, {result.seconds:.1f} s")
