"""How large the error of a right gradient may be: bounds from the lengths of the sums and the unit roundoff.

Model. Each operation on numbers of a dtype returns the exact result times 1 + δ, |δ| ≤ u, u = 2⁻⁵³ in float64, 2⁻²⁴ in
float32; an elementary function errs by at most 4u. A number that n such factors went into is off by a factor within
1 ± γ_n, γ_n = n u/(1 − n u). The record of an op counts n: the longest way from an input through the forward and
the backward to an element of a gradient, with m for a sum of m terms, in whatever order it is taken.

An op whose n roundings are those of a stable algorithm (sums, products, exponentials, normalization) returns nearly the
exact result for nearly its input (mixed stability, Higham §1.5), and so does its backward, a function of dy and x:

    computed f(x) = f(x + e) + d,    ‖e‖ ≤ γ_n ‖x‖,  ‖d‖ ≤ γ_n ‖f(x)‖                                              (M)

To first order, with g = Jᵀ dy, J v the slope along v, and ġ the slope of g along v, which is also the gradient of
<g, v>, as second derivatives are symmetric:

    <g, v>       off by at most   A = γ_n (‖g‖ ‖v‖ + ‖dy‖ ‖J v‖ + Σ ‖x‖ ‖ġ‖)          d, then e of dy, then e of x
    <dy, f>      off by at most   B = γ_n (‖dy‖ ‖f‖ + Σ ‖x‖ ‖g‖)                                      d, then e of x

differences    A + (2 Σ|c_k|/h) B + truncation. The stencil errs by 36 a₇ h⁶ + …, a₇ the seventh Taylor coefficient of
               F(t) = <dy, f(x + t v)>; by Cauchy's estimate |a₇| ≤ M/r⁷ for M the largest odd part of F on the circle
               |t| = r inside which F is analytic. It is looked at where the circle meets the axes, r = 1/4.
complex step   A, and 4 A for the complex evaluation: a complex operation is at most four real roundings (Higham §3.6).
adjoint        the same with u for dy.
linearity, torch, kernel
               by element, between results that each obey (M): at most 2γ_n (‖y‖ + √N Σ ‖J v‖ ‖x‖/‖v‖) / max|y|, and for
               gradients g and ġ in the place of y and J v, with √(size of y) ‖g‖ for the e of dy. √N ‖J v‖/‖v‖ stands
               for ‖J‖: over random v, N ‖J v‖²/‖v‖² has the expectation ‖J‖² (Frobenius). Linearity has 1 + |a| + |b|
               results, and so that many in the place of 2.

The norms are measured along the lines of the check itself; nothing is fitted. Measured errors stay from tens to
thousands of times below these bounds, as roundings seldom conspire. Where a bound is looser than the table of
tolerances (in float32 nearly always) the table holds; see `Result.held_to`.

Source: Higham 2002, "Accuracy and stability of numerical algorithms", 2nd edition, chapters 1 to 4.
"""

from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..dispatch import use_kernels
from .differences import COEFFICIENTS, STEP, size_of
from .function import Function
from .record import Arguments, Op, cotangent
from .result import Result
from .slopes import WEIGHTS, Line, line_of, other_cotangent

__all__ = ["Bounds", "gamma", "roundings", "unit_roundoff"]

CAUCHY_RADIUS = 0.25
SEVENTH = 36.0  # of the stencil: 2 Σ c_k k⁷
SCALAR_PRODUCT = 32  # a pairwise sum of up to 2²⁰ terms, in blocks of 128 of which 8 run side by side


def unit_roundoff(dtype: Any) -> float:
    """Return u, half the distance from 1 to the next number."""
    return float(np.finfo(dtype).eps) / 2.0


def gamma(n: int, dtype: Any) -> float:
    """Return γ_n = n u/(1 − n u), how far n roundings can carry a number, relatively; ∞ where n u reaches 1."""
    reach = n * unit_roundoff(dtype)
    return reach / (1.0 - reach) if reach < 1.0 else float("inf")


def roundings(op: Op, arguments: Arguments) -> int:
    """Return the n of an op at arguments of these shapes, with the scalar product that the checks take of its result.

    Raises:
        ValueError: the record of the op does not count them.
    """
    if op.roundings is None:
        raise ValueError(f"roundings: the record of {op.name} does not count them.")
    return op.roundings(arguments) + SCALAR_PRODUCT


# --- the bounds ----------------------------------------------------------------------------------------------------


class Along(NamedTuple):
    """What is measured along the line of one input: norms, and the size of the odd part of F on a circle."""

    v: float
    slope: float  # ‖J v‖
    stretch: float  # ‖x‖/‖v‖
    odd: float
    curvature: dict[str, float]  # ‖ġ‖ of each gradient
    curvature_of_other: dict[str, float]  # the same for u


class Bounds:
    """The bounds of one case of an op. Evaluates it some ten times for each input."""

    def __init__(self, op: Op, arguments: Arguments, function: Function, seed: int) -> None:
        self.n = roundings(op, arguments)
        self.piecewise_linear = op.piecewise_linear  # truncates nothing, and Cauchy's circle reaches the kink
        with use_kernels("reference"):
            y = function.run(function.inputs)
            self.cotangents = cotangent(y, seed), other_cotangent(y, seed)
            _, (gradients, others) = function.pull(function.inputs, self.cotangents)
            self.y, self.y_size, self.y_max = norm(y), y.size, largest(y)
            self.dy, self.u = (norm(w) for w in self.cotangents)
            self.x = {name: norm(x) for name, x in function.inputs.items()}
            self.num_inputs = sum(x.size for x in function.inputs.values())
            self.g, self.g_of_other = ({k: norm(g) for k, g in found.items()} for found in (gradients, others))
            self.g_max = {name: largest(g) for name, g in gradients.items()}
            self.size = {name: size_of(x) for name, x in function.inputs.items()}
            self.along = {name: self._measure(line_of(function, [name], seed)) for name in function.inputs}

    def _measure(self, line: Line) -> Along:
        (name, v), *_ = line.directions.items()
        dy, r = self.cotangents[0], CAUCHY_RADIUS
        ahead, behind = (line.function.pull(line.values(t), self.cotangents)[1] for t in (STEP, -STEP))
        curvature = [{k: curvature_of(a[k], b[k]) for k in self.x} for a, b in zip(ahead, behind, strict=True)]
        odd = abs(np.sum(dy * line.at(r)) - np.sum(dy * line.at(-r))) / 2.0
        across = abs(np.imag(np.sum(dy * line.at(1j * r))))
        length = norm(v)
        return Along(
            v=length,
            slope=norm(line.slope_by_complex_step),
            stretch=self.x[name] / length if length else 0.0,
            odd=max(float(odd), float(across)),
            curvature=curvature[0],
            curvature_of_other=curvature[1],
        )

    def holding(self, result: Result) -> Result:
        """Return the result, held to its bound where that is stricter than the table."""
        return result.held_to(self.of(result))

    def of(self, result: Result) -> float:
        """Return the bound of a result's error."""
        if result.method in ("differences", "complex step", "adjoint"):
            return self._of_slope(result)
        if result.argument != "y" and result.argument.removeprefix("d") not in self.g:
            return result.limit  # not a number that is rounded, such as whether the inputs were left alone
        results = 1.0 + sum(map(abs, WEIGHTS)) if result.method == "linearity" else 2.0
        return results * gamma(self.n, result.dtype) * self._condition(result.argument)

    def _of_slope(self, result: Result) -> float:
        name = result.argument.removeprefix("d")
        along = self.along[name]
        adjoint = result.method == "adjoint"
        g, curvature, dy = (
            (self.g_of_other, along.curvature_of_other, self.u) if adjoint else (self.g, along.curvature, self.dy)
        )
        scale = getattr(result.error, "scale", 0.0)
        if not scale:
            return result.limit
        unit = gamma(self.n, np.float64)
        analytic = unit * (g[name] * along.v + dy * along.slope + sum(self.x[k] * curvature[k] for k in self.x))
        if result.method != "differences":
            return 5.0 * analytic / scale
        value = unit * (self.dy * self.y + sum(self.x[k] * self.g[k] for k in self.x))
        truncation = 0.0 if self.piecewise_linear else SEVENTH * STEP**6 * along.odd / CAUCHY_RADIUS**7
        return (analytic + 2.0 * sum(map(abs, COEFFICIENTS)) / STEP * value + truncation) / scale

    def _condition(self, argument: str) -> float:
        """Return how much larger than γ_n a result's error may be, relative to its largest element."""
        N = sqrt(self.num_inputs)
        if argument == "y":
            total, most = self.y + N * sum(a.slope * a.stretch for a in self.along.values()), self.y_max
        else:
            name = argument.removeprefix("d")
            curved = sum(a.curvature[name] * a.stretch for a in self.along.values())
            total, most = self.g[name] * (1.0 + sqrt(self.y_size)) + N * curved, self.g_max[name]
        return total / most if most else float("inf")


def norm(x: Array | None) -> float:
    """Return the Euclidean length of all finite elements: moving −∞ moves nothing."""
    if x is None:
        return float("nan")
    return float(np.sqrt(np.sum(x[np.isfinite(x)] ** 2))) if x.ndim else abs(float(x))


def largest(x: Array | None) -> float:
    """Return the largest element, by size."""
    return float("nan") if x is None else float(np.abs(x).max(initial=0.0))


def curvature_of(ahead: Array | None, behind: Array | None) -> float:
    """Return ‖ġ‖ by the gradients a step ahead and a step behind; two points are near enough for a norm."""
    return float("nan") if ahead is None or behind is None else norm(ahead - behind) / (2.0 * STEP)
