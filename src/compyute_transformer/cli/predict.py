"""`compyute predict`: the class of images, or the target of texts, for inputs whose answers are not known."""

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import CorpusError
from . import terminal
from .options import Checkpoint, Kernels, OnDevice

__all__ = ["predict"]


def predict(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Folder of a run, such as runs/digits; or a directory of Hugging Face Transformers that classifies "
            "texts, as `compyute convert` writes it.",
        ),
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILES",
            help="Image files, or folders of them; for a run that learned pairs or labels, files with a text in each "
            "line. Without FILES, or for -, the standard input: a text, or the path of an image, in each line.",
        ),
    ] = None,
    beam: Annotated[int, typer.Option(help="Pairs: number of hypotheses in beam search; 1 is greedy search.")] = 1,
    checkpoint: Checkpoint = "best",
    device: OnDevice = "cpu",
    kernels: Kernels = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead of CSV.")] = False,
) -> None:
    """Predict the class of images, or the label or the target of texts, each with its probability.

    Prints CSV: the input, the prediction, its probability, and of a classifier the probability of every class.
    """
    with terminal.loading():
        from ..dispatch import use_kernels
        from ..training.classifiers import is_classifier

    with use_kernels(kernels):
        if not is_classifier(run):
            found = of_run(run, files or ["-"], checkpoint, device, beam)
        elif checkpoint != "best":
            raise typer.BadParameter(f"--checkpoint chooses between those of a run, and {run} is none.")
        else:
            refuse_beam(beam, run)
            found = of_directory(run, lines(files or ["-"]), device)
        number = 0
        for number, prediction in enumerate(found, 1):
            show(prediction, json, header=number == 1)
    if not number:
        raise CorpusError("predict: there is an input in each line that is not blank, got none. Give a line.")


def of_run(folder: str, files: "list[str]", checkpoint: Any, device: Any, beam: int) -> Iterator[Any]:
    """Return what a run predicts, one after the other. Refuses a run that learned something without a single answer."""
    from ..training import load_run
    from ..training.prediction import predict_images, predict_labels, predict_texts

    loaded = load_run(folder, checkpoint, device)
    kind = loaded.settings.data.kind
    if kind == "language":
        raise typer.BadParameter(
            f"{folder} learned to continue texts, which has no single answer. Continue one: compyute generate {folder}"
        )
    if kind == "masked":
        raise typer.BadParameter(
            f"{folder} learned to predict hidden tokens of texts. Evaluate it: compyute eval {folder}"
        )
    if kind in ("images", "labels"):
        refuse_beam(beam, folder)
    if kind == "images":
        given = (path for name in files for path in (lines([name]) if name == "-" else [name]))
        return predict_images(loaded, given)
    return predict_labels(loaded, lines(files)) if kind == "labels" else predict_texts(loaded, lines(files), beam)


def refuse_beam(beam: int, source: str) -> None:
    """Refuse hypotheses of a model that writes no text."""
    if beam != 1:
        raise typer.BadParameter(f"--beam is for runs that learned pairs of texts; {source} chooses among labels.")


def of_directory(folder: str, texts: Iterable[str], device: Any) -> Iterator[Any]:
    """Yield the label of each text by a classifier of a directory."""
    from ..exchange import Pretrained
    from ..training import load_classifier
    from ..training.prediction import labels_of
    from ..training.tasks.labels import LabelEncoder

    model, labels = load_classifier(folder)
    return labels_of(model.to(device), LabelEncoder(Pretrained(folder).tokenizer, labels), texts)


def lines(files: Iterable[str]) -> Iterator[str]:
    """Yield the lines of text files that are not blank, up to a tab; - is the standard input."""
    from ..data import load_corpus

    for file in files:
        if file == "-":
            if sys.stdin is None:
                raise CorpusError("the standard input is closed. Give FILES.")
            if sys.stdin.isatty():
                terminal.note("Reading from the terminal, an input in each line. End with Ctrl-D.")
            text: Iterable[str] = sys.stdin
        else:
            if not Path(file).is_file():
                raise CorpusError(
                    f"FILES are files of text, an input in each line; there is no {file}. Check the path."
                )
            text = load_corpus(Path(file)).text.split("\n")
        for line in text:
            if source := line.partition("\t")[0].strip():
                yield source


def show(prediction: Any, as_json: bool, header: bool) -> None:
    """Print a prediction as a line of CSV, the first with a header, or as a line of JSON."""
    every = dict(prediction.probabilities)
    row = {"input": prediction.input, "prediction": prediction.output, "probability": prediction.probability}
    if as_json:
        from json import dumps

        terminal.show(dumps(row | ({"probabilities": every} if every else {}), ensure_ascii=False) + "\n")
        return
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow([*row, *every])
    writer.writerow([*list(row.values())[:2], *(f"{value:.6g}" for value in (prediction.probability, *every.values()))])
    terminal.show(out.getvalue())
