"""The terminal: what is printed, where to, and what a signal or a closed stream does."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any, NoReturn

from ..errors import CompyuteError

__all__ = [
    "BROKEN_PIPE",
    "INTERRUPTED",
    "bar",
    "folder_exists",
    "for_users",
    "loading",
    "note",
    "prepare_streams",
    "print_json",
    "show",
    "stop_output",
]

INTERRUPTED = 128 + 2  # as shells report SIGINT
BROKEN_PIPE = 128 + 13  # as shells report SIGPIPE


@contextmanager
def loading() -> Iterator[None]:
    """Let Ctrl-C end the process at once, within a `with` block that imports libraries.

    An exception in the middle of an import could be lost, or end in the traceback of another library.
    """
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(_signal: int, _frame: object) -> NoReturn:
    os.write(2, b"\nInterrupted.\n")
    os._exit(INTERRUPTED)


def prepare_streams() -> None:
    """Let the standard streams take every character, and replace those that are closed by the null device."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by `>&-`, or without a console
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (open as long as the process)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


# The function of the library that a message begins with: "load_corpus: ", "TokenBatches: ", "Trainer.load: ".
OPERATION = re.compile(r"(^|(?<=[.:] ))(?=[A-Za-z._]*[A-Z_.])[A-Za-z]\w*(\.\w+)?: ")


def for_users(error: BaseException) -> str:
    """Return the message of an error without the names of functions, which say nothing to users of the command."""
    return OPERATION.sub("", str(error)) if isinstance(error, CompyuteError) else str(error)


def folder_exists() -> bool:
    """Return whether the folder in which the command runs is still there."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def stop_output() -> None:
    """Send the rest of the output nowhere: its reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # the stream still holds what it could not write, and would try again
    os.close(nowhere)


def show(text: str) -> None:
    """Print a text at once, without the characters that would control a terminal."""
    from ..training.reporting.reporters import printable

    sys.stdout.write(printable(text, sys.stdout))
    sys.stdout.flush()


def note(text: str, style: str = "dim") -> None:
    """Print a line that is not part of the result to the standard error, in a style on a terminal."""
    from rich.console import Console
    from rich.text import Text

    from ..training.reporting.reporters import printable

    Console(stderr=True).print(Text(printable(text, sys.stderr), style=style), soft_wrap=True)


@contextmanager
def bar(what: str) -> Iterator[None]:
    """Show on a terminal how far an evaluation has come, within a `with` block."""
    from ..training.watch import watching

    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        with watching(lambda done, total: progress.update(task, completed=done, total=total)):
            yield


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object."""
    from json import dumps

    sys.stdout.write(dumps(values, indent=2) + "\n")
