"""Shared: products of many rows and quantized weights by the kernels of `_products`, as exact as in float32.

A weight in int8 or bfloat16 is exact in bfloat16. A float32 is the sum of three bfloat16, each with 8 of its 24 bits.
So three products in bfloat16 with float32 sums are the product of float32, on tiles in less time than one of it:

    x = x₀ + x₁ + x₂          y[n, o] = Σ over groups g: scale[o, g] · Σ over k in g: (x₀ + x₁ + x₂)[n, k] · q[o, k]

A group of 32 numbers that share a scale is one step along K. Its sum, of all three parts, is multiplied by the scales
of 32 outputs and added. Weights in bfloat16 have no scales, and sum over all of K at once.

    A    (rows, 3, K): the parts of a row one after the other
    B    panels as `_packing` has them, of numbers that are not rounded

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
from ._blas import shorts_at
from ._buffers import empty
from ._halves import FLOATS, HALVES, LANES, NUMBERS, WORDS, loaded, many, stored, transpose
from ._kernel import compile_parallel, compile_part, hold, pool_for
from ._packing import BLOCK, PAIRS, ROW, SQUARE, STEP, whole
from ._products import ROWS, Kernel, add_square, begin, end, groups_of

__all__ = ["PARTS", "multiply_quantized"]

PARTS = 3
WORK = 20  # multiplications in the time of one element of a sweep
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


@compile_parallel
def _pack_weight(values_at, outputs, inputs, is_int8, b):
    """Write the panels of a matrix of int8, or of the bits of bfloat16, at an address."""
    steps = b.shape[1] * 2 // SQUARE
    b_at, line = b.ctypes.data, ROW * steps
    for panel in prange(b.shape[0]):
        rows = np.zeros((SQUARE, SQUARE * steps), np.uint16)
        rows_at = rows.ctypes.data
        for n in range(min(SQUARE, outputs - SQUARE * panel)):
            o = SQUARE * panel + n
            if is_int8:
                for step in range(steps):
                    _widen(values_at + inputs * o + SQUARE * step, rows_at + line * n + ROW * step)
            else:
                source, part = carray(shorts_at(values_at + 2 * inputs * o), (inputs,)), rows[n]
                for i in range(source.size):
                    part[i] = source[i]
        for step in range(steps):
            target = b_at + STEP * (steps * panel + step)
            for i in range(SQUARE // LANES):
                for j in range(SQUARE // 2 // LANES):
                    source_at = rows_at + line * LANES * i + ROW * step + 4 * LANES * j
                    transpose(source_at, line, target + PAIRS * LANES * j + 4 * LANES * i, PAIRS)
        hold(rows)


@compile_part
def _add_groups(number, a_at, lda, distance, b_panel, scales, total, group_sum):
    """Add to a square the sums of each group, multiplied by the scales (groups, 32) of the outputs."""
    at, ld = group_sum.ctypes.data, np.int64(BLOCK)
    for group in range(scales.shape[0]):
        group_sum[:] = ZERO
        for part in range(PARTS):
            place = a_at + distance * part + ROW * group
            add_square(number, place, lda, b_panel + STEP * group, np.int64(1), at, ld, at, ld)
        own = scales[group]
        for r in range(SQUARE):
            target, source = total[r], group_sum[r]
            for c in range(own.size):
                target[c] += own[c] * source[c]


@compile_parallel
def _multiply(number, layout_at, a, b, scales, bias, y, groups):
    """Compute y. scales: (panels, I / 32, 32), or nothing. groups: into how many the columns are shared out."""
    (rows, columns), depth = y.shape, a.shape[2]
    panels, lda, distance = b.shape[0], 2 * PARTS * depth, 2 * depth
    a_at, b_at = a.ctypes.data, b.ctypes.data
    for task in prange((rows + ROWS - 1) // ROWS * groups):
        block, group = task // groups, task % groups
        total, group_sum = np.empty((SQUARE, SQUARE), np.float32), np.empty((SQUARE, SQUARE), np.float32)
        begin(number, layout_at)
        for panel in range(panels * group // groups, panels * (group + 1) // groups):
            b_panel, first = b_at + 2 * SQUARE * depth * panel, SQUARE * panel
            width = min(SQUARE, columns - first)
            for m in range(ROWS * block, min(rows, ROWS * block + ROWS), SQUARE):
                total[:] = ZERO
                total[:, :width] = bias[first : first + width]
                if scales.shape[0] > 0:
                    _add_groups(number, a_at + lda * m, lda, distance, b_panel, scales[panel], total, group_sum)
                else:
                    for part in range(PARTS):
                        place, steps = a_at + lda * m + distance * part, np.int64(depth // SQUARE)
                        at, ld = total.ctypes.data, np.int64(BLOCK)
                        add_square(number, place, lda, b_panel, steps, at, ld, at, ld)
                for r in range(min(SQUARE, rows - m)):
                    y[m + r, first : first + width] = total[r, :width]
        end(number)
        hold(total)


def multiply_quantized(kernel: Kernel, x: Array, weight: QuantizedWeight, bias: Array, y: Array) -> None:
    """Compute y = x Wᵀ + bias of float32 rows in one piece and a quantized weight. bias: one number an output."""
    (rows, inputs), outputs, scales = x.shape, len(weight), weight.scales
    depth, panels = whole(inputs), whole(outputs) // SQUARE
    a = empty((whole(rows), PARTS, depth), np.uint16)
    b = empty((panels, depth // 2, SQUARE, 2), np.uint16)
    by_group = np.zeros((0 if scales is None else panels, depth // GROUP, SQUARE), np.float32)
    if scales is not None:
        padded = np.zeros((panels * SQUARE, depth // GROUP), np.float32)
        padded[:outputs] = scales
        by_group[:] = padded.reshape(panels, SQUARE, -1).transpose(0, 2, 1)
    with pool_for(rows * inputs * outputs // WORK):
        _pack_parts(x, a)
        _pack_weight(weight.values.ctypes.data, outputs, inputs, scales is not None, b)
        _multiply(kernel.number, LAYOUT.ctypes.data, a, b, by_group, bias, y, min(groups_of(rows), panels))
