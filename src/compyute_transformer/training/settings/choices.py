"""Values: what a setting may be, by the type it is annotated with; and TOML, from which and to which values go."""

import json
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ...errors import ConfigError

__all__ = ["as_toml", "did_you_mean", "read_toml", "require", "typed"]


def typed(name: str, kind: Any, value: object) -> object:
    """The value, if it is of the kind that the field is annotated with; whole numbers may stand for floats."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if NoneType in options and (value is None or value == "none"):
        return None
    for option in options:
        if get_origin(option) is Literal:
            if isinstance(value, str) and value in get_args(option):
                return value
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, option) and (option is bool or not isinstance(value, bool)):
            return value
    raise ConfigError(f"Settings: {name} is {_describe(options)}, got {value!r} ({type(value).__name__}).")


def as_toml(value: object) -> str:
    """A value as TOML has it; JSON's texts, numbers and booleans are TOML's too, but for DEL, which TOML escapes."""
    text = json.dumps("none" if value is None else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")


def _describe(options: tuple[Any, ...]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: '"none"'}
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
    """What may have been meant by a name that is not known."""
    names = list(known)
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else f"There are {', '.join(names)}."


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises ConfigError for one that cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Settings: the TOML file {path} must be readable; it is not: {error.strerror}. Check the path."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"Settings: {path} must be a TOML file with sections [data], [model], [training]; it is not: {error}."
        ) from error
