"""Position: attention sees a set, so each vector is told where it stands."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..arrays import Array, array_module, constant
from ..dispatch import dispatched, output_of
from ..errors import RangeError
from ._checks import check_bool, check_floats, check_gradient, check_integer, check_saved, check_shape

__all__ = [
    "LearnedPositionSaved",
    "SinusoidalPositionSaved",
    "alibi_slopes",
    "learned_position",
    "learned_position_backward",
    "learned_position_forward",
    "sinusoidal_position",
    "sinusoidal_position_backward",
    "sinusoidal_position_forward",
    "sinusoids",
]


class LearnedPositionSaved(NamedTuple):
    """start: the position of the first vector. context_length: L, the number of rows of the weight. shape: of y."""

    start: int
    context_length: int
    shape: tuple[int, ...]


def check_learned_position(x: Any, weight: Any, start: Any = 0) -> None:
    op = "learned_position"
    check_floats(op, x=x, weight=weight)
    check_shape(op, "x", x, (None, None, None), "batch, time, width")
    check_shape(op, "weight", weight, (None, x.shape[2]), "context length by the width of x")
    check_integer(op, "start", start, -(1 << 62), 1 << 62)
    T, L = x.shape[1], weight.shape[0]
    if not 0 <= start <= L - T:
        raise RangeError(
            f"{op}: positions lie in [0, {L}), the context length, got {T} positions from {start} on. "
            "Shorten the input, or build the model with a longer context_length."
        )


@dispatched(validate=check_learned_position)
def learned_position_forward(
    x: Float[Array, "B T C"], weight: Float[Array, "L C"], start: int = 0
) -> tuple[Float[Array, "B T C"], LearnedPositionSaved]:
    """Add a learned vector for each position.

    y[b, t] = x[b, t] + weight[start + t]
    dx = dy
    dweight[start + t] = Σ_b dy[b, t]; rows that no position took stay zero

    Shapes:
        x, y (B, T, C) float; weight (L, C) like x; start + T at most L.
    Saves:
        two integers.
    Raises:
        RangeError: a position past the context L. ShapeError: widths differ. DtypeError: dtypes differ.
    Source:
        Gehring et al. 2017, "Convolutional sequence to sequence learning", section 3.1; GPT-2's wpe.
    """
    y = x + weight[start : start + x.shape[1]]
    return y, LearnedPositionSaved(start, weight.shape[0], x.shape)


def check_learned_position_backward(dy: Any, saved: Any, needs_weight: Any = True) -> None:
    check_saved("learned_position_backward", saved, LearnedPositionSaved)
    check_gradient("learned_position_backward", dy, None, saved.shape)
    check_bool("learned_position_backward", "needs_weight", needs_weight)


@dispatched(validate=check_learned_position_backward)
def learned_position_backward(
    dy: Float[Array, "B T C"], saved: LearnedPositionSaved, needs_weight: bool = True
) -> tuple[Float[Array, "B T C"], Float[Array, "L C"] | None]:
    """Return the gradients of `learned_position_forward`: dx, dweight.

    dx = dy; dweight[start + t] = Σ_b dy[b, t], and zero in the rows that no position took

    needs_weight: False leaves dweight out, which is None then.

    Shapes:
        dy (B, T, C) as y; each gradient as its argument.
    Raises:
        ShapeError: dy has not the shape of y. InputError: saved is of another op.
    """
    start, context_length, (_, T, C) = saved
    dweight = None
    if needs_weight:
        dweight = array_module(dy).zeros((context_length, C), dtype=dy.dtype)
        dweight[start : start + T] = dy.sum(0)
    return dy, dweight


learned_position = output_of("learned_position", learned_position_forward)


@lru_cache(maxsize=8)
def _sinusoids_float64(length: int, width: int) -> Array:
    # float64, because in float32 the angle t·ω loses 3e-4 at t = 8192 before the sine is even taken
    frequencies = 10000.0 ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies
    table = np.empty((length, width))
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, : width // 2])  # an odd width ends with a sine
    table.flags.writeable = False  # the cache hands out one array
    return table


def sinusoids(length: int, width: int, dtype: Any = np.float32) -> Float[Array, "L C"]:
    """Return the table of sinusoids (length, width), computed in float64 and rounded to dtype.

    table[t, 2i] = sin(t / 10000^(2i/C)), table[t, 2i+1] = cos(t / 10000^(2i/C))

    Source:
        Vaswani et al. 2017, "Attention is all you need", section 3.5.
    """
    check_integer("sinusoids", "length", length, 0)
    check_integer("sinusoids", "width", width, 1)
    return _rows(0, length, width).astype(dtype)


def _rows(start: int, end: int, width: int) -> Array:
    # of a table whose length is a power of two, so that a text which grows token by token does not ask for a new one
    return _sinusoids_float64(1 << max(int(end) - 1, 0).bit_length(), width)[start:end]


class SinusoidalPositionSaved(NamedTuple):
    """shape: of y. The gradient passes through."""

    shape: tuple[int, ...]


def check_sinusoidal_position(x: Any, start: Any = 0) -> None:
    check_floats("sinusoidal_position", x=x)
    check_shape("sinusoidal_position", "x", x, (None, None, None), "batch, time, width")
    check_integer("sinusoidal_position", "start", start, 0, 1 << 31)


@dispatched(validate=check_sinusoidal_position)
def sinusoidal_position_forward(
    x: Float[Array, "B T C"], start: int = 0
) -> tuple[Float[Array, "B T C"], SinusoidalPositionSaved]:
    """Add fixed sinusoids of geometrically spaced wavelengths, from 2π to 2π·10000.

    y[b, t] = x[b, t] + sinusoids[start + t]
    dx = dy

    Shapes:
        x, y (B, T, C) float.
    Saves:
        nothing.
    Raises:
        RangeError: a negative start. ShapeError: x has not three axes.
    Source:
        Vaswani et al. 2017, section 3.5.
    """
    _, T, C = x.shape
    table = constant(_rows(start, start + T, C), x).astype(x.dtype)
    return x + table, SinusoidalPositionSaved(x.shape)


def check_sinusoidal_position_backward(dy: Any, saved: Any) -> None:
    check_saved("sinusoidal_position_backward", saved, SinusoidalPositionSaved)
    check_gradient("sinusoidal_position_backward", dy, None, saved.shape)


@dispatched(validate=check_sinusoidal_position_backward)
def sinusoidal_position_backward(dy: Float[Array, "B T C"], saved: SinusoidalPositionSaved) -> Float[Array, "B T C"]:
    """Return the gradient of `sinusoidal_position_forward`: dx = dy, of one shape.

    Raises:
        ShapeError: dy has not the shape of y. InputError: saved is of another op.
    """
    return dy


sinusoidal_position = output_of("sinusoidal_position", sinusoidal_position_forward)


def alibi_slopes(num_heads: int) -> Float[Array, "H"]:
    """Return how much the scores of each head fall with every position between query and key: `Mask(slopes=...)`.

    m_h = 2^(−8 (h + 1) / H) for H a power of two. For other H: the slopes of the next lower power of two P, then every
    second one of those of 2 P.

    Attention needs no other positions then, and reads texts longer than those of its training.

    Raises:
        RangeError: there is no head.
    Source:
        Press, Smith, Lewis 2022, "Train short, test long: attention with linear biases enables input length
        extrapolation".
    """
    check_integer("alibi_slopes", "num_heads", num_heads, 1)
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    slopes += [2.0 ** (-4.0 * (head + 1) / power) for head in range(0, 2 * (num_heads - power), 2)]
    return np.array(slopes)
