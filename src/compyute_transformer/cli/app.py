"""The table of commands, each of which hands its options on and prints the result.

compyute train | generate | chat | convert | embed | eval | predict
        | explain | plot | watch | summary | verify | grade | bench | doctor
"""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .._version import __version__
from . import terminal
from .bench import bench
from .chat import chat
from .convert import convert
from .embed import embed
from .evaluate import evaluate
from .explain import explain
from .generate import generate
from .grade import grade
from .options import Checkpoint, Json, OnDevice
from .plot import plot
from .predict import predict
from .summary import summary
from .train import EPILOG, train
from .watch import watch

__all__ = ["app"]

FAMILIAR = {  # options by the names that other programs give them
    **dict.fromkeys(("--lr", "--max-lr"), "--learning-rate"),
    **dict.fromkeys(("--gpu", "--cuda"), "--device"),
    **dict.fromkeys(("--epochs", "--iters", "--max-iters", "--max-steps"), "--steps"),
    **dict.fromkeys(("--layers", "--n-layer", "--n-layers", "--depth"), "--num-layers"),
    **dict.fromkeys(("--heads", "--n-head", "--n-heads"), "--num-heads"),
    **dict.fromkeys(("--n-embd", "--width", "--d-model", "--hidden-size", "--dim"), "--embed-dim"),
    **dict.fromkeys(("--block-size", "--seq-len", "--context", "--max-length"), "--context-length"),
    **dict.fromkeys(("--output", "--output-dir", "--out-dir"), "--out"),
    **dict.fromkeys(("--length", "--max-tokens", "--tokens"), "--max-new-tokens"),
    **dict.fromkeys(("--temp", "--t"), "--temperature"),
    "--grad-clip": "--clip",
    "--wd": "--weight-decay",
    "--bs": "--batch-size",
}


class Command(TyperCommand):
    """A command that suggests its options for the names that other programs give them, with help for 80 columns."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help. The negative form of a switch stands in its text: as a column it leaves no room."""
        for option in self.params:
            if getattr(option, "secondary_opts", None):
                option.help = f"{option.help} Off: {option.secondary_opts[0]}."  # type: ignore[attr-defined]
                option.secondary_opts = []
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; the error for an unknown option suggests ours."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            meant = FAMILIAR.get(getattr(error, "option_name", None) or "")
            if meant is not None and any(meant in option.opts for option in self.params):
                error.possibilities = [meant]  # type: ignore[attr-defined]
            raise


class Commands(TyperGroup):
    """The commands, which end quietly when they are interrupted or nobody reads their output."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            terminal.note(str(stop) or "Interrupted.", style="")
            raise typer.Exit(terminal.INTERRUPTED) from stop
        except BrokenPipeError as gone:
            terminal.stop_output()
            raise typer.Exit(terminal.BROKEN_PIPE) from gone
        except Exception as error:
            if isinstance(message := getattr(error, "message", None), str):
                error.message = in_our_words(message)  # type: ignore[attr-defined]
            raise


# What the library that reads the command line says of values, and what is said here.
SENTENCES = {
    "Input should be a valid integer, unable to parse string as an integer": "it is a whole number.",
    "Input should be a valid number, unable to parse string as a number": "it is a number.",
    "Input should be": "it must be",
    "Value error, ": "",
}


def in_our_words(message: str) -> str:
    """Return a message about the command line without the sentences of the library that reads it."""
    for theirs, ours in SENTENCES.items():
        message = message.replace(theirs, ours)
    return message


app = typer.Typer(
    name="compyute",
    cls=Commands,
    help="Train transformers whose every gradient is written by hand, and use, verify and measure them.",
    epilog="Start with: compyute train",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _about(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        terminal.show(f"compyute-transformer {__version__}\n")
        raise typer.Exit


app.command(cls=Command, epilog=EPILOG)(train)
app.command(cls=Command, epilog='Example: compyute generate runs/nano --prompt "The " --max-new-tokens 100')(generate)
app.command(cls=Command, epilog='Example: compyute chat model.gguf --prompt "What is the capital of France?"')(chat)
app.command(cls=Command, epilog="Example: compyute convert runs/nano nano-for-transformers")(convert)
app.command(cls=Command, epilog="Example: compyute embed all-MiniLM-L6-v2 sentences.txt --out vectors.npy")(embed)
app.command("eval", cls=Command, epilog="Example: compyute eval runs/nano other_text.txt")(evaluate)
app.command(cls=Command, epilog='Example: compyute explain runs/nano --prompt "The statement is"')(explain)
app.command(cls=Command, epilog="Example: compyute predict runs/digits scan.png photos/")(predict)
app.command(cls=Command, epilog="Example: compyute plot runs/nano runs/wide --out losses.png")(plot)
app.command(cls=Command, epilog="Example: compyute watch runs")(watch)
app.command(cls=Command, epilog="Example: compyute summary runs/nano --depth 2")(summary)
app.command(cls=Command, epilog="Example: compyute grade softmax.py --answer")(grade)
app.add_typer(bench, name="bench")


METHODS = "differences, complex-step, adjoint, linearity, torch, training, kernel, device or implementations"


@app.command(epilog="Example: compyute verify ops.linear --method differences")
def verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WHAT",
            help="What to verify: names or parts of names (ops.linear, nn., models), or the folder of one run. "
            "Without WHAT: the whole library.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="<name>", help=f"Verify by this method only: {METHODS}. May be given several times."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random inputs.")] = 0,
    checkpoint: Checkpoint = "best",
    device: OnDevice = "cpu",
    json: Json = False,
) -> None:
    """Verify gradients against finite differences, PyTorch, and other implementations.

    Exits with 1 if a check fails. The folder of a run verifies your own model on its own validation text.
    """
    from ..verify.command import verify as run

    if not run(what or (), method or (), seed, json, checkpoint, device).passed:
        raise typer.Exit(1)


@app.command()
def doctor(json: Json = False) -> None:
    """Report this machine's processor, libraries and settings, and what limits speed."""
    from ..environment.doctor import show as show_machine
    from ..environment.doctor import to_dict
    from ..environment.machine import examine

    machine = examine()
    if json:
        terminal.print_json(to_dict(machine))
        return
    from rich.console import Console

    show_machine(machine, Console(highlight=False))
