"""Shared: operands of a product in bfloat16, rounded and laid out as the kernels of `_products` read them.

    pack_rows      A, rows of x or of its transpose: (rows, K)
    pack_panels    B, in panels of 32 columns, in each the pairs of rows side by side: (columns / 32, K / 2, 32, 2)

A pair of B, B[k, n] and B[k+1, n], has 4 bytes, and meets the 4 bytes A[m, k] and A[m, k+1]. Both are filled up to
multiples of 32 with zeros, which add nothing to a sum. A number is the upper half of a float32.
"""

import numpy as np
from numba import prange

from ..arrays import Array
from ._buffers import empty
from ._kernel import compile_parallel, pool_for
from ._vector import upper_half

__all__ = ["SQUARE", "pack_panels", "pack_rows"]

SQUARE = 32  # rows and columns of the result that are computed at once, and how far a step goes along K


@compile_parallel
def _pack_rows(x, turned, y):
    """Write y[n, k] = x[n, k], or x[k, n] where turned, and zeros beside them."""
    rows, columns = (x.shape[1], x.shape[0]) if turned else x.shape
    for block in prange(y.shape[0] // SQUARE):
        y[SQUARE * block : SQUARE * block + SQUARE] = 0
        first, last = SQUARE * block, min(rows, SQUARE * block + SQUARE)
        if turned:
            for k in range(columns):
                source = x[k, first:last]
                for n in range(source.size):
                    y[first + n, k] = upper_half(source[n])
        else:
            for n in range(first, last):
                source, part = x[n], y[n]
                for k in range(source.size):
                    part[k] = upper_half(source[k])


@compile_parallel
def _pack_panels(w, turned, y):
    """Write y[n // 32, k // 2, n % 32, k % 2] = w[n, k], or w[k, n] where turned, and zeros beside them."""
    columns, depth = (w.shape[1], w.shape[0]) if turned else w.shape
    for panel in prange(y.shape[0]):
        y[panel] = 0
        first, last = SQUARE * panel, min(columns, SQUARE * panel + SQUARE)
        if turned:
            for k in range(depth):
                source = w[k, first:last]
                for n in range(source.size):
                    y[panel, k // 2, n, k % 2] = upper_half(source[n])
        else:
            for n in range(first, last):
                source = w[n]
                for k in range(source.size):
                    y[panel, k // 2, n - first, k % 2] = upper_half(source[k])


def _whole(length: int) -> int:
    return -(-length // SQUARE) * SQUARE


def pack_rows(x: Array, turned: bool = False) -> Array:
    """Return A of a float32 matrix, or of its transpose: (rows, K) as the upper halves of float32, filled up."""
    rows, depth = reversed(x.shape) if turned else x.shape
    packed = empty((_whole(rows), _whole(depth)), np.uint16)
    packed[:, depth:] = 0
    with pool_for(x.size):
        _pack_rows(x, turned, packed)
    return packed


def pack_panels(w: Array, turned: bool = False) -> Array:
    """Return B = wᵀ of a float32 matrix (columns, K), or B = w of one (K, columns) where `turned`."""
    columns, depth = reversed(w.shape) if turned else w.shape
    packed = empty((_whole(columns) // SQUARE, _whole(depth) // 2, SQUARE, 2), np.uint16)
    with pool_for(w.size):
        _pack_panels(w, turned, packed)
    return packed
