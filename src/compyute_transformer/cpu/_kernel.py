"""Shared: how a kernel is compiled, how its work is divided, and what a kernel says of the arguments it supports.

One pool of threads does everything, Numba's: the matrix products inside a kernel are single-threaded BLAS calls, one
for each slice of the rows. Two pools, Numba's and the BLAS's own, would each spin for work while the other has it.

A thread of the pool that has no work spins for some 0.1 ms, then sleeps (OMP_WAIT_POLICY=passive, GOMP_SPINCOUNT=10000)
once `threads.configure_threads` was called, as the command does. Spinning until there is work again takes the time of
whatever it waits for: beside another busy process a step took up to eight times as long. Not to spin at all costs a
waking, 50 µs, at every kernel: a small model's step took 34.6 ms instead of 31.6, a token of GPT-2's shape 20 to 22 ms
instead of 13 to 18.

Waking a sleeping thread takes some 50 µs, as long as a sweep over 100 000 numbers. What is smaller runs on the calling
thread alone (`pool_for`): for one token of GPT-2's shape GELU fell from 57 to 7 µs, and layer norm from 65 to 10. The
pool takes 3 µs to be told, so what generation runs for each token has a kernel without threads beside it
(`worth_threads`).

Work is divided into slices that do not depend on the number of threads where a sum crosses them, so that the results do
not depend on it either.

The code of a kernel is its own (`_compiler`): what it calls is compiled within it.

A loop that is to vectorize runs from 0 over a slice, `part = x[start:stop]; for i in range(part.size)`, never over
`range(start, stop)`: an index that might be negative counts from the end in NumPy, and for that possibility the
compiler turns every load into a gather and every store into a scatter. That alone made GELU four times as slow.
"""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import llvmlite
import numba
import numpy as np
from numba.core import event

from ..arrays import Array
from ..dispatch import no_kernels_after_fork
from ._compiler import KernelCompiler, part_compiler

__all__ = [
    "FASTMATH",
    "IN_ONE_PIECE",
    "compile_exact",
    "compile_kernel",
    "compile_parallel",
    "compile_part",
    "digest_of_kernels",
    "hold",
    "in_one_piece",
    "is_float32",
    "is_ready",
    "num_threads",
    "of_one_shape",
    "pool_for",
    "sum_of_partials",
    "worth_threads",
]

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered and products contracted, so that loops vectorize; NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "contract", "arcp", "nsz", "afn"}

FLOAT32 = np.dtype(np.float32)

# What `numpy.require` calls an array that kernels take; it copies others.
IN_ONE_PIECE: Any = ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE")

# Elements of a sweep that are worth the other threads' waking; 0.4 ns each.
WORTH_THREADS = 1 << 18

_no_cache_said = False


def compiler(**options: Any) -> Callable[[F], F]:
    """Return a decorator that compiles at the first call and keeps the result on disk, where it may write there."""
    options["pipeline_class"] = KernelCompiler

    def compile(function: F) -> F:
        global _no_cache_said
        try:
            return _renewed_with_the_package(numba.njit(cache=True, **options)(function))
        except RuntimeError:  # Numba finds no folder for its cache
            if not _no_cache_said:
                _no_cache_said = True
                logging.getLogger("compyute_transformer").warning(
                    "No folder for compiled kernels can be written, so they are compiled at each start. "
                    "Set NUMBA_CACHE_DIR to a folder that can be written."
                )
            return numba.njit(**options)(function)

    return compile


@cache
def digest_of_kernels() -> str:
    """Return a digest of what all compiled code depends on: the sources of the kernels, and the compiler's versions."""
    package = Path(__file__).parents[1]
    options = numba.config.BOUNDSCHECK, numba.config.OPT, numba.config.DEBUGINFO_DEFAULT
    found = sha256(f"{numba.__version__} {llvmlite.__version__} {np.__version__} {options}".encode())
    for path in sorted([*package.glob("cpu/*.py"), *package.glob("random.py")]):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def _renewed_with_the_package(kernel: Any) -> Any:
    """Compile a kernel anew after an edit of any kernel, or of a constant that it takes from elsewhere, as from `ops`.

    Numba alone looks at the kernel's own file only.
    """
    file = kernel._cache._cache_file
    file._source_stamp = file._source_stamp, digest_of_kernels(), tuple(_constants(kernel.py_func, set()))
    return kernel


def _constants(function: Any, seen: set[str]) -> list[str]:
    """Return the constants that a function and all that it calls may have been compiled with."""
    module = function.__module__
    if module in seen:
        return []
    seen.add(module)
    found = []
    for name, value in sorted(function.__globals__.items()):
        if isinstance(value, int | float | np.generic):
            found.append(f"{module}.{name} {value!r}")
        elif hasattr(value, "py_func"):
            found += _constants(value.py_func, seen)
    return found


compile_part = part_compiler(fastmath=FASTMATH)


@compile_part
def hold(*arrays):
    """Hold arrays until here: Numba frees one after its last use, and to use its address does not count as one."""


compile_kernel = compiler(fastmath=FASTMATH, error_model="numpy", nogil=True)
_compile_parallel = compiler(fastmath=FASTMATH, error_model="numpy", nogil=True, parallel=True)
_compile_exact = compiler(fastmath=False, error_model="numpy", nogil=True, parallel=True)
_one_at_a_time = RLock()


@cache
def _takes_several() -> bool:
    """Whether several threads may run parallel kernels at once. Numba's own layer would end the process."""
    numba.get_num_threads()  # starts the pool, and with it the layer
    return bool(numba.threading_layer() != "workqueue")


def compile_parallel(
    function: Callable[..., Any], compile: Callable[[Callable[..., Any]], Callable[..., Any]] = _compile_parallel
) -> Callable[..., Any]:
    """Compile a kernel that runs on several threads: `run.kernel`.

    On the workqueue layer of Numba, calls from several threads wait for each other.
    """
    kernel = compile(function)

    @wraps(function)
    def run(*args: Any) -> Any:
        if _takes_several():
            return kernel(*args)
        with _one_at_a_time:
            return kernel(*args)

    run.kernel = kernel  # type: ignore[attr-defined]
    return run


def compile_exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a parallel kernel whose every element has the same bits, wherever in a vector or behind the last it lies.

    The operations are those that are written: none is contracted or reordered, which the compiler would do in the
    vectorized body of a loop in another way than in its last few turns.
    """
    return compile_parallel(function, _compile_exact)


def _after_fork() -> None:
    from numba.np.ufunc import parallel

    if parallel._is_initialized:
        no_kernels_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@cache
def _thread_counts() -> tuple[Callable[[], int], Callable[[int], object]]:
    """Return what gets and what sets the calling thread's number of threads.

    Numba's own functions take two locks before they call what is private here, to see whether the pool has been
    started. Where a version of Numba has it no longer, its own functions serve.
    """
    own = numba.get_num_threads, numba.set_num_threads
    numba.get_num_threads()  # starts the pool
    from numba.np.ufunc import parallel

    return getattr(parallel, "_get_num_threads", own[0]), getattr(parallel, "_set_num_threads", own[1])


def num_threads() -> int:
    """Return how many threads kernels run on when the calling thread starts them now."""
    return _thread_counts()[0]()


class _Alone:
    """Within a `with` block, kernels run on the calling thread."""

    def __enter__(self) -> None:
        get, self.set = _thread_counts()
        self.before = get()
        if self.before > 1:
            self.set(1)

    def __exit__(self, *_: object) -> None:
        if self.before > 1:
            self.set(self.before)


_all_threads = nullcontext()


def worth_threads(work: int) -> bool:
    """Whether work, in elements of a sweep, is worth waking the other threads."""
    return work >= WORTH_THREADS


def pool_for(work: int) -> AbstractContextManager[None]:
    """Within a `with` block, kernels run on as many threads as their work, in elements of a sweep, is worth."""
    return _all_threads if work >= WORTH_THREADS else _Alone()


class _Announcement(event.Listener):  # type: ignore[misc]
    """Says once, on the standard error, why a first call takes so long. Loading a kernel from disk is silent."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said and event.data["dispatcher"].py_func.__module__.startswith(__package__):
            self.said = True
            logging.getLogger("compyute_transformer").warning(
                "Compiling kernels that this machine has not run before: up to 20 seconds. The next start loads them "
                "from disk."
            )

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcement())


def is_ready(*arrays: Array | None) -> bool:
    """Float32 in one piece, row-major, aligned, to be written to: what the kernels are compiled for.

    None is passed over.
    """
    for array in arrays:
        if array is None:
            continue
        if array.dtype != FLOAT32 or not array.flags.carray:
            return False
    return True


def in_one_piece(array: Array, dtype: Any) -> Array:
    """Return an array as kernels take it, of a dtype: a copy, unless it is so already."""
    if array.dtype == dtype and array.flags.carray:
        return array  # to ask NumPy takes ten times as long
    return np.require(array, dtype, IN_ONE_PIECE)


def of_one_shape(*arrays: Array | None) -> bool:
    """Whether all arrays that are there have the shape of the first. A kernel indexes them all alike, unchecked.

    Validation sees dy alone: what was saved is as the forward made it, unless somebody replaced a part of it.
    """
    shape = arrays[0].shape  # type: ignore[union-attr]
    for array in arrays:
        if array is None:
            continue
        if array.shape != shape:
            return False
    return True


def is_float32(array: Array) -> bool:
    """Float32, however it lies in memory: for kernels that copy what is not in one piece."""
    return array.dtype == FLOAT32 and array.flags.behaved


def sum_of_partials(sums: Array) -> Array:
    """Return the sum of the rows, added in pairs, and pairs of those. Overwrite them."""
    rows = len(sums)
    while rows > 1:
        half, rows = rows // 2, (rows + 1) // 2
        sums[:half] += sums[rows : rows + half]
    return sums[0]
