"""Verification: gradients against differences, kernels against references, everything against PyTorch."""

from .differences import compare_differences, derivative, directional_error
from .kernels import compare_devices, compare_kernel, packages
from .result import Result, relative_error
from .tolerances import LIMITS, limit
from .torch_ops import compare
from .user import VerificationError, check_module, check_op

__all__ = [
    "LIMITS",
    "Result",
    "VerificationError",
    "check_module",
    "check_op",
    "compare",
    "compare_devices",
    "compare_differences",
    "compare_kernel",
    "derivative",
    "directional_error",
    "limit",
    "packages",
    "relative_error",
]
