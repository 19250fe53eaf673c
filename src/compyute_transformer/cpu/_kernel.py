"""Shared: how a kernel is compiled, how its work is divided, and what a twin says of the arguments it serves.

One pool of threads does everything, Numba's: the matrix products inside a kernel are single-threaded BLAS calls, one
for each share of the rows. Two pools, Numba's and the BLAS's own, would each spin for work while the other has it.

A thread of the pool that has no work sleeps rather than spins (OMP_WAIT_POLICY=passive, unless the user set it): beside
any other busy process a spinning thread takes the time of the one it waits for, and a step took up to eight times as
long.

Work is divided into shares that do not depend on the number of threads where a sum crosses them, so that the results do
not depend on it either.

A loop that is to vectorise runs from 0 over a slice, `part = x[start:stop]; for i in range(part.size)`, never over
`range(start, stop)`: an index that might be negative counts from the end in NumPy, and for that possibility the
compiler turns every load into a gather and every store into a scatter. That alone made GELU four times as slow.
"""

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when the pool starts, so before Numba is imported
import numba
from numba.core import event

from ..backend import Array

__all__ = ["FASTMATH", "SHARES", "is_ready", "kernel", "parallel_kernel", "serves"]

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered and products contracted, so that loops vectorise; NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "contract", "arcp", "nsz", "afn"}

# Sums over rows are gathered in this many partial sums, whatever the number of threads, then added in order.
SHARES = 16

kernel: Callable[[F], F] = numba.njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
parallel_kernel: Callable[[F], F] = numba.njit(
    cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True, parallel=True
)


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
    return all(a is None or (a.dtype == np.float32 and a.flags.c_contiguous) for a in arrays)


def serves(condition: Callable[..., bool]) -> Callable[[F], F]:
    """Say of a twin when it serves: `condition` takes the twin's arguments."""

    def mark(twin: F) -> F:
        twin.serves = condition  # type: ignore[attr-defined]
        return twin

    return mark
