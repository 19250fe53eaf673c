"""The checks of an op, run when the site is built, so that a page shows only what holds.

    ```{checks} layer_norm        its table
    ```{check-summary}            one line a method, over all ops

Each case of the registry is held to differences (float64), to PyTorch (float64 and float32) and, where it has a fast
kernel, to the reference. A check that fails is a warning, and so an error of the build.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from sphinx.application import Sphinx
from sphinx.util import logging

from compyute_transformer.verify import Result, check_case, compare, compare_kernel, packages
from compyute_transformer.verify.registry import REGISTRY, Case, Op

from .markdown import MarkdownDirective, table

logger = logging.getLogger(__name__)

Checker = Callable[[Op, Case, Any], list[Result]]


class Method(NamedTuple):
    """One method to verify an op, in the dtypes in which it is run."""

    name: str
    checker: Checker
    dtypes: tuple[str, ...]


METHODS = (
    Method("directional differences", lambda op, case, dtype: check_case(op, case), ("float64",)),
    Method("PyTorch", compare, ("float64", "float32")),
    *(
        Method(
            f"kernel on the {package.upper()}",
            lambda op, case, dtype, f=package: compare_kernel(op, case, dtype, f),
            ("float32",),
        )
        for package in packages()
    ),
)


def nearness(check: Result) -> float:
    """How near an error comes to its limit; one that is not a number is beyond any."""
    return np.inf if np.isnan(check.error) else check.error / check.limit


class Line(NamedTuple):
    """What a method found in one dtype, over all cases of an op."""

    op: str
    method: str
    dtype: str
    cases: int
    checks: tuple[Result, ...]

    @property
    def worst(self) -> Result:
        """The check nearest to its limit, or furthest beyond it."""
        return max(self.checks, key=nearness)

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)


@cache
def check_all(name: str) -> tuple[Line, ...]:
    """Return the results of all methods for one op."""
    op = REGISTRY[name]
    lines = []
    for method in METHODS:
        for dtype in method.dtypes:
            found = [method.checker(op, case, np.dtype(dtype)) for case in op.cases]
            checks = tuple(check for checks in found for check in checks)
            if checks:  # an op without a kernel has no such method
                lines.append(Line(name, method.name, dtype, sum(map(bool, found)), checks))
    return tuple(lines)


def number(error: float) -> str:
    """An error as it is read."""
    return "0" if error == 0 else f"{error:.1e}"


def summarize(lines: list[Line]) -> list[object]:
    """One row: how much was compared, how near the worst came to its limit."""
    worst = max((line.worst for line in lines), key=nearness)
    return [
        sum(line.cases for line in lines),
        sum(len(line.checks) for line in lines),
        number(worst.error),
        number(worst.limit),
        "passes" if all(line.passed for line in lines) else "**FAILS**",
    ]


class Checks(MarkdownDirective):
    """The table of one op."""

    required_arguments = 1

    def markdown(self) -> str:
        """Return one row for each method and dtype."""
        lines = check_all(self.arguments[0])
        for check in [check for line in lines for check in line.checks if not check.passed]:
            logger.warning("a check fails: %s", check, location=self.get_location())
        head = ["method", "dtype", "cases", "comparisons", "worst error", "limit", "result"]
        return table(head, [[line.method, line.dtype, *summarize([line])] for line in lines])


class CheckSummary(MarkdownDirective):
    """Return one row for each method and dtype, over all ops."""

    def markdown(self) -> str:
        """Return one row for each method and dtype."""
        every = [line for name in REGISTRY for line in check_all(name)]
        kinds = list(dict.fromkeys((line.method, line.dtype) for line in every))
        rows = []
        for kind in kinds:
            lines = [line for line in every if (line.method, line.dtype) == kind]
            rows.append([*kind, len(lines), *summarize(lines)])
        return table(["method", "dtype", "ops", "cases", "comparisons", "worst error", "limit", "result"], rows)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("checks", Checks)
    app.add_directive("check-summary", CheckSummary)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
