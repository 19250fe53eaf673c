"""Shared: exp and its kin as polynomials that vectorize, a maximum that does, and Philox, a row at a time.

`np.exp` inside a Numba loop calls the C library for each element. Range reduction, a polynomial of degree 6 and a shift
into the exponent stay in vector registers; the relative error is below 5e-7.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..random import KEY_STEPS, MULTIPLIERS, ROUNDS
from ._compiler import part_compiler
from ._kernel import FASTMATH

__all__ = [
    "difference",
    "exp",
    "float_from_bits",
    "highest",
    "logistic",
    "normal_cdf_and_pdf",
    "random_row",
    "rounded",
    "tanh",
    "upper_half",
]

compile_part = part_compiler(fastmath=FASTMATH)


@intrinsic
def float_from_bits(typingctx: Any, bits: Any) -> Any:
    """The float32 of 32 bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _bits_of_float(typingctx: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def _choose(typingctx: Any, condition: Any, a: Any, b: Any) -> Any:
    """A where the condition holds, else b, as one instruction.

    Versions of Python make other branches of `a if condition else b`, which the compiler turns into other last bits.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return types.float32(types.boolean, types.float32, types.float32), codegen


LOG2_E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # ln 2 in two parts: n · LN2_HIGH is exact
EXP_LOWEST, EXP_HIGHEST = np.float32(-87.336), np.float32(88.722)
ZERO, HALF, ONE, INFINITE = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(np.inf)
# Taylor's coefficients: on |r| ≤ ln 2 / 2 the first that is left out, r⁷/7!, is below 1.3e-7 relative
C2, C3, C4, C5, C6 = (np.float32(1.0 / n) for n in (2, 6, 24, 120, 720))


@compile_part
def exp(x):
    """e^x of a float32. Exactly 0 below −87.336 (−inf too), infinite above 88.722; NaN stays NaN."""
    clipped = _choose(x < EXP_LOWEST, EXP_LOWEST, x)
    clipped = _choose(clipped > EXP_HIGHEST, EXP_HIGHEST, clipped)
    n = np.floor(clipped * LOG2_E + HALF)
    r = clipped - n * LN2_HIGH - n * LN2_LOW
    series = ONE + r * (ONE + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
    # times 2ⁿ, by adding n to the exponent: as a product it would be reassociated, and 2¹²⁸ has no float32
    y = float_from_bits(_bits_of_float(series) + (np.int32(n) << np.int32(23)))
    y = _choose(x < EXP_LOWEST, ZERO, y)
    return _choose(x > EXP_HIGHEST, INFINITE, y)


@intrinsic
def difference(typingctx: Any, a: Any, b: Any) -> Any:
    """A − b of two float32, rounded on its own: the compiler may not gather it with other sums around it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fsub(*args)

    return types.float32(types.float32, types.float32), codegen


@compile_part
def logistic(x):
    """1 / (1 + e^−x) of a float32, which is ½ (1 + tanh(x/2)); relative error below 6e-7."""
    return ONE / (ONE + exp(-x))


TWO, NEAR_ZERO = np.float32(2.0), np.float32(0.625)
# (tanh(x)/x − 1)/x² as a polynomial in x², fitted on |x| ≤ 0.63: the relative error of x + x³ p(x²) is below 1e-7
T0, T1, T2, T3, T4 = map(np.float32, (-0.33333329, 0.13332748, -0.05384735, 0.02097945, -0.00606999))


@compile_part
def tanh(x):
    """Tanh of a float32: near zero a polynomial, else 1 − 2 / (e^2x + 1), which would round a small x away."""
    u = x * x
    near = x + x * u * (T0 + u * (T1 + u * (T2 + u * (T3 + u * T4))))
    return _choose(np.abs(x) < NEAR_ZERO, near, ONE - TWO / (exp(TWO * x) + ONE))


HALF_A_BIT, ONE_BIT, LOWER_HALF, KEPT = np.int32(0x7FFF), np.int32(1), np.int32(16), np.int32(-0x10000)
QUIET, UPPER = np.int32(0x00400000), np.int32(0xFFFF)


@compile_part
def rounded(x):
    """`precision.round_to_bfloat16` of a float32; NaN stays as it is."""
    bits = _bits_of_float(x)
    nearest = float_from_bits((bits + HALF_A_BIT + ((bits >> LOWER_HALF) & ONE_BIT)) & KEPT)
    return _choose(x != x, x, nearest)


@compile_part
def upper_half(x):
    """A float32, rounded to bfloat16, as the upper half of its bits; NaN stays NaN."""
    bits = _bits_of_float(rounded(x))
    if x != x:
        bits |= QUIET
    return np.uint16((bits >> LOWER_HALF) & UPPER)


SQRT_HALF = np.float32(0.70710678)
INV_SQRT_2PI = np.float32(0.39894228)
P, A1, A2, A3, A4, A5 = (
    np.float32(c) for c in (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)


@compile_part
def normal_cdf_and_pdf(x):
    """Φ(x) and φ(x) of a float32: one exponential gives both. Absolute error below 3e-7.

    Source: Hastings' approximation of erf, Abramowitz and Stegun 1964, 7.1.26.
    """
    gauss = exp(-HALF * x * x)
    t = ONE / (ONE + P * SQRT_HALF * abs(x))
    tail = HALF * gauss * t * (A1 + t * (A2 + t * (A3 + t * (A4 + t * A5))))
    return (tail if x < 0 else ONE - tail), gauss * INV_SQRT_2PI


@intrinsic
def _higher(typingctx: Any, a: Any, b: Any) -> Any:
    # Python's max is a comparison and a choice, which the compiler does not vectorize as a reduction; this it does
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        float32 = ir.FloatType()
        kind = ir.FunctionType(float32, [float32, float32])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.maximum.f32"), args)

    return types.float32(types.float32, types.float32), codegen


@compile_part
def highest(x, start):
    """The highest of start and the elements of x; NaN if one of them is."""
    for i in range(x.size):
        start = _higher(start, x[i])
    return start


M0, M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
STEP0, STEP1 = np.uint32(KEY_STEPS[0]), np.uint32(KEY_STEPS[1])
LOW, WORD = np.uint64(0xFFFFFFFF), np.uint64(32)


@compile_part
def random_row(bits, first, quads, row, seed_low, seed_high, offset, stream_head):
    """`random.random_bits` of one row: fill bits[: 4 · quads] for columns from 4 · first on."""
    for i in range(quads):
        c0, c1, c2, c3 = np.uint32(first + i), np.uint32(row), np.uint32(offset), np.uint32(stream_head)
        k0, k1 = np.uint32(seed_low), np.uint32(seed_high)
        for _ in range(ROUNDS):
            product0, product1 = np.uint64(c0) * M0, np.uint64(c2) * M1
            c0 = np.uint32(product1 >> WORD) ^ c1 ^ k0
            c2 = np.uint32(product0 >> WORD) ^ c3 ^ k1
            c1, c3 = np.uint32(product1 & LOW), np.uint32(product0 & LOW)
            k0, k1 = np.uint32(k0 + STEP0), np.uint32(k1 + STEP1)
        bits[4 * i], bits[4 * i + 1], bits[4 * i + 2], bits[4 * i + 3] = c0, c1, c2, c3
