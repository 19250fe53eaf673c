"""Shared: matrix products in bfloat16 on AMX, the tile registers of Intel processors since Sapphire Rapids.

A tile holds 16 rows of 64 bytes. One instruction multiplies two of them and adds the product to a third:

    C (16, 16) float32  +=  A (16, 32) bfloat16  ·  B (32, 16) bfloat16           8,192 multiplications in 16 cycles

B lies in memory by pairs of rows, so that each 4 bytes of a row of A meet 4 bytes of a row of B: B[k, n] and B[k+1, n]
side by side. Four tiles of C, two of A and two of B are in use at once: a square of 32 by 32 of the result, for which
each tile of A and B is read once and used twice.

    pack_rows      A, rounded to bfloat16: rows of x, or of its transpose
    pack_panels    B, rounded, in panels of 32 columns: (columns / 32, K / 2, 32, 2)
    multiply       y = A B + bias: tasks of 128 rows, which each panel of B meets while it is in the nearest cache

Both are filled up to multiples of 32 with zeros. The sums of an element run along K alone, so that neither the number
of threads nor the rows beside it change its bits.

Numba has no function for tiles: they are inline assembly. The system must be asked for the tile registers once. Whether
the processor has them is not enough to use them: `is_worth` multiplies once and compares, results and time.

Not yet timed on such a processor: the tests run every instruction by a handler for illegal ones.

Source: Intel 64 and IA-32 architectures software developer's manual, chapter 18 of volume 1.
"""

import ctypes
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import carray, prange, types
from numba.extending import intrinsic

from ..arrays import Array
from ._blas import pointer
from ._buffers import empty
from ._kernel import compile_parallel, compile_part, pool_for
from ._vector import upper_half

__all__ = ["fault", "is_worth", "multiply", "pack_panels", "pack_rows"]

SQUARE = 32  # rows and columns of the result that are computed at once, and how far a step goes along K
ROWS = 128  # of a task
ZERO = np.float32(0.0)
ASK, TILES = 0x1023, 18  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
ARCH_PRCTL = 158
WORK = 64  # multiplications in the time of one element of a sweep
PROBE, TRIALS = 512, 3

# Sixteen rows of 64 bytes for each of eight tiles.
LAYOUT = np.zeros(64, np.uint8)
LAYOUT[0], LAYOUT[16:32:2], LAYOUT[48:56] = 1, 64, 16

STEPS = """
tileloadd ($8,$12,1), %tmm0
tileloadd 64($8,$12,1), %tmm1
tileloadd ($9,$12,1), %tmm2
tileloadd 64($9,$12,1), %tmm3
2:
tileloadd ($0,$10,1), %tmm4
tileloadd ($2,$11,1), %tmm6
tdpbf16ps %tmm6, %tmm4, %tmm0
tileloadd 64($2,$11,1), %tmm7
tdpbf16ps %tmm7, %tmm4, %tmm1
tileloadd ($1,$10,1), %tmm5
tdpbf16ps %tmm6, %tmm5, %tmm2
tdpbf16ps %tmm7, %tmm5, %tmm3
add $$64, $0
add $$64, $1
add $$2048, $2
dec $3
jnz 2b
tilestored %tmm0, ($8,$12,1)
tilestored %tmm1, 64($8,$12,1)
tilestored %tmm2, ($9,$12,1)
tilestored %tmm3, 64($9,$12,1)
"""
# The first four operands are read and written: two rows of A, a panel of B, the steps that are left.
OPERANDS = "=&r,=&r,=&r,=&r,0,1,2,3,r,r,r,r,r,~{memory},~{dirflag},~{fpsr},~{flags}"

with suppress(AttributeError):
    binding.initialize_native_asmparser()


@intrinsic
def _add_square(
    typingctx: Any, a: Any, a_16: Any, b: Any, steps: Any, c: Any, c_16: Any, lda: Any, ldb: Any, ldc: Any
) -> Any:
    """Add to the square of 32 by 32 at c. Addresses and distances are in bytes; *_16: of the row that is 16 further."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.LiteralStructType([word] * 4), [word] * 9)
        builder.asm(kind, STEPS, OPERANDS, list(args), True)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), codegen


@intrinsic
def _lay_out(typingctx: Any, address: Any) -> Any:
    """Tell this thread's tiles their shapes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        builder.asm(ir.FunctionType(ir.VoidType(), [where.type]), "ldtilecfg ($0)", "r,~{memory}", [where], True)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def _release(typingctx: Any) -> Any:
    """Give this thread's tiles back: without them the system has less to save."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.asm(ir.FunctionType(ir.VoidType(), []), "tilerelease", "~{memory}", [], True)
        return context.get_dummy_value()

    return types.void(), codegen


@compile_parallel
def _pack_rows(x, turned, y):
    """Write y[n, k] = x[n, k], or x[k, n] where turned, and zeros beside them."""
    rows, columns = (x.shape[1], x.shape[0]) if turned else x.shape
    for block in prange(y.shape[0] // SQUARE):
        y[SQUARE * block : SQUARE * block + SQUARE] = 0
        first, last = SQUARE * block, min(rows, SQUARE * block + SQUARE)
        if turned:
            for k in range(columns):
                source = x[k, first:last]
                for n in range(source.size):
                    y[first + n, k] = upper_half(source[n])
        else:
            for n in range(first, last):
                source, part = x[n], y[n]
                for k in range(source.size):
                    part[k] = upper_half(source[k])


@compile_parallel
def _pack_panels(w, turned, y):
    """Write y[n // 32, k // 2, n % 32, k % 2] = w[n, k], or w[k, n] where turned, and zeros beside them."""
    columns, depth = (w.shape[1], w.shape[0]) if turned else w.shape
    for panel in prange(y.shape[0]):
        y[panel] = 0
        first, last = SQUARE * panel, min(columns, SQUARE * panel + SQUARE)
        if turned:
            for k in range(depth):
                source = w[k, first:last]
                for n in range(source.size):
                    y[panel, k // 2, n, k % 2] = upper_half(source[n])
        else:
            for n in range(first, last):
                source = w[n]
                for k in range(source.size):
                    y[panel, k // 2, n - first, k % 2] = upper_half(source[k])


def _whole(length: int) -> int:
    return -(-length // SQUARE) * SQUARE


def pack_rows(x: Array, turned: bool = False) -> Array:
    """Return A of a float32 matrix, or of its transpose: (rows, K) as the upper halves of float32, filled up."""
    rows, depth = reversed(x.shape) if turned else x.shape
    packed = empty((_whole(rows), _whole(depth)), np.uint16)
    packed[:, depth:] = 0
    with pool_for(x.size):
        _pack_rows(x, turned, packed)
    return packed


def pack_panels(w: Array, turned: bool = False) -> Array:
    """Return B = wᵀ of a float32 matrix (columns, K), or B = w of one (K, columns) where `turned`."""
    columns, depth = reversed(w.shape) if turned else w.shape
    packed = empty((_whole(columns) // SQUARE, _whole(depth) // 2, SQUARE, 2), np.uint16)
    with pool_for(w.size):
        _pack_panels(w, turned, packed)
    return packed


@compile_part
def _fill(at, ld, rows, bias, first, columns):
    """Write the bias, or zeros, to rows of a matrix at an address, from where the products are added."""
    square = carray(pointer(at), (rows, ld))
    for r in range(rows):
        part = square[r, :columns]
        if bias.size > 0:
            added = bias[first : first + columns]
            for c in range(part.size):
                part[c] = added[c]
        else:
            part[:] = ZERO


@compile_parallel
def _multiply(layout_at, a, b, bias, y, groups):
    (rows, columns), depth = y.shape, a.shape[1]
    blocks, panels = (rows + ROWS - 1) // ROWS, b.shape[0]
    a_at, b_at, y_at, lda = a.ctypes.data, b.ctypes.data, y.ctypes.data, 2 * depth
    for task in prange(blocks * groups):
        block, group = task // groups, task % groups
        edge = np.zeros((SQUARE, SQUARE), np.float32)  # where the result ends within a square
        _lay_out(layout_at)
        for panel in range(panels * group // groups, panels * (group + 1) // groups):
            b_panel, first = b_at + 64 * depth * panel, SQUARE * panel
            width = min(SQUARE, columns - first)
            for m in range(ROWS * block, min(rows, ROWS * block + ROWS), SQUARE):
                height, a_rows = min(SQUARE, rows - m), a_at + lda * m
                is_whole = height == SQUARE and width == SQUARE
                c_at, ldc = (y_at + 4 * (m * columns + first), columns) if is_whole else (edge.ctypes.data, SQUARE)
                _fill(c_at, ldc, height, bias, first, width)
                _add_square(
                    a_rows, a_rows + 16 * lda, b_panel, np.int64(depth // SQUARE), c_at, c_at + 64 * ldc,
                    lda, np.int64(128), 4 * ldc,
                )  # fmt: skip
                if not is_whole:
                    for r in range(height):
                        y[m + r, first : first + width] = edge[r, :width]
        _release()


def multiply(a: Array, b: Array, y: Array, bias: Array | None = None) -> None:
    """Compute y = A B + bias of what `pack_rows` and `pack_panels` returned. y (rows, columns) lies in one piece."""
    given = np.zeros(0, np.float32) if bias is None else bias
    groups = 1 << max(0, (8 * ROWS // max(1, len(y))).bit_length() - 1)  # few rows: their columns are shared out too
    with pool_for(y.size * a.shape[1] // WORK):
        _multiply(LAYOUT.ctypes.data, a, b, given, y, min(groups, len(b)))


@cache
def fault() -> str | None:
    """Return why there are no tiles here, in one sentence; None where there are."""
    if os.environ.get("COMPYUTE_AMX") == "0":
        return "COMPYUTE_AMX is 0"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "tiles are used on Linux and x86-64"
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        flags = next((line for line in lines if line.startswith("flags")), "")
        if "amx_bf16" not in flags.split():
            return "this processor has no AMX"
        if ctypes.CDLL(None, use_errno=True).syscall(ARCH_PRCTL, ASK, TILES) != 0:
            return "the system refused the tile registers"
        return None
    return "the processor's abilities cannot be read"


@cache
def is_worth() -> bool:
    """Return whether products on tiles are right here and faster than in float32: one of 512³ is computed by both."""
    if fault() is not None:
        return False
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((PROBE, PROBE), np.float32) for _ in range(2))
    y, times = np.empty_like(x), {"tiles": [0.0] * TRIALS, "float32": [0.0] * TRIALS}
    for trial in range(TRIALS):
        start = perf_counter()
        multiply(pack_rows(x), pack_panels(w), y)
        middle = perf_counter()
        product = x @ w.T
        times["tiles"][trial], times["float32"][trial] = middle - start, perf_counter() - middle
    is_right = bool(np.abs(y - product).max() < 0.05 * np.abs(product).max())
    return is_right and min(times["tiles"]) < min(times["float32"])
