"""Shared: the float32 matrix product of SciPy's BLAS, callable from inside a kernel on any rows of any array.

Matrices are given as addresses; `pointer` and `prefetch` are for kernels that read memory themselves.

SciPy exports its BLAS to compiled code (`scipy.linalg.cython_blas`). The address is passed to a kernel as a number, so
that the compiled kernel can be kept on disk. Each call runs on the thread that made it: `single_threaded` sees to that,
and gives the BLAS its threads back afterwards.
"""

from functools import cache
from threading import Lock
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

from ._threads import of_blas

__all__ = [
    "AS_IT_IS",
    "TRANSPOSED",
    "build_prefetch",
    "bytes_at",
    "pointer",
    "prefetch",
    "sgemm",
    "sgemm_address",
    "shorts_at",
    "single_threaded",
]

AS_IT_IS, TRANSPOSED = ord("N"), ord("T")


@cache
def sgemm_address() -> int:
    """Where the BLAS's sgemm lies in this process."""
    return int(get_cython_function_address("scipy.linalg.cython_blas", "sgemm"))


def _pointer(element: Any) -> Any:
    @intrinsic
    def at(typingctx: Any, address: Any) -> Any:
        """What lies at an address in bytes, for `numba.carray`."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(types.CPointer(element)))

        return types.CPointer(element)(types.int64), codegen

    return at


pointer, shorts_at, bytes_at = (_pointer(element) for element in (types.float32, types.uint16, types.int8))


def build_prefetch(builder: Any, address: Any) -> None:
    """Ask for the cache line at an address, in code that is written for the compiler."""
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    read, keep, data = flag(0), flag(3), flag(1)
    builder.call(function, [builder.inttoptr(address, byte), read, keep, data])


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at an address in bytes; any address will do."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        build_prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def sgemm(
    typingctx: Any,
    address: Any,
    op_a: Any,
    op_b: Any,
    m: Any,
    n: Any,
    k: Any,
    alpha: Any,
    a: Any,
    lda: Any,
    b: Any,
    ldb: Any,
    beta: Any,
    c: Any,
    ldc: Any,
) -> Any:
    """C ← alpha · op(A) op(B) + beta · C, column-major, as BLAS has it; matrices are given as addresses in bytes.

    A row-major (r, c) array with row stride ld is a column-major (c, r) matrix, so the row-major product Y = X W is
    asked for as Yᵀ = Wᵀ Xᵀ.
    """
    i, f = types.int64, types.float32
    signature = types.void(i, i, i, i, i, i, f, i, i, i, i, f, i, i)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # the BLAS is Fortran's: every argument by reference, characters and 32-bit integers
        def reference(value: Any, kind: Any) -> Any:
            # at the kernel's entry: within a loop, each call would take more stack until the kernel returns
            where = cgutils.alloca_once(builder, kind)
            builder.store(value, where)
            return where

        def character(value: Any) -> Any:
            return reference(builder.trunc(value, ir.IntType(8)), ir.IntType(8))

        def integer(value: Any) -> Any:
            return reference(builder.trunc(value, ir.IntType(32)), ir.IntType(32))

        def real(value: Any) -> Any:
            return reference(value, ir.FloatType())

        def matrix(value: Any) -> Any:
            return builder.inttoptr(value, ir.FloatType().as_pointer())

        kinds = [character, character, integer, integer, integer, real, matrix, integer, matrix, integer]
        kinds += [real, matrix, integer]
        passed = [kind(value) for kind, value in zip(kinds, args[1:], strict=True)]
        function_type = ir.FunctionType(ir.VoidType(), [value.type for value in passed])
        builder.call(builder.inttoptr(args[0], function_type.as_pointer()), passed)
        return context.get_dummy_value()

    return signature, codegen


class _SingleThreaded:
    """Counts who is inside: two threads may run kernels at once. The first takes the threads, the last returns them."""

    def __init__(self) -> None:
        self.lock, self.inside, self.before = Lock(), 0, 1

    def __enter__(self) -> None:
        if (blas := of_blas("scipy")) is not None:
            with self.lock:
                if self.inside == 0:
                    self.before = blas.get()
                    blas.set(1)
                self.inside += 1

    def __exit__(self, *_: object) -> None:
        if (blas := of_blas("scipy")) is not None:
            with self.lock:
                self.inside -= 1
                if self.inside == 0:
                    blas.set(self.before)


# SciPy's BLAS on one thread within a `with` block, on as many as before after it.
single_threaded = _SingleThreaded()
