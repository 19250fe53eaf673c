"""Verification: gradients against differences, kernels against the references, everything against PyTorch."""

from .custom import check_module, check_op
from .differences import check_case, derivative, directional_error
from .kernels import compare_devices, compare_kernel, packages
from .result import Result, relative_error
from .tolerances import LIMITS, limit
from .torch_ops import compare

__all__ = [
    "LIMITS",
    "Result",
    "check_case",
    "check_module",
    "check_op",
    "compare",
    "compare_devices",
    "compare_kernel",
    "derivative",
    "directional_error",
    "limit",
    "packages",
    "relative_error",
]
