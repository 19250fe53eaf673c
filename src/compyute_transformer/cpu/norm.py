"""Norm on a CPU: each row is read once from memory and stays in the first-level cache for its second and third use.

Optimization history:

1. NumPy: eight passes over (N, C), six of them writing temporaries.
2. One sweep a row: mean, then variance around it (two short loops over a row that is already in cache; the textbook's
   mean of squares would cancel), then the output. The backward rebuilds x̂ and adds to partial sums of dweight and
   dbias, a fixed number of them, so that the result does not depend on the threads.

RMS norm is the same without mean and bias: one sweep for the squares, one for the output.
"""

import numpy as np
from numba import prange

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.norm import (
    LayerNormSaved,
    RmsNormSaved,
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from ._buffers import empty
from ._kernel import (
    compile_kernel,
    compile_parallel,
    compile_part,
    hold,
    is_float32,
    is_ready,
    of_one_shape,
    pool_for,
    sum_of_partials,
    worth_threads,
)
from ._packing import SQUARE, empty_rows, round_rows

__all__ = [
    "layer_norm_backward_kernel",
    "layer_norm_backward_onto",
    "layer_norm_forward_kernel",
    "layer_norm_packed",
    "norm_rows",
    "rms_norm_backward_kernel",
    "rms_norm_forward_kernel",
]

ZERO, ONE = np.float32(0.0), np.float32(1.0)
NUM_SLICES, MOST_PARTIALS = 16, 128
AT_ONCE = 4  # rows that are normalized before they are rounded, from the nearest cache
NO_STREAM = np.empty((0, 0), np.float32)


@compile_kernel
def norm_rows(x, weight, bias, has_bias, eps, y, mean, rstd):
    N, C = x.shape
    for n in range(N):
        a, b = x[n], y[n]
        total = ZERO
        for c in range(a.size):
            total += a[c]
        m = total / np.float32(C)
        squares = ZERO
        for c in range(a.size):
            squares += (a[c] - m) * (a[c] - m)
        r = ONE / np.sqrt(squares / np.float32(C) + eps)
        mean[n], rstd[n] = m, r
        if has_bias:
            for c in range(a.size):
                b[c] = (a[c] - m) * r * weight[c] + bias[c]
        else:
            for c in range(a.size):
                b[c] = (a[c] - m) * r * weight[c]


@compile_parallel
def _forward(x, weight, bias, has_bias, eps, y, mean, rstd):
    N = x.shape[0]
    for index in prange(NUM_SLICES):
        a, b = N * index // NUM_SLICES, N * (index + 1) // NUM_SLICES
        norm_rows(x[a:b], weight, bias, has_bias, eps, y[a:b], mean[a:b], rstd[a:b])


@compile_parallel
def _forward_packed(x, weight, bias, has_bias, eps, rows, mean, rstd):
    """Write norm(x) as rows of A; see `_packing`."""
    (N, C), depth = x.shape, rows.shape[1]
    rows_at, line = rows.ctypes.data, 2 * depth
    for strip in prange((N + SQUARE - 1) // SQUARE):
        own, edge = np.empty((AT_ONCE, C), np.float32), np.empty((2, SQUARE), np.float32)
        for part in range(SQUARE // AT_ONCE):
            first = min(N, SQUARE * strip + AT_ONCE * part)
            last = min(N, first + AT_ONCE)
            normed = own[: last - first]
            norm_rows(x[first:last], weight, bias, has_bias, eps, normed, mean[first:last], rstd[first:last])
            round_rows(own.ctypes.data, last - first, C, edge.ctypes.data, rows_at + line * first, line, depth)
        hold(own, edge)


@compile_part
def _means(dy, x, weight, m, r):
    """Return the means over a row of dx̂ and of dx̂ · x̂."""
    sum_dxhat, sum_product = ZERO, ZERO
    for c in range(x.size):
        xhat = (x[c] - m) * r
        dxhat = dy[c] * weight[c]
        sum_dxhat += dxhat
        sum_product += dxhat * xhat
    return sum_dxhat / np.float32(x.size), sum_product / np.float32(x.size)


@compile_part
def _add_row(stream, n, row):
    """Add row n of a stream that has rows."""
    if stream.shape[0] > 0:
        given = stream[n]
        for c in range(row.size):
            row[c] += given[c]


@compile_parallel
def _backward(dy, x, weight, mean, rstd, dx, stream, dweights, dbiases):
    N, num_partials = x.shape[0], dweights.shape[0]
    for partial in prange(num_partials):
        dweight, dbias = dweights[partial], dbiases[partial]
        dweight[:] = ZERO
        dbias[:] = ZERO
        for n in range(N * partial // num_partials, N * (partial + 1) // num_partials):
            m, r, x_row, dy_row, dx_row = mean[n], rstd[n], x[n], dy[n], dx[n]
            mean_dxhat, mean_product = _means(dy_row, x_row, weight, m, r)
            for c in range(x_row.size):
                xhat = (x_row[c] - m) * r
                dx_row[c] = r * (dy_row[c] * weight[c] - mean_dxhat - xhat * mean_product)
                dweight[c] += dy_row[c] * xhat
                dbias[c] += dy_row[c]
            _add_row(stream, n, dx_row)


@compile_parallel
def _backward_of_x(dy, x, weight, mean, rstd, dx, stream):
    """Compute dx alone, for frozen parameters."""
    N, C = x.shape
    for index in prange(NUM_SLICES):
        for n in range(N * index // NUM_SLICES, N * (index + 1) // NUM_SLICES):
            m, r = mean[n], rstd[n]
            mean_dxhat, mean_product = _means(dy[n], x[n], weight, m, r)
            for c in range(C):
                xhat = (x[n, c] - m) * r
                dx[n, c] = r * (dy[n, c] * weight[c] - mean_dxhat - xhat * mean_product)
            _add_row(stream, n, dx[n])


def _forward_supports(x: Array, weight: Array, bias: Array | None = None, eps: float = 1e-5) -> bool:
    return is_float32(x) and is_ready(weight, bias) and x.size > 0


@kernel_for(layer_norm_forward, supports=_forward_supports)
def layer_norm_forward_kernel(
    x: Array, weight: Array, bias: Array | None = None, eps: float = 1e-5
) -> tuple[Array, LayerNormSaved]:
    x = np.ascontiguousarray(x)
    rows, C = x.shape[:-1], x.shape[-1]
    y, mean, rstd = empty(x.shape), np.empty(rows, np.float32), np.empty(rows, np.float32)
    has_bias = bias is not None
    run = _forward if worth_threads(x.size) else norm_rows
    run(
        x.reshape(-1, C),
        weight,
        bias if has_bias else weight,
        has_bias,
        np.float32(eps),
        y.reshape(-1, C),
        mean.reshape(-1),
        rstd.reshape(-1),
    )
    return y, LayerNormSaved(x, weight, mean, rstd, has_bias)


def layer_norm_packed(x: Array, weight: Array, bias: Array | None, eps: float) -> tuple[Array, LayerNormSaved]:
    """Return the norm of x (N, C) as rows of A, and what its backward needs."""
    N, C = x.shape
    rows, mean, rstd = empty_rows(N, C), np.empty(N, np.float32), np.empty(N, np.float32)
    with pool_for(x.size):
        _forward_packed(
            x, weight, weight if bias is None else bias, bias is not None, np.float32(eps), rows, mean, rstd
        )
    return rows, LayerNormSaved(x, weight, mean, rstd, bias is not None)


def _backward_supports(dy: Array, saved: LayerNormSaved, needs_weight: bool = True, needs_bias: bool = True) -> bool:
    x, weight, mean, rstd, _ = saved
    if not (is_float32(dy) and is_ready(x, weight, mean, rstd) and dy.size > 0):
        return False
    return of_one_shape(dy, x) and of_one_shape(dy[..., 0], mean, rstd) and weight.shape == x.shape[-1:]


@kernel_for(layer_norm_backward, supports=_backward_supports)
def layer_norm_backward_kernel(
    dy: Array, saved: LayerNormSaved, needs_weight: bool = True, needs_bias: bool = True
) -> tuple[Array, Array | None, Array | None]:
    return layer_norm_backward_onto(NO_STREAM, dy, saved, needs_weight, needs_bias)


def layer_norm_backward_onto(
    dstream: Array, dy: Array, saved: LayerNormSaved, needs_weight: bool = True, needs_bias: bool = True
) -> tuple[Array, Array | None, Array | None]:
    """Return the gradients of a norm; to that of x, dstream (N, C) is added, unless it has no rows."""
    x, weight, mean, rstd, has_bias = saved
    C, dx = x.shape[-1], empty(x.shape)
    given = (
        *(np.ascontiguousarray(dy).reshape(-1, C), x.reshape(-1, C), weight),
        *(mean.reshape(-1), rstd.reshape(-1), dx.reshape(-1, C), dstream),
    )
    if not needs_weight and not needs_bias:
        with pool_for(x.size):
            _backward_of_x(*given)
        return dx, None, None
    sums = np.empty((2, max(1, min(MOST_PARTIALS, mean.size // 32)), C), np.float32)
    with pool_for(x.size):
        _backward(*given, *sums)
    dweight = sum_of_partials(sums[0]) if needs_weight else None
    dbias = sum_of_partials(sums[1]) if needs_bias and has_bias else None
    return dx, dweight, dbias


@compile_kernel
def rms_rows(x, weight, eps, y, rrms):
    N, C = x.shape
    for n in range(N):
        a, b = x[n], y[n]
        squares = ZERO
        for c in range(a.size):
            squares += a[c] * a[c]
        r = ONE / np.sqrt(squares / np.float32(C) + eps)
        rrms[n] = r
        for c in range(a.size):
            b[c] = a[c] * r * weight[c]


@compile_parallel
def _rms_forward(x, weight, eps, y, rrms):
    N = x.shape[0]
    for index in prange(NUM_SLICES):
        a, b = N * index // NUM_SLICES, N * (index + 1) // NUM_SLICES
        rms_rows(x[a:b], weight, eps, y[a:b], rrms[a:b])


@compile_parallel
def _rms_backward(dy, x, weight, rrms, dx, dweights):
    (N, C), num_partials = x.shape, dweights.shape[0]
    for partial in prange(num_partials):
        sums = dweights[partial]
        for c in range(C):
            sums[c] = ZERO
        for n in range(N * partial // num_partials, N * (partial + 1) // num_partials):
            a, da, db, r = x[n], dx[n], dy[n], rrms[n]
            product = ZERO
            for c in range(a.size):
                product += db[c] * weight[c] * a[c] * r
            mean = product / np.float32(C)
            for c in range(a.size):
                xhat = a[c] * r
                da[c] = r * (db[c] * weight[c] - xhat * mean)
                sums[c] += db[c] * xhat


@kernel_for(rms_norm_forward, supports=lambda x, weight, eps=1e-6: is_float32(x) and is_ready(weight) and x.size > 0)
def rms_norm_forward_kernel(x: Array, weight: Array, eps: float = 1e-6) -> tuple[Array, RmsNormSaved]:
    x = np.ascontiguousarray(x)
    rows, C = x.shape[:-1], x.shape[-1]
    y, rrms = empty(x.shape), np.empty(rows, np.float32)
    run = _rms_forward if worth_threads(x.size) else rms_rows
    run(x.reshape(-1, C), weight, np.float32(eps), y.reshape(-1, C), rrms.reshape(-1))
    return y, RmsNormSaved(x, weight, rrms)


def _rms_backward_supports(dy: Array, saved: RmsNormSaved, needs_weight: bool = True) -> bool:
    x, weight, rrms = saved
    if not (is_float32(dy) and is_ready(x, weight, rrms) and dy.size > 0):
        return False
    return of_one_shape(dy, x) and of_one_shape(dy[..., 0], rrms) and weight.shape == x.shape[-1:]


@kernel_for(rms_norm_backward, supports=_rms_backward_supports)
def rms_norm_backward_kernel(dy: Array, saved: RmsNormSaved, needs_weight: bool = True) -> tuple[Array, Array | None]:
    x, weight, rrms = saved
    dy = np.ascontiguousarray(dy)
    C = x.shape[-1]
    dx, sums = empty(x.shape), np.empty((max(1, min(MOST_PARTIALS, rrms.size // 32)), C), np.float32)
    with pool_for(x.size):
        _rms_backward(dy.reshape(-1, C), x.reshape(-1, C), weight, rrms.reshape(-1), dx.reshape(-1, C), sums)
    return dx, sum_of_partials(sums) if needs_weight else None
