"""Linear on a CPU: each thread multiplies its share of the rows by a single-threaded BLAS product.

1. NumPy: x @ W.T with the BLAS's own threads, then y += b: a second pass over y, and a second pool of threads.
2. One pool: a share of rows a thread. The bias is laid into y first and the product adds to it (beta = 1), which costs
   nothing: with beta = 0 the BLAS writes zeros in its place. The backward sums db beside its share of dW's rows.
3. For up to 8 rows, as in generation, the time is that of reading the weight once, and the BLAS, made for matrices,
   reads at a fraction of the speed of memory. A plain loop of dot products vectorises: 24 GB/s on one core where
   the BLAS read 4 to 11 (384 to 768 wide, one row). Small weights are not worth waking the other threads for.
4. The sum for db over a slice: 0.7 ms for (4096, 1536) on one core.
   A core of a Zen 4 (2026-11-24) then gives 100 to 105 GFLOP/s in y and dx and 84 to 95 in dW, whose two operands are
   both packed anew for each 4096 rows. Tried for dW and no better: computing its transpose, dividing it by columns.
"""

import numpy as np
from numba import get_num_threads, prange

from ..backend import Array
from ..ops.door import check_gradient
from ..ops.linear import LinearSaved, check_linear
from ._blas import AS_IT_IS, TRANSPOSED, sgemm, sgemm_address, single_threaded
from ._buffers import empty
from ._kernel import is_float32, is_ready, kernel, parallel_kernel, pool_for, serves

__all__ = ["linear_backward", "linear_forward"]

ZERO, ONE = np.float32(0.0), np.float32(1.0)
FEW_ROWS = 8
WORTH_THREADS = 1 << 18  # elements of a weight: 1 MB, read in about 40 µs
PRODUCTS = 20  # of a matrix product, in the time of one element of a sweep


@parallel_kernel
def _forward(address, x, weight, bias, has_bias, y, shares):
    N, I = x.shape  # noqa: E741
    O = weight.shape[0]  # noqa: E741
    x_at, weight_at, y_at = x.ctypes.data, weight.ctypes.data, y.ctypes.data
    for share in prange(shares):
        start, stop = N * share // shares, N * (share + 1) // shares
        if has_bias:
            for n in range(start, stop):
                for o in range(O):
                    y[n, o] = bias[o]
        beta = ONE if has_bias else ZERO
        rows, skip = stop - start, 4 * start
        if rows > 0:
            sgemm(
                address, TRANSPOSED, AS_IT_IS, O, rows, I,
                ONE, weight_at, I, x_at + skip * I, I, beta, y_at + skip * O, O,
            )  # fmt: skip


@kernel
def _few_rows_share(x, weight, bias, has_bias, y, first, last):
    N, I = x.shape  # noqa: E741
    for o in range(first, last):
        for n in range(N):
            total = bias[o] if has_bias else ZERO
            for i in range(I):
                total += weight[o, i] * x[n, i]
            y[n, o] = total


@parallel_kernel
def _few_rows(x, weight, bias, has_bias, y, shares):
    O = weight.shape[0]  # noqa: E741
    for share in prange(shares):
        _few_rows_share(x, weight, bias, has_bias, y, O * share // shares, O * (share + 1) // shares)


@parallel_kernel
def _backward(address, dy, x, weight, dx, dweight, dbias, has_bias, shares):
    N, I = x.shape  # noqa: E741
    O = weight.shape[0]  # noqa: E741
    dy_at, x_at, weight_at = dy.ctypes.data, x.ctypes.data, weight.ctypes.data
    dx_at, dweight_at = dx.ctypes.data, dweight.ctypes.data
    for share in prange(shares):
        start, stop = N * share // shares, N * (share + 1) // shares
        if stop > start:  # dx = dy W, by rows
            sgemm(
                address, AS_IT_IS, AS_IT_IS, I, stop - start, O,
                ONE, weight_at, I, dy_at + 4 * start * O, O, ZERO, dx_at + 4 * start * I, I,
            )  # fmt: skip
        first, last = O * share // shares, O * (share + 1) // shares
        if last > first:  # dW = dyᵀ x, by rows of dW: no sum crosses threads
            sgemm(
                address, AS_IT_IS, TRANSPOSED, I, last - first, N,
                ONE, x_at, I, dy_at + 4 * first, O, ZERO, dweight_at + 4 * first * I, I,
            )  # fmt: skip
        if has_bias:
            sums = dbias[first:last]
            sums[:] = ZERO
            for n in range(N):
                row = dy[n, first:last]
                for o in range(row.size):
                    sums[o] += row[o]


def _forward_serves(x: Array, weight: Array, bias: Array | None = None) -> bool:
    return is_float32(x) and is_ready(weight, bias) and x.ndim > 0 and x.size > 0 and weight.size > 0


@serves(_forward_serves)
def linear_forward(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, LinearSaved]:
    check_linear(x, weight, bias)
    x = np.ascontiguousarray(x)  # a part of a larger array, such as a class token: a copy is less than the product
    I, O = x.shape[-1], weight.shape[0]  # noqa: E741
    y = empty((*x.shape[:-1], O))
    given = x.reshape(-1, I), weight, weight[0] if bias is None else bias, bias is not None, y.reshape(-1, O)
    if x.size <= FEW_ROWS * I:
        if weight.size < WORTH_THREADS:
            _few_rows_share(*given, 0, O)
        else:
            _few_rows(*given, get_num_threads())
    else:
        with single_threaded, pool_for(x.size * O // PRODUCTS):
            _forward(sgemm_address(), *given, get_num_threads())
    return y, LinearSaved(x, weight, bias is not None)


def _backward_serves(dy: Array, saved: LinearSaved) -> bool:
    return is_float32(dy) and is_ready(saved.x, saved.weight) and saved.x.size > 0 and dy.size > 0


@serves(_backward_serves)
def linear_backward(dy: Array, saved: LinearSaved) -> tuple[Array, Array, Array | None]:
    x, weight, has_bias = saved
    check_gradient("linear_backward", dy, x, (*x.shape[:-1], weight.shape[0]))
    O, I = weight.shape  # noqa: E741
    dy = np.ascontiguousarray(dy)
    dx, dweight, dbias = empty(x.shape), empty(weight.shape), np.empty(O, np.float32)
    with single_threaded, pool_for(2 * x.size * O // PRODUCTS):
        _backward(
            sgemm_address(),
            dy.reshape(-1, O),
            x.reshape(-1, I),
            weight,
            dx.reshape(-1, I),
            dweight,
            dbias,
            has_bias,
            get_num_threads(),
        )
    return dx, dweight, dbias if has_bias else None
