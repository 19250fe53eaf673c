"""The proofs: gradients against differences, kernels against the references, everything against PyTorch."""

from .check import Check, relative_error
from .custom import check_module, check_op
from .differences import check_case, derivative, directional_error
from .kernels import compare_devices, compare_kernel, packages
from .tolerances import LIMITS, limit
from .torch_ops import compare

__all__ = [
    "LIMITS",
    "Check",
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
