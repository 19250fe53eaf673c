"""Linear on an NVIDIA GPU: three products by cuBLASLt; the bias is added, and its gradient summed, along with two.

y and dx have the dtype of x, the gradients of weight and bias that of the weight: float32 beside an x of bfloat16.

Versions: 1. products with epilogues, planned for each shape (`_products`). 2. an x of bfloat16 with weights of float32,
whose copy in bfloat16 is read (`_rounded`). Not yet timed on a GPU.
"""

from importlib import import_module
from typing import Any

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.linear import LinearSaved, linear_backward, linear_forward
from ..precision import precision, use_precision
from ._products import TYPES, multiply, operands, vector_of

__all__ = ["linear_backward_kernel", "linear_forward_kernel"]


def _empty(shape: tuple[int, ...], like: Array) -> Array:
    return import_module("cupy").empty(shape, like.dtype)


def supports_forward(x: Array, weight: Array, bias: Array | None = None) -> bool:
    """Return whether cuBLASLt multiplies numbers of this dtype."""
    return x.dtype.name in TYPES and x.size > 0 and weight.size > 0


@kernel_for(linear_forward, supports=supports_forward, device="cuda")
def linear_forward_kernel(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, LinearSaved]:
    """See `ops.linear.linear_forward`."""
    y = _empty((x.size // x.shape[-1], weight.shape[0]), x)
    rows, matrix = operands(x.reshape(-1, x.shape[-1]), weight)
    epilogue: Any = "none" if bias is None else "bias"
    multiply(rows, matrix, y, transposed=(False, True), epilogue=epilogue, vector=vector_of(bias, y))
    return y.reshape(*x.shape[:-1], weight.shape[0]), LinearSaved(x, weight, bias is not None, precision())


def supports_backward(dy: Array, saved: LinearSaved, *needs: Any, **more: Any) -> bool:
    """Return whether the forward was supported."""
    return supports_forward(saved.x, saved.weight)


@kernel_for(linear_backward, supports=supports_backward, device="cuda")
def linear_backward_kernel(
    dy: Array, saved: LinearSaved, needs_weight: bool = True, needs_bias: bool = True
) -> tuple[Array, Array | None, Array | None]:
    """See `ops.linear.linear_backward`."""
    with use_precision(saved.precision):
        return _gradients(dy, saved, needs_weight, needs_bias)


def _gradients(
    dy: Array, saved: LinearSaved, needs_weight: bool, needs_bias: bool
) -> tuple[Array, Array | None, Array | None]:
    x, weight, has_bias, _ = saved
    outputs, inputs = weight.shape
    dx = _empty((x.size // inputs, inputs), x)
    dy_rows, rows, matrix = operands(dy.reshape(-1, outputs), x.reshape(-1, inputs), weight)
    multiply(dy_rows, matrix, dx)
    dbias = _empty((outputs,), weight) if needs_bias and has_bias else None
    dweight = _empty((outputs, inputs), weight) if needs_weight else None
    if dweight is not None:
        epilogue: Any = "none" if dbias is None else "bias_gradient"
        multiply(dy_rows, rows, dweight, transposed=(True, False), epilogue=epilogue, vector=dbias)
    elif dbias is not None:
        dbias[...] = dy_rows.sum(0, dtype=dbias.dtype)
    return dx.reshape(x.shape), dweight, dbias
