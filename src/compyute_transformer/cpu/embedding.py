"""Embedding on a CPU: the gradients of equal ids are added without collisions.

Optimization history:

1. NumPy: np.add.at, one thread, an index at a time. 2. Each thread owns some columns of dweight and adds every row's
part to them, so that no two threads write to one place and the order of a sum is the order of the rows.
3. Over slices (see `_kernel`): 0.86 -> 0.27 ms for 4096 rows of 384 (one core of a Zen 4, 2026-11-24).
4. A small dweight, as of characters, is summed in memory of each thread's own and copied at the end: threads that write
   side by side take the line of the cache in the middle of each row from one another. 0.21 -> 0.10 ms on two cores.
"""

import numpy as np
from numba import prange

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.embedding import EmbeddingSaved, embedding_backward
from ._buffers import empty
from ._kernel import compile_parallel, in_one_piece, is_ready, num_threads, of_one_shape, pool_for

__all__ = ["embedding_backward_kernel"]

ZERO = np.float32(0.0)
IN_CACHE = 1 << 20  # bytes


@compile_parallel
def _backward(ids, dy, dweight, slices):
    C = dy.shape[1]
    for index in prange(slices):
        first, last = C * index // slices, C * (index + 1) // slices
        for v in range(dweight.shape[0]):
            dweight[v, first:last] = ZERO
        for n in range(ids.size):
            row, sums = dy[n, first:last], dweight[ids[n], first:last]
            for c in range(row.size):
                sums[c] += row[c]


@compile_parallel
def _backward_in_cache(ids, dy, dweight, slices):
    C = dy.shape[1]
    for index in prange(slices):
        first, last = C * index // slices, C * (index + 1) // slices
        sums = np.zeros((dweight.shape[0], last - first), np.float32)
        for n in range(ids.size):
            row, added = dy[n, first:last], sums[ids[n]]
            for c in range(added.size):
                added[c] += row[c]
        dweight[:, first:last] = sums


@kernel_for(
    embedding_backward, supports=lambda dy, saved: is_ready(dy) and dy.size > 0 and of_one_shape(dy[..., 0], saved.ids)
)
def embedding_backward_kernel(dy: Array, saved: EmbeddingSaved) -> Array:
    ids, num_embeddings = saved
    C = dy.shape[-1]
    dweight = empty((num_embeddings, C))
    with pool_for(dy.size + dweight.size):
        run = _backward_in_cache if dweight.nbytes <= IN_CACHE else _backward
        run(in_one_piece(ids, np.int64).reshape(-1), dy.reshape(-1, C), dweight, num_threads())
    return dweight
