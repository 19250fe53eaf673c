"""The options of the command: those made from settings, and those that several commands share."""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import typer

__all__ = [
    "Checkpoint",
    "Device",
    "HeldWeights",
    "Json",
    "Kernels",
    "OnDevice",
    "Products",
    "RunFolder",
    "flag",
    "or_none",
    "panel",
    "unescape",
    "with_options",
]

PANELS = (None, "Run", "Data", "Model", "Training", "Size", "Output")  # in the order of the help

F = TypeVar("F", bound=Callable[..., Any])


def flag(name: str) -> str:
    """Return the option of a setting: "--batch-size" of "batch_size"."""
    return "--" + name.replace("_", "-")


def panel(name: str | None) -> Any:
    """Return a function that declares options of one panel of the help; None is the first panel."""

    def option(help: str, *names: str, **more: Any) -> Any:
        return typer.Option(*names, help=help, rich_help_panel=name, **more)

    return option


def or_none(kind: type) -> dict[str, Any]:
    """Return the arguments of an option that takes a number or the word "none"."""

    def parse(text: str) -> Any:
        return text if text == "none" else kind(text)

    return {"parser": parse, "metavar": f"<{kind.__name__}|none>"}


def with_options(sections: Iterable[type] = (), first: Sequence[str] = ()) -> Callable[[F], F]:
    """Declare the options of a command that are fields of dataclasses.

    A parameter whose type is a dataclass becomes an option for each of its fields, which are annotated as a command's
    parameters are; the command is given an instance. An option for each field of the sections that has a help text in
    its metadata stands in the place of the command's `**settings`: its name, type and choices follow from the field,
    and it is None if it is not given.

    first: the options that the first panel of the help lists, in this order.
    """
    named = ((section, entry) for section in sections for entry in fields(section) if "help" in entry.metadata)
    made = [_option(section, entry, first) for section, entry in named]

    def decorate(command: F) -> F:
        signature = inspect.signature(command)
        own = [option for option in signature.parameters.values() if option.kind is not option.VAR_KEYWORD]
        records: dict[str, Any] = {option.name: option.annotation for option in own if is_dataclass(option.annotation)}

        @wraps(command)
        def call(**given: Any) -> Any:
            for name, record in records.items():
                given[name] = record(**{entry.name: given.pop(entry.name) for entry in fields(record)})
            return command(**given)

        spread = [
            part for option in own for part in (_spread(records[option.name]) if option.name in records else [option])
        ]
        options = [option.replace(kind=option.KEYWORD_ONLY) for option in spread] + made
        ordered = sorted(options, key=lambda option: _place(option, first))
        call.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]
        call.__annotations__ = {option.name: option.annotation for option in ordered}
        return cast(F, call)

    return decorate


def _spread(record: type) -> list[inspect.Parameter]:
    """Return an option for each field of a dataclass."""
    hints = get_type_hints(record, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(
            entry.name,
            kind,
            default=inspect.Parameter.empty if entry.default is MISSING else entry.default,
            annotation=hints[entry.name],
        )
        for entry in fields(record)
    ]


def _place(option: inspect.Parameter, first: Sequence[str]) -> tuple[int, int]:
    """Return the panel of an option, and its place in the first panel."""
    declared = next((part for part in get_args(option.annotation) if hasattr(part, "rich_help_panel")), None)
    name = getattr(declared, "rich_help_panel", None)
    return PANELS.index(name), first.index(option.name) if option.name in first else len(first)


def _option(section: type, entry: "Field[Any]", first: Sequence[str]) -> inspect.Parameter:
    kind = get_type_hints(section)[entry.name]
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    value = next(option for option in options if option is not NoneType)
    value = list[str] if value == Sequence[str] else value
    more: dict[str, Any] = {}
    if get_origin(value) is Literal and len("|".join(get_args(value))) > 12:
        more["metavar"] = "<name>"  # the help names the choices
    elif NoneType in options and "group" in entry.metadata:  # a setting: a preset's value may be switched off
        more, value = or_none(value), Any
    group = None if entry.name in first else entry.metadata.get("group")
    help = entry.metadata["help"]
    if group is None and "group" not in entry.metadata and entry.default not in (None, ()):
        help += f" Default: {entry.default}."  # settings have the defaults of the preset
    declared = Annotated[value if value is Any else value | None, panel(group)(help, **more)]  # type: ignore[valid-type]
    return inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=declared)


def unescape(text: str) -> str:
    r"""Return a text with \n, \t, \r and \\ replaced by a line end, a tab, a carriage return and a backslash."""
    return re.sub(r"\\([ntr\\])", lambda found: ESCAPES[found[1]], text)


ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}

Device = Literal["cpu", "cuda"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on the standard output, for programs.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/nano.")]
Checkpoint = Annotated[
    Literal["best", "last"],
    typer.Option(help="Use the checkpoint with the lowest validation loss (best), or the latest one (last)."),
]
OnDevice = Annotated[Device, typer.Option(help="Device to compute on.")]
HeldWeights = Annotated[
    Literal["float32", "bfloat16", "int8"],
    typer.Option(
        help="How the matrices are held: in bfloat16 they take half of the memory, in int8 a quarter, and text is "
        "generated faster. On a CPU."
    ),
]
Products = Annotated[
    Literal["float32", "bfloat16", "tf32", "auto"],
    typer.Option(
        metavar="<name>",
        help="Matrix products: in float32; in bfloat16 with sums in float32, by which a prompt is read faster on many "
        "processors; or, on a GPU, in tf32. auto: the fastest here.",
    ),
]
Kernels = Annotated[
    Literal["auto", "reference"],
    typer.Option(
        envvar="COMPYUTE_KERNELS",
        help="Run compiled kernels (auto), or the readable code of ops/ (reference), which is slower and follows your "
        "changes to it.",
        rich_help_panel=None,
    ),
]
