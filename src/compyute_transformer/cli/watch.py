"""`compyute watch`: follow running trainings on a page of this machine."""

from pathlib import Path
from typing import Annotated

import typer

from . import terminal

__all__ = ["watch"]


def watch(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, or folders that hold runs, such as runs."),
    ],
    port: Annotated[
        int, typer.Option(help="Port of the page on this machine. 0: any that is free.", min=0, max=65535)
    ] = 8100,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
) -> None:
    """Follow running trainings live on a local page: losses, gradient norms, samples and weights, several runs at once.

    The page reads the logs and checkpoints of the runs; the trainings do not notice. Ctrl-C ends it.
    """
    with terminal.loading():
        from ..watch import Watcher

    try:
        watcher = Watcher(runs, port)
    except OSError as error:
        reason = f"--port names a free port, and {port} is not: {error.strerror}. Give --port 0."
        raise typer.BadParameter(reason) from error
    terminal.note(f"{watcher.url} Ctrl-C ends it.")
    if browser:
        import webbrowser

        webbrowser.open(watcher.url)
    try:
        watcher.serve()
    except KeyboardInterrupt:
        terminal.note("")
