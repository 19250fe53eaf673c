"""Feed-forward on a CPU in bfloat16: the activation and its slope on rows of a product while they are in cache.

    hidden = x upᵀ + up_bias, and activated = activation(hidden), rounded and packed;   y = activated downᵀ + down_bias
    dhidden = (dy down) · activation′(hidden);   the other gradients as those of two linear layers

It is no op: modules call it in training, where products are in bfloat16 and a kernel of `_products` computes them.
Against two linear layers with an activation between them, hidden is not read again to compute it, what it gives is not
written in float32 and read again to be rounded, and that and x are kept in half of the memory.
"""

from typing import NamedTuple

import numpy as np

from ..arrays import Array
from ..errors import ShapeError
from ..ops.activation import Activation
from ..ops.quantized import is_quantized
from ..precision import precision
from ._buffers import empty
from ._kernel import is_float32, is_ready, sum_of_partials
from ._packing import empty_rows, pack_gradient, pack_panels, pack_rows, panels_of_rows
from ._products import Kernel, multiply
from .linear import packed_kernel

__all__ = ["FeedForwardSaved", "feed_forward_backward", "feed_forward_forward", "supports"]


class FeedForwardSaved(NamedTuple):
    """shape: of x. x, activated: what the products read, as rows of A; see `_packing`. up, down: as given.

    hidden: (rows, F), before the activation. has_bias: of up and of down. kernel: of the products.
    """

    shape: tuple[int, ...]
    x: Array
    up: Array
    down: Array
    hidden: Array
    activated: Array
    has_bias: tuple[bool, bool]
    kernel: Kernel
    activation: Activation


def supports(x: Array, up: Array, down: Array, activation: Activation) -> bool:
    """Return whether the products are computed by a kernel of `_products`."""
    if precision() != "bfloat16" or is_quantized(up) or is_quantized(down):
        return False
    if not (is_float32(x) and is_ready(up, down) and x.size > 0 and up.size > 0 and down.size > 0 and x.ndim > 0):
        return False
    fits = x.shape[-1] == up.shape[1] and down.shape[1] == up.shape[0]
    return fits and packed_kernel("bfloat16", x.size // x.shape[-1]) is not None


def feed_forward_forward(
    x: Array, up: Array, up_bias: Array | None, down: Array, down_bias: Array | None, activation: Activation
) -> tuple[Array, FeedForwardSaved]:
    """Return down(activation(up(x))) and what the backward needs. x (*rows, C); up (F, C); down (C, F)."""
    for bias, weight in ((up_bias, up), (down_bias, down)):
        if bias is not None and not (is_ready(bias) and bias.shape == weight.shape[:1]):
            raise ShapeError(
                f"feed_forward: bias must have one float32 number for each of {len(weight)} outputs, got {bias.dtype} "
                f"of shape {bias.shape}. Give each bias the length of its weight."
            )
    x = np.ascontiguousarray(x)
    F, rows = len(up), x.reshape(-1, x.shape[-1])
    kernel = packed_kernel("bfloat16", len(rows))
    assert kernel is not None, "supports said so"
    hidden, activated, y = empty((len(rows), F)), empty_rows(len(rows), F), empty((*x.shape[:-1], len(down)))
    packed, has_bias = pack_rows(rows), (up_bias is not None, down_bias is not None)
    multiply(kernel, packed, pack_panels(up), hidden, up_bias, activation=activation, activated=activated)
    multiply(kernel, activated, pack_panels(down), y.reshape(len(rows), -1), down_bias)
    return y, FeedForwardSaved(x.shape, packed, up, down, hidden, activated, has_bias, kernel, activation)


def feed_forward_backward(
    dy: Array, saved: FeedForwardSaved, needs: tuple[bool, bool, bool, bool]
) -> tuple[Array, Array | None, Array | None, Array | None, Array | None]:
    """Return the gradients of x, up, up_bias, down and down_bias; None for parameters that need none."""
    shape, x, up, down, hidden, activated, has_bias, kernel, activation = saved
    if dy.shape != (*shape[:-1], len(down)):
        raise ShapeError(
            f"feed_forward: dy must have the shape of y, {(*shape[:-1], len(down))}, got {dy.shape}. "
            "Give the gradient of what the forward returned."
        )
    dhidden, dx = empty(hidden.shape), empty(shape)
    rows, turned, sums = pack_gradient(np.ascontiguousarray(dy, np.float32).reshape(-1, len(down)))
    multiply(kernel, rows, pack_panels(down, turned=True), dhidden, activation=activation, hidden=hidden)
    ddown = _product(kernel, turned, panels_of_rows(activated, len(up)), down) if needs[2] else None
    ddown_bias = sum_of_partials(sums) if needs[3] and has_bias[1] else None
    rows, turned, sums = pack_gradient(dhidden)
    multiply(kernel, rows, pack_panels(up, turned=True), dx.reshape(-1, up.shape[1]))
    dup = _product(kernel, turned, panels_of_rows(x, up.shape[1]), up) if needs[0] else None
    return dx, dup, sum_of_partials(sums) if needs[1] and has_bias[0] else None, ddown, ddown_bias


def _product(kernel: Kernel, a: Array, b: Array, weight: Array) -> Array:
    """Return A B, the gradient of a weight."""
    dweight = empty(weight.shape)
    multiply(kernel, a, b, dweight)
    return dweight
