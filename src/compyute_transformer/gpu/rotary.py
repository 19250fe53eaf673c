"""Rotary position on a GPU: one kernel, which can turn queries and keys where they lie; see `rotary.cu`.

Optimization history:

1. CuPy: nine kernels. 2. One kernel. 3. `rotary_in_place`: over the packed product, without a copy. 4. Tables of
float32 beside numbers of bfloat16. No time was measured yet, since the first GPU is still to come.
"""

from typing import Any

import numpy as np

from ..arrays import Array, array_module
from ..dispatch import kernel_for
from ..ops.rotary import RotaryPositionSaved, rotary_position_backward, rotary_position_forward
from ._kernel import THREADS, VECTOR_BYTES, blocks_for, is_ready, kernel, of_one_shape, vector_for

__all__ = ["rotary_in_place", "rotary_position_backward_kernel", "rotary_position_forward_kernel"]


def rotary_in_place(
    packed: Array, num_heads: int, head_dim: int, cos: Array, sin: Array, interleaved: bool = False, back: bool = False
) -> None:
    """Turn the first heads of a packed projection where they lie; or turn them back, which is the gradient.

    packed: (B, T, width), of which the first num_heads · head_dim columns are turned: queries, then keys.
    """
    B, T, width = packed.shape
    strides = T * width, head_dim, width
    _turn(packed, packed, (B, num_heads, T, head_dim), (strides, strides), cos, sin, interleaved, -1.0 if back else 1.0)


def _turn(
    x: Array,
    y: Array,
    shape: tuple[int, ...],
    strides: tuple[tuple[int, ...], tuple[int, ...]],
    cos: Array,
    sin: Array,
    interleaved: bool,
    sign: float,
) -> None:
    P, D = cos.shape[1], shape[3]
    vector = np.int32(all(vector_for(n, x, y) for n in (P, D, *strides[0], *strides[1])) and vector_for(P, cos, sin))
    per_thread = VECTOR_BYTES // x.dtype.itemsize if vector else 1
    rows = shape[0] * shape[1] * shape[2]
    kernel("rotary", "rotary" if cos.dtype == x.dtype else "rotary_by_floats", x.dtype)(
        blocks_for(rows * (P // per_thread + D - 2 * P)),
        (THREADS,),
        (
            *(x, cos, sin, y, *(np.int32(n) for n in (*shape, P)), *(np.int64(n) for n in (*strides[0], *strides[1]))),
            *(np.int32(interleaved), np.float32(sign), vector),
        ),
    )


def _turned(x: Array, cos: Array, sin: Array, interleaved: bool, sign: float) -> Array:
    xp = array_module(x)
    x = xp.ascontiguousarray(x)
    y: Array = xp.empty(x.shape, x.dtype)
    _, H, T, D = x.shape
    strides: Any = (H * T * D, T * D, D)
    _turn(x, y, x.shape, (strides, strides), cos, sin, interleaved, sign)
    return y


def _fits(x: Array, cos: Array, sin: Array) -> bool:
    """Return whether the tables have the dtype of x, or are float32 beside bfloat16."""
    return is_ready(cos, sin) and x.dtype.name in (cos.dtype.name, "bfloat16")


def _forward_supports(x: Array, cos: Array, sin: Array, interleaved: bool = False) -> bool:
    return _fits(x, cos, sin) and x.size > 0


@kernel_for(rotary_position_forward, supports=_forward_supports, device="cuda")
def rotary_position_forward_kernel(
    x: Array, cos: Array, sin: Array, interleaved: bool = False
) -> tuple[Array, RotaryPositionSaved]:
    return _turned(x, cos, sin, interleaved, 1.0), RotaryPositionSaved(cos, sin, interleaved, x.shape)


def _backward_supports(dy: Array, saved: RotaryPositionSaved) -> bool:
    cos, sin = saved.cos, saved.sin
    if not (_fits(dy, cos, sin) and dy.size > 0 and dy.shape == saved.shape and cos.ndim == 2):
        return False
    return of_one_shape(cos, sin) and len(cos) == dy.shape[2] and 2 * cos.shape[1] <= dy.shape[3]


@kernel_for(rotary_position_backward, supports=_backward_supports, device="cuda")
def rotary_position_backward_kernel(dy: Array, saved: RotaryPositionSaved) -> Array:
    return _turned(dy, saved.cos, saved.sin, saved.interleaved, -1.0)
