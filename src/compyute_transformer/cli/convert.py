"""`compyute convert`: write a model in the files of another program."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import terminal
from .options import Checkpoint

if TYPE_CHECKING:
    from ..training import LoadedRun

__all__ = ["convert"]

Dtype = Literal["float64", "float32", "float16", "bfloat16", "q8_0"]


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="Folder of a run, such as runs/nano; a directory of Hugging Face Transformers; a .gguf file; or "
            "the name of an installed package that holds one of them.",
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The directory to write, which Transformers opens; or a .gguf file.")
    ],
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            metavar="<name>",
            help="float64, float32, float16 or bfloat16; of a .gguf file float32, float16 or q8_0. Default: float32; "
            "of a .gguf file float16.",
        ),
    ] = None,
    num_heads: Annotated[
        int | None, typer.Option(help="Heads of a model of Compyute, whose files do not say how many.", min=1)
    ] = None,
    weights: Annotated[
        Literal["bfloat16", "int8"] | None,
        typer.Option(help="In place of --dtype: int8 for a .gguf file, bfloat16 for a directory."),
    ] = None,
    checkpoint: Checkpoint = "best",
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Of a run that trained LoRA: write that alone, in the files of PEFT.")
    ] = False,
) -> None:
    """Convert a model: a run, a published model or a .gguf file becomes a directory or a .gguf file.

    LoRA is merged into the weights, unless --adapter asks for it alone.
    """
    with terminal.loading():
        from ..exchange import Pretrained, is_pretrained, model_path
        from ..training import load_run

    check_target(source, target)
    dtype = dtype_of(weights, dtype, target)
    if is_pretrained(model_path(source)):
        if checkpoint != "best":
            raise typer.BadParameter(f"--checkpoint chooses between those of a run, and {source} is none.")
        if adapter:
            raise typer.BadParameter(f"--adapter writes the LoRA of a run, and {source} is none.")
        options: dict[str, Any] = {} if num_heads is None else {"num_heads": num_heads}
        Pretrained(source, **options).save(target, dtype)
    else:
        if num_heads is not None:
            raise typer.BadParameter(f"--num-heads is of files that do not say it, and {source} is a run.")
        save_run(source, load_run(source, checkpoint), target, dtype, adapter)
    files = [target, *target.rglob("*")]
    size = sum(file.stat().st_size for file in files if file.is_file())
    terminal.show(f"{target}: {size / 1e6:,.1f} MB\n")


def check_target(source: str, target: Path) -> None:
    """Refuse a target that is there already, or inside the source."""
    if target.suffix == ".gguf":
        if target.exists():
            raise typer.BadParameter(f"OUT is a new file, got {target}, which there is.")
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise typer.BadParameter(f"OUT is a new or an empty folder, lest files of two models mix, got {target}.")
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source)):
        raise typer.BadParameter("OUT lies inside IN: choose another folder.")


def dtype_of(weights: str | None, dtype: Any, target: Path) -> Any:
    """Return the dtype that --weights stands for. Refuse the two together, and files that do not hold such weights."""
    if weights is None:
        return dtype
    if dtype is not None:
        raise typer.BadParameter("--weights says the dtype too: leave --dtype out.")
    is_file = target.suffix == ".gguf"
    if is_file != (weights == "int8"):
        place = "a .gguf file, as its type q8_0" if weights == "int8" else "a directory"
        raise typer.BadParameter(f"weights in {weights} are kept in {place}: give an OUT of that kind.")
    return "q8_0" if is_file else weights


def save_run(source: str, run: "LoadedRun", target: Path, dtype: Any, adapter: bool) -> None:
    """Write the model of a run as a directory or as a .gguf file, or its LoRA alone."""
    from ..exchange import Pretrained, copy_beside, merge_lora, save_adapter, save_gguf, save_pretrained
    from ..training.run.start import PUBLISHED

    beside = Path(source) / PUBLISHED
    if run.settings.data.kind == "labels":
        save_labels(source, run, target, dtype, adapter)
        if beside.is_dir():
            copy_beside(beside, target)
        return
    if adapter:
        save_adapter(run.model, target, base=run.config.start.get("source", ""), dtype=dtype or "float32")
        return
    model, tokenizer = merge_lora(run.model), None if run.settings.data.kind == "images" else run.tokenizer
    if target.suffix == ".gguf" and tokenizer is not None and beside.is_dir():
        # with the end tokens and the chat template of the model that it began with
        opened = Pretrained(beside)
        opened.model, opened.tokenizer = model, tokenizer
        opened.save(target, dtype)
    elif target.suffix == ".gguf":
        save_gguf(model, target, dtype=dtype or "float16", tokenizer=tokenizer)
    else:
        save_pretrained(model, target, dtype=dtype, tokenizer=tokenizer)
        if beside.is_dir():
            copy_beside(beside, target)


def save_labels(source: str, run: "LoadedRun", target: Path, dtype: Any, adapter: bool) -> None:
    """Write the model of a run that learned labels of texts as a directory."""
    from ..training import save_classifier

    if adapter or target.suffix == ".gguf":
        place = "PEFT" if adapter else "a .gguf file"
        raise typer.BadParameter(f"{source} learned labels of texts, whose head has no place in the files of {place}.")
    save_classifier(run.model, target, run.encoder.labels, dtype=dtype, tokenizer=run.encoder.tokenizer)
