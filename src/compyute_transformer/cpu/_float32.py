"""Shared: matrix products in float32, of operands at any distance in memory, callable from inside a kernel.

    C = S + A B        A (M, K), B (K, N); S may be C itself, or one row for all rows, such as a bias

A tile of C, 4 rows by 24 columns (8 by 48 where a register holds 16 numbers), stays in registers while K runs: a row
of B is read once for all rows of the tile, and each number of A is spread over a register. B is read in panels, as wide
as a tile. The last one or two are narrower, 16 columns (32), and their tiles taller: 24 and 16 add up to any multiple
of 8 from 16 on. Where a panel is read again and again, it is packed: its rows lie one after the other.

The sums of an element run along K alone: the rows and columns beside it do not change its bits.

A BLAS computes the same, and packs both operands at every call, however small the product is: `attention` takes these
products where they were measured to be faster.

Optimization history (GFLOP/s of one core of a Zen 3, 2026-11-29, in turns with the BLAS; the registers allow 95):

1. (192, 256) by (256, 384), all in cache: tiles of 4 by 24 89, of 6 by 16 89; the BLAS 77. The loop over K written in
   assembly, aligned or unrolled, gained nothing over what the compiler makes of it.
2. Narrow panels in tiles of 6 rows, not of 4: eight sums are too few to hide how long an addition takes, and the last
   16 of 64 columns took two thirds of the time of the other 48.

Tried and left out, whole products of linear layers on all threads, which pack one operand in panels of 8 MB: forward
1.3 to 1.4 times as fast as the BLAS for (768, 128) by (384, 128), 1.0 to 1.1 times for (4096, 384) by (1536, 384),
backward 1.0 to 1.1 times. A training step gained nothing: 73.8 ms beside 72.1 with 128 channels, 3.03 s beside 3.16
with 384, within the spread.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from ._amx import features, switched_off
from ._blas import build_prefetch, pointer
from ._kernel import compile_part

__all__ = ["add_packed_product", "add_product", "columns_of_panels", "fault", "pack", "scratch_of"]

# Numbers in a register; rows of a tile, and of a narrow one. Twelve sums or more hide how long an addition takes.
LANES, ROWS, TALL = (16, 8, 12) if features().get("avx512f") else (8, 4, 6)
WIDE, NARROW = 3 * LANES, 2 * LANES  # columns of a tile
ZERO = np.float32(0.0)

FLOAT, WORD, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)


def fault() -> str | None:
    """Return why these products are not for this processor, in one sentence; None where they are."""
    if (off := switched_off("COMPYUTE_FLOAT32")) is not None:
        return off
    found = features()
    return None if found.get("fma") or found.get("neon") else "this processor has no fused multiplication and addition"


def _tile(rows: int, vectors: int) -> Any:
    """Return a function: C = S + A B for a tile of C of so many rows, `vectors` registers wide.

    All are addresses and distances in bytes: of rows of A and from one number of a row to the next, of rows of B, of S
    and of C.
    """

    @intrinsic
    def tile(
        typingctx: Any,
        a: Any,
        a_row: Any,
        a_k: Any,
        b: Any,
        b_row: Any,
        depth: Any,
        s: Any,
        s_row: Any,
        c: Any,
        c_row: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a, a_row, a_k, b, b_row, depth, s, s_row, c, c_row = args

            def after(address: Any, step: Any, count: int) -> Any:
                return builder.add(address, builder.mul(step, LONG(count)))

            def loaded(address: Any, kind: Any) -> Any:
                value = builder.load(builder.inttoptr(address, kind.as_pointer()))
                value.align = 4
                return value

            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), f"llvm.fma.v{LANES}f32"
            )
            spread = ir.Constant(ir.VectorType(WORD, LANES), [0] * LANES)
            nothing = ir.Constant(VECTOR, ir.Undefined)
            zeros = ir.Constant(VECTOR, [0.0] * LANES)
            places = [(row, 4 * LANES * vector) for row in range(rows) for vector in range(vectors)]
            sums = {place: cgutils.alloca_once_value(builder, zeros) for place in places}
            for row in range(rows):  # C is written at the end: by then its lines are there
                for part in (0, 4 * LANES * vectors - 1):
                    build_prefetch(builder, builder.add(after(c, c_row, row), LONG(part)))
            with cgutils.for_range(builder, depth) as loop:
                here = builder.add(b, builder.mul(loop.index, b_row))
                wide = [loaded(builder.add(here, LONG(4 * LANES * vector)), VECTOR) for vector in range(vectors)]
                along = builder.add(a, builder.mul(loop.index, a_k))
                for row in range(rows):
                    number = builder.insert_element(nothing, loaded(after(along, a_row, row), FLOAT), WORD(0))
                    everywhere = builder.shuffle_vector(number, nothing, spread)
                    for vector in range(vectors):
                        place = sums[row, 4 * LANES * vector]
                        builder.store(builder.call(fma, [everywhere, wide[vector], builder.load(place)]), place)
            for row, column in places:
                added = loaded(builder.add(after(s, s_row, row), LONG(column)), VECTOR)
                target = builder.inttoptr(builder.add(after(c, c_row, row), LONG(column)), VECTOR.as_pointer())
                builder.store(builder.fadd(added, builder.load(sums[row, column])), target).align = 4
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), codegen

    return tile


_wide_tile, _narrow_tile, _tall_tile = _tile(ROWS, 3), _tile(ROWS, 2), _tile(TALL, 2)


@intrinsic
def move_lanes(typingctx: Any, source: Any, target: Any) -> Any:
    """Copy as many numbers as a register holds from one address to another."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(builder.inttoptr(args[0], VECTOR.as_pointer()))
        value.align = 4
        builder.store(value, builder.inttoptr(args[1], VECTOR.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@compile_part
def panels_of(columns):
    """Return how many wide panels a matrix of so many columns has, and how many narrow ones behind them."""
    vectors = max(2, (columns + LANES - 1) // LANES)
    narrow = (3 - vectors % 3) % 3
    return (vectors - 2 * narrow) // 3, narrow


@compile_part
def start_of(panel, wide):
    """Return the first column of a panel, where `wide` panels are wide."""
    return WIDE * min(panel, wide) + NARROW * max(0, panel - wide)


@compile_part
def scratch_of(depth):
    """Return memory for the tiles at the edges of a product, whose operands are copied there and filled up."""
    return np.zeros(TALL * (depth + WIDE) + depth * WIDE, np.float32)


@compile_part
def _copy(source_at, source_row, target_at, target_row, rows, columns):
    """Copy rows of numbers from one address to another; the distances from row to row are in bytes."""
    for r in range(rows):
        source = carray(pointer(source_at + source_row * r), (columns,))
        target = carray(pointer(target_at + target_row * r), (columns,))
        for i in range(source.size):
            target[i] = source[i]


@compile_part
def _copy_rows(a, a_row, a_k, height, depth, target_at):
    """Copy rows of A, at any distance in memory, to rows that lie one after the other, and zeros behind them."""
    target = carray(pointer(target_at), (ROWS, depth))
    for r in range(ROWS):
        for k in range(depth):
            target[r, k] = carray(pointer(a + a_row * r + a_k * k), (1,))[0] if r < height else ZERO


@compile_part
def _add_panel(a, a_row, a_k, b, b_row, is_wide, rows, columns, depth, s, s_row, c, c_row, scratch):
    """C = S + A B for the columns of one panel of B, which can be read over all of its width.

    columns: of C, no more than the panel has. scratch: as `scratch_of` returns it.
    """
    own_a, own_c, own_row = scratch.ctypes.data, scratch.ctypes.data + 4 * TALL * depth, np.int64(4 * WIDE)
    tall = 0 if is_wide else rows // TALL
    if tall > 0 and (rows - TALL * tall) % ROWS > 0 and (rows - TALL * (tall - 1)) % ROWS == 0:
        tall -= 1  # of 64 rows ten tiles of 6 leave one of 4
    row = 0
    while row < rows:
        is_tall = row < TALL * tall
        height = min(TALL if is_tall else ROWS, rows - row)
        is_whole = (is_tall or height == ROWS) and columns == (WIDE if is_wide else NARROW)
        a_at, a_step, a_next = a + a_row * row, a_row, a_k
        if height < ROWS:  # rows that A does not have count as zeros
            _copy_rows(a_at, a_row, a_k, height, depth, own_a)
            a_at, a_step, a_next = own_a, np.int64(4 * depth), np.int64(4)
        s_at, s_step, c_at, c_step = s + s_row * row, s_row, c + c_row * row, c_row
        if not is_whole:
            _copy(s_at, s_step, own_c, own_row, height, columns)
            s_at, s_step, c_at, c_step = own_c, own_row, own_c, own_row
        if is_wide:
            _wide_tile(a_at, a_step, a_next, b, b_row, depth, s_at, s_step, c_at, c_step)
        elif is_tall:
            _tall_tile(a_at, a_step, a_next, b, b_row, depth, s_at, s_step, c_at, c_step)
        else:
            _narrow_tile(a_at, a_step, a_next, b, b_row, depth, s_at, s_step, c_at, c_step)
        if not is_whole:
            _copy(own_c, own_row, c + c_row * row, c_row, height, columns)
        row += height


@compile_part
def add_product(a, a_row, a_k, b, b_row, rows, columns, depth, s, s_row, c, c_row, scratch):
    """C = S + A B of operands as they lie, small enough for the caches.

    Addresses and distances are in bytes: of rows of A and of the numbers in them, so that A may be transposed, of rows
    of B, S and C, whose numbers are neighbors. scratch: as `scratch_of` returns it for this depth or more.
    """
    wide, narrow = panels_of(columns)
    own_b = scratch.ctypes.data + 4 * TALL * (depth + WIDE)
    for panel in range(wide + narrow):
        start, is_wide = start_of(panel, wide), panel < wide
        width = WIDE if is_wide else NARROW
        has = min(width, columns - start)
        b_at, b_step = b + 4 * start, b_row
        if has < width:  # columns that B does not have are not read
            _copy(b_at, b_step, own_b, np.int64(4 * WIDE), depth, has)
            b_at, b_step = own_b, np.int64(4 * WIDE)
        _add_panel(
            a, a_row, a_k, b_at, b_step, is_wide, rows, has, depth,
            s + 4 * start, s_row, c + 4 * start, c_row, scratch,
        )  # fmt: skip


@compile_part
def add_packed_product(a, a_row, a_k, packed, packed_rows, first, rows, columns, depth, s, s_row, c, c_row, scratch):
    """As `add_product`, of rows [first, first + depth) of a matrix that `pack` has packed, of packed_rows rows."""
    wide, narrow = panels_of(columns)
    for panel in range(wide + narrow):
        start, is_wide = start_of(panel, wide), panel < wide
        width = WIDE if is_wide else NARROW
        _add_panel(
            a, a_row, a_k, packed + 4 * (packed_rows * start + width * first), np.int64(4 * width), is_wide,
            rows, min(width, columns - start), depth, s + 4 * start, s_row, c + 4 * start, c_row, scratch,
        )  # fmt: skip


@compile_part
def pack(b, b_row, rows, columns, packed, packed_rows):
    """Write rows of B to panels of packed_rows rows, one after the other. What is behind its last column is unused."""
    wide, narrow = panels_of(columns)
    for k in range(rows):
        for panel in range(wide + narrow):
            start, width = start_of(panel, wide), WIDE if panel < wide else NARROW
            source, target = b + b_row * k + 4 * start, packed + 4 * (packed_rows * start + width * k)
            if start + width <= columns:
                for vector in range(width // LANES):
                    move_lanes(source + 4 * LANES * vector, target + 4 * LANES * vector)
            else:
                filled, has = carray(pointer(target), (width,)), carray(pointer(source), (columns - start,))
                for i in range(has.size):
                    filled[i] = has[i]


@compile_part
def columns_of_panels(columns):
    """Return how many columns the panels of a matrix have, those behind its last one included."""
    return LANES * max(2, (columns + LANES - 1) // LANES)
