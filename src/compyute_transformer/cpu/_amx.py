"""Shared: products in bfloat16 on AMX, the tile registers of Intel processors since Sapphire Rapids.

A tile holds 16 rows of 64 bytes. One instruction multiplies two of them and adds the product to a third:

    C (16, 16) float32  +=  A (16, 32) bfloat16  ·  B (32, 16) bfloat16           8,192 multiplications in 16 cycles

Four tiles of C, two of A and two of B are in use at once: a square of 32 by 32 of the result, for which each tile of A
and B is read once and used twice. `_packing` says how A and B lie in memory, `_products` computes whole products.

Numba has no function for tiles: they are inline assembly. The system must be asked for the tile registers once.

Not yet timed on a processor with tiles: the tests run every instruction by a handler for illegal ones.

Source: Intel 64 and IA-32 architectures software developer's manual, chapter 18 of volume 1.
"""

import ctypes
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

__all__ = ["LAYOUT", "add_square", "fault", "features", "lay_out", "release_tiles", "switched_off"]

ASK, TILES = 0x1023, 18  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
ARCH_PRCTL = 158
OFF = ("0", "no", "off", "false")

# Sixteen rows of 64 bytes for each of eight tiles.
LAYOUT = np.zeros(64, np.uint8)
LAYOUT[0], LAYOUT[16:32:2], LAYOUT[48:56] = 1, 64, 16

STEPS = """
tileloadd ($8,$14,1), %tmm0
tileloadd 64($8,$14,1), %tmm1
tileloadd ($9,$14,1), %tmm2
tileloadd 64($9,$14,1), %tmm3
2:
tileloadd ($0,$12,1), %tmm4
tileloadd ($2,$13,1), %tmm6
tdpbf16ps %tmm6, %tmm4, %tmm0
tileloadd 64($2,$13,1), %tmm7
tdpbf16ps %tmm7, %tmm4, %tmm1
tileloadd ($1,$12,1), %tmm5
tdpbf16ps %tmm6, %tmm5, %tmm2
tdpbf16ps %tmm7, %tmm5, %tmm3
add $$64, $0
add $$64, $1
add $$2048, $2
dec $3
jnz 2b
tilestored %tmm0, ($10,$15,1)
tilestored %tmm1, 64($10,$15,1)
tilestored %tmm2, ($11,$15,1)
tilestored %tmm3, 64($11,$15,1)
"""
# The first four operands are read and written: two rows of A, a panel of B, the steps that are left.
OPERANDS = "=&r,=&r,=&r,=&r,0,1,2,3,r,r,r,r,r,r,r,r,~{memory},~{dirflag},~{fpsr},~{flags}"

with suppress(AttributeError):
    binding.initialize_native_asmparser()


@intrinsic
def add_square(
    typingctx: Any,
    a: Any,
    a_16: Any,
    b: Any,
    steps: Any,
    start: Any,
    start_16: Any,
    c: Any,
    c_16: Any,
    lda: Any,
    ldb: Any,
    ldstart: Any,
    ldc: Any,
) -> Any:
    """Write a square of 32 by 32 to c: that at start, which may be c or one row 32 times, and the product.

    Addresses and distances are in bytes; *_16: of the row that is 16 further.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.LiteralStructType([word] * 4), [word] * 12)
        builder.asm(kind, STEPS, OPERANDS, list(args), True)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12), codegen


@intrinsic
def lay_out(typingctx: Any, address: Any) -> Any:
    """Tell this thread's tiles their shapes: those of LAYOUT, at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        builder.asm(ir.FunctionType(ir.VoidType(), [where.type]), "ldtilecfg ($0)", "r,~{memory}", [where], True)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def release_tiles(typingctx: Any) -> Any:
    """Give this thread's tiles back: without them the system has less to save."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.asm(ir.FunctionType(ir.VoidType(), []), "tilerelease", "~{memory}", [], True)
        return context.get_dummy_value()

    return types.void(), codegen


def switched_off(variable: str) -> str | None:
    """Return a sentence where a variable of the environment switches something off: "0", "no", "off" or "false"."""
    value = os.environ.get(variable)
    return f"{variable} is {value}" if value is not None and value.strip().lower() in OFF else None


def features() -> dict[str, bool]:
    """Return the abilities of this processor that the system lets processes use, by LLVM's names."""
    try:
        return dict(binding.get_host_cpu_features())
    except RuntimeError:  # LLVM does not know the processor
        return {}


@cache
def fault() -> str | None:
    """Return why there are no tiles here, in one sentence; None where there are."""
    if (off := switched_off("COMPYUTE_AMX")) is not None:
        return off
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "tiles are used on Linux and x86-64"
    if not features().get("amx-bf16"):
        return "this processor has no AMX"
    if ctypes.CDLL(None, use_errno=True).syscall(ARCH_PRCTL, ASK, TILES) != 0:
        return "the system refused the tile registers"
    return None
