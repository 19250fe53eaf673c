"""The proofs of an op, run as the site is built: a page cannot claim what does not hold.

    ```{proofs} layer_norm        its table
    ```{proof-summary}            one line a proof, over all ops

Each case of the registry is held to differences (float64), to PyTorch (float64 and float32) and, where it has a fast
kernel, to the reference. A proof that fails is a warning, and so an error of the build.
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

Prover = Callable[[Op, Case, Any], list[Result]]


class Proof(NamedTuple):
    """One way to prove an op, in the dtypes in which it is run."""

    name: str
    prover: Prover
    dtypes: tuple[str, ...]


PROOFS = (
    Proof("directional differences", lambda op, case, dtype: check_case(op, case), ("float64",)),
    Proof("PyTorch", compare, ("float64", "float32")),
    *(
        Proof(
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
    """What a proof found in one dtype, over all cases of an op."""

    op: str
    proof: str
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
def prove(name: str) -> tuple[Line, ...]:
    """All proofs of one op."""
    op = REGISTRY[name]
    lines = []
    for proof in PROOFS:
        for dtype in proof.dtypes:
            found = [proof.prover(op, case, np.dtype(dtype)) for case in op.cases]
            checks = tuple(check for checks in found for check in checks)
            if checks:  # an op without a kernel has no such proof
                lines.append(Line(name, proof.name, dtype, sum(map(bool, found)), checks))
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


class Proofs(MarkdownDirective):
    """The table of one op."""

    required_arguments = 1

    def markdown(self) -> str:
        """One row a proof and dtype."""
        lines = prove(self.arguments[0])
        for check in [check for line in lines for check in line.checks if not check.passed]:
            logger.warning("a proof fails: %s", check, location=self.get_location())
        head = ["proof", "dtype", "cases", "comparisons", "worst error", "limit", "verdict"]
        return table(head, [[line.proof, line.dtype, *summarize([line])] for line in lines])


class ProofSummary(MarkdownDirective):
    """One row a proof and dtype, over all ops."""

    def markdown(self) -> str:
        """One row a proof and dtype."""
        every = [line for name in REGISTRY for line in prove(name)]
        kinds = list(dict.fromkeys((line.proof, line.dtype) for line in every))
        rows = []
        for kind in kinds:
            lines = [line for line in every if (line.proof, line.dtype) == kind]
            rows.append([*kind, len(lines), *summarize(lines)])
        return table(["proof", "dtype", "ops", "cases", "comparisons", "worst error", "limit", "verdict"], rows)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("proofs", Proofs)
    app.add_directive("proof-summary", ProofSummary)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
