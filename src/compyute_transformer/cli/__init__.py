"""The command: one table, sub-command -> function, each of which hands its options on and prints what comes back.

    compyute train | generate | eval | verify | bench | doctor

What a command needs is imported when it runs, so that `--help` is there at once. Exit codes: 0 done, 1 an error of ours
(one message, no traceback), 2 a command line that cannot be understood, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from .._version import __version__
from ..bench.command import bench
from ..errors import CompyuteError
from . import terminal
from .evaluate import evaluate
from .generate import generate
from .options import Checkpoint, Json
from .train import train

app = typer.Typer(
    name="compyute",
    help="Transformers whose every gradient is written by hand: train one on any text, and let it write.",
    epilog="Begin with: compyute train",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; always leaves by SystemExit, with the exit code."""
    try:
        app(arguments, prog_name="compyute")
    except (CompyuteError, OSError) as error:  # OSError: a disk that fills up while a log is written, say
        terminal.note(f"Error: {error}", style="red")
        sys.exit(1)


# --- the table ---


@app.callback(invoke_without_command=True)
def _about(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"compyute-transformer {__version__}")
        raise typer.Exit


app.command()(train)
app.command()(generate)
app.command("eval")(evaluate)
app.add_typer(bench, name="bench")


METHODS = "differences, complex-step, adjoint, linearity, torch, kernel, device or implementations"


@app.command()
def verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WHAT",
            help="What to prove: names or parts of names (ops.linear, nn., models), or the folder of one run. "
            "Without WHAT, everything of the library.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="<name>", help=f"Prove by this method only: {METHODS}. May be given several times."),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a certificate, a JSON file of what was proven of the ops, if all proofs pass."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers on which the gradients are proven.")] = 0,
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Prove every gradient here and now: against slopes, PyTorch, and one implementation against another.

    Exits with 1 if anything fails. The folder of a run proves your own model, on its own validation text.
    """
    from ..verify.command import verify as prove

    if not prove(what or (), method or (), seed, certificate, json, checkpoint).passed:
        raise typer.Exit(1)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this machine is, what holds speed back, and what to install."""
    from ..environment.doctor import show as show_machine
    from ..environment.doctor import to_dict
    from ..environment.machine import examine

    machine = examine()
    if json:
        terminal.print_json(to_dict(machine))
        return
    from rich.console import Console

    show_machine(machine, Console(highlight=False))
