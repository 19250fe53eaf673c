"""How large the error of a right gradient may be: bounds from the lengths of the sums and the unit roundoff.

Model. Each operation on numbers of a dtype returns the exact result times 1 + δ, |δ| ≤ u, u = 2⁻⁵³ in float64, 2⁻²⁴ in
float32; an elementary function errs by at most 4u. A number that n such factors went into is off by a factor within
1 ± γ_n, γ_n = n u/(1 − n u). `roundings` counts n for each op: the longest way from an input through the forward and
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

from collections.abc import Callable
from math import prod, sqrt
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..dispatch import use_kernels
from .cases import Arguments
from .differences import COEFFICIENTS, STEP, size_of
from .function import Function
from .registry import cotangent
from .result import Result
from .slopes import WEIGHTS, Line, line_of, other_cotangent

__all__ = ["Bounds", "gamma", "roundings", "unit_roundoff"]

ELEMENTARY = 4  # exp, tanh, erf, log, a root
CAUCHY_RADIUS = 0.25
SEVENTH = 36.0  # of the stencil: 2 Σ c_k k⁷
SCALAR_PRODUCT = 32  # a pairwise sum of up to 2²⁰ terms, in blocks of 128 of which 8 run side by side


def unit_roundoff(dtype: Any) -> float:
    """u: half the distance from 1 to the next number."""
    return float(np.finfo(dtype).eps) / 2.0


def gamma(n: int, dtype: Any) -> float:
    """γ_n = n u/(1 − n u): how far n roundings in a row can carry a number, relatively; ∞ where n u reaches 1."""
    reach = n * unit_roundoff(dtype)
    return reach / (1.0 - reach) if reach < 1.0 else float("inf")


# --- n, the longest chain of roundings through forward and backward ------------------------------------------------


def _linear(a: Arguments) -> int:
    outputs, inputs = a["weight"].shape
    return inputs + outputs + prod(a["x"].shape[:-1]) + 1  # y; dx; dweight and dbias; the bias


def _patch_embedding(a: Arguments) -> int:
    C, pixels = a["weight"].shape
    num_patches = a["images"].size // pixels  # of all images
    return pixels + C + num_patches + 1  # y; dimages; dweight and dbias; the bias


def _layer_norm(a: Arguments) -> int:
    C = a["x"].shape[-1]
    forward = 2 * C + 6 + ELEMENTARY  # mean, variance, root, three products
    backward = 2 * C + 8 + prod(a["x"].shape[:-1])  # two means, and the sum over rows
    return forward + backward


def _rms_norm(a: Arguments) -> int:
    C = a["x"].shape[-1]
    forward = C + 5 + ELEMENTARY  # the mean of squares, root, two products
    return forward + C + 6 + prod(a["x"].shape[:-1])  # one mean, and the sum over rows


def _attention_lengths(H: int, K: int, T: int, S: int, D: int) -> int:
    forward = D + 2 + ELEMENTARY + S + 1 + S + 2  # scores, exp, its sum, share, P v, dropout
    backward = T + D + 2 + S + 2 + S + T + H // K + D  # dv, dP, Σ dP P, dZ k, dZᵀ q, groups, δ of the fused form
    return forward + backward


def _attention(a: Arguments) -> int:
    _, H, T, D = a["q"].shape
    _, K, S, _ = a["k"].shape
    return _attention_lengths(H, K, T, S, D)


def _multi_head(a: Arguments) -> int:
    B, T, C = a["x"].shape
    S = T if a["memory"] is None else a["memory"].shape[1]
    H, K = a["num_heads"], a["num_kv_heads"] or a["num_heads"]
    D = a["out_weight"].shape[1] // H
    projections = 2 * C + (H + 2 * K) * D + H * D + B * (T + S) + 4  # in and out, y and dx; weights over all rows
    return _attention_lengths(H, K, T, S, D) + projections


def _cross_entropy(a: Arguments) -> int:
    V = a["logits"].shape[-1]
    return 2 * V + a["targets"].size + 2 * ELEMENTARY + 12  # Σ exp, the mean; the rows


CHAINS: dict[str, Callable[[Arguments], int]] = {
    "embedding": lambda a: a["ids"].size,
    "patch_embedding": _patch_embedding,
    "class_token": lambda a: len(a["x"]),
    "learned_position": lambda a: len(a["x"]) + 1,
    "sinusoidal_position": lambda a: 1,
    "linear": _linear,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "rotary_position": lambda a: 4,
    "relu": lambda a: 1,
    "gelu": lambda a: 2 * (ELEMENTARY + 12),
    "silu": lambda a: 2 * (ELEMENTARY + 6),
    "gated_activation": lambda a: 2 * (ELEMENTARY + 13),
    "softmax": lambda a: 2 * a["x"].shape[-1] + ELEMENTARY + 5,
    "dropout": lambda a: 2,
    "attention": _attention,
    "fused_attention": _attention,
    "sequential_multi_head": _multi_head,
    "semiparallel_multi_head": _multi_head,
    "parallel_multi_head": _multi_head,
    "fused_multi_head": _multi_head,
    "cross_entropy": _cross_entropy,
}


def roundings(op: str, arguments: Arguments) -> int:
    """The n of an op at arguments of these shapes, with the scalar product that the checks take of its result."""
    return CHAINS[op](arguments) + SCALAR_PRODUCT


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

    def __init__(self, op: str, arguments: Arguments, function: Function, seed: int) -> None:
        self.n = roundings(op, arguments)
        self.piecewise_linear = op == "relu"  # truncates nothing away from its kink, and Cauchy's circle reaches it
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
        """The result, held to its bound where that is stricter than the table."""
        return result.held_to(self.of(result))

    def of(self, result: Result) -> float:
        """The bound of a result's error."""
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
        """How much larger than γ_n a result's error may be, relative to its largest element."""
        N = sqrt(self.num_inputs)
        if argument == "y":
            total, most = self.y + N * sum(a.slope * a.stretch for a in self.along.values()), self.y_max
        else:
            name = argument.removeprefix("d")
            curved = sum(a.curvature[name] * a.stretch for a in self.along.values())
            total, most = self.g[name] * (1.0 + sqrt(self.y_size)) + N * curved, self.g_max[name]
        return total / most if most else float("inf")


def norm(x: Array | None) -> float:
    """The Euclidean length of all finite elements: moving −∞ moves nothing."""
    if x is None:
        return float("nan")
    return float(np.sqrt(np.sum(x[np.isfinite(x)] ** 2))) if x.ndim else abs(float(x))


def largest(x: Array | None) -> float:
    """The largest element, by size."""
    return float("nan") if x is None else float(np.abs(x).max(initial=0.0))


def curvature_of(ahead: Array | None, behind: Array | None) -> float:
    """‖ġ‖ by the gradients a step ahead and a step behind; a difference of two points is near enough for a norm."""
    return float("nan") if ahead is None or behind is None else norm(ahead - behind) / (2.0 * STEP)
