"""Options: how they are made, and those that several commands share."""

from typing import Annotated, Any, Literal

import typer

__all__ = ["INTERRUPTED", "Checkpoint", "Device", "Json", "OnDevice", "RunFolder", "or_none", "panel"]

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def panel(name: str) -> Any:
    """A maker of options that stand together in the help."""

    def option(help: str, *names: str, **more: Any) -> Any:
        return typer.Option(*names, help=help, rich_help_panel=name, **more)

    return option


def or_none(kind: type) -> dict[str, Any]:
    """An option that takes a number, or the word "none"."""

    def parse(text: str) -> Any:
        return text if text == "none" else kind(text)

    return {"parser": parse, "metavar": f"<{kind.__name__}|none>"}


Device = Literal["cpu", "cuda"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on the standard output, for programs.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/nano.")]
Checkpoint = Annotated[
    Literal["best", "last"],
    typer.Option(help="Use the checkpoint with the lowest validation loss (best), or the latest one (last)."),
]
OnDevice = Annotated[Device, typer.Option(help="Device to compute on.")]
