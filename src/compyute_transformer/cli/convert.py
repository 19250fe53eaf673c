"""`compyute convert`: write a model in the files of another program."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zipfile import is_zipfile

import typer

from ..errors import ConfigError
from . import terminal
from .options import Checkpoint

if TYPE_CHECKING:
    from ..training import LoadedRun

__all__ = ["convert"]

Dtype = Literal["float64", "float32", "float16", "bfloat16", "q8_0"]
OF_COMPYUTE = "--num-heads is of files that do not say it"
OF_ONE_KIND = {"float64": "a directory", "bfloat16": "a directory", "q8_0": "a .gguf file"}


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
        from ..exchange import is_pretrained, model_path
        from ..training import load_run

    check_target(source, target, adapter)
    dtype = dtype_of(weights, dtype, target)
    if is_pretrained(model_path(source)):
        save_published(source, target, dtype, num_heads, checkpoint, adapter)
    else:
        if num_heads is not None:
            raise typer.BadParameter(f"{OF_COMPYUTE}, and {source} is a run: leave it out.")
        run = load_run(source, checkpoint)
        check_run(source, run, adapter)
        save_run(source, run, target, dtype, adapter)
    files = [target, *target.rglob("*")]
    size = sum(file.stat().st_size for file in files if file.is_file())
    terminal.show(f"{target}: {size / 1e6:,.1f} MB\n")


def check_target(source: str, target: Path, adapter: bool) -> None:
    """Refuse a target that is there already, that cannot be made, or that lies inside the source."""
    if target.suffix == ".gguf":
        if adapter:
            raise typer.BadParameter(f"--adapter writes a directory of PEFT, got {target}: give an OUT of that kind.")
        if target.exists():
            raise typer.BadParameter(f"OUT is a new file, got {target}, which there is: choose another name.")
        if not target.parent.is_dir():
            raise typer.BadParameter(f"OUT is a file in a folder that exists, got {target}: make its folder first.")
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise typer.BadParameter(
            f"OUT is a new or an empty folder, lest files of two models mix, got {target}: choose another."
        )
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source)):
        raise typer.BadParameter("OUT lies inside IN: choose another folder.")


def dtype_of(weights: str | None, dtype: Any, target: Path) -> Any:
    """Return the dtype that --weights stands for. Refuse the two together, and files that do not hold such weights."""
    is_file = target.suffix == ".gguf"
    if weights is None:
        if dtype in OF_ONE_KIND and is_file != (dtype == "q8_0"):
            raise typer.BadParameter(
                f"--dtype {dtype} is of {OF_ONE_KIND[dtype]}, got {target}: give an OUT of that kind, or another dtype."
            )
        return dtype
    if dtype is not None:
        raise typer.BadParameter("--weights says the dtype too: leave --dtype out.")
    if is_file != (weights == "int8"):
        place = "a .gguf file, as its type q8_0" if weights == "int8" else "a directory"
        raise typer.BadParameter(f"weights in {weights} are kept in {place}: give an OUT of that kind.")
    return "q8_0" if is_file else weights


def save_published(
    source: str, target: Path, dtype: Any, num_heads: int | None, checkpoint: str, adapter: bool
) -> None:
    """Write a published model as a directory or as a .gguf file. Refuse the options of runs, and heads that it says."""
    from ..exchange import Pretrained, model_path

    for option, given in (
        ("--checkpoint chooses between those", checkpoint != "best"),
        ("--adapter writes the LoRA", adapter),
    ):
        if given:
            raise typer.BadParameter(f"{option} of a run, and {source} is none: leave it out.")
    options: dict[str, Any] = {} if num_heads is None else {"num_heads": num_heads}
    if options and not is_pickle(model_path(source)):
        raise typer.BadParameter(f"{OF_COMPYUTE}, and {source} says it: leave it out.")
    Pretrained(source, **options).save(target, dtype)


def is_pickle(path: Path) -> bool:
    """Return whether a file is one of Compyute: no GGUF file, and none of torch.save, which is a zip file."""
    return path.is_file() and path.suffix != ".gguf" and not is_zipfile(path)


def check_run(source: str, run: "LoadedRun", adapter: bool) -> None:
    """Refuse a run whose model has no place in the files that are asked for."""
    from ..exchange.names import family_of
    from ..training.run import checkpoint

    if adapter and run.settings.training.lora_rank is None:
        raise ConfigError(
            f"convert: --adapter writes the LoRA of a run, and {source} trained all its weights. Leave it out, or "
            "train LoRA: compyute train DATA --from MODEL --lora-rank 8"
        )
    if family_of(run.config.model) is None:
        weights = checkpoint.folder_of(Path(source), run.step) / checkpoint.MODEL
        raise ConfigError(
            "convert: a model is a gpt, llama, bert or vit, which other programs have too, and "
            f"{source} is a {run.settings.model.architecture}. It stays a run; any program reads its weights: {weights}"
        )


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
