"""`compyute embed`: one vector for each text, by a published sentence transformer."""

from pathlib import Path
from typing import Annotated

import typer

from . import terminal
from .options import Kernels, OnDevice

__all__ = ["embed"]


def embed(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A directory of a BERT in the files of Hugging Face Transformers, or the name of an installed package "
            "that holds one.",
        ),
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILES", help="Files of text, a text in each line. Without FILES: the standard input."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Write the vectors to this file as an array of NumPy.")
    ] = None,
    device: OnDevice = "cpu",
    kernels: Kernels = "auto",
) -> None:
    """Print a vector for each line of text, as JSON lines, or write all of them to a file.

    Texts of like meaning have vectors of like direction: the product of two is the cosine of their angle.
    """
    with terminal.loading():
        from json import dumps

        import numpy as np

        from .. import _io
        from ..dispatch import use_kernels
        from ..errors import CorpusError
        from ..exchange import Pretrained
        from .predict import lines

    check_paths(model, out)
    if not (texts := list(lines(files or ["-"]))):
        raise CorpusError(
            "embed: there is a text to embed in each line that is not blank, got none. Give a line of text."
        )
    opened = Pretrained(model)
    with use_kernels(kernels):
        opened.model.to(device)
        vectors = opened.embed(texts)
    if out is None:
        for text, vector in zip(texts, vectors, strict=True):
            terminal.show(
                dumps({"text": text, "vector": [float(f"{x:.7g}") for x in vector]}, ensure_ascii=False) + "\n"
            )
        return

    def write(hidden: Path) -> None:
        with open(hidden, "wb") as file:
            np.save(file, vectors)

    _io.replace_file(out, write)
    terminal.show(f"{out}: {len(texts)} vectors of {vectors.shape[1]} numbers\n")


def check_paths(model: str, out: Path | None) -> None:
    """Refuse a path that is no published model, and a file that cannot be written."""
    from ..exchange import is_pretrained, model_path

    if not is_pretrained(model_path(model)):
        raise typer.BadParameter(
            f"MODEL is a directory with the config.json of a published BERT, and {model} is none: give one, or make "
            "one of a run that learned hidden tokens: compyute convert RUN DIR"
        )
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise typer.BadParameter(
            f"--out names a file in a folder that exists, got {str(out)!r}: make its folder first."
        )
