"""Typed readers for the JSON files of a run: every field has a type and a range, or the file is refused.

A check is a function that returns a value if it is allowed and raises ValueError, with the rule, if it is not.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from json import dumps
from math import isfinite
from typing import Any

__all__ = ["Check", "checked", "digest", "integer", "number", "optional", "plain", "table", "text"]

Check = Callable[[Any], Any]
DEPTH, ITEMS, CHARACTERS = 8, 100_000, 100_000  # bounds of a value that no schema describes


def checked(values: Any, schema: Mapping[str, Check]) -> dict[str, Any]:
    """Return an object whose fields are exactly those of a schema. Raises ValueError for any other value."""
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    if missing := [name for name in schema if name not in values]:
        raise ValueError(f"the fields {', '.join(missing)} are missing")
    if unknown := [repr(name[:40]) for name in values if name not in schema]:
        raise ValueError(f"the fields {', '.join(unknown[:5])} are not known to this version")
    result = {}
    for name, check in schema.items():
        try:
            result[name] = check(values[name])
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return result


def integer(low: int = 0, high: int = 2**63 - 1) -> Check:
    """A whole number in [low, high]."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"is a whole number from {low} to {high}, got {_short(value)}")
        return value

    return check


def number(value: Any) -> float:
    """A finite number."""
    if type(value) not in (int, float) or abs(value) > 1e300 or not isfinite(value):
        raise ValueError(f"is a finite number, got {_short(value)}")
    return float(value)


def text(value: Any) -> str:
    """A text of bounded length."""
    if not isinstance(value, str) or len(value) > CHARACTERS:
        raise ValueError(f"is a text, got {_short(value)}")
    return value


def optional(check: Check) -> Check:
    """What a check allows, or null."""
    return lambda value: None if value is None else check(value)


def table(check: Check) -> Check:
    """An object whose values all pass a check."""

    def check_all(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > ITEMS:
            raise ValueError(f"is an object, got {_short(value)}")
        return {text(name): check(each) for name, each in value.items()}

    return check_all


def plain(value: Any, depth: int = DEPTH) -> Any:
    """Any JSON value of bounded depth, with finite numbers."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict) and depth and len(value) <= ITEMS:
        return {text(name): plain(each, depth - 1) for name, each in value.items()}
    if isinstance(value, list) and depth and len(value) <= ITEMS:
        return [plain(each, depth - 1) for each in value]
    if isinstance(value, str):
        return text(value)
    if type(value) is int:
        return integer(-(2**64), 2**64)(value)
    return number(value)


def digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain values, whatever the order of their keys and the white space of their file."""
    return sha256(dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _short(value: Any) -> str:
    """The first characters of a value that is refused."""
    if isinstance(value, dict | list):
        return f"a {'JSON object' if isinstance(value, dict) else 'JSON list'}"
    if isinstance(value, int) and abs(value) >= 2**64:
        return "a number of more than 64 bits"
    return repr(value)[:60]
