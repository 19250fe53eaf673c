"""`compyute eval`: measure a trained model on held-out data."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import terminal
from .models import ModelPath, OpenedModel, open_model
from .options import Checkpoint, HeldWeights, Json, Kernels, OnDevice, with_options

if TYPE_CHECKING:
    from ..training.run.load import Evaluation

__all__ = ["evaluate"]

OF_IMAGES = "--picture draws a confusion matrix, which only a run that learned images has."


@dataclass(frozen=True)
class How:
    """How a model is evaluated, whatever it learned."""

    weights: HeldWeights = "float32"
    device: OnDevice = "cpu"
    kernels: Kernels = "auto"
    json: Json = False


@with_options()
def evaluate(
    run: ModelPath,
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
    stride: Annotated[
        int | None,
        typer.Option(
            help="Of a published model: tokens by which its window moves over the text; fewer give each token more "
            "context, and take longer. Default: half a window."
        ),
    ] = None,
    checkpoint: Checkpoint = "best",
    data: Annotated[list[str] | None, typer.Option(metavar="DATA", help="The same as the argument DATA.")] = None,
    *,
    how: How,
) -> None:
    """Evaluate a trained model on held-out data.

    Of a published model: the perplexity of the text, in overlapping windows.
    """
    with terminal.loading():
        from ..dispatch import use_kernels
        from ..exchange import is_pretrained, model_path
        from ..training import evaluate_run

    text = [*(text or []), *(data or [])]
    if is_pretrained(model_path(run)):
        if picture is not None:
            raise typer.BadParameter(OF_IMAGES)
        with use_kernels(how.kernels):
            evaluate_pretrained(run, text, stride, open_model(run, checkpoint, how.device, how.weights), how.json)
        return
    if how.weights != "float32":
        raise typer.BadParameter(
            "--weights is for published models; a run is evaluated as it was trained. Convert it first: compyute "
            "convert RUN DIR"
        )
    if stride is not None:
        raise typer.BadParameter("--stride is for published models; a run is evaluated in windows side by side.")
    with use_kernels(how.kernels), terminal.bar("evaluated"):
        result = evaluate_run(run, text, checkpoint, how.device)
    if picture is not None:
        if result.confusion is None:
            raise typer.BadParameter(OF_IMAGES)
        result.confusion.draw(picture)
    if how.json:
        show_json(result, {"run": run, "checkpoint": checkpoint})
        return
    show(result, f"{run}, {checkpoint} checkpoint", picture)


def show_json(result: "Evaluation", facts: dict[str, Any]) -> None:
    """Print an evaluation for programs."""
    facts = facts | result.metrics
    if result.confusion is not None:
        facts["confusion"] = result.confusion.to_dict()
    terminal.print_json(facts | {"seconds": result.seconds})


def show(result: "Evaluation", origin: str, picture: Path | None) -> None:
    """Print an evaluation for people."""
    from ..training.reporting.reporters import describe_metrics

    terminal.show(f"{describe_metrics(result.metrics)}\n")
    if result.confusion is not None:
        terminal.show(f"\n{result.confusion}\n")
    if picture is not None:
        terminal.note(f"confusion matrix: {picture}")
    if "exact_match" in result.metrics and "bleu" not in result.metrics:
        terminal.note("BLEU was left out: it needs sacreBLEU. pip install 'compyute-transformer[translation]'")
    part = ", on the validation part of the data that it was trained on" if result.own_data else ""
    terminal.note(f"{origin}{part}, {result.seconds:.1f} s")


def evaluate_pretrained(path: str, data: list[str], stride: int | None, opened: OpenedModel, json: bool) -> None:
    """Print the perplexity of texts to a published model."""
    from time import perf_counter

    from ..data import load_corpus
    from ..generation import evaluate_ids
    from ..training.reporting.reporters import describe_metrics

    if opened.kind != "language":
        raise typer.BadParameter(
            f"a published model that continues texts is evaluated, got one that learned {opened.kind}: evaluate the "
            "run that it was converted from, or give another model."
        )
    if not data:
        raise typer.BadParameter("a published language model is evaluated on texts: compyute eval MODEL FILE")
    began, ids = perf_counter(), opened.encode(load_corpus(data).text)
    metrics = evaluate_ids(opened.model, opened.tokenizer, ids, stride=stride)
    seconds = perf_counter() - began
    if json:
        terminal.print_json({"run": path} | metrics | {"seconds": seconds})
        return
    terminal.show(f"{describe_metrics(metrics)}\n")
    terminal.note(f"{path}, {seconds:.1f} s")
