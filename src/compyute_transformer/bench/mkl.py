"""Intel's MKL by its C interface, for the benchmark of products; its wheel has no Python interface."""

import ctypes
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array

__all__ = ["has_bfloat16", "library", "multiply"]

ROW_MAJOR, AS_IT_IS, TRANSPOSED = 101, 111, 112  # of cblas.h


@cache
def library() -> ctypes.CDLL | None:
    """Return the library, or None where the wheel `mkl` is not installed."""
    try:
        files = metadata.files("mkl") or []
    except metadata.PackageNotFoundError:
        return None
    for file in sorted(files, key=str):
        if file.name.startswith(("libmkl_rt", "mkl_rt")):
            path = Path(str(file.locate()))
            return ctypes.CDLL(str(path if path.exists() else Path(sys.prefix) / "lib" / file.name))
    return None


def has_bfloat16() -> bool:
    """Return whether the library multiplies matrices of bfloat16."""
    return hasattr(library(), "cblas_gemm_bf16bf16f32")


def multiply(a: Array, b: Array, out: Array, turned: tuple[bool, bool] = (False, False)) -> Array:
    """Write a b into `out`, float32, and return it. turned: which of the two is transposed first.

    a, b: float32, or bfloat16 as `ops.quantized.to_bfloat16` returns it.
    """
    rows, columns = out.shape
    inner = a.shape[0] if turned[0] else a.shape[1]
    loaded: Any = library()
    function = loaded.cblas_sgemm if a.dtype == np.float32 else loaded.cblas_gemm_bf16bf16f32
    number, pointer, scale = ctypes.c_int, ctypes.c_void_p, ctypes.c_float
    orders = (TRANSPOSED if each else AS_IT_IS for each in turned)
    function(
        *(number(each) for each in (ROW_MAJOR, *orders, rows, columns, inner)),
        *(scale(1.0), pointer(a.ctypes.data), number(a.shape[1]), pointer(b.ctypes.data), number(b.shape[1])),
        *(scale(0.0), pointer(out.ctypes.data), number(columns)),
    )
    return out
