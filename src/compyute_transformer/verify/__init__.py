"""Verification: gradients against differences, kernels against the references, everything against PyTorch."""

from .custom import check_module, check_op
from .differences import derivative, directional_error
from .kernels import compare_devices, compare_kernel, packages
from .ops import check_case, compare
from .result import Result, relative_error
from .tolerances import LIMITS, limit

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
