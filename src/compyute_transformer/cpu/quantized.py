"""Quantized weights on a CPU: widened in registers for a few rows, a tile at a time in cache for many.

A product of a few rows takes the time of reading the weight, so what is read is the 8 or 16 bits, one row after the
other, with a prefetch two kilobytes ahead. Eight numbers at a time become float32 in a register and meet up to four
rows of x; nothing wide is written to memory. A plain loop would add up each group of 32 on its own, so the body is
written in the compiler's language, with a vector of sums for each row of x.

For many rows, as of a prompt, a tile of the weight is widened into the second-level cache and multiplied by the BLAS.
The products of `_quantized_products` take its place where products are in bfloat16 and a kernel of `_products` is
faster than the BLAS, and in float32 where it is three times as fast.

Optimization history (a core of a Zen 3, 2026-11-28, one row of x, a weight of 75 MB, where float32 is read at 12 GB/s):

1. Two rows of the weight at once, so that x is loaded once for both: int8 4.8 GB/s, bfloat16 6.8, though 17 and 25 from
   the cache. The processor fetches ahead along one stream, and two rows are two.
2. One row at a time: 9.2 and 11.3.
3. With a prefetch, of all distances up to 4 KB the best at 2 KB: 10.8 and 11. To round x to int8 as well would save
   instructions, which are not what takes the time.
4. Scales in float32, not in float16: to widen 18 of them took 14 to 23 of the 71 ns of a row of 576 numbers. What is
   gained was not measured yet.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, get_num_threads, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..arrays import Array
from ..dispatch import kernel_for
from ..ops.quantized import GROUP, QuantizedWeight, quantized_linear
from ..precision import precision
from . import _products
from ._blas import (
    AS_IT_IS,
    TRANSPOSED,
    build_prefetch,
    bytes_at,
    pointer,
    sgemm,
    sgemm_address,
    shorts_at,
    single_threaded,
)
from ._buffers import empty
from ._kernel import compile_kernel, compile_parallel, compile_part, hold, is_float32, is_ready, pool_for
from ._quantized_products import PARTS, multiply_quantized
from ._rounding import operands
from ._vector import float_from_bits
from .linear import FEW_ROWS, PRODUCTS, WORTH_THREADS, columns_of, few_rows_columns

__all__ = ["KINDS", "addresses_of", "any_columns", "is_held", "quantized_linear_kernel"]

ZERO, ONE = np.float32(0.0), np.float32(1.0)
LANES, AHEAD = 8, 2048
TILE = 256  # rows of a weight that are widened at once
FLOAT32, BFLOAT16, INT8, ROUNDED = range(4)  # ROUNDED: float32, multiplied as bfloat16
KINDS = {"bfloat16": BFLOAT16, "int8": INT8}

FLOAT, LONG = ir.FloatType(), ir.IntType(64)
VECTOR, INTEGERS = ir.VectorType(FLOAT, LANES), ir.VectorType(ir.IntType(32), LANES)


def _loaded(builder: Any, address: Any, element: Any) -> Any:
    """Return eight numbers at an address, which need not be a multiple of anything."""
    vector = builder.load(builder.inttoptr(address, ir.VectorType(element, LANES).as_pointer()))
    vector.align = 1
    return vector


def _widened(builder: Any, address: Any, kind: int) -> Any:
    if kind == INT8:
        return builder.sitofp(builder.sext(_loaded(builder, address, ir.IntType(8)), INTEGERS), VECTOR)
    bits = builder.zext(_loaded(builder, address, ir.IntType(16)), INTEGERS)
    return builder.bitcast(builder.shl(bits, ir.Constant(INTEGERS, [16] * LANES)), VECTOR)


def _spread(builder: Any, number: Any) -> Any:
    nothing = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(INTEGERS, [0] * LANES))


def _call(builder: Any, name: str, result: Any, *arguments: Any, flags: tuple[str, ...] = ()) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments, fastmath=flags)


def _group(builder: Any, kind: int, values: Any, scale: Any, x: list[Any], sums: list[Any]) -> None:
    """Add the products of 32 numbers of the weight to the sums, one vector for each row of x."""

    def fma(a: Any, b: Any, c: Any) -> Any:
        return _call(builder, f"llvm.fma.v{LANES}f32", VECTOR, a, b, c)

    parts, size = range(GROUP // LANES), 1 if kind == INT8 else 2
    wide = [_widened(builder, builder.add(values, LONG(LANES * size * part)), kind) for part in parts]
    scales_products = kind == INT8 and len(x) == 1  # five operations for one row, where scaled numbers take eight
    if kind == INT8 and not scales_products:
        wide = [builder.fmul(each, scale) for each in wide]
    for address, total in zip(x, sums, strict=True):
        own = [_loaded(builder, builder.add(address, LONG(4 * LANES * part)), FLOAT) for part in parts]
        if scales_products:
            products = builder.fmul(wide[0], own[0])
            for part in parts[1:]:
                products = fma(wide[part], own[part], products)
            builder.store(fma(products, scale, builder.load(total)), total)
        else:
            added = builder.load(total)
            for part in parts:
                added = fma(wide[part], own[part], added)
            builder.store(added, total)


def _row_products(rows: int, kind: int) -> Any:
    """Return a function: the products of one row of a weight and some rows of x, over whole groups.

    values, scales, x, y: addresses in bytes. x_stride, y_stride: bytes from row to row.
    """
    size = 1 if kind == INT8 else 2

    @intrinsic
    def products(
        typingctx: Any, values: Any, scales: Any, x: Any, x_stride: Any, groups: Any, y: Any, y_stride: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values, scales, x, x_stride, groups, y, y_stride = args
            zeros = ir.Constant(VECTOR, [0.0] * LANES)
            sums = [cgutils.alloca_once_value(builder, zeros) for _ in range(rows)]
            with cgutils.for_range(builder, groups) as loop:
                here = builder.add(values, builder.mul(loop.index, LONG(GROUP * size)))
                build_prefetch(builder, builder.add(here, LONG(AHEAD)))
                scale = None
                if kind == INT8:
                    place = builder.add(scales, builder.mul(loop.index, LONG(4)))
                    scale = _spread(builder, builder.load(builder.inttoptr(place, FLOAT.as_pointer())))
                at = builder.add(x, builder.mul(loop.index, LONG(4 * GROUP)))
                own = [builder.add(at, builder.mul(x_stride, LONG(row))) for row in range(rows)]
                _group(builder, kind, here, scale, own, sums)
            for row, total in enumerate(sums):
                place = builder.inttoptr(builder.add(y, builder.mul(y_stride, LONG(row))), FLOAT.as_pointer())
                name = f"llvm.vector.reduce.fadd.v{LANES}f32"
                builder.store(_call(builder, name, FLOAT, FLOAT(0.0), builder.load(total), flags=("reassoc",)), place)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), codegen

    return products


_int8_row, _int8_rows = _row_products(1, INT8), _row_products(4, INT8)
_bfloat16_row, _bfloat16_rows = _row_products(1, BFLOAT16), _row_products(4, BFLOAT16)


@compile_part
def _quantized_columns(kind, x, values, scales, y, first, last):
    """Columns [first, last) of y = x weightᵀ; values and scales are addresses."""
    (N, I), O = x.shape, y.shape[1]  # noqa: E741
    groups, x_at, y_at = I // GROUP, x.ctypes.data, y.ctypes.data
    for o in range(first, last):
        row_at, scales_at = values + (o * I if kind == INT8 else 2 * o * I), scales + 4 * o * groups
        for four in range(N // 4):
            x_four, y_four = x_at + 16 * four * I, y_at + 4 * (4 * four * O + o)
            if kind == INT8:
                _int8_rows(row_at, scales_at, x_four, 4 * I, groups, y_four, 4 * O)
            else:
                _bfloat16_rows(row_at, 0, x_four, 4 * I, groups, y_four, 4 * O)
        for extra in range(N % 4):
            n = N - N % 4 + extra
            if kind == INT8:
                _int8_row(row_at, scales_at, x_at + 4 * n * I, 4 * I, groups, y_at + 4 * (n * O + o), 4 * O)
            else:
                _bfloat16_row(row_at, 0, x_at + 4 * n * I, 4 * I, groups, y_at + 4 * (n * O + o), 4 * O)
        if kind == BFLOAT16 and groups * GROUP < I:
            rest = carray(shorts_at(row_at), (I,))[groups * GROUP :]
            for n in range(N):
                own, total = x[n, groups * GROUP :], ZERO
                for i in range(rest.size):
                    total += float_from_bits(np.int32(rest[i]) << np.int32(16)) * own[i]
                y[n, o] += total


@compile_kernel
def any_columns(kind, x, values, scales, bias, y, first, last):
    """Columns [first, last) of y = x weightᵀ + bias, of a weight that is an array of float32 or quantized."""
    I, O = x.shape[1], y.shape[1]  # noqa: E741
    if kind in (FLOAT32, ROUNDED):
        few_rows_columns(x, carray(pointer(values), (O, I)), bias, True, y, first, last, kind == ROUNDED)
        return
    _quantized_columns(kind, x, values, scales, y, first, last)
    added = bias[first:last]
    for n in range(y.shape[0]):
        part = y[n, first:last]
        for o in range(part.size):
            part[o] += added[o]


@compile_parallel
def _few_rows(kind, x, values, scales, bias, y, slices):
    for index in prange(slices):
        first, last = columns_of(index, slices, y.shape[1])
        any_columns(kind, x, values, scales, bias, y, first, last)


@compile_part
def _widen(kind, values, scales, I, first, last, wide):  # noqa: E741
    """Rows [first, last) of a weight as float32."""
    groups = I // GROUP
    for o in range(first, last):
        row = wide[o - first]
        if kind == INT8:
            own = carray(pointer(scales + 4 * o * groups), (groups,))
            narrow = carray(bytes_at(values + o * I), (I,))
            for g in range(groups):
                scale, part, few = own[g], row[GROUP * g : GROUP * (g + 1)], narrow[GROUP * g : GROUP * (g + 1)]
                for i in range(part.size):
                    part[i] = np.float32(few[i]) * scale
        else:
            bits = carray(shorts_at(values + 2 * o * I), (I,))
            for i in range(row.size):
                row[i] = float_from_bits(np.int32(bits[i]) << np.int32(16))


@compile_parallel
def _many_rows(address, kind, x, values, scales, bias, y, tiles):
    (N, I), O = x.shape, y.shape[1]  # noqa: E741
    x_at, y_at = x.ctypes.data, y.ctypes.data
    for tile in prange(tiles):
        first, last = tile * TILE, min(O, (tile + 1) * TILE)
        wide = np.empty((TILE, I), np.float32)
        _widen(kind, values, scales, I, first, last, wide)
        added = bias[first:last]
        for n in range(N):
            part = y[n, first:last]
            for o in range(part.size):
                part[o] = added[o]
        sgemm(
            address, TRANSPOSED, AS_IT_IS, last - first, N, I,
            ONE, wide.ctypes.data, I, x_at, I, ONE, y_at + 4 * first, O,
        )  # fmt: skip
        hold(wide)


def addresses_of(weight: "Array | QuantizedWeight") -> tuple[int, int, int]:
    """Return where values and scales of a weight lie, and its kind, as `any_columns` takes them."""
    if not isinstance(weight, QuantizedWeight):
        return weight.ctypes.data, 0, FLOAT32
    scales = 0 if weight.scales is None else weight.scales.ctypes.data
    return weight.values.ctypes.data, scales, KINDS[weight.kind]


def is_held(weight: "Array | QuantizedWeight") -> bool:
    """Return whether the kernels read a weight where it lies: one piece, row-major, aligned."""
    if not isinstance(weight, QuantizedWeight):
        return is_ready(weight)
    arrays = (weight.values,) if weight.scales is None else (weight.values, weight.scales)
    return all(array.flags.c_contiguous and array.flags.aligned for array in arrays)


def _supports(x: Array, weight: QuantizedWeight, bias: Array | None = None) -> bool:
    return is_float32(x) and is_ready(bias) and is_held(weight) and x.size > 0 and weight.size > 0


@kernel_for(quantized_linear, supports=_supports)
def quantized_linear_kernel(x: Array, weight: QuantizedWeight, bias: Array | None = None) -> Array:
    x = np.ascontiguousarray(x)
    I, O = x.shape[-1], weight.shape[0]  # noqa: E741
    y, rows = empty((*x.shape[:-1], O)), x.reshape(-1, I)
    values, scales, kind = addresses_of(weight)
    given = values, scales, np.zeros(O, np.float32) if bias is None else bias, y.reshape(-1, O)
    chosen = precision()
    rounds = chosen == "bfloat16"
    if len(rows) > FEW_ROWS and (kernel := _products.chosen(times=1 if rounds else PARTS)) is not None:
        multiply_quantized(kernel, rows, weight, *given[2:], rounds)
        return y
    (rows,) = operands(chosen, rows)
    if len(rows) > FEW_ROWS:
        with single_threaded, pool_for(x.size * O // PRODUCTS):
            _many_rows(sgemm_address(), kind, rows, *given, -(-O // TILE))
    elif weight.nbytes < 4 * WORTH_THREADS:
        any_columns(kind, rows, *given, 0, O)
    else:
        _few_rows(kind, rows, *given, get_num_threads())
    return y
