"""Shared: operands of a matrix product rounded to bfloat16.

A product of numbers that are rounded to bfloat16 is exact in float32, so the float32 kernels compute a product in
bfloat16 with float32 sums from rounded operands. On a processor without instructions for bfloat16 that takes the time
of float32, and of one sweep over each operand.
"""

import numpy as np
from numba import prange

from ..arrays import Array
from ..precision import Precision
from ._buffers import empty
from ._kernel import compile_parallel, pool_for
from ._vector import rounded

__all__ = ["operands"]

SLICES = 64


@compile_parallel
def _round(x, y):
    """Write x, rounded, to y, which may be x."""
    for index in prange(SLICES):
        start, stop = x.size * index // SLICES, x.size * (index + 1) // SLICES
        given, nearest = x[start:stop], y[start:stop]
        for i in range(given.size):
            nearest[i] = rounded(given[i])


def operands(chosen: Precision, *arrays: Array) -> tuple[Array, ...]:
    """Return `precision.operands` of float32 arrays: for bfloat16 rounded copies, in one piece."""
    if chosen != "bfloat16":
        return arrays
    copies = []
    for array in arrays:
        if array.flags.c_contiguous and array.flags.behaved:
            x, y = array, empty(array.shape)
        else:
            x = y = np.array(array, order="C")
        with pool_for(x.size):
            _round(x.reshape(-1), y.reshape(-1))
        copies.append(y)
    return tuple(copies)
