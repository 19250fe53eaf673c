"""Shared: operands of a product in bfloat16, rounded and laid out as the kernels of `_products` read them.

    pack_rows      A, rows of x or of its transpose: (rows, K)
    pack_panels    B, in panels of 32 columns, in each the pairs of rows side by side: (columns / 32, K / 2, 32, 2)

A pair of B, B[k, n] and B[k+1, n], has 4 bytes, and meets the 4 bytes A[m, k] and A[m, k+1]. Both are filled up to
multiples of 32 with zeros, which add nothing to a sum. A number is the upper half of a float32.

x is read row by row, once. What is read in the order in which it is written goes straight to its place: a row of A, and
the pairs of B of two rows that are read at once. The rest is rounded into a strip of 32 rows, and from there words of 4
bytes are transposed in registers, 8 by 8.

Optimization history (ns a number, one core of a busy Zen 3, 2026-11-28, (4096, 1536); rows of x and of its transpose,
panels of x and of its transpose):

1. A loop for each layout that writes each half where it belongs: 0.5, 6.6 to 10, 1.3 to 2.0, 2.9 to 3.5.
2. As above, in vectors of 32 numbers: 0.5, 1.1, 0.7, 0.6.
3. Blocks of 32 by 32 read one after the other, not rows: 3.2, 2.5, 3.9, 1.3. The processor fetches ahead along rows.
4. Rows of A a multiple of 2 KB apart would share a few places of the first cache, so they get 64 bytes more.
5. A gradient packed for its two products and summed for the bias: 1.6 to 1.7 read three times, 1.0 to 1.1 read once.
6. Rows that lie pages apart, as those of a head: (24576, 64) 4608 bytes apart, from memory, rows and panels of x (ms,
   one core of a Zen 4, 2026-11-29). An array passed to a part row by row, whose references are counted each time: 1.7
   and 1.8. Its address instead: 1.3 and 1.5. Rows asked for eight ahead: 0.8 and 0.7.
"""

import numpy as np
from numba import carray, prange

from ..arrays import Array
from ..ops.dropout import DropoutSaved
from ._blas import pointer, prefetch
from ._buffers import empty
from ._halves import LANES, halves, join, pairs, transpose
from ._kernel import compile_parallel, compile_part, hold, pool_for
from .dropout import dropping_of, keep_part

__all__ = [
    "MOST_PARTIALS",
    "ROW",
    "SQUARE",
    "empty_rows",
    "gradient_operands",
    "pack_gradient",
    "pack_gradient_strip",
    "pack_panels",
    "pack_rows",
    "pack_strip",
    "round_rows",
    "squares_of",
    "strips_of",
    "whole",
]

SQUARE = 32  # rows and columns of the result that are computed at once, and how far a step goes along K
AHEAD, CACHE_LINE = 8, 64  # rows that are asked for before their turn; bytes
CROWDED = 1024  # numbers of a row of A
MOST_PARTIALS = 128  # sums of db: one running sum over 16,384 rows has an error of 2.6e-6, 128 partial ones of 2.0e-7
BLOCK, ROW, PAIRS, STEP = 128, 64, 128, 2048  # bytes of 32 numbers of x, of 32 halves, of 32 pairs, of 16 rows of them


@compile_part
def _round_row(at, line, rows, columns, n, turned, edge_at, target, step, blocks):
    """Write row n of a matrix, or rows n and n + 1 as pairs where turned, in blocks of 32 columns; zeros beyond it.

    edge_at: the address of two rows of 32 numbers, for what ends within a block.
    """
    row_at = at + line * n
    full = columns // SQUARE if n + turned < rows else 0
    for row in range(1 + turned):
        for line_of_row in range(2 * full):
            prefetch(row_at + (AHEAD + row) * line + CACHE_LINE * line_of_row)
    if turned:
        for block in range(full):
            pairs(row_at + BLOCK * block, row_at + line + BLOCK * block, target + step * block)
    else:
        for block in range(full):
            halves(row_at + BLOCK * block, target + step * block)
    for block in range(full, blocks):
        edge = carray(pointer(edge_at), (2, SQUARE))
        edge[:] = 0
        width = max(0, min(SQUARE, columns - SQUARE * block))
        for row in range(min(1 + turned, rows - n)):
            source = carray(pointer(row_at + line * row + BLOCK * block), (width,))
            for column in range(width):
                edge[row, column] = source[column]
        if turned:
            pairs(edge_at, edge_at + BLOCK, target + step * block)
        else:
            halves(edge_at, target + step * block)


@compile_part
def round_rows(at, rows, columns, edge_at, target, line, depth):
    """Write float32 rows that follow each other as rows of A, `line` bytes apart. edge_at: as `_round_row` has it."""
    for n in range(rows):
        _round_row(at, 4 * columns, rows, columns, n, False, edge_at, target + line * n, ROW, depth // SQUARE)


@compile_part
def _transpose_strip(rounded_at, turned, start, line, step, blocks):
    """Write what 32 rows were rounded to: pairs to rows of A where turned, else halves to panels of B."""
    tall, wide, width = (2, 4, PAIRS) if turned else (4, 2, ROW)
    for block in range(blocks):
        for i in range(tall):
            for j in range(wide):
                source = rounded_at + width * (blocks * LANES * i + block) + 4 * LANES * j
                transpose(source, width * blocks, start + step * block + line * LANES * j + 4 * LANES * i, line)


@compile_part
def squares_of(length):
    """Return how many squares a length takes."""
    return (length + SQUARE - 1) // SQUARE


@compile_part
def strips_of(rows, turned, depth):
    """Return how many strips of 32 rows of a matrix fill an operand whose rows or panels have `depth` numbers of K."""
    return depth // SQUARE if turned else squares_of(rows)


@compile_part
def pack_strip(at, line, rows, columns, strip, turned, is_rows, target, depth):
    """Pack 32 rows of a float32 matrix at an address, whose rows lie `line` bytes apart.

    target: the address of the operand, rows of A or panels of B; see `pack_rows` and `pack_panels`.
    """
    across = squares_of(columns) if turned else depth // SQUARE
    below = 2 * depth if is_rows else PAIRS  # bytes from a row of the operand to the next
    along_k, along_n = ROW if is_rows else STEP, 2 * SQUARE * depth  # from a block of 32 by 32 to the next
    start, step = (target + along_k * strip, along_n) if turned else (target + along_n * strip, along_k)
    width, is_direct = PAIRS if turned else ROW, turned != is_rows
    edge, rounded = np.empty((2, SQUARE), np.float32), np.empty(0 if is_direct else SQUARE * SQUARE * across, np.uint16)
    edge_at, rounded_at = edge.ctypes.data, rounded.ctypes.data
    for row in range(SQUARE // 2 if turned else SQUARE):
        n = SQUARE * strip + (2 * row if turned else row)
        if is_direct:
            _round_row(at, line, rows, columns, n, turned, edge_at, start + below * row, step, across)
        else:
            place = rounded_at + width * across * row
            _round_row(at, line, rows, columns, n, turned, edge_at, place, width, across)
    if not is_direct:
        _transpose_strip(rounded_at, turned, start, below, step, across)
    hold(edge, rounded)


@compile_parallel
def _pack(x, turned, is_rows, y, depth):
    """Write x to y, whose rows or panels have `depth` numbers of K."""
    (rows, columns), x_at, y_at = x.shape, x.ctypes.data, y.ctypes.data
    for strip in prange(strips_of(rows, turned, depth)):
        pack_strip(x_at, 4 * columns, rows, columns, strip, turned, is_rows, y_at, depth)


@compile_parallel
def _join_rows(rows, panels):
    """Write pairs of rows of A as panels of B, and zeros for rows that A does not have."""
    blocks, depth = panels.shape[0], 2 * panels.shape[1]
    rows_at, panels_at, line = rows.ctypes.data, panels.ctypes.data, 2 * rows.shape[1]
    for strip in prange(depth // SQUARE):
        nothing = np.zeros(SQUARE, np.uint16)
        is_there = SQUARE * strip < rows.shape[0]
        for pair in range(SQUARE // 2):
            first = rows_at + line * (SQUARE * strip + 2 * pair)
            for block in range(blocks):
                target = panels_at + 2 * SQUARE * depth * block + STEP * strip + PAIRS * pair
                if is_there:
                    join(first + ROW * block, first + line + ROW * block, target)
                else:
                    join(nothing.ctypes.data, nothing.ctypes.data, target)
        hold(nothing)


@compile_part
def pack_gradient_strip(
    at,
    line,
    height,
    columns,
    rows_at,
    lines,
    across,
    turned_at,
    turned_lines,
    turned_across,
    total,
    edge_at,
    rounded_at,
):
    """Pack up to 32 rows of a matrix at an address as rows of A and as a part of its transpose's; add up its columns.

    height: how many rows there are; zeros stand for the others. rows_at: 0, and these are not written. across: how many
    blocks of 32 columns are. edge_at, rounded_at: memory as `pack_strip` has it.
    """
    for row in range(SQUARE):
        if rows_at > 0:
            _round_row(at, line, height, columns, row, False, edge_at, rows_at + lines * row, ROW, across)
        if row % 2 == 0:
            target = rounded_at + PAIRS * turned_across * (row // 2)
            _round_row(at, line, height, columns, row, True, edge_at, target, PAIRS, turned_across)
        if row < height:
            source = carray(pointer(at + line * row), (columns,))
            for column in range(total.size):
                total[column] += source[column]
    _transpose_strip(rounded_at, True, turned_at, turned_lines, SQUARE * turned_lines, turned_across)


@compile_parallel
def _pack_gradient(dy, rows, turned, sums, dropping):
    """Write what dropout leaves of dy, and its transpose, as rows of A, and sums of its columns.

    Each sum is over some strips of 32 rows. dropping: see `dropout.dropping_of`.
    """
    N, O = dy.shape  # noqa: E741
    across, turned_across = rows.shape[1] // SQUARE, squares_of(O)
    strips, tasks = turned.shape[1] // SQUARE, sums.shape[0]
    lines, turned_lines = 2 * rows.shape[1], 2 * turned.shape[1]
    dy_at, rows_at, turned_at = dy.ctypes.data, rows.ctypes.data, turned.ctypes.data
    for task in prange(tasks):
        edge, total = np.empty((2, SQUARE), np.float32), sums[task]
        rounded = np.empty(SQUARE * SQUARE * turned_across, np.uint16)
        kept = np.empty((SQUARE if dropping[0] > 0 else 0, O), np.float32)
        bits = np.empty(O + 4 if dropping[0] > 0 else 0, np.uint32)
        total[:] = 0
        for strip in range(strips * task // tasks, strips * (task + 1) // tasks):
            n = SQUARE * strip
            height, source_at = max(0, min(SQUARE, N - n)), dy_at + 4 * O * n
            if dropping[0] > 0:
                for r in range(height):
                    keep_part(dy[n + r], kept[r], bits, n + r, 0, dropping)
                source_at = kept.ctypes.data
            pack_gradient_strip(
                source_at, 4 * O, height, O,
                rows_at + lines * n if n < rows.shape[0] else 0, lines, across,
                turned_at + ROW * strip, turned_lines, turned_across, total, edge.ctypes.data, rounded.ctypes.data,
            )  # fmt: skip
        hold(edge, rounded, kept)


def whole(length: int) -> int:
    return -(-length // SQUARE) * SQUARE


def _depth(length: int) -> int:
    """Return how many numbers of K are packed."""
    depth = whole(length)
    return depth + SQUARE if depth % CROWDED == 0 else depth


def _packed(x: Array, turned: bool, is_rows: bool) -> Array:
    length, depth = reversed(x.shape) if turned else x.shape
    length, depth = whole(length), _depth(depth)
    packed = empty((length, depth) if is_rows else (length // SQUARE, depth // 2, SQUARE, 2), np.uint16)
    with pool_for(x.size):
        _pack(x, turned, is_rows, packed, depth)
    return packed


def pack_rows(x: Array, turned: bool = False) -> Array:
    """Return A of a float32 matrix, or of its transpose: (rows, K) as the upper halves of float32, filled up."""
    return _packed(x, turned, is_rows=True)


def pack_panels(w: Array, turned: bool = False) -> Array:
    """Return B = wᵀ of a float32 matrix (columns, K), or B = w of one (K, columns) where `turned`."""
    return _packed(w, turned, is_rows=False)


def gradient_operands(rows: int, columns: int) -> tuple[Array, Array]:
    """Return memory for a matrix and its transpose as rows of A."""
    return empty((whole(rows), _depth(columns)), np.uint16), empty((whole(columns), _depth(rows)), np.uint16)


def pack_gradient(dy: Array, dropout: DropoutSaved | None = None) -> tuple[Array, Array, Array]:
    """Return `pack_rows(dy)`, `pack_rows(dy, turned=True)` and partial sums of the rows, of which dy is read once.

    dropout: of which dy is the gradient; the gradient of what was dropped is packed then.
    """
    rows, turned = gradient_operands(*dy.shape)
    sums = np.empty((min(MOST_PARTIALS, turned.shape[1] // SQUARE), dy.shape[1]), np.float32)
    with pool_for(2 * dy.size):
        _pack_gradient(dy, rows, turned, sums, dropping_of(dropout))
    return rows, turned, sums


def panels_of_rows(rows: Array, columns: int) -> Array:
    """Return `pack_panels(x, turned=True)` of what `pack_rows` returned for x (K, columns)."""
    panels = empty((whole(columns) // SQUARE, _depth(len(rows)) // 2, SQUARE, 2), np.uint16)
    with pool_for(rows.size):
        _join_rows(rows, panels)
    return panels


def empty_rows(rows: int, depth: int) -> Array:
    """Return rows of A that are to be filled, with zeros where a matrix (rows, depth) has nothing."""
    packed = empty((whole(rows), _depth(depth)), np.uint16)
    packed[rows:] = 0
    packed[:, depth:] = 0
    return packed
