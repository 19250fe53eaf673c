"""The values of settings: their declaration, the checks of their types and ranges, and TOML."""

import json
import tomllib
from collections.abc import Iterable
from dataclasses import field, fields
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ...errors import ConfigError

__all__ = ["as_toml", "check_ranges", "did_you_mean", "read_toml", "require", "setting", "typed"]


def setting(
    default: Any,
    help: str,
    group: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    only_with: tuple[str, tuple[str, ...]] | None = None,
) -> Any:
    """Declare a field of a settings dataclass. The command derives its option from it.

    help: the option's help. group: the panel of the help that lists it. at_least, above, below, at_most: its range.
    only_with: another setting, and those of its values with which this one has an effect.
    """
    limits = {"at_least": at_least, "above": above, "below": below, "at_most": at_most}
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    return field(default=default, metadata={"help": help, "group": group, "limits": limits, "only_with": only_with})


def check_ranges(settings: Any) -> None:
    """Raise ConfigError unless every value of a settings dataclass lies in its declared range."""
    for entry in fields(settings):
        limits, value = entry.metadata["limits"], getattr(settings, entry.name)
        if value is None or not limits:
            continue
        within = (
            isfinite(value)
            and value >= limits.get("at_least", value)
            and value <= limits.get("at_most", value)
            and ("above" not in limits or value > limits["above"])
            and ("below" not in limits or value < limits["below"])
        )
        rule = " and ".join(f"{name.replace('_', ' ')} {_number(limit)}" for name, limit in limits.items())
        optional = ', or "none"' if NoneType in get_args(entry.type) else ""
        require(within, entry.name, f"must be {rule}{optional}", value)


def _number(limit: float) -> str:
    return "2⁶⁴" if limit == 2**64 else f"{limit:,}"


def typed(name: str, kind: Any, value: object) -> object:
    """Return the value if it has the type that the field is annotated with; an int may stand for a float."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if NoneType in options and (value is None or value == "none"):
        return None
    for option in options:
        if get_origin(option) is Literal:
            if isinstance(value, str) and value in get_args(option):
                return value
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) < 1e300 or not isinstance(value, int):  # a longer integer has no float
                return float(value)
        elif isinstance(value, option) and (option is bool or not isinstance(value, bool)):
            return value
    raise ConfigError(f"Settings: {name} must be {_describe(options)}, got {value!r} ({type(value).__name__}).")


def as_toml(value: object) -> str:
    """Return a value as TOML. JSON's strings, numbers and booleans are TOML's, except for DEL, which TOML escapes."""
    text = json.dumps("none" if value is None else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")


def _describe(options: tuple[Any, ...]) -> str:
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string", NoneType: '"none"'}
    described: list[str] = []
    for option in options:
        choices = get_args(option)
        described.append("one of " + ", ".join(f'"{c}"' for c in choices) if choices else words[option])
    return " or ".join(described)


def require(holds: bool, name: str, rule: str, value: object) -> None:
    """Raise ConfigError unless the rule holds."""
    if not holds:
        raise ConfigError(f"Settings: {name} {rule}, got {value}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that suggests known names close to an unknown one, or lists them all."""
    names = list(known)
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else f"The known names are {', '.join(names)}."


def read_toml(path: Path) -> dict[str, Any]:
    """Return the contents of a TOML file.

    Raises:
        ConfigError: the file cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Settings: the TOML file {path} must be readable; it is not: {error.strerror}. Check the path."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"Settings: {path} must be a TOML file with sections [data], [model], [training]; it is not: {error}."
        ) from error
