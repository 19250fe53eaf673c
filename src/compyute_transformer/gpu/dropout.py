"""Dropout on a GPU: the random bits are made in registers and used up there; see `dropout.cu`.

Optimization history:

1. CuPy: Philox as some eighty kernels in 64-bit integers. 2. One kernel, a call of the generator for four numbers. No
time was measured yet, since the first GPU is still to come.
"""

from math import prod
from typing import Any

import numpy as np

from ..arrays import Array, array_module
from ..dispatch import kernel_for
from ..ops.dropout import DropoutSaved, dropout_backward, dropout_forward
from ..random import RandomKey, dropout_threshold
from ._kernel import ADVANCE, THREADS, address_of, blocks_for, is_ready, kernel

__all__ = ["dropout_backward_kernel", "dropout_forward_kernel", "keep_and_scale"]


def keep_and_scale(x: Array, probability: float, key: RandomKey, advance: Any = None) -> Array:
    """Return x with the elements dropped that `random.keep_mask` drops, and the others scaled up; its own backward.

    advance: one uint32 on the device, which is added to the offset of the key; see `dropout.cu`. None: `ADVANCE`.
    """
    advance = ADVANCE.get() if advance is None else advance
    if probability == 0.0:
        return x
    y: Array = array_module(x).empty(x.shape, x.dtype)
    C = x.shape[-1] if x.ndim else 1
    heads, per_head = (x.shape[1], x.shape[2]) if x.ndim == 4 else (1, max(1, prod(x.shape[:-1])))
    rows, four = x.size // C, 4 * x.dtype.itemsize
    vector = C % 4 == 0 and address_of(x) % four == 0 and address_of(y) % four == 0
    kernel("dropout", "keep_and_scale", x.dtype)(
        blocks_for(rows * -(-C // 4)),
        (THREADS,),
        (
            *(x, y, np.int64(rows), np.int32(C), np.int32(heads), np.int32(per_head)),
            *(np.uint32(dropout_threshold(probability)), np.float32(1.0 / (1.0 - probability))),
            *(*(np.uint32(word) for word in key.words), advance, np.int32(vector)),
        ),
    )
    return y


@kernel_for(dropout_forward, supports=lambda x, probability, key: is_ready(x) and x.size > 0, device="cuda")
def dropout_forward_kernel(x: Array, probability: float, key: RandomKey) -> tuple[Array, DropoutSaved]:
    return keep_and_scale(x, probability, key), DropoutSaved(probability, key, x.shape)


@kernel_for(dropout_backward, supports=lambda dy, saved: is_ready(dy) and dy.size > 0, device="cuda")
def dropout_backward_kernel(dy: Array, saved: DropoutSaved) -> Array:
    return keep_and_scale(dy, saved.probability, saved.key)
