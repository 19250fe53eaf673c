"""`compyute explain`: write a page that shows a run's forward and backward pass, with every number."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from . import terminal
from .options import Checkpoint, Json, Kernels, OnDevice, RunFolder, unescape, with_options

__all__ = ["explain"]


@dataclass(frozen=True)
class Computed:
    """Which weights of the run are shown, and what computes with them."""

    checkpoint: Checkpoint = "best"
    kernels: Kernels = "reference"
    device: OnDevice = "cpu"


@with_options()
def explain(
    run: RunFolder,
    prompt: Annotated[
        str, typer.Option(help="Text to explain, or the source of a translation. \\n stands for a line end.")
    ] = "",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Text that follows the prompt, which alone is then scored; the translation; or the class of the "
            "image. Default: each token of the prompt is predicted from those before it; the model's own translation; "
            "the image's own class.",
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Image to explain, for a run that learned images. Default: its first validation image."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="File to write the page to.")] = Path("page.html"),
    *,
    computed: Computed,
    json: Json = False,
) -> None:
    """Write a page that shows one forward and backward pass of a trained model.

    The page is one HTML file of less than 5 MB that opens in a browser without a network: every value with its
    gradient, the formulas and the code that ran, attention, predictions by depth, and checks by finite differences.
    """
    from time import perf_counter

    with terminal.loading():
        from .. import _io
        from ..explain.run import Request, explain_run

    began = perf_counter()
    if image is not None and not image.is_file():
        raise typer.BadParameter(f"--image names a file of an image, and there is no file {str(image)!r}.")
    if out.is_dir() or not out.parent.is_dir():
        raise typer.BadParameter(f"--out names a file in a folder that exists, got {str(out)!r}.")
    target = None if target is None else unescape(target)
    text = explain_run(
        run, Request(unescape(prompt), target, image, computed.checkpoint, computed.kernels, computed.device)
    )
    _io.replace_text(out, text)
    seconds, size = perf_counter() - began, len(text.encode())
    if json:
        terminal.print_json({"run": run, "page": str(out), "bytes": size, "seconds": seconds})
        return
    terminal.note(f"{out}: {size / 1e6:.1f} MB in {seconds:.1f} s. Open it in a browser.")
