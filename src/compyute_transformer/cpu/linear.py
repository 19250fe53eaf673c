"""Linear on a CPU: each thread multiplies slices of the rows by single-threaded BLAS products.

Optimization history:

1. NumPy: x @ W.T with the BLAS's own threads, then y += b: a second pass over y, and a second pool of threads.
2. One pool, whose threads take slices of rows. The bias is laid into y first and the product adds to it (beta = 1),
   which costs nothing: with beta = 0 the BLAS writes zeros in its place. The backward sums db beside its part of dW's
   rows.
3. For up to 16 rows, as in generation, the time is that of reading the weight once, and the BLAS, made for matrices,
   reads at a fraction of the speed of memory. A plain loop of dot products vectorizes: 24 GB/s on one core where
   the BLAS read 4 to 11 (384 to 768 wide, one row). Small weights are not worth waking the other threads for.
   Two rows of the weight by four of x at once, so that the numbers are loaded less often than they are used: the
   products of GPT-2's 12 blocks for 8 rows 30.8 -> 22.1 ms, for 16 rows 51.2 -> 32.3 (2 cores).
4. The sum for db over a slice: 0.7 ms for (4096, 1536) on one core.
5. Fewer rows than outputs: the outputs are divided among the threads, not the rows. Each thread packs all of what is
   not divided, and the weight is the larger then: the same products for 32 rows 130 -> 51 ms, for 128 rows 207 -> 130.
6. Slices by the shape alone, in multiples of 16 and powers of two: the BLAS gives other last bits for other shapes, so
   slices that followed the threads gave results that did. dW is cut along its longer side; db is summed in
   up to 128 partial sums in the same tasks. (1024, 768) by (3072, 768), 2 cores of a Zen 3, 2026-11-28: forward 35.0 ->
   34.8 ms, backward 65.6 -> 64.0; (768, 128) by (384, 128): 0.69 -> 0.53 and 1.92 -> 1.18.
7. The two products of a backward are tasks of their own: a small product keeps four threads busy with two slices, whose
   operands are packed twice, not four times. The backward of the cpu preset's 17 layers beside slices that followed
   the threads, each pair in one run, same machine: four slices 32.4 ms to 29.6, these 25.7 to 26.5.

8. In bfloat16 on a processor with instructions for it: `_products`, whose kernels read operands that were rounded and
   packed. 4096 rows on two cores of a Zen 4 (2026-11-29), with packing: 384 to 1536 in 13.5 ms, in float32 in 24.4.

A core of a Zen 4 (2026-11-24) then gives 100 to 105 GFLOP/s in y and dx and 84 to 95 in dW, whose two operands are
both packed anew for each 4096 rows. Tried for dW and no better: computing its transpose, dividing it by columns.
"""

import numpy as np
from numba import get_num_threads, prange

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.linear import LinearSaved, linear_backward, linear_forward
from ..ops.quantized import is_quantized, quantized_linear
from ..precision import Precision, precision
from . import _products
from ._blas import AS_IT_IS, TRANSPOSED, sgemm, sgemm_address, single_threaded
from ._buffers import empty
from ._kernel import compile_kernel, compile_parallel, compile_part, is_float32, is_ready, pool_for, sum_of_partials
from ._packing import MOST_PARTIALS, pack_gradient, pack_panels, pack_rows
from ._products import Kernel, multiply
from ._rounding import operands
from ._vector import rounded

__all__ = [
    "FEW_ROWS",
    "columns_of",
    "few_rows_columns",
    "linear_backward_kernel",
    "linear_forward_kernel",
    "rounded_row",
]

ZERO, ONE = np.float32(0.0), np.float32(1.0)
FEW_ROWS = 16
WORTH_THREADS = 1 << 18  # elements of a weight: 1 MB, read in about 40 µs
SMALLEST_SLICE, LARGE_SLICE = 1 << 21, 1 << 28  # multiplications
PRODUCTS = 20  # of a matrix product, in the time of one element of a sweep


def slices_of(multiplications: int, each: int, at_least: int) -> int:
    """Return into how many slices a product is cut: a power of two that depends on its size alone.

    What a BLAS computes depends on the shape it is given, in the last bit: slices that followed the number of threads
    would give other results on another number. each: how many multiplications a slice has where the product is large.
    at_least: how many slices a smaller product has, if it is worth the other threads' waking.
    """
    slices = max(multiplications // each, min(at_least, multiplications // SMALLEST_SLICE))
    return 1 << (min(slices, 64).bit_length() - 1) if slices > 1 else 1


@compile_part
def edge(length, index, slices):
    """Return where slice `index` of a side starts: at a multiple of 16, as the BLAS divides it."""
    return length if index == slices else length * index // slices // 16 * 16


@compile_parallel
def _forward(address, x, weight, bias, has_bias, y, slices):
    N, I = x.shape  # noqa: E741
    O = weight.shape[0]  # noqa: E741
    x_at, weight_at, y_at = x.ctypes.data, weight.ctypes.data, y.ctypes.data
    beta = ONE if has_bias else ZERO
    for index in prange(slices):
        # the longer side is cut: the shorter is packed for every slice
        start, stop = (edge(N, index, slices), edge(N, index + 1, slices)) if N >= O else (0, N)
        first, last = (0, O) if N >= O else (edge(O, index, slices), edge(O, index + 1, slices))
        if has_bias:
            added = bias[first:last]
            for n in range(start, stop):
                part = y[n, first:last]
                for o in range(part.size):
                    part[o] = added[o]
        if stop > start and last > first:
            sgemm(
                address, TRANSPOSED, AS_IT_IS, last - first, stop - start, I,
                ONE, weight_at + 4 * first * I, I, x_at + 4 * start * I, I,
                beta, y_at + 4 * (start * O + first), O,
            )  # fmt: skip


@compile_part
def _product(a, b):
    total = ZERO
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@compile_part
def _eight_products(a, b, x, n, y, o):
    """Eight products at once, of two rows of a weight and four of x: six loads where eight take sixteen."""
    x0, x1, x2, x3 = x[n], x[n + 1], x[n + 2], x[n + 3]
    a0, a1, a2, a3, b0, b1, b2, b3 = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for i in range(a.size):
        a0 += a[i] * x0[i]
        a1 += a[i] * x1[i]
        a2 += a[i] * x2[i]
        a3 += a[i] * x3[i]
        b0 += b[i] * x0[i]
        b1 += b[i] * x1[i]
        b2 += b[i] * x2[i]
        b3 += b[i] * x3[i]
    y[n, o], y[n + 1, o], y[n + 2, o], y[n + 3, o] = a0, a1, a2, a3
    y[n, o + 1], y[n + 1, o + 1], y[n + 2, o + 1], y[n + 3, o + 1] = b0, b1, b2, b3


@compile_part
def rounded_row(row, rounds, own):
    """Return a row, or its numbers rounded to bfloat16, in `own`."""
    if rounds:
        for i in range(own.size):
            own[i] = rounded(row[i])
        return own
    return row


@compile_kernel
def few_rows_columns(x, weight, bias, has_bias, y, first, last, rounds):
    """Columns [first, last) of y = x weightᵀ + bias, where reading the weight is what takes the time.

    rounds: whether the weight is multiplied as bfloat16.
    """
    N = x.shape[0]
    fours, pairs = N // 4, (last - first) // 2
    own = np.empty((2, x.shape[1] if rounds else 0), np.float32)
    for pair in range(pairs):
        o = first + 2 * pair
        a, b = rounded_row(weight[o], rounds, own[0]), rounded_row(weight[o + 1], rounds, own[1])
        for four in range(fours):
            _eight_products(a, b, x, 4 * four, y, o)
        for extra in range(N - 4 * fours):
            n = 4 * fours + extra
            y[n, o], y[n, o + 1] = _product(a, x[n]), _product(b, x[n])
    if first + 2 * pairs < last:
        a = rounded_row(weight[last - 1], rounds, own[0])
        for n in range(N):
            y[n, last - 1] = _product(a, x[n])
    if has_bias:
        added = bias[first:last]
        for n in range(N):
            part = y[n, first:last]
            for o in range(part.size):
                part[o] += added[o]


@compile_part
def columns_of(index, slices, O):  # noqa: E741
    """Return the columns [first, last) of a slice: pairs stay together, so that the number of slices changes no sum."""
    pairs = O // 2
    return 2 * (pairs * index // slices), O if index == slices - 1 else 2 * (pairs * (index + 1) // slices)


@compile_parallel
def _few_rows(x, weight, bias, has_bias, y, slices, rounds):
    for index in prange(slices):
        first, last = columns_of(index, slices, weight.shape[0])
        few_rows_columns(x, weight, bias, has_bias, y, first, last, rounds)


@compile_part
def _partial_sum(dy, partial, sums):
    """Write the column sums of one of len(sums) runs of rows of dy."""
    N, num_partials = dy.shape[0], sums.shape[0]
    total = sums[partial]
    total[:] = ZERO
    for n in range(N * partial // num_partials, N * (partial + 1) // num_partials):
        row = dy[n]
        for o in range(row.size):
            total[o] += row[o]


@compile_parallel
def _partial_sums(dy, sums):
    for partial in prange(sums.shape[0]):
        _partial_sum(dy, np.int64(partial), sums)


@compile_parallel
def _backward(address, dy, factor, x, weight, dx, dweight, sums, slices):
    """Compute dx, and those of dweight and of the partial sums of db that have elements.

    factor: dy as it is multiplied. What is summed is dy itself.
    """
    N, I = x.shape  # noqa: E741
    O, num_partials = weight.shape[0], sums.shape[0]  # noqa: E741
    dy_at, x_at, weight_at = factor.ctypes.data, x.ctypes.data, weight.ctypes.data
    dx_at, dweight_at = dx.ctypes.data, dweight.ctypes.data
    for task in prange(2 * slices):  # the two products of a slice are tasks of their own, beside each other
        index, is_dweight = task // 2, task % 2 == 1
        start, stop = edge(N, index, slices), edge(N, index + 1, slices)
        if stop > start and not is_dweight:  # dx = dy W, by rows
            sgemm(
                address, AS_IT_IS, AS_IT_IS, I, stop - start, O,
                ONE, weight_at, I, dy_at + 4 * start * O, O, ZERO, dx_at + 4 * start * I, I,
            )  # fmt: skip
        # dW = dyᵀ x, by parts of its longer side, so that no sum crosses slices: the shorter is packed for every slice
        first, last = (edge(O, index, slices), edge(O, index + 1, slices)) if O >= I else (0, O)
        left, right = (0, I) if O >= I else (edge(I, index, slices), edge(I, index + 1, slices))
        if last > first and right > left and dweight.size > 0 and is_dweight:
            sgemm(
                address, AS_IT_IS, TRANSPOSED, right - left, last - first, N,
                ONE, x_at + 4 * left, I, dy_at + 4 * first, O, ZERO, dweight_at + 4 * (first * I + left), I,
            )  # fmt: skip
        begin, end = num_partials * task // (2 * slices), num_partials * (task + 1) // (2 * slices)
        for step in range(end - begin):
            _partial_sum(dy, begin + step, sums)


def packed_kernel(chosen: Precision, rows: int) -> Kernel | None:
    """Return the kernel of `_products` that multiplies so many rows; None where the float32 kernels do."""
    return _products.chosen() if chosen == "bfloat16" and rows > FEW_ROWS else None


def _forward_supports(x: Array, weight: Array, bias: Array | None = None) -> bool:
    if is_quantized(weight):
        return True  # which has kernels of its own
    return is_float32(x) and is_ready(weight, bias) and x.ndim > 0 and x.size > 0 and weight.size > 0


@kernel_for(linear_forward, supports=_forward_supports)
def linear_forward_kernel(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, LinearSaved]:
    if is_quantized(weight):
        return quantized_linear(x, weight, bias), LinearSaved(x, weight, bias is not None)  # type: ignore[arg-type]
    x = np.ascontiguousarray(x)  # a part of a larger array, such as a class token: a copy is less than the product
    I, O = x.shape[-1], weight.shape[0]  # noqa: E741
    y = empty((*x.shape[:-1], O))
    chosen = precision()
    if (kernel := packed_kernel(chosen, x.size // I)) is not None:
        multiply(kernel, pack_rows(x.reshape(-1, I)), pack_panels(weight), y.reshape(-1, O), bias)
        return y, LinearSaved(x, weight, bias is not None, chosen)
    is_few, has_bias, added = x.size <= FEW_ROWS * I, bias is not None, weight[0] if bias is None else bias
    (rows,) = operands(chosen, x.reshape(-1, I))
    if is_few:
        rounds = chosen == "bfloat16"
        if weight.size < WORTH_THREADS:
            few_rows_columns(rows, weight, added, has_bias, y.reshape(-1, O), 0, O, rounds)
        else:
            _few_rows(rows, weight, added, has_bias, y.reshape(-1, O), get_num_threads(), rounds)
    else:
        given = rows, *operands(chosen, weight), added, has_bias, y.reshape(-1, O)
        with single_threaded, pool_for(x.size * O // PRODUCTS):
            _forward(sgemm_address(), *given, slices_of(x.size * O, LARGE_SLICE, 4))
    return y, LinearSaved(x, weight, bias is not None, chosen)


def _backward_supports(dy: Array, saved: LinearSaved, needs_weight: bool = True, needs_bias: bool = True) -> bool:
    x, weight, *_ = saved
    if not (is_float32(dy) and is_ready(x, weight) and x.size > 0 and dy.size > 0 and weight.ndim == 2):
        return False
    return dy.shape == (*x.shape[:-1], weight.shape[0]) and x.shape[-1] == weight.shape[1]


@kernel_for(linear_backward, supports=_backward_supports)
def linear_backward_kernel(
    dy: Array, saved: LinearSaved, needs_weight: bool = True, needs_bias: bool = True
) -> tuple[Array, Array | None, Array | None]:
    x, weight, has_bias, chosen = saved
    O, I = weight.shape  # noqa: E741
    dx, dweight = empty(x.shape), empty((O if needs_weight else 0, I))
    dy, x, work = np.ascontiguousarray(dy).reshape(-1, O), x.reshape(-1, I), x.size * O
    num_partials = max(1, min(MOST_PARTIALS, len(dy) // 32)) if has_bias and needs_bias else 0
    sums = np.empty((num_partials, O), np.float32)
    if (kernel := packed_kernel(chosen, len(dy))) is not None:
        if needs_weight:
            rows, turned, sums = pack_gradient(dy)
            multiply(kernel, turned, pack_panels(x, turned=True), dweight)
        else:
            rows = pack_rows(dy)
            _partial_sums(dy, sums)
        multiply(kernel, rows, pack_panels(weight, turned=True), dx.reshape(-1, I))
        return dx, dweight if needs_weight else None, sum_of_partials(sums) if num_partials else None
    factor, x, weight = operands(chosen, dy, x, weight)
    with single_threaded, pool_for((1 + needs_weight) * work // PRODUCTS):
        slices = slices_of(work, 2 * LARGE_SLICE, 2)
        _backward(sgemm_address(), dy, factor, x, weight, dx.reshape(-1, I), dweight, sums, slices)
    dbias = sum_of_partials(sums) if num_partials else None
    return dx, dweight if needs_weight else None, dbias
