"""Gradients against slopes: how the output moves when one input moves along a random line x + t v.

    J v            the slope of f along the line, an array like y: by differences, or by a complex step
    differences    <dy, J v> = <g, v>, J v by six-point central differences (see `differences`)
    complex step   the same, J v = Im f(x + i h v)/h with h = 1e-20
    adjoint        <u, J v> = <Jᵀ u, v>: the backward of another u, laid out in columns and half of it zero
    linearity      Jᵀ(a u₁ + b u₂) = a Jᵀ u₁ + b Jᵀ u₂, by element

A complex step subtracts nothing, so no digit is lost: f(x + i h v) = f(x) + i h J v − h² …, and h² is far below the
last digit of anything. It asks that f be analytic, and that its code run on complex numbers:

    softmax, attention, cross-entropy    the largest score is only a shift, of which the result does not depend; any
                                         number would do, a complex one too
    ReLU                                 is not analytic at 0. It is on either side, where NumPy's maximum, which
                                         orders complex numbers by their real part first, continues each branch

so ReLU is verified away from its kink, by both methods, and its gradient at 0 is a definition, as the remark of its
record says.

Errors are |left − right| over the largest of |left|, |right| and s ‖g‖, the size that <g, v> has over all v of standard
deviation s (why: see `differences`).

Source: Squire, Trapp 1998, "Using complex variables to estimate derivatives of real functions"; Martins et al. 2003.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zlib import crc32

import numpy as np

from ..arrays import Array
from ..dispatch import use_kernels
from .differences import STEP, derivative, size_of
from .function import Function
from .record import SLOPES, cotangent
from .result import Label, Measured, Result, relative_error
from .tolerances import Method, limit

__all__ = [
    "COMPLEX_STEP",
    "WEIGHTS",
    "Line",
    "compare_linearity",
    "compare_slopes",
    "draw",
    "line_of",
    "other_cotangent",
]

COMPLEX_STEP = 1e-20
WEIGHTS = (2.0, -0.5)  # a and b of linearity: powers of two, so that a u₁ + b u₂ rounds but once

# What a number is drawn for; 1 is the cotangent of `registry.cotangent`.
INPUT, DIRECTION, OTHER, FIRST, SECOND = 0, 2, 3, 4, 5


def draw(seed: int, purpose: int, name: str, shape: tuple[int, ...]) -> Array:
    """Return standard normal numbers for a purpose and a name, whatever else is drawn."""
    return np.asarray(np.random.default_rng([seed, purpose, crc32(name.encode())]).normal(size=shape))


def other_cotangent(y: Array, seed: int) -> Array:
    """Return a dy unlike the first: half of it zero, so that rows of y differ in weight, and stored by columns."""
    u = draw(seed, OTHER, "dy", y.shape).astype(y.dtype)
    return np.asfortranarray(np.where(draw(seed, OTHER, "zero", y.shape) > 0, u, 0.0)) if u.ndim else u


@dataclass(frozen=True)
class Line:
    """x + t v through inputs of a function.

    directions: v, by the names of the inputs that move. step: of differences.
    """

    function: Function
    directions: dict[str, Array]
    step: float = STEP

    def values(self, t: complex) -> dict[str, Array]:
        """Return the inputs at t; complex throughout for a complex t, as an op wants one dtype."""
        inputs = self.function.inputs
        if isinstance(t, complex):
            inputs = {name: x.astype(np.complex128) for name, x in inputs.items()}
        return inputs | {name: inputs[name] + t * v for name, v in self.directions.items()}

    def at(self, t: complex) -> Array:
        """Return the function at t."""
        return self.function.run(self.values(t))

    @cached_property
    def slope_by_differences(self) -> Array:
        """Return J v, by six points on the line."""
        return np.asarray(derivative(self.at, self.step))

    @cached_property
    def slope_by_complex_step(self) -> Array:
        """Return J v, by one complex point beside it."""
        return np.asarray(np.imag(self.at(1j * COMPLEX_STEP)) / COMPLEX_STEP)

    def against(self, dy: Array, slope: Array, gradients: dict[str, Array | None]) -> Measured:
        """Compare <Jᵀ dy, v> with <dy, J v>."""
        given = ((name, gradients[name]) for name in self.directions)
        found = {name: g for name, g in given if g is not None and g.shape == self.directions[name].shape}
        if len(found) < len(self.directions):
            return Measured(float("inf"))  # a gradient is missing, or would be broadcast
        ours = sum(float(np.sum(g * self.directions[name])) for name, g in found.items())
        theirs = float(np.sum(dy * slope))
        sizes = (size_of(self.function.inputs[name]) ** 2 * np.sum(g**2) for name, g in found.items())
        scale = float(np.max([abs(ours), abs(theirs), np.sqrt(sum(sizes))]))  # NumPy's max keeps a NaN
        return Measured(abs(ours - theirs) / scale if scale else 0.0, ours, theirs, scale)


def line_of(function: Function, names: Sequence[str], seed: int, step: float = STEP) -> Line:
    """Return the line along which the named inputs move, each by a random direction of its own size."""
    inputs = function.inputs
    directions = {n: draw(seed, DIRECTION, n, inputs[n].shape) * size_of(inputs[n]) for n in names}
    return Line(function, directions, step)


def compare_slopes(
    function: Function,
    label: Label,
    seed: int = 0,
    groups: Sequence[tuple[str, ...]] | None = None,
    methods: Sequence[Method] = SLOPES,
    step: float = STEP,
) -> Iterator[Result]:
    """Compare gradients with slopes of the references in float64.

    groups: names of inputs that move together; by default each input moves alone.
    """
    with use_kernels("reference"):
        inputs = function.inputs
        y = function.run(inputs)
        dy, u = cotangent(y, seed), other_cotangent(y, seed)
        _, (gradients, others) = function.pull(inputs, [dy, u])
        for names in groups or [(name,) for name in inputs]:
            line = line_of(function, names, seed, step)
            argument = ", ".join(f"d{name}" for name in names)
            yield from slopes_along(line, argument, (dy, u), (gradients, others), label, methods)


def slopes_along(
    line: Line,
    argument: str,
    cotangents: tuple[Array, Array],
    gradients: tuple[dict[str, Any], dict[str, Any]],
    label: Label,
    methods: Sequence[Method],
) -> Iterator[Result]:
    """Compare by each method along one line."""
    (dy, u), (of_dy, of_u) = cotangents, gradients
    for method in methods:
        if method == "differences":
            error = line.against(dy, line.slope_by_differences, of_dy)
        elif method == "complex step":
            error = line.against(dy, line.slope_by_complex_step, of_dy)
        else:
            error = line.against(u, line.slope_by_complex_step, of_u)
        yield label.result(method, np.float64, argument, error, limit(method, np.float64))


def compare_linearity(function: Function, label: Label, dtype: Any, seed: int = 0) -> Iterator[Result]:
    """Compare the backward of a sum with the sum of the backwards: what is saved is not spent, and dy enters once."""
    a, b = (np.dtype(dtype).type(weight) for weight in WEIGHTS)
    y = function.run(function.inputs)
    first, second = (np.asarray(draw(seed, purpose, "dy", y.shape), dtype) for purpose in (FIRST, SECOND))
    _, (of_first, of_second, of_sum) = function.pull(function.inputs, [first, second, a * first + b * second])
    for name in function.inputs:
        one, other, together = of_first[name], of_second[name], of_sum[name]
        if one is None or other is None or together is None:
            error = Measured(float("inf"))
        else:
            error = relative_error(together, a * one + b * other)
        yield label.result("linearity", dtype, f"d{name}", error, limit("linearity", dtype))
