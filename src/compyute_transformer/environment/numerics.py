"""Numerics: what the last bits of a result depend on, beside the numbers that went in."""

from functools import cache
from importlib import metadata
from importlib.util import find_spec

from .._version import __version__
from ..dispatch import package_fault
from .machine import blas_of

__all__ = ["numerics"]

LIBRARIES = ("numpy", "scipy", "numba")


@cache
def numerics() -> dict[str, str]:
    """Return the versions of the libraries that compute, the kernels of their BLAS, and the kind of processor.

    With all of these equal, the same computation gives the same bits, on any number of threads and in any process. Only
    kernels depend on the processor; without them it is "any".
    """
    found = {"compyute-transformer": __version__}
    found |= {name: metadata.version(name) for name in LIBRARIES if find_spec(name)}
    for name in ("numpy", "scipy"):
        if find_spec(name):
            blas = blas_of(name)
            found[f"BLAS of {name}"] = f"{blas.library} {blas.kernel or ''}".strip()
    found["processor"] = "any" if package_fault("cpu") else _processor()
    return found


def _processor() -> str:
    from llvmlite import binding

    return str(binding.get_host_cpu_name())
