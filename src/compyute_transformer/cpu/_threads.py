"""Shared: how many threads the kernels run on, and the BLAS of NumPy and of SciPy; `threads.set_threads` comes here.

The environment's variables are read once, when a library loads. Afterwards only the library itself can be asked and
told, which is done here: Numba through its own functions, OpenBLAS through those that its shared library exports.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..dispatch import package_fault

__all__ = ["Threads", "core_of_blas", "of_blas", "pools", "set_threads", "threads"]

NUMBA_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")


class Threads(NamedTuple):
    """get: how many threads a library runs on. set: tell it."""

    get: Callable[[], int]
    set: Callable[[int], object]


@cache
def _of_openblas(package: str, name: str) -> Any:
    """The function of a name of the OpenBLAS that a package's wheel carries; None where it has another BLAS."""
    place = Path(import_module(package).__file__ or "").parent
    for folder in (place / ".dylibs", place.parent / f"{package}.libs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))
            for prefix in ("scipy_openblas", "openblas"):
                for suffix in ("64_", ""):
                    if hasattr(library, f"{prefix}_{name}{suffix}"):
                        return getattr(library, f"{prefix}_{name}{suffix}")
    return None


@cache
def of_blas(package: str) -> Threads | None:
    """The OpenBLAS that a package's wheel ("numpy", "scipy") carries; None where it has another BLAS, left as it is."""
    get, set = _of_openblas(package, "get_num_threads"), _of_openblas(package, "set_num_threads")
    return None if get is None or set is None else Threads(get, set)


@cache
def core_of_blas(package: str) -> str | None:
    """For which processor the kernels are that a package's OpenBLAS runs, such as "Haswell"; None for another BLAS."""
    name = _of_openblas(package, "get_corename")
    if name is None:
        return None
    name.restype = ctypes.c_char_p
    return str(name().decode())


def of_numba() -> Threads | None:
    """Numba's pool as the calling thread uses it; None where no kernel can run."""
    if find_spec("numba") is None or package_fault("cpu") is not None:
        return None
    numba = import_module(f"{__package__}._kernel").numba
    return Threads(numba.get_num_threads, lambda count: numba.set_num_threads(min(count, most())))


def most() -> int:
    """The size of Numba's pool, which is fixed when Numba loads; the number of cores unless the user said otherwise."""
    if find_spec("numba") is None:
        return os.cpu_count() or 1
    return int(import_module(f"{__package__}._kernel").numba.config.NUMBA_NUM_THREADS)


def pools() -> list[Threads]:
    """Return the pools that are there: Numba's, and the BLAS of NumPy and of SciPy."""
    return [pool for pool in (of_numba(), of_blas("numpy"), of_blas("scipy")) if pool is not None]


def threads() -> int:
    """See `threads.threads`."""
    pool = of_numba() or of_blas("numpy")
    return pool.get() if pool else 1


def set_threads(count: int, override: bool) -> None:
    """See `threads.set_threads`."""
    pools = [(of_numba(), NUMBA_VARIABLES), (of_blas("numpy"), BLAS_VARIABLES), (of_blas("scipy"), BLAS_VARIABLES)]
    for pool, variables in pools:
        if pool is not None and (override or not any(os.environ.get(name) for name in variables)):
            pool.set(count)
