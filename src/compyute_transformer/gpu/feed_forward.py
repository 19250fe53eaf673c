"""Feed-forward on an NVIDIA GPU: GELU and its derivative along with the products before and behind it, by cuBLASLt.

    hidden = x upᵀ + up_bias;   activated = gelu(hidden), both written by one product;   y = activated downᵀ + down_bias
    dhidden = (dy down) · gelu′(hidden) by one product;   the other gradients as those of two linear layers

It is no op: modules call it in training on a GPU, where the activation is the tanh form of GELU, the one that cuBLASLt
knows. hidden and activated have the dtype that products are computed in.

Versions: 1. epilogues, where cuBLASLt has an algorithm for them. Not yet timed on a GPU: llm.c found its own kernels
faster at some sizes.
"""

from importlib import import_module
from typing import Any, NamedTuple

from ..arrays import Array
from ..ops.activation import Activation
from ..precision import Precision, precision, use_precision
from ._products import TYPES, multiply, operands, vector_of

__all__ = ["FeedForwardSaved", "feed_forward_backward", "feed_forward_forward", "supports"]

Biases = tuple[Array | None, Array | None]


class FeedForwardSaved(NamedTuple):
    """x, up, down: as given. hidden, activated: (rows, F), before and after GELU. has_bias: of up and of down."""

    x: Array
    up: Array
    down: Array
    hidden: Array
    activated: Array
    has_bias: tuple[bool, bool]
    precision: Precision


def supports(x: Array, up: Array, down: Array, activation: Activation) -> bool:
    """Return whether cuBLASLt knows the activation and multiplies numbers of these dtypes."""
    return activation == "gelu_tanh" and all(array.dtype.name in TYPES and array.size > 0 for array in (x, up, down))


def _empty(rows: int, columns: int, dtype: Any) -> Array:
    made: Array = import_module("cupy").empty((rows, columns), dtype)
    return made


def feed_forward_forward(
    x: Array, up: Array, up_bias: Array | None, down: Array, down_bias: Array | None, activation: Activation
) -> tuple[Array, FeedForwardSaved]:
    """Return down(activation(up(x))) and what the backward needs. x (*rows, C); up (F, C); down (C, F).

    activation: "gelu_tanh", the one that `supports` lets through.
    """
    rows, matrix = operands(x.reshape(-1, x.shape[-1]), up)
    hidden, activated = (_empty(len(rows), len(up), rows.dtype) for _ in range(2))
    epilogue: Any = "gelu" if up_bias is None else "gelu_bias"
    vector = vector_of(up_bias, activated)
    multiply(rows, matrix, activated, transposed=(False, True), epilogue=epilogue, vector=vector, hidden=hidden)
    y = _empty(len(rows), len(down), x.dtype)
    epilogue = "none" if down_bias is None else "bias"
    matrix = operands(activated, down)[1]
    multiply(activated, matrix, y, transposed=(False, True), epilogue=epilogue, vector=vector_of(down_bias, y))
    has_bias = up_bias is not None, down_bias is not None
    saved = FeedForwardSaved(x, up, down, hidden, activated, has_bias, precision())
    return y.reshape(*x.shape[:-1], len(down)), saved


def feed_forward_backward(
    dy: Array, saved: FeedForwardSaved, needs: tuple[bool, bool, bool, bool]
) -> tuple[Array, Array | None, Array | None, Array | None, Array | None]:
    """Return the gradients of x, up, up_bias, down and down_bias; None for parameters that need none."""
    x, up, down, hidden, activated, has_bias, chosen = saved
    with use_precision(chosen):
        dy_rows, rows, up_matrix, down_matrix = operands(
            dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1]), up, down
        )
        dhidden = _empty(len(hidden), len(up), hidden.dtype)
        multiply(dy_rows, down_matrix, dhidden, epilogue="dgelu", hidden=hidden)
        ddown = _of_parameters(dy_rows, activated, down, needs[2], needs[3] and has_bias[1])
        dup = _of_parameters(dhidden, rows, up, needs[0], needs[1] and has_bias[0])
        dx = _empty(len(rows), rows.shape[1], x.dtype)
        multiply(dhidden, up_matrix, dx)
    return dx.reshape(x.shape), *dup, *ddown


def _of_parameters(dy: Array, x: Array, weight: Array, needs_weight: bool, needs_bias: bool) -> Biases:
    """Return the gradients of the weight and the bias of a linear layer, in the dtype of the weight."""
    dbias = import_module("cupy").empty(len(weight), weight.dtype) if needs_bias else None
    if not needs_weight:
        if dbias is not None:
            dbias[...] = dy.sum(0, dtype=dbias.dtype)
        return None, dbias
    dweight = _empty(len(weight), weight.shape[1], weight.dtype)
    epilogue: Any = "none" if dbias is None else "bias_gradient"
    multiply(dy, x, dweight, transposed=(True, False), epilogue=epilogue, vector=dbias)
    return dweight, dbias
