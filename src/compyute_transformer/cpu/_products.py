"""Shared: matrix products in bfloat16, by one of the kernels of a table, whichever is the fastest here.

A product is y = A B + bias, of operands that `_packing` rounded and laid out; that one of them is transposed is settled
there. The kernels differ in how they add a square of 32 by 32 to the result:

    tiles        `_amx`, Intel since Sapphire Rapids
    vdpbf16ps    `_avx512`, Zen 4 and 5, and Intel since Sapphire Rapids
    float32      none of these: the BLAS of float32, of rounded operands (`_rounding`)

A task computes 128 rows, which each panel of B meets while it is in the nearest cache. The sums of an element run along
K alone, so that neither the number of threads nor the rows beside it change its bits.

That a processor has the instructions is not enough to use them: `chosen` computes a product by each kernel and compares
results and times (`_measured`). A kernel with a wrong result is never chosen, whatever its time.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import prange

from ..arrays import Array
from ..ops.dropout import DropoutSaved
from ..precision import round_to_bfloat16
from . import _amx, _avx512
from ._amx import LAYOUT, lay_out, release_tiles
from ._amx import add_square as add_tiles
from ._avx512 import ROWS as AT_ONCE
from ._avx512 import add_rows
from ._kernel import compile_parallel, compile_part, hold, pool_for
from ._measured import file_beside, kept, seconds_of
from ._packing import SQUARE, pack_panels, pack_rows
from ._vector import random_row
from .dropout import dropping_of

__all__ = [
    "KERNELS",
    "ROWS",
    "WORK",
    "Kernel",
    "Onto",
    "add_panels",
    "add_square",
    "begin",
    "chosen",
    "describe",
    "end",
    "groups_of",
    "multiply",
    "start_of",
]

ROWS = 128  # of a task
WORK = 64  # multiplications in the time of one element of a sweep
PROBE = 512  # a product of 512³
TILES, VECTORS = 0, 1
FLOAT32, ZERO = "float32", np.float32(0.0)
NO_STREAM = np.empty((0, 0), np.float32)


class Kernel(NamedTuple):
    """A kernel of products in bfloat16.

    number: as the compiled code knows it. fault: why it cannot run here, or None. title: what a user calls it.
    """

    name: str
    number: int
    fault: Callable[[], str | None]
    title: str


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("tiles", TILES, _amx.fault, "AMX tiles"),
        Kernel("vdpbf16ps", VECTORS, _avx512.fault, "AVX-512 (vdpbf16ps)"),
    )
}


@compile_part
def begin(number, layout_at):
    """Prepare a thread for `add_square`. layout_at: the address of `_amx.LAYOUT`."""
    if number == TILES:
        lay_out(layout_at)


@compile_part
def end(number):
    """Give back what `begin` took."""
    if number == TILES:
        release_tiles()


@compile_part
def add_square(number, a, lda, b, steps, start, ldstart, c, ldc):
    """Write start + A B, a square of 32 by 32 float32, by the kernel of a number, between `begin` and `end`.

    Addresses and distances from row to row are in bytes. a: 32 rows of 32 · steps numbers. b: a panel of as many rows.
    start: what is added to: the square at c itself, or, with ldstart 0, one row for all, such as a bias.
    """
    if number == TILES:
        add_tiles(
            a, a + 16 * lda, b, steps, start, start + 16 * ldstart, c, c + 16 * ldc,
            lda, np.int64(4 * SQUARE), ldstart, ldc,
        )  # fmt: skip
    else:
        for row in range(0, SQUARE, AT_ONCE):
            first = a + row * lda
            add_rows(
                first, first + 3 * lda, first + 6 * lda, b, steps * (SQUARE // 2),
                start + row * ldstart, c + row * ldc, lda, ldstart, ldc,
            )  # fmt: skip


@compile_part
def add_panels(number, a, lda, squares, b, panels, steps, start, c, ldc):
    """Write start + A B, as `add_square`, of rows in whole squares and of panels that follow each other.

    start: one row for all, which has a number for each column.
    """
    for panel in range(panels):
        for square in range(squares):
            add_square(
                number, a + lda * SQUARE * square, lda, b + 2 * SQUARE * SQUARE * steps * panel, steps,
                start + 4 * SQUARE * panel, np.int64(0), c + ldc * SQUARE * square + 4 * SQUARE * panel, ldc,
            )  # fmt: skip


@compile_part
def _add_to_stream(y, stream, top, bottom, first, last, bits, dropping):
    """Replace a part of y by that of the stream plus what dropout leaves of the part, while it is in cache."""
    threshold, scale, seed_low, seed_high, offset, stream_head = dropping
    for n in range(top, bottom):
        own, given = y[n, first:last], stream[n, first:last]
        if threshold > 0:  # not by `keep_part`: what it writes is not what it reads, else no vectors
            random_row(bits, first // 4, (last - first + 3) // 4, n, seed_low, seed_high, offset, stream_head)
            drawn = bits[: own.size]
            for i in range(own.size):
                own[i] = given[i] + (own[i] * scale if drawn[i] >= threshold else ZERO)
        else:
            for i in range(own.size):
                own[i] += given[i]


@compile_parallel
def _multiply(number, layout_at, a, b, start, y, groups, stream, dropping):
    """Compute y. start: for each column of the panels, what its sums start from.

    stream: what dropout of the product is added to; no rows where it is added to nothing.
    """
    (rows, columns), depth = y.shape, a.shape[1]
    blocks, panels = (rows + ROWS - 1) // ROWS, b.shape[0]
    a_at, b_at, y_at, lda, start_at = a.ctypes.data, b.ctypes.data, y.ctypes.data, 2 * depth, start.ctypes.data
    for task in prange(blocks * groups):
        block, group = task // groups, task % groups
        edge = np.empty((SQUARE, SQUARE), np.float32)  # where the result ends within a square
        begin(number, layout_at)
        first_panel, last_panel = panels * group // groups, panels * (group + 1) // groups
        for panel in range(first_panel, last_panel):
            b_panel, first = b_at + 64 * depth * panel, SQUARE * panel
            width = min(SQUARE, columns - first)
            for m in range(ROWS * block, min(rows, ROWS * block + ROWS), SQUARE):
                height = min(SQUARE, rows - m)
                is_whole = height == SQUARE and width == SQUARE
                c_at, ldc = (y_at + 4 * (m * columns + first), columns) if is_whole else (edge.ctypes.data, SQUARE)
                add_square(
                    number, a_at + lda * m, lda, b_panel, np.int64(depth // SQUARE),
                    start_at + 4 * first, np.int64(0), c_at, 4 * ldc,
                )  # fmt: skip
                if not is_whole:
                    for r in range(height):
                        y[m + r, first : first + width] = edge[r, :width]
        end(number)
        if stream.shape[0] > 0:
            top, left, right = ROWS * block, SQUARE * first_panel, min(columns, SQUARE * last_panel)
            bits = np.empty(right - left + 4 if dropping[0] > 0 else 0, np.uint32)
            _add_to_stream(y, stream, top, min(rows, top + ROWS), left, right, bits, dropping)
        hold(edge)


class Onto(NamedTuple):
    """stream (rows, columns): what is added to a product. dropout: of the product, before; None: nothing is dropped."""

    stream: Array
    dropout: DropoutSaved | None = None


def multiply(kernel: Kernel, a: Array, b: Array, y: Array, bias: Array | None = None, onto: Onto | None = None) -> None:
    """Compute y = A B + bias of what `pack_rows` and `pack_panels` returned. y (rows, columns) lies in one piece.

    onto: y = stream + dropout(A B + bias).
    """
    stream, dropout = onto or Onto(NO_STREAM)
    with pool_for(y.size * a.shape[1] // WORK):
        groups = min(groups_of(len(y)), len(b))
        start = start_of(b, bias)
        _multiply(kernel.number, LAYOUT.ctypes.data, a, b, start, y, groups, stream, dropping_of(dropout))


def groups_of(rows: int) -> int:
    """Return into how many groups the columns of a result are shared out: where there are few rows, several."""
    return 1 << max(0, (8 * ROWS // max(1, rows)).bit_length() - 1)


def start_of(b: Array, bias: Array | None) -> Array:
    """Return, for each column of the panels, what its sums start from."""
    start = np.zeros(SQUARE * len(b), np.float32)
    if bias is not None:
        start[: len(bias)] = bias
    return start


@cache
def chosen(times: int = 1) -> Kernel | None:
    """Return the kernel of products in bfloat16: right here, and faster than float32 and the others; None for float32.

    Of two processes on one machine the second reads what the first has measured. times: faster even if it computes as
    many products in bfloat16 in place of one.
    """
    right = [kernel for kernel in KERNELS.values() if kernel.fault() is None and _is_right(kernel)]
    if not right:
        return None
    from scipy.linalg.blas import sgemm  # takes a while to load

    x, w = np.random.default_rng(0).standard_normal((2, PROBE, PROBE), np.float32)
    products = {FLOAT32: partial(sgemm, 1.0, w.T, x.T, trans_a=True)}
    products |= {kernel.name: partial(_product, kernel, x, w) for kernel in right}
    seconds = seconds_of(_file(), products)
    fastest = min(right, key=lambda kernel: seconds[kernel.name])
    return fastest if times * seconds[fastest.name] < seconds[FLOAT32] else None


def describe(measure: bool) -> str:
    """Return how products in bfloat16 are computed here, for a user to read. measure: what was not measured yet."""
    possible = [kernel.name for kernel in KERNELS.values() if kernel.fault() is None]
    if not possible:
        return f"in float32, of rounded operands: {', '.join(filter(None, (k.fault() for k in KERNELS.values())))}"
    if not measure and kept(_file(), [FLOAT32, *possible]) is None:
        titles = " or ".join(KERNELS[name].title for name in possible)
        return f"by {titles}, if the first of them is measured to be right and faster than float32"
    kernel = chosen()
    return "in float32, of rounded operands, which is the fastest here" if kernel is None else f"by {kernel.title}"


def _is_right(kernel: Kernel) -> bool:
    """Return whether a small product, odd in every length, is that of the rounded operands."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((45, 70), np.float32), rng.standard_normal((37, 70), np.float32)
    return bool(np.abs(_product(kernel, x, w) - round_to_bfloat16(x) @ round_to_bfloat16(w).T).max() < 1e-4)


def _product(kernel: Kernel, x: Array, w: Array) -> Array:
    """Return x wᵀ."""
    y = np.empty((len(x), len(w)), np.float32)
    multiply(kernel, pack_rows(x), pack_panels(w), y)
    return y


def _file() -> Path | None:
    return file_beside(_multiply, "products")
