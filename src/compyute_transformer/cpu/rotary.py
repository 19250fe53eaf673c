"""Rotary position on a CPU: the rows are copied once, then turned where they lie.

Optimization history:

1. NumPy: four products and two sums of half the columns each, seven passes that write temporaries.
2. A copy in one piece, as attention reads it, and one sweep over it. The copy is as fast as memory, and it takes heads
   that lie side by side in the product they are views of.
"""

import numpy as np
from numba import prange

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.rotary import RotaryPositionSaved, rotary_position_backward, rotary_position_forward
from ._buffers import empty
from ._kernel import compile_parallel, is_float32, is_ready, of_one_shape, pool_for

__all__ = ["rotary_position_backward_kernel", "rotary_position_forward_kernel"]


@compile_parallel
def _turn(y, cos, sin, interleaved, sign):
    N, T, _ = y.shape
    P = cos.shape[1]
    for row in prange(N * T):
        n, t = row // T, row % T
        c, s = cos[t], sin[t]
        if interleaved:
            pairs = y[n, t]
            for i in range(P):
                a, b = pairs[2 * i], pairs[2 * i + 1]
                pairs[2 * i] = a * c[i] - sign * b * s[i]
                pairs[2 * i + 1] = b * c[i] + sign * a * s[i]
        else:
            first, second = y[n, t, :P], y[n, t, P : 2 * P]
            for i in range(P):
                a, b = first[i], second[i]
                first[i] = a * c[i] - sign * b * s[i]
                second[i] = b * c[i] + sign * a * s[i]


def _turned(x: Array, cos: Array, sin: Array, interleaved: bool, sign: float) -> Array:
    B, H, T, D = x.shape
    y = empty(x.shape)
    y[...] = x
    with pool_for(x.size):
        _turn(y.reshape(B * H, T, D), cos, sin, interleaved, np.float32(sign))
    return y


def _forward_supports(x: Array, cos: Array, sin: Array, interleaved: bool = False) -> bool:
    return is_float32(x) and is_ready(cos, sin) and x.size > 0


@kernel_for(rotary_position_forward, supports=_forward_supports)
def rotary_position_forward_kernel(
    x: Array, cos: Array, sin: Array, interleaved: bool = False
) -> tuple[Array, RotaryPositionSaved]:
    return _turned(x, cos, sin, interleaved, 1.0), RotaryPositionSaved(cos, sin, interleaved, x.shape)


def _backward_supports(dy: Array, saved: RotaryPositionSaved) -> bool:
    cos, sin = saved.cos, saved.sin
    if not (is_float32(dy) and is_ready(cos, sin) and dy.size > 0 and dy.shape == saved.shape and cos.ndim == 2):
        return False
    return of_one_shape(cos, sin) and len(cos) == dy.shape[2] and 2 * cos.shape[1] <= dy.shape[3]


@kernel_for(rotary_position_backward, supports=_backward_supports)
def rotary_position_backward_kernel(dy: Array, saved: RotaryPositionSaved) -> Array:
    return _turned(dy, saved.cos, saved.sin, saved.interleaved, -1.0)
