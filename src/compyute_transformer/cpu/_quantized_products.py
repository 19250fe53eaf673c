"""Shared: products of many rows and quantized weights by the kernels of `_products`.

A weight in int8 or bfloat16 is exact in bfloat16, and so is x where products are in bfloat16, rounded: one product. A
float32 is the sum of three bfloat16, each with 8 of its 24 bits. So three products in bfloat16 with float32 sums are
the product of float32, on tiles in less time than one of it:

    x = x₀ + x₁ + x₂          y[n, o] = Σ over groups g: scale[o, g] · Σ over k in g: (x₀ + x₁ + x₂)[n, k] · q[o, k]

A group of 32 numbers that share a scale is one step along K. Its sum, of all parts, is multiplied by the scales of 32
outputs and added. Weights in bfloat16 have no scales, and sum over all of K at once.

    A    (rows, 3, K), or (rows, 1, K) where x is rounded: the parts of a row one after the other
    B    panels as `_packing` has them, of numbers that are not rounded

A task lays out some panels of the weight, as many as stay in the second-level cache, and all rows meet them there: the
weight is read once, and nothing wide is written to memory.

Optimization history, (1000, 768) by (3072, 768), x rounded, GFLOP/s on two cores of a Zen 4, 2026-11-30:

1. Sums of the groups set to zero, and added to the total by a loop of the compiler's: int8 251, bfloat16 429.
2. Sums that start from a row of zeros, and are added by vectors of 32 numbers: int8 269.

Not yet timed on tiles: the tests run every instruction by a handler for illegal ones.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, prange, types
from numba.extending import intrinsic

from ..arrays import Array
from ..ops.quantized import GROUP, QuantizedWeight
from ._amx import LAYOUT
from ._blas import pointer, shorts_at
from ._buffers import empty
from ._halves import FLOATS, HALVES, LANES, LONG, NUMBERS, WORDS, loaded, many, stored, transpose
from ._kernel import compile_parallel, compile_part, hold, pool_for
from ._packing import BLOCK, PAIRS, ROW, SQUARE, STEP, pack_rows, whole
from ._products import Kernel, add_square, begin, end

__all__ = ["PARTS", "multiply_quantized"]

PARTS = 3
WORK = 64  # multiplications in the time of one element of a sweep
IN_CACHE, MOST = 3 << 17, 8  # bytes of the panels that a task packs, and how many these are at most
ZERO = np.float32(0.0)


@intrinsic
def _split(typingctx: Any, source: Any, target: Any, distance: Any) -> Any:
    """Write 32 numbers as the upper halves of three parts, `distance` bytes apart, which add up to the number."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target, distance = args
        rest = loaded(builder, source, FLOATS)
        for part in range(PARTS):
            bits = builder.bitcast(rest, WORDS)
            is_nan = builder.fcmp_unordered("uno", rest, rest)
            bits = builder.and_(builder.select(is_nan, builder.or_(bits, many(0x00400000)), bits), many(-0x10000))
            place = builder.add(target, builder.mul(distance, distance.type(part)))
            stored(builder, builder.trunc(builder.lshr(bits, many(16)), HALVES), place)
            upper = builder.bitcast(bits, FLOATS)
            is_whole = builder.fcmp_unordered("ueq", rest, upper)  # infinity has no rest, and NaN no other
            zeros = ir.Constant(FLOATS, [0.0] * NUMBERS)
            rest = builder.select(is_whole, zeros, builder.fsub(rest, upper))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@intrinsic
def _widen(typingctx: Any, source: Any, target: Any) -> Any:
    """Write 32 int8 as bfloat16."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = args
        numbers = builder.load(builder.inttoptr(source, ir.VectorType(ir.IntType(8), NUMBERS).as_pointer()))
        numbers.align = 1
        bits = builder.bitcast(builder.sitofp(builder.sext(numbers, WORDS), FLOATS), WORDS)
        stored(builder, builder.trunc(builder.lshr(bits, many(16)), HALVES), target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _add_scaled(typingctx: Any, square: Any, scales: Any, total: Any) -> Any:
    """Add a square of 32 by 32 float32, its columns multiplied by 32 scales, to a total."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        square, scales, total = args
        factors = loaded(builder, scales, FLOATS)
        for row in range(SQUARE):
            place = builder.add(total, LONG(BLOCK * row))
            numbers = loaded(builder, builder.add(square, LONG(BLOCK * row)), FLOATS)
            scaled = builder.fmul(numbers, factors, flags=("contract",))
            stored(builder, builder.fadd(scaled, loaded(builder, place, FLOATS), flags=("contract",)), place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@compile_parallel
def _pack_parts(x, a):
    (rows, columns), distance = x.shape, 2 * a.shape[2]
    x_at, a_at = x.ctypes.data, a.ctypes.data
    for n in prange(a.shape[0]):
        edge = np.empty(SQUARE, np.float32)
        for block in range(a.shape[2] // SQUARE):
            first, target = SQUARE * block, a_at + PARTS * distance * n + ROW * block
            if n < rows and first + SQUARE <= columns:
                _split(x_at + 4 * (columns * n + first), target, distance)
            else:
                edge[:] = ZERO
                if n < rows:
                    for k in range(columns - first):
                        edge[k] = x[n, first + k]
                _split(edge.ctypes.data, target, distance)
        hold(edge)


@compile_part
def _pack_panel(values_at, outputs, inputs, is_int8, panel, steps, rows, b_at):
    """Write a panel of a matrix of int8, or of the bits of bfloat16, at an address. rows: memory, zeros at the end."""
    rows_at, line = rows.ctypes.data, ROW * steps
    for n in range(SQUARE):
        o, part = SQUARE * panel + n, rows[n]
        if o >= outputs:
            part[:] = 0
        elif is_int8:
            for step in range(steps):
                _widen(values_at + inputs * o + SQUARE * step, rows_at + line * n + ROW * step)
        else:
            source = carray(shorts_at(values_at + 2 * inputs * o), (inputs,))
            for i in range(source.size):
                part[i] = source[i]
    for step in range(steps):
        for i in range(SQUARE // LANES):
            for j in range(SQUARE // 2 // LANES):
                source_at = rows_at + line * LANES * i + ROW * step + 4 * LANES * j
                transpose(source_at, line, b_at + STEP * step + PAIRS * LANES * j + 4 * LANES * i, PAIRS)


@compile_part
def _add_groups(number, a_at, lda, parts, distance, b_panel, scales_at, groups, total_at, group_sum_at, zeros_at):
    """Add to a square the sums of each group, multiplied by the scales (groups, 32) of the outputs."""
    ld = np.int64(BLOCK)
    for group in range(groups):
        for part in range(parts):
            place = a_at + distance * part + ROW * group
            start, ldstart = (group_sum_at, ld) if part else (zeros_at, np.int64(0))
            add_square(number, place, lda, b_panel + STEP * group, np.int64(1), start, ldstart, group_sum_at, ld)
        _add_scaled(group_sum_at, scales_at + BLOCK * group, total_at)


@compile_parallel
def _multiply(number, layout_at, a, inputs, values_at, scales_at, bias, y, at_once):
    """Compute y. scales_at: 0 where there are none. at_once: panels of a task, which stay in the second-level cache."""
    (rows, columns), parts, distance = y.shape, a.shape[1], 2 * a.shape[2]
    steps, groups = np.int64((inputs + SQUARE - 1) // SQUARE), inputs // GROUP
    lda, a_at = parts * distance, a.ctypes.data
    panels, is_int8 = (columns + SQUARE - 1) // SQUARE, scales_at > 0
    for task in prange((panels + at_once - 1) // at_once):
        first_panel, last_panel = task * at_once, min(panels, (task + 1) * at_once)
        own = np.empty((at_once, SQUARE * SQUARE * steps), np.uint16)
        rounded = np.zeros((SQUARE, SQUARE * steps), np.uint16)
        scales = np.zeros((at_once, groups if is_int8 else 0, SQUARE), np.float32)
        total, group_sum = np.empty((SQUARE, SQUARE), np.float32), np.empty((SQUARE, SQUARE), np.float32)
        total_at, start, zeros = total.ctypes.data, np.zeros(SQUARE, np.float32), np.zeros(SQUARE, np.float32)
        for panel in range(first_panel, last_panel):
            place = own[panel - first_panel].ctypes.data
            _pack_panel(values_at, columns, inputs, is_int8, panel, steps, rounded, place)
            if is_int8:
                of_panel = scales[panel - first_panel]
                for n in range(min(SQUARE, columns - SQUARE * panel)):
                    given = carray(pointer(scales_at + 4 * groups * (SQUARE * panel + n)), (groups,))
                    for group in range(groups):
                        of_panel[group, n] = given[group]
        begin(number, layout_at)
        for m in range(0, rows, SQUARE):
            a_square, height = a_at + lda * m, min(SQUARE, rows - m)
            for panel in range(first_panel, last_panel):
                b_panel, first = own.ctypes.data + STEP * steps * (panel - first_panel), SQUARE * panel
                width = min(SQUARE, columns - first)
                is_whole = height == SQUARE and width == SQUARE and not is_int8
                at, ld = (y.ctypes.data + 4 * (columns * m + first), 4 * columns) if is_whole else (total_at, BLOCK)
                start[:width] = bias[first : first + width]
                if is_int8:
                    for r in range(SQUARE):
                        total[r] = start
                    _add_groups(
                        number, a_square, lda, parts, distance, b_panel, scales[panel - first_panel].ctypes.data,
                        groups, total_at, group_sum.ctypes.data, zeros.ctypes.data,
                    )  # fmt: skip
                else:
                    add_square(number, a_square, lda, b_panel, steps, start.ctypes.data, np.int64(0), at, np.int64(ld))
                    for part in range(1, parts):
                        place = a_square + distance * part
                        add_square(number, place, lda, b_panel, steps, at, np.int64(ld), at, np.int64(ld))
                if not is_whole:
                    for r in range(height):
                        y[m + r, first : first + width] = total[r, :width]
        end(number)
        hold(total, group_sum, own, rounded, start, zeros, scales)


def multiply_quantized(
    kernel: Kernel, x: Array, weight: QuantizedWeight, bias: Array, y: Array, rounds: bool = False
) -> None:
    """Compute y = x Wᵀ + bias of float32 rows in one piece and a quantized weight. bias: one number an output.

    rounds: whether x is rounded to bfloat16, and so has one part.
    """
    (rows, inputs), scales = x.shape, weight.scales
    if rounds:
        a = pack_rows(x)[:, None]
    else:
        a = empty((whole(rows), PARTS, whole(inputs)), np.uint16)
        with pool_for(a.size):
            _pack_parts(x, a)
    with pool_for(a.shape[1] * rows * weight.size // WORK):
        _multiply(
            kernel.number, LAYOUT.ctypes.data, a, inputs, weight.values.ctypes.data,
            0 if scales is None else scales.ctypes.data, bias, y,
            max(1, min(MOST, IN_CACHE // (2 * SQUARE * whole(inputs)))),
        )  # fmt: skip
