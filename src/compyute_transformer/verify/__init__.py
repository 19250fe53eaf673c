"""The proofs: gradients against differences, kernels against the references, everything against PyTorch."""

from .check import Check, relative_error
from .differences import check_op, derivative, directional_error
from .kernels import compare_devices, compare_kernel, packages
from .tolerances import LIMITS, limit
from .torch_ops import compare

__all__ = [
    "LIMITS",
    "Check",
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
