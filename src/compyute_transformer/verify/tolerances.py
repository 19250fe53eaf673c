"""The one table of tolerances: the largest relative error of each check, by the dtype it runs in.

differences        float64 only; the six-point difference itself errs by at most about 1e-11 on the registry's cases
complex step       float64 only; exact but for rounding
adjoint            float64 only; by complex steps, so exact but for rounding
linearity          a backward of a sum beside the sum of the backwards
torch              the same formula in another order: some tens of roundings
training           float64 only; ten steps of AdamW beside PyTorch's
kernel               a kernel may round in another order and use polynomials for exp and tanh
device             the same reference on a GPU, whose library functions round differently
implementations    the ways to build multi-head attention: the same products, cut and ordered differently
"""

from typing import Any, Literal

import numpy as np

from ..errors import ConfigError

__all__ = ["LIMITS", "Method", "limit"]

Method = Literal[
    "differences", "complex step", "adjoint", "linearity", "torch", "training", "kernel", "device", "implementations"
]

LIMITS: dict[Method, dict[str, float]] = {
    "differences": {"float64": 1e-7},
    "complex step": {"float64": 1e-10},
    "adjoint": {"float64": 1e-10},
    "linearity": {"float64": 1e-12, "float32": 1e-5},
    "torch": {"float64": 1e-10, "float32": 1e-5},
    "training": {"float64": 1e-10},
    "kernel": {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2},
    "device": {"float64": 1e-12, "float32": 1e-5},
    "implementations": {"float64": 1e-12, "float32": 1e-5},
}


def limit(method: Method, dtype: Any) -> float:
    """The limit of a check in a dtype.

    Raises:
        ConfigError: the check does not run in that dtype.
    """
    name = np.dtype(dtype).name
    if name not in LIMITS[method]:
        raise ConfigError(f"limit: {method!r} runs in {', '.join(LIMITS[method])}, got {name}.")
    return LIMITS[method][name]
