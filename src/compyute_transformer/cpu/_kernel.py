"""Shared: how a kernel is compiled, how its work is divided, and what a twin says of the arguments it serves.

One pool of threads does everything, Numba's: the matrix products inside a kernel are single-threaded BLAS calls, one
for each share of the rows. Two pools, Numba's and the BLAS's own, would each spin for work while the other has it.

A thread of the pool that has no work sleeps rather than spins (OMP_WAIT_POLICY=passive, unless the user set it): beside
any other busy process a spinning thread takes the time of the one it waits for, and a step took up to eight times as
long.

Work is divided into shares that do not depend on the number of threads where a sum crosses them, so that the results do
not depend on it either.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when the pool starts, so before Numba is imported
import numba

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


def is_ready(*arrays: Array | None) -> bool:
    """Float32 in one piece, row-major: what the kernels are compiled for. None is passed over."""
    return all(a is None or (a.dtype == np.float32 and a.flags.c_contiguous) for a in arrays)


def serves(condition: Callable[..., bool]) -> Callable[[F], F]:
    """Say of a twin when it serves: `condition` takes the twin's arguments."""

    def mark(twin: F) -> F:
        twin.serves = condition  # type: ignore[attr-defined]
        return twin

    return mark
