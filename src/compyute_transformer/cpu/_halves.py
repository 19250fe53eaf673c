"""Shared: vectors of 32 float32 rounded to bfloat16 on their way from one place to another, and words transposed.

    halves       32 numbers side by side, 64 bytes
    pairs        32 pairs of a number of one row and one of another, as a panel has them, 128 bytes
    join         the same of numbers that are rounded already
    transpose    8 by 8 words of 4 bytes

A number is the upper half of a float32, rounded to the nearest, to even between two. Addresses are multiples of
4.

No better: vcvtne2ps2bf16, the instruction that AVX512_BF16 has for it. It takes 0.03 ns a number in cache, where the
operations on integers take 0.06 to 0.09 (one core of a Zen 4, 2026-11-29), but packing waits for memory: it shortened a
step of the 384-wide GPT by 2 of 820 ms. It writes 0 for what is below the normal numbers.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = [
    "FLOATS",
    "HALVES",
    "LANES",
    "NUMBERS",
    "WORDS",
    "halves",
    "join",
    "loaded",
    "many",
    "pairs",
    "stored",
    "transpose",
]

NUMBERS, LANES = 32, 8  # in a vector that is rounded, and in one that is transposed
WORD, LONG = ir.IntType(32), ir.IntType(64)
WORDS, WORDS_8 = ir.VectorType(WORD, NUMBERS), ir.VectorType(WORD, LANES)
FLOATS, HALVES = ir.VectorType(ir.FloatType(), NUMBERS), ir.VectorType(ir.IntType(16), NUMBERS)


def many(number: int) -> Any:
    return ir.Constant(WORDS, [number] * NUMBERS)


def loaded(builder: Any, address: Any, kind: Any) -> Any:
    vector = builder.load(builder.inttoptr(address, kind.as_pointer()))
    vector.align = 4
    return vector


def stored(builder: Any, vector: Any, address: Any) -> None:
    builder.store(vector, builder.inttoptr(address, vector.type.as_pointer())).align = 4


def _rounded(builder: Any, address: Any) -> Any:
    """Return the bits of 32 float32 at an address, rounded as `_vector.upper_half` does; lower halves are left over."""
    x = loaded(builder, address, FLOATS)
    bits = builder.bitcast(x, WORDS)
    odd = builder.and_(builder.lshr(bits, many(16)), many(1))
    nearest = builder.add(builder.add(bits, many(0x7FFF)), odd)
    return builder.select(builder.fcmp_unordered("uno", x, x), builder.or_(bits, many(0x00400000)), nearest)


@intrinsic
def halves(typingctx: Any, source: Any, target: Any) -> Any:
    """Write 32 numbers, rounded, side by side."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = args
        stored(builder, builder.trunc(builder.lshr(_rounded(builder, source), many(16)), HALVES), target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def pairs(typingctx: Any, first: Any, second: Any, target: Any) -> Any:
    """Write 32 pairs of a number of the first row and one of the second, rounded."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first, second, target = args
        lower = builder.lshr(_rounded(builder, first), many(16))
        upper = builder.and_(_rounded(builder, second), many(-0x10000))
        stored(builder, builder.or_(lower, upper), target)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@intrinsic
def join(typingctx: Any, first: Any, second: Any, target: Any) -> Any:
    """Write 32 pairs of a half of the first row and one of the second."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lower, upper = (builder.zext(loaded(builder, address, HALVES), WORDS) for address in args[:2])
        stored(builder, builder.or_(lower, builder.shl(upper, many(16))), args[2])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@intrinsic
def transpose(typingctx: Any, source: Any, source_step: Any, target: Any, target_step: Any) -> Any:
    """Transpose 8 by 8 words of 4 bytes. The steps from row to row are in bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_step, target, target_step = args
        rows = [
            loaded(builder, builder.add(source, builder.mul(source_step, LONG(row))), WORDS_8) for row in range(LANES)
        ]
        for bit in (4, 2, 1):  # squares of this size beside the diagonal change places
            for upper in (row for row in range(LANES) if not row & bit):
                pair = rows[upper], rows[upper | bit]
                left = [lane if not lane & bit else LANES + (lane ^ bit) for lane in range(LANES)]
                right = [lane | bit if not lane & bit else LANES + lane for lane in range(LANES)]
                rows[upper] = builder.shuffle_vector(*pair, ir.Constant(WORDS_8, left))
                rows[upper | bit] = builder.shuffle_vector(*pair, ir.Constant(WORDS_8, right))
        for row, words in enumerate(rows):
            stored(builder, words, builder.add(target, builder.mul(target_step, LONG(row))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen
