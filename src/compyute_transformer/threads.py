"""How many threads the kernels and the BLAS libraries use."""

from importlib import import_module

from .errors import BackendError

__all__ = ["set_threads", "threads"]


def threads() -> int:
    """How many threads the kernels run on when called from this thread; without Numba, NumPy's BLAS."""
    count: int = import_module(f"{__package__}.cpu._threads").threads()
    return count


def set_threads(count: int, override: bool = False) -> int:
    """Let the kernels, and the BLAS of NumPy and SciPy, run on this many threads. Returns how many kernels run on now.

    A pool whose number the user set in the environment (NUMBA_NUM_THREADS, OMP_NUM_THREADS, OPENBLAS_NUM_THREADS) keeps
    it, unless `override`. It holds for calls from the thread that says so, as Numba has it; the results of the kernels do
    not depend on it. Numba's pool cannot grow after it has started: beyond its size, kernels run on all of it.

    Raises:
        BackendError: count is no whole number of at least 1.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise BackendError(f"set_threads: a number of threads is a whole number of at least 1, got {count!r}.")
    import_module(f"{__package__}.cpu._threads").set_threads(count, override)
    return threads()
