"""Clip on an NVIDIA GPU: the norm of a gradient by few launches; a GPU sums in a tree, whose errors do not grow.

Versions: 1. CuPy's reductions. A captured step has its norm from `DeviceAdamW`.
"""

from importlib import import_module
from math import inf, isfinite, sqrt

import numpy as np

from ..arrays import Array

__all__ = ["norm"]


def norm(gradient: Array) -> float:
    """Return the Euclidean norm; where squares overflow or vanish, they are computed scaled, in float64."""
    cupy = import_module("cupy")
    found = float(cupy.sqrt((gradient * gradient).sum(dtype=np.float64)))
    if (1e-12 < found < inf and gradient.dtype.itemsize >= 4) or found != found:
        return found
    largest = float(abs(gradient).max())
    if largest == 0.0 or not isfinite(largest):
        return largest
    scaled = gradient.astype(np.float64) / largest
    return largest * sqrt(float((scaled * scaled).sum()))
