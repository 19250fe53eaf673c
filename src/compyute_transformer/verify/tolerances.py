"""The one table of tolerances: the largest relative error of each check, by the dtype it runs in.

differences        float64 only; the six-point difference itself errs by at most about 1e-10 on whole models
complex step       float64 only; exact but for rounding
adjoint            float64 only; by complex steps, so exact but for rounding
linearity          a backward of a sum beside the sum of the backwards
torch              the same formula in another order: some tens of roundings
training           float64 only; ten steps of AdamW beside PyTorch's
kernel             a kernel may round in another order and use polynomials for exp and tanh
device             the same reference on a GPU, whose library functions round differently
implementations    the ways to build multi-head attention: the same products, cut and ordered differently

In float64 each is about 100 times the largest error that was measured on all ops, modules and models, for the sake of
other BLAS libraries, sizes and numbers: 1.4e-10 by differences; 5e-15 by a complex step, by the adjoint identity and
beside PyTorch; 2.5e-15 by linearity and between implementations; 2.5e-14 after ten steps. No kernel of a CPU runs in
float64, and those of a GPU are not measured. In float32, where the largest is 2.4e-6, the factor is 4 to 10.
"""

from typing import Any, Literal

import numpy as np

from ..errors import ConfigError

__all__ = ["LIMITS", "Method", "limit"]

Method = Literal[
    "differences", "complex step", "adjoint", "linearity", "torch", "training", "kernel", "device", "implementations"
]

LIMITS: dict[Method, dict[str, float]] = {
    "differences": {"float64": 1.5e-8},
    "complex step": {"float64": 5e-13},
    "adjoint": {"float64": 5e-13},
    "linearity": {"float64": 2.5e-13, "float32": 1e-5},
    "torch": {"float64": 5e-13, "float32": 1e-5},
    "training": {"float64": 2.5e-12},
    "kernel": {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2},
    "device": {"float64": 1e-12, "float32": 1e-5},
    "implementations": {"float64": 2.5e-13, "float32": 1e-5},
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
