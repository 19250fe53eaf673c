"""The proofs: gradients against differences, fast twins against the readable bodies, everything against PyTorch."""

from .check import Check, relative_error
from .differences import check_op, derivative, directional_error
from .tolerances import LIMITS, limit
from .torch_ops import compare
from .twins import compare_devices, compare_twin, floors

__all__ = [
    "LIMITS",
    "Check",
    "check_op",
    "compare",
    "compare_devices",
    "compare_twin",
    "derivative",
    "directional_error",
    "floors",
    "limit",
    "relative_error",
]
