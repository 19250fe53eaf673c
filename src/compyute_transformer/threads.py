"""How many threads the kernels and the BLAS libraries use, and how threads without work wait.

Importing the library changes nothing in the process. `configure_threads` does; the command `compyute` calls it first.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from .errors import BackendError

__all__ = ["configure_threads", "on_threads", "set_threads", "threads"]

# After a product of NumPy's, the threads of its BLAS look for more work for 2^26 cycles, some 20 ms, on the cores that
# the next kernel needs: a small model's step took three times as long. 2^18 cycles are a tenth of a millisecond.
BLAS_WAIT = {"OPENBLAS_THREAD_TIMEOUT": "18"}
# A thread of the kernels' pool looks for more work for some 0.1 ms, then sleeps; see `cpu/_kernel.py`.
KERNELS_WAIT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000"}


def configure_threads(count: int | None = None) -> tuple[str, ...]:
    """Let threads without work sleep early, so that the BLAS and the kernels do not take each other's cores.

    Without it everything works and gives the same results; a training step of a small model may take three times as
    long. It sets variables of the environment that libraries read once, when they load: OPENBLAS_THREAD_TIMEOUT when
    NumPy is imported, OMP_WAIT_POLICY and GOMP_SPINCOUNT when the first kernel starts the pool. So call it before NumPy
    is imported. What the user has set stays.

    count: as `set_threads` takes it; None leaves the number of threads alone.

    Returns:
        The variables that come too late in this process. Set them in the shell, or import NumPy later.
    """
    late: list[str] = []
    if BLAS_WAIT.keys().isdisjoint(os.environ):
        os.environ.update(BLAS_WAIT)
        late += BLAS_WAIT if "numpy" in sys.modules else ()
    if KERNELS_WAIT.keys().isdisjoint(os.environ):
        os.environ.update(KERNELS_WAIT)
        late += KERNELS_WAIT if "numba.np.ufunc.omppool" in sys.modules else ()
    if count is not None:
        set_threads(count)
    return tuple(late)


def threads() -> int:
    """Return how many threads the kernels run on when called from this thread; without Numba, NumPy's BLAS."""
    count: int = import_module(f"{__package__}.cpu._threads").threads()
    return count


def set_threads(count: int, override: bool = False) -> int:
    """Let the kernels, and the BLAS of NumPy and SciPy, run on this many threads. Return how many kernels run on now.

    A pool whose number the user set in the environment (NUMBA_NUM_THREADS, OMP_NUM_THREADS, OPENBLAS_NUM_THREADS) keeps
    it, unless `override`. It holds for calls from the calling thread, as Numba has it; the results of the kernels do
    not depend on it. Numba's pool cannot grow after it has started: beyond its size, kernels run on all of it.

    Raises:
        BackendError: count is no whole number of at least 1.
    """
    is_integer = hasattr(count, "__index__") and not isinstance(count, bool)
    if not is_integer or int(count) < 1:
        raise BackendError(f"set_threads: a number of threads is a whole number of at least 1, got {count!r}.")
    import_module(f"{__package__}.cpu._threads").set_threads(int(count), override)
    return threads()


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Run on this many threads within a `with` block; afterwards every pool has as many as before. None: no change."""
    if count is None:
        yield
        return
    pools = import_module(f"{__package__}.cpu._threads").pools()
    before = [pool.get() for pool in pools]
    set_threads(count, override=True)
    try:
        yield
    finally:
        for pool, number in zip(pools, before, strict=True):
            pool.set(number)
