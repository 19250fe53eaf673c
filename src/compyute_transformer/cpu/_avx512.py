"""Shared: products in bfloat16 in the vector registers of AVX-512: Zen 4 and 5, Intel since Sapphire Rapids.

A register holds 16 float32, or 16 pairs of bfloat16. One instruction, vdpbf16ps, multiplies the pairs of two registers
and adds both products of a pair to a float32 of a third:

    C (16) float32  +=  A (one pair, for all 16)  ·  B (16 pairs)                 32 multiplications in ½ to 1 cycle

The pair of A comes from memory, where it lies as it is, and is spread over the register on the way ({1to16}). B is two
registers, 32 columns, for which 8 rows of A are read: 16 registers of C, and 10 reads for 16 products. `_packing` says
how A and B lie in memory, the same as for AMX, and `_products` computes whole products.

The instruction rounds to the nearest after each of the two additions and takes what is below the normal numbers for 0.

Numba has no function for it, so it is inline assembly. Where a processor has no such instruction, the tests run it by a
handler for illegal ones. That is why all of them name a 512-bit register or none at all.

Optimization history, GFLOP/s on two cores of a Zen 4 (2026-11-29), operands packed; (rows, K, columns):

1. C filled with the bias a square at a time, read, added to, written: 377 for (4096, 384, 1536), where the same loop
   over a C that was filled in one sweep gave 398.
2. Sums start from one row of the bias, so that C is written only: 417 for (4096, 384, 1152), 412 for (4096, 384, 384).
3. The lines of C are asked for before the loop, in time to be written: 438 and 420 in the same run.

No better: A spread over registers of its own, 12 rows at once, a panel asked for ahead, writing past the caches.

Source: Intel 64 and IA-32 architectures software developer's manual, volume 2, VDPBF16PS.
"""

import platform
from contextlib import suppress
from functools import cache
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from ._amx import features, switched_off

__all__ = ["ROWS", "add_rows", "fault"]

ROWS = 8
FIRST = 16  # register of C

# Eight rows of A, lda ($14) bytes apart, of which the operands 0, 1 and 2 are the first, the fourth and the seventh.
PLACES = "($0)", "($0,$14)", "($0,$14,2)", "($1)", "($0,$14,4)", "($1,$14,2)", "($2)", "($1,$14,4)"


def _steps() -> str:
    """Return the assembly: the start is read, a loop over the pairs of K adds to it, C is written."""
    rows = [(f"%zmm{FIRST + 2 * row}", f"%zmm{FIRST + 2 * row + 1}") for row in range(ROWS)]
    lines = []
    for left, right in rows:
        lines += [f"vmovups ($5), {left}", f"vmovups 64($5), {right}", "add $15, $5"]
    # C's lines are asked for now, to be written at the end: rows of a large result are far apart, and in no cache
    lines += ["prefetchw ($6)", "prefetchw 64($6)", "add $16, $6"] * ROWS + ["sub $16, $6"] * ROWS
    lines += ["2:", "vmovups ($3), %zmm0", "vmovups 64($3), %zmm1"]
    for place, (left, right) in zip(PLACES, rows, strict=True):
        lines += [f"vdpbf16ps {place}{{1to16}}, %zmm0, {left}", f"vdpbf16ps {place}{{1to16}}, %zmm1, {right}"]
    lines += ["add $$4, $0", "add $$4, $1", "add $$4, $2", "add $$128, $3", "dec $4", "jnz 2b"]
    for left, right in rows:
        lines += [f"vmovups {left}, ($6)", f"vmovups {right}, 64($6)", "add $16, $6"]
    return "\n".join(lines)


STEPS = _steps()
# The first seven operands are read and written: three rows of A, a panel of B, the pairs that are left, rows of the
# start and of C.
OPERANDS = "=&r,=&r,=&r,=&r,=&r,=&r,=&r,0,1,2,3,4,5,6,r,r,r,~{memory},~{dirflag},~{fpsr},~{flags},~{ymm0},~{ymm1}"
OPERANDS += "".join(f",~{{zmm{FIRST + index}}}" for index in range(2 * ROWS))

with suppress(AttributeError):
    binding.initialize_native_asmparser()


@intrinsic
def add_rows(
    typingctx: Any, a: Any, a_3: Any, a_6: Any, b: Any, pairs: Any, start: Any, c: Any, lda: Any, ldstart: Any, ldc: Any
) -> Any:
    """Write 8 rows of 32 columns to c: those at start, which may be c or one row 8 times, and the product.

    Addresses and distances are in bytes; a_3, a_6: of the rows 3 and 6 further.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.LiteralStructType([word] * 7), [word] * 10)
        builder.asm(kind, STEPS, OPERANDS, list(args), True)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), codegen


@cache
def fault() -> str | None:
    """Return why there are no such products here, in one sentence; None where there are."""
    if (off := switched_off("COMPYUTE_AVX512")) is not None:
        return off
    if platform.machine() not in ("x86_64", "AMD64"):
        return "AVX-512 is of x86-64"
    if not features().get("avx512bf16"):
        return "this processor has no AVX512_BF16"
    return None
