"""`compyute convert`: write a model in the files of another program."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import terminal
from .options import Checkpoint

__all__ = ["convert"]

Dtype = Literal["float64", "float32", "float16", "bfloat16"]


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="Folder of a run, such as runs/nano; a directory of Hugging Face Transformers; a .gguf file; or "
            "the name of an installed package that holds one of them.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to write, which Transformers opens.")],
    dtype: Annotated[
        Dtype | None, typer.Option(metavar="<name>", help="float64, float32, float16 or bfloat16. Default: float32.")
    ] = None,
    checkpoint: Checkpoint = "best",
) -> None:
    """Convert a model: a run, a published model or a .gguf file becomes a directory that Transformers opens."""
    with terminal.loading():
        from ..exchange import Pretrained, is_pretrained, model_path, save_pretrained
        from ..training import load_run

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise typer.BadParameter(f"OUT is a new or an empty folder, lest files of two models mix, got {target}.")
    if target.resolve().is_relative_to(Path(source).resolve()):
        raise typer.BadParameter("OUT lies inside IN: choose another folder.")
    if is_pretrained(model_path(source)):
        if checkpoint != "best":
            raise typer.BadParameter(f"--checkpoint chooses between those of a run, and {source} is none.")
        Pretrained(source).save(target, dtype)
    else:
        run = load_run(source, checkpoint)
        tokenizer = None if run.settings.data.kind == "images" else run.tokenizer
        save_pretrained(run.model, target, dtype=dtype, tokenizer=tokenizer)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    terminal.show(f"{target}: {size / 1e6:,.1f} MB\n")
