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

A loop that is to vectorize runs from 0 over a slice, `part = x[start:stop]; for i in range(part.size)`, never over
`range(start, stop)`: an index that might be negative counts from the end in NumPy, and for that possibility the
compiler turns every load into a gather and every store into a scatter. That alone made GELU four times as slow.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core import event

from ..arrays import Array
from ..dispatch import no_kernels_after_fork, one_kernel_at_a_time

__all__ = [
    "FASTMATH",
    "compile_kernel",
    "compile_parallel",
    "compiler",
    "is_float32",
    "is_ready",
    "pool_for",
    "sum_of_partials",
    "worth_threads",
]

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered and products contracted, so that loops vectorize; NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "contract", "arcp", "nsz", "afn"}

# Elements of a sweep that are worth the other threads' waking; 0.4 ns each.
WORTH_THREADS = 1 << 18

FOLDER = Path(__file__).parent
IMPORTS = re.compile(r"^from \.(?:(\w+) import| import ([\w, ]+))", re.MULTILINE)  # from this package

_no_cache_said = False


def compiler(**options: Any) -> Callable[[F], F]:
    """Return a decorator that compiles at the first call and keeps the result on disk, where it may write there."""

    def compile(function: F) -> F:
        global _no_cache_said
        try:
            return _cached_by_sources(numba.njit(cache=True, **options)(function))
        except RuntimeError:  # Numba finds no folder for its cache
            if not _no_cache_said:
                _no_cache_said = True
                logging.getLogger("compyute_transformer").warning(
                    "No folder for compiled kernels can be written, so they are compiled at each start. "
                    "Set NUMBA_CACHE_DIR to a folder that can be written."
                )
            return numba.njit(**options)(function)

    return compile


def _cached_by_sources(kernel: Any) -> Any:
    """Let a kernel on disk be stale once any file that it may call was edited, not only its own, as Numba has it."""
    file: Any = getattr(getattr(kernel, "_cache", None), "_cache_file", None)  # None with NUMBA_DISABLE_JIT
    if hasattr(file, "_source_stamp"):
        file._source_stamp = sources_digest(kernel.py_func.__module__) or file._source_stamp
    return kernel


@cache
def sources_digest(module: str) -> str | None:
    """Return the digest of the source of a module, and of all that it imports of this package and of `random`.

    None where the sources cannot be read, as in a zip.
    """
    found: dict[str, bytes] = {}
    waiting = [module.rpartition(".")[2]]
    try:
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = (FOLDER / f"{name}.py").read_bytes()
                for one, several in IMPORTS.findall(found[name].decode()):
                    waiting += [one] if one else re.findall(r"\w+", several)
        found["random"] = (FOLDER.parent / "random.py").read_bytes()  # its constants are part of kernels
    except OSError:
        return None
    return hashlib.sha256(b"\0".join(found[name] for name in sorted(found))).hexdigest()


compile_kernel = compiler(fastmath=FASTMATH, error_model="numpy", nogil=True)
compile_parallel = compiler(fastmath=FASTMATH, error_model="numpy", nogil=True, parallel=True)


def _after_fork() -> None:
    from numba.np.ufunc import parallel

    if parallel._is_initialized:
        no_kernels_after_fork()


def _threads_can_share_the_pool() -> bool:
    """Return whether several threads may run kernels at once: not on Numba's own layer, which would end the process."""
    config = numba.config
    layers = config.THREADING_LAYER_PRIORITY if config.THREADING_LAYER == "default" else [config.THREADING_LAYER]
    for layer in layers:
        if layer == "workqueue":
            return False
        if layer in ("tbb", "omp") and find_spec(f"numba.np.ufunc.{layer}pool") is None:
            continue
        return True
    return True


if not _threads_can_share_the_pool():
    one_kernel_at_a_time()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Alone:
    """Within a `with` block, kernels run on the calling thread."""

    def __enter__(self) -> None:
        self.before = numba.get_num_threads()
        numba.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        numba.set_num_threads(self.before)


_all_threads = nullcontext()


def worth_threads(work: int) -> bool:
    """Whether work, in elements of a sweep, is worth waking the other threads."""
    return work >= WORTH_THREADS


def pool_for(work: int) -> AbstractContextManager[None]:
    """Within a `with` block, kernels run on as many threads as their work, in elements of a sweep, is worth."""
    return _all_threads if worth_threads(work) else _Alone()


class _Announcement(event.Listener):  # type: ignore[misc]
    """Says once, on the standard error, why a first call takes so long. Loading a kernel from disk is silent."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said and event.data["dispatcher"].py_func.__module__.startswith(__package__):
            self.said = True
            logging.getLogger("compyute_transformer").warning(
                "Compiling kernels for this machine, once: some 20 seconds. The next start loads them from disk."
            )

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcement())


def is_ready(*arrays: Array | None) -> bool:
    """Float32 in one piece, row-major: what the kernels are compiled for. None is passed over."""
    for array in arrays:
        if array is not None and (array.dtype != np.float32 or not array.flags.c_contiguous):
            return False
    return True


def is_float32(array: Array) -> bool:
    """Float32, however it lies in memory: for kernels that copy what is not in one piece."""
    return bool(array.dtype == np.float32)


def sum_of_partials(sums: Array) -> Array:
    """Return the sum of the rows, added in pairs, and pairs of those."""
    while len(sums) > 1:
        half = len(sums) // 2
        sums = np.concatenate([sums[:half] + sums[half : 2 * half], sums[2 * half :]])
    return sums[0]
