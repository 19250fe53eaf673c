"""Gradients against differences of the function itself, in float64, with NumPy alone.

A gradient g of <dy, f(x)> says what happens along every direction v: the slope is <g, v>. So one random direction over
all inputs tests all of g at once: if g is off by δ, the test sees <δ, v>, which is zero for almost no v.

    numeric  = <dy, d/dt f(x + t v)> at t = 0, by six points:
               f′(0) ≈ (1/h) Σ_k c_k (f(kh) − f(−kh)),  c = 3/4, −3/20, 1/60;  truncation h⁶ f⁽⁷⁾/140, rounding ≈ ε/h
    analytic = <g, v>
    error    = |numeric − analytic| / max(|numeric|, |analytic|, s ‖g‖)

With v normal of standard deviation s, the size of x, and h = 2⁻⁹, both errors of the difference are at most about 1e-11
on every case of the registry, so right gradients keep a limit of 1.5e-8 with room to spare, and wrong ones do not.

s ‖g‖ is the standard deviation of <g, v> over all v. Without it, a v that happens to be nearly orthogonal to g would
leave a slope of nearly nothing to divide by, and call rounding a wrong gradient. It cannot excuse a wrong one: a g that
is wrong by a tenth of its norm errs by about a tenth of that term.

Source: the directional test is folklore; the coefficients are Fornberg 1988, "Generation of finite difference formulas
on arbitrarily spaced grids", table 1, order 6.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arrays import Array

__all__ = ["COEFFICIENTS", "STEP", "derivative", "directional_error", "size_of"]

STEP = 2.0**-9
COEFFICIENTS = (3 / 4, -3 / 20, 1 / 60)


def derivative(function: Callable[[float], Any], step: float = STEP) -> Any:
    """Return the slope at 0 of a function of one number, which may return an array, by six-point differences."""
    slope = 0.0
    for k, coefficient in enumerate(COEFFICIENTS, start=1):
        slope = slope + coefficient * (function(k * step) - function(-k * step))
    return slope / step


def directional_error(
    function: Callable[..., Any],
    gradients: Sequence[Array],
    inputs: Sequence[Array],
    dy: Array | float = 1.0,
    seed: int = 0,
    step: float = STEP,
) -> float:
    """Return how far gradients are from the slope of <dy, function(*inputs)> along one random direction.

    All inputs move at once. For a model, give its flat buffer as the one input and a function that returns the loss:

        directional_error(loss_at, [model_gradient], [weights], seed=3)

    Raises:
        ValueError: gradients and inputs differ in number or shape.
    """
    if [g.shape for g in gradients] != [x.shape for x in inputs]:
        raise ValueError(
            "directional_error: one gradient of the same shape for each input, got "
            f"{[g.shape for g in gradients]} for {[x.shape for x in inputs]}."
        )
    rng = np.random.default_rng([seed, 2])  # neither the draw of the inputs nor that of dy
    sizes = [size_of(x) for x in inputs]
    direction = [rng.normal(size=x.shape) * size for x, size in zip(inputs, sizes, strict=True)]
    slope = derivative(lambda t: function(*(x + t * v for x, v in zip(inputs, direction, strict=True))), step)
    numeric = np.sum(dy * slope)
    analytic = sum(np.sum(g * v) for g, v in zip(gradients, direction, strict=True))
    typical = np.sqrt(sum(size**2 * np.sum(g**2) for g, size in zip(gradients, sizes, strict=True)))
    scale = np.max([abs(numeric), abs(analytic), typical])  # NumPy's max: Python's would lose a NaN
    return 0.0 if scale == 0.0 else float(abs(numeric - analytic) / scale)


def size_of(x: Array) -> float:
    """Return how far to move x: its root mean square over what is finite, at most 1, as exponentials are curved."""
    finite = x[np.isfinite(x)]
    return min(1.0, float(np.sqrt(np.mean(finite**2)))) if finite.any() else 1.0
