"""Terminal: what is printed, and where to."""

import sys
from typing import Any

import typer

__all__ = ["note", "print_json", "show"]


def show(text: str) -> None:
    """Print a piece of text at once, without what would steer a terminal."""
    from ..training.reporting.reporters import printable

    sys.stdout.write(printable(text, sys.stdout))
    sys.stdout.flush()


def note(text: str, style: str = "dim") -> None:
    """Print what is not part of the result: on the standard error, in a style on a terminal."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(text, style=style), soft_wrap=True)


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object."""
    from json import dumps

    typer.echo(dumps(values, indent=2))
