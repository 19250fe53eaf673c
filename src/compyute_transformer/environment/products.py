"""Products in bfloat16 on this machine: how its CPU computes them, and whether that is faster than in float32."""

from ..arrays import Device
from ..dispatch import kernels_of, package_fault, runs_kernels
from ..precision import Precision

__all__ = ["attention_products", "bfloat16_kernel", "bfloat16_products", "fastest_precision"]


def bfloat16_products(measure: bool = False) -> str:
    """Return how this machine computes products in bfloat16 on its CPU, as the end of a sentence.

    measure: find out which kernel is the fastest, if no process has; that compiles kernels.
    """
    if (fault := package_fault("cpu")) is not None:
        return f"in float32, of rounded operands: {fault}"
    if not runs_kernels("cpu"):
        return "by the references, in float32, of rounded operands"
    found: str = kernels_of("cpu", "_products").describe(measure)
    return found


def fastest_precision(device: Device) -> Precision:
    """Return the precision of products that "auto" stands for on a device: bfloat16 where it saves time, else float32.

    On a CPU it saves time where a kernel for it was measured to be faster than in float32, see `docs/tiles.md`.
    """
    if device == "cuda":
        return "bfloat16"
    return "float32" if bfloat16_kernel() == "float32" else "bfloat16"


def bfloat16_kernel() -> str:
    """Return the name of the kernel of products in bfloat16 on this CPU; "float32" where that of float32 computes them.

    The last bits of a result depend on it.
    """
    kernel = kernels_of("cpu", "_products").chosen() if runs_kernels("cpu") else None
    return "float32" if kernel is None else str(kernel.name)


def attention_products() -> str:
    """Return whose products in float32 attention on this CPU is made of: "ours", the "BLAS", or the "reference".

    The last bits of a result depend on it.
    """
    if not runs_kernels("cpu"):
        return "reference"
    return "ours" if kernels_of("cpu", "attention").multiplies_by_ours() else "BLAS"
