"""Sources: the formula and the very lines of code of an op or a module, as a page shows them."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

__all__ = ["Sources", "formula_of", "plain_function"]

PACKAGE = "compyute_transformer"


@dataclass
class Sources:
    """Gathers the source of functions; each gets a number, once."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def add(self, function: Any) -> int | None:
        """Return the number of a function's source; None where Python cannot find it, as for one typed at a prompt."""
        plain = plain_function(function)
        name = f"{plain.__module__}.{plain.__qualname__}"
        if name in self._numbers:
            return self._numbers[name]
        try:
            lines, first = inspect.getsourcelines(plain)
            file = inspect.getsourcefile(plain) or ""
        except (OSError, TypeError):
            return None
        self._numbers[name] = len(self.entries)
        entry: dict[str, Any] = {
            "name": plain.__name__,
            "file": _short(file),
            "lines": _without_docstring(lines, first),
            "helpers": [],
        }
        self.entries.append(entry)
        for helper in _helpers(plain):
            number = self.add(helper)
            if number is not None:
                entry["helpers"].append(number)
        return self._numbers[name]


def plain_function(function: Any) -> Callable[..., Any]:
    """Return the function that someone wrote, behind all that wraps it."""
    found: Callable[..., Any] = inspect.unwrap(getattr(function, "reference", function))
    return found


def formula_of(function: Any) -> str:
    """Return the formulas of an op: the paragraph of its docstring below the first sentence."""
    paragraphs = inspect.cleandoc(plain_function(function).__doc__ or "").split("\n\n")
    return paragraphs[1] if len(paragraphs) > 1 and not paragraphs[1].startswith(("Shapes", "Raises")) else ""


def _short(file: str) -> str:
    """Return a path from the package on: no page tells where someone's library lies."""
    parts = Path(file).parts
    return "/".join(parts[parts.index(PACKAGE) :]) if PACKAGE in parts else Path(file).name


def _without_docstring(lines: list[str], first: int) -> list[tuple[int, str]]:
    """Return numbered lines of a function without those of its docstring, which the page shows as formulas."""
    numbered = [(first + i, line) for i, line in enumerate(textwrap.dedent("".join(lines)).splitlines())]
    tree = ast.parse("\n".join(line for _, line in numbered))
    body = getattr(tree.body[0], "body", [])
    if len(body) > 1 and ast.get_docstring(tree.body[0]) is not None:  # type: ignore[arg-type]
        start, end = body[0].lineno, body[0].end_lineno
        numbered = numbered[: start - 1] + numbered[end:]
    return numbered


def _helpers(function: Callable[..., Any]) -> list[FunctionType]:
    """Return the plain functions of its own file that a function calls; checks of arguments are left out."""
    code = getattr(function, "__code__", None)
    found = []
    for name in () if code is None else code.co_names:
        helper = getattr(function, "__globals__", {}).get(name)
        plain = inspect.unwrap(helper) if isinstance(helper, FunctionType) else None
        if isinstance(plain, FunctionType) and plain.__module__ == function.__module__ and "check" not in name:
            found.append(plain)
    return found
